"""Lists and look-ups go through indices on both engines, so that they stay fast with a million rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import event, text

from keystead.store import ReadTx, Store

LOOKUPS: dict[str, Callable[[ReadTx], object]] = {
    "get": lambda tx: tx.resources.get("t/00500"),
    "by_alias": lambda tx: tx.resources.by_alias("uid/00500"),
    "list": lambda tx: tx.resources.list("Thing", "t", limit=100),
    "next page": lambda tx: tx.resources.list("Thing", "t", after="00500", limit=100),
    "previous page": lambda tx: tx.resources.list("Thing", "t", after="00500", limit=100, descending=True),
    "last page": lambda tx: tx.resources.list("Thing", "t", limit=100, descending=True),
    "count": lambda tx: tx.resources.count("Thing", "t"),
    "get_many": lambda tx: tx.resources.get_many(f"t/{number:05}" for number in range(400, 500)),
    "list_kind": lambda tx: tx.resources.list_kind("Thing", after_name="t/00500", limit=100),
    "due": lambda tx: tx.resources.due("Thing", 10, 100),
    "policy": lambda tx: tx.policies.get("t/00500"),
    "policies": lambda tx: tx.policies.get_many(["t/00500", "t", "p"]),
    "policies below": lambda tx: tx.policies.list_under("t/00500"),
    "material": lambda tx: tx.material.get("t/00500"),
    "public key": lambda tx: tx.material.public("t/00500"),
    "keychain": lambda tx: tx.keychains.get("t/00500"),
    "keychains of a key": lambda tx: tx.keychains.list(kms_key="k/00500"),
    "operation": lambda tx: tx.operations.get("t/00500"),
    "operations": lambda tx: tx.operations.list("t", "svc", (500, "t/00500"), 100),
    "unfinished": lambda tx: tx.operations.unfinished(),
    "request id": lambda tx: tx.operations.by_request_id("svc", "p", "r/00500"),
    "last record": lambda tx: tx.audit.last(),
    "records": lambda tx: tx.audit.scan(parents=["t"], after_seq=500, limit=100),
    "walk": lambda tx: next(tx.audit.walk(500)),
}
# SQLite calls it a scan when it walks a table in the order of its key; with LIMIT 1 that is one row.
ENDS = {"last record"}
INDEXED = ("INDEX", "PRIMARY KEY", "Index")
UNORDERED = {"keychains of a key", "policies below"}  # few rows, sorted after they were found

ROWS = 20_000
NUMBERS = {
    "sqlite": f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})",
    "postgresql": f"WITH n(i) AS (SELECT generate_series(1, {ROWS}))",
}
FILLING = (
    "INSERT INTO resources SELECT 't/' || {id}, 'Thing', 't', {id}, {bytes}, NULL, 1,"
    " CASE WHEN i % 100 = 0 THEN i END, 'uid/' || {id} FROM n",
    "INSERT INTO children SELECT 'Thing', 't/' || {id}, i, i FROM n",
    "INSERT INTO policies SELECT 't/' || {id}, {bytes}, i FROM n",
    "INSERT INTO key_material SELECT 't/' || {id}, {bytes}, NULL FROM n",
    "INSERT INTO keychains SELECT 't/' || {id}, 'svc', 'type', 'k/' || {id}, 'v', {bytes}, 'l', 'p', i, 1"
    " FROM n",
    "INSERT INTO operations SELECT 't/' || {id}, 'svc', 't', 'kind', 'target', i % 100 > 0, {bytes}, {bytes},"
    " 'p', 'r/' || {id}, i FROM n",
    "INSERT INTO audit SELECT i, 'log', 't', i, 'id', {bytes}, {bytes}, {bytes} FROM n",
)


def _fill(store: Store) -> None:
    engine = store.backend.engine
    sqlite = engine.dialect.name == "sqlite"
    shapes = {
        "id": "printf('%05d', i)" if sqlite else "lpad(i::text, 5, '0')",
        "bytes": "zeroblob(200)" if sqlite else "decode(repeat('00', 200), 'hex')",
    }
    with engine.begin() as connection:
        for statement in FILLING:
            table, _, rows = statement.format(**shapes).partition(" SELECT ")
            connection.exec_driver_sql(
                f"{table} {NUMBERS[engine.dialect.name]} SELECT {rows}".replace(
                    "%", "%%" if not sqlite else "%"
                )
            )
        connection.execute(text("ANALYZE"))


def _plans(store: Store, look_up: Callable[[ReadTx], object]) -> list[str]:
    """The engine's plans of the statements that a look-up really sends."""
    sent: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(store.backend.engine, "before_cursor_execute", note)
    with store.read() as tx:
        look_up(tx)
    event.remove(store.backend.engine, "before_cursor_execute", note)
    assert sent
    explain = "EXPLAIN QUERY PLAN" if store.backend.engine.dialect.name == "sqlite" else "EXPLAIN"
    with store.backend.engine.connect() as connection:
        return [
            "\n".join(str(row) for row in connection.exec_driver_sql(f"{explain} {statement}", parameters))
            for statement, parameters in sent
        ]


def _is_slow(name: str, plan: str) -> bool:
    """Whether a plan reads a whole table, or sorts what it has read."""
    if name not in UNORDERED and ("TEMP B-TREE" in plan or "Sort" in plan):
        return True
    if name in ENDS and plan.count("SCAN audit") == 1:
        return False
    return "SCAN" in plan or "Seq Scan" in plan or not any(word in plan for word in INDEXED)


def test_every_look_up_uses_an_index(store: Store) -> None:
    """No look-up reads a whole table, and no page of a list is sorted after it was read."""
    _fill(store)
    plans = {name: "\n".join(_plans(store, look_up)) for name, look_up in LOOKUPS.items()}
    assert {name: plan for name, plan in plans.items() if _is_slow(name, plan)} == {}


def test_a_look_up_without_an_index_would_be_seen(store: Store) -> None:
    """The test above can fail: without the index that a page needs, its plan counts as slow."""
    _fill(store)
    with store.backend.engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_resources_kind_parent_sort"))
    (plan,) = _plans(store, LOOKUPS["next page"])
    assert _is_slow("next page", plan)
