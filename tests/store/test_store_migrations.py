"""The schema arrives by migrations, is what the program expects, and a store of another age is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from keystead.api.errors import FailedPrecondition, Unavailable
from keystead.store import Resource, open_store
from keystead.store.migrate import VERSION_TABLE, configuration, revision
from keystead.store.schema import metadata
from tests.stores import ENGINES, PostgresForTests, a_resource


@pytest.fixture(params=ENGINES)
def empty_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database that never held a store, once on each engine."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
        return
    server: PostgresForTests = request.getfixturevalue("pg_server")
    url = server.create_database()
    yield url
    server.drop(url)


def test_migrations_arrive_at_the_schema(empty_url: str) -> None:
    """From an empty database to head there is no difference left between the tables and the metadata."""
    open_store(empty_url).close()
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": VERSION_TABLE}
        )
        assert compare_metadata(context, metadata) == []
        assert revision(connection) == "0002"
        tables = inspect(connection)
        for table in metadata.sorted_tables:
            keys = tables.get_pk_constraint(table.name)["constrained_columns"]
            assert keys == [column.name for column in table.primary_key.columns]
    engine.dispose()


KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
# (name, kind, parent, sort) as a first version left them. The versions of the first key have a gap.
RESOURCES_0001 = [
    ("projects/p/locations/l/keyRings/r", "KeyRing", "projects/p/locations/l", "r"),
    (KEY, "CryptoKey", "projects/p/locations/l/keyRings/r", "k"),
    (f"{KEY}2", "CryptoKey", "projects/p/locations/l/keyRings/r", "k2"),
    *((f"{KEY}/cryptoKeyVersions/{n}", "CryptoKeyVersion", KEY, f"{n:010}") for n in (1, 2, 9, 10)),
    (f"{KEY}2/cryptoKeyVersions/1", "CryptoKeyVersion", f"{KEY}2", "0000000001"),
    ("instances/7/parties/x", "RegisteredParty", "instances/7", "17 is no number of a version"),
]
COUNTS = {
    ("KeyRing", "projects/p/locations/l"): (1, 1),
    ("CryptoKey", "projects/p/locations/l/keyRings/r"): (2, 2),
    ("CryptoKeyVersion", KEY): (4, 10),
    ("CryptoKeyVersion", f"{KEY}2"): (1, 1),
    ("RegisteredParty", "instances/7"): (1, 1),
    ("CryptoKeyVersion", "a key without versions"): (0, 0),
}


def _fill_0001(engine: Engine) -> None:
    """A store as the first schema had it, with rows in every table that the next one changes."""
    with engine.begin() as connection:
        command.upgrade(configuration(connection), "0001")
        for name, kind, parent, sort in RESOURCES_0001:
            connection.execute(
                text(
                    "INSERT INTO resources (name, kind, parent, sort, body, sealed, revision, due, alias)"
                    " VALUES (:name, :kind, :parent, :sort, :body, :sealed, 3, 5, :alias)"
                ),
                {"name": name, "kind": kind, "parent": parent, "sort": sort, "body": b"\x00\xff",
                 "sealed": b"s", "alias": f"alias of {name}"},
            )  # fmt: skip
        connection.execute(
            text("INSERT INTO key_material (name, wrapped) VALUES (:name, :wrapped)"),
            {"name": f"{KEY}/cryptoKeyVersions/1", "wrapped": b"\x00wrapped\xff"},
        )


def test_a_store_of_the_first_schema_loses_nothing(empty_url: str) -> None:
    """Its rows are as they were; counts are those of its rows, and numbers go on after the highest."""
    engine = create_engine(empty_url)
    _fill_0001(engine)
    engine.dispose()
    store = open_store(empty_url)
    with store.read() as tx:
        for name, kind, parent, sort in RESOURCES_0001:
            assert tx.resources.get(name) == Resource(
                name, kind, parent, sort, b"\x00\xff", b"s", 3, 5, f"alias of {name}"
            )
        assert tx.material.get(f"{KEY}/cryptoKeyVersions/1") == b"\x00wrapped\xff"
        assert tx.material.public(f"{KEY}/cryptoKeyVersions/1") == b""
        assert {each: tx.resources.count(*each) for each in COUNTS} == {
            each: count for each, (count, _) in COUNTS.items()
        }
    with store.write() as tx:
        assert {each: tx.resources.next_number(*each) for each in COUNTS} == {
            each: last + 1 for each, (_, last) in COUNTS.items()
        }
        assert tx.resources.delete(f"{KEY}/cryptoKeyVersions/10")
    with store.write() as tx:
        assert tx.resources.count("CryptoKeyVersion", KEY) == 3
        assert tx.resources.next_number("CryptoKeyVersion", KEY) == 12
    store.close()


def test_names_are_compared_bytewise_in_postgresql(pg_url: str) -> None:
    """Every text column has the collation C, whatever the locale of the database."""
    open_store(pg_url).close()
    engine = create_engine(pg_url)
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT table_name, column_name, collation_name FROM information_schema.columns"
                " WHERE table_schema = 'public' AND data_type = 'text'"
            )
        ).all()
    engine.dispose()
    assert len(found) > 20
    assert {row.collation_name for row in found} == {"C"}


def test_opening_again_keeps_what_is_there(store_url: str) -> None:
    """A store that is up to date is opened as it is."""
    for expected in (True, False):
        store = open_store(store_url)
        with store.write() as tx:
            assert tx.resources.insert(a_resource("t/a")) is expected
        store.close()


def test_a_store_of_a_newer_version_is_refused(store_url: str) -> None:
    """The error says which revision it has and what to do, and the store is left as it is."""
    open_store(store_url).close()
    engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition, match=r"schema revision 9999.*Upgrade Keystead"):
        open_store(store_url)
    with engine.connect() as connection:
        assert revision(connection) == "9999"
    engine.dispose()


def test_a_store_that_must_exist_is_not_made(empty_url: str, tmp_path: Path) -> None:
    """With `create` false an empty place stays empty."""
    with pytest.raises(FailedPrecondition, match="There is no store at"):
        open_store(empty_url, create=False)
    assert list(tmp_path.iterdir()) == []
    open_store(empty_url).close()
    open_store(empty_url, create=False).close()


def test_a_database_of_another_program_is_not_taken_over(empty_url: str) -> None:
    """Tables of our names that we did not make stop the migration before it does anything."""
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE resources (id integer)"))
    with pytest.raises(FailedPrecondition, match=r"not a Keystead store.*resources"):
        open_store(empty_url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["resources"]
    engine.dispose()


def test_a_failed_migration_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations run in one transaction: what fails at its end leaves no table, and the next try succeeds."""
    from alembic import op

    create_index = op.create_index

    def fail_at_the_last(name: str, *arguments: object, **options: object) -> None:
        if name == "ix_audit_parent_time_us_seq":
            raise RuntimeError("power cut")
        create_index(name, *arguments, **options)  # type: ignore[arg-type]  # passed on as they came

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_index", fail_at_the_last)
        with pytest.raises(RuntimeError, match="power cut"):
            open_store(empty_url)
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []
    engine.dispose()
    open_store(empty_url).close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/x.db?mode=ro",
        "mysql://u:CANARY@h/d",
        "//u:CANARY@h",
    ],
)
def test_urls_of_no_store_are_refused(url: str) -> None:
    """The error is clear, and does not repeat a password."""
    with pytest.raises(FailedPrecondition) as refused:
        open_store(url)
    assert "CANARY" not in refused.value.message


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """A PostgreSQL store that cannot be reached is an error without the password."""
    with pytest.raises(Unavailable) as refused:
        open_store(f"postgresql+psycopg://u:CANARY@/d?host={tmp_path}&password=CANARY")
    assert "CANARY" not in refused.value.message


def test_a_database_of_another_encoding_is_refused(pg_server: PostgresForTests) -> None:
    """Order and length of names are those of UTF-8 on both engines."""
    url = pg_server.create_database(encoding="SQL_ASCII")
    with pytest.raises(FailedPrecondition, match="encoding UTF8, not SQL_ASCII"):
        open_store(url)
    pg_server.drop(url)


def test_the_file_is_private_and_durable(tmp_path: Path) -> None:
    """A new or found file gets mode 0600, its log too, and every connection the settings that it needs."""
    path = tmp_path / "new" / "store.db"
    store = open_store(f"sqlite:///{path}")
    with store.write() as tx:
        tx.meta.put("key", b"")
    modes = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    expected = {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}
    with store.backend.engine.connect() as one, store.backend.engine.connect() as two:
        for connection in (one, two):
            for name, value in expected.items():
                assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 10_000
    store.close()
    path.chmod(0o644)
    open_store(f"sqlite:///{path}").close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_version_table_does_not_disturb_another_program(tmp_path: Path) -> None:
    """An application that keeps its own Alembic version in the same database is left alone."""
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num text)")
        connection.execute("INSERT INTO alembic_version VALUES ('theirs')")
    open_store(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("theirs",)]
