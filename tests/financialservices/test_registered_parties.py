"""Registered parties: what imports change and count, what exports write, and that both need the key."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.api.clock import ManualClock
from keystead.api.errors import AlreadyExists, FailedPrecondition, Internal, InvalidArgument, NotFound
from keystead.financialservices import messages as m
from keystead.financialservices import registration
from tests.financialservices.aml_world import INSTANCE, World, aml, error_of_call

RETAIL, COMMERCIAL = m.LineOfBusiness.RETAIL, m.LineOfBusiness.COMMERCIAL
MODE = m.ImportRegisteredPartiesRequest.UpdateMode
OUT = "bq://proj.out.parties"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def registration_table(world: World, name: str, parties: dict[str, str | None], *, sizes: bool = True) -> str:
    path = world.tables / "proj" / "data" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"party_id": pa.array(list(parties), pa.string())}
    if sizes:
        columns["party_size"] = pa.array(list(parties.values()), pa.string())
    pq.write_table(pa.table(columns), path)
    return f"bq://proj.data.{name}"


def start(
    world: World, *specs: str, mode: str = "APPEND", line: Any = COMMERCIAL, validate_only: bool = False
) -> Any:
    request = m.ImportRegisteredPartiesRequest(
        name=INSTANCE,
        party_tables=specs,
        mode=MODE.Value(mode),
        line_of_business=line,
        validate_only=validate_only,
    )
    return world.call("ImportRegisteredParties", request)


def register(world: World, *specs: str, **options: Any) -> dict[str, int]:
    """The counts an import ends with, those that are not 0."""
    response = m.ImportRegisteredPartiesResponse()
    assert world.end(start(world, *specs, **options)).response.Unpack(response)
    return {field.name.removeprefix("parties_"): value for field, value in response.ListFields()}


def export(world: World, uri: str = OUT, disposition: int = 1, line: Any = COMMERCIAL) -> Any:
    request = m.ExportRegisteredPartiesRequest(
        name=INSTANCE,
        dataset={"table_uri": uri, "write_disposition": disposition},
        line_of_business=line,
    )
    return world.call("ExportRegisteredParties", request)


def exported(world: World, line: Any = COMMERCIAL) -> dict[str, str | None]:
    """Every registered party with its size, as an export that truncates writes them."""
    (world.tables / "proj" / "out").mkdir(parents=True, exist_ok=True)
    world.end(export(world, disposition=2, line=line))
    table = pq.read_table(world.tables / "proj" / "out" / "parties.parquet")
    return dict(zip(table["party_id"].to_pylist(), table["party_size"].to_pylist(), strict=True))


def test_append_adds_and_replace_replaces(world: World) -> None:
    """APPEND keeps who is registered; REPLACE keeps only who is in the tables; both count what they did."""
    world.instance()
    first = registration_table(world, "first", {"a": "SMALL", "b": "SMALL"})
    second = registration_table(world, "second", {"b": "LARGE", "c": "LARGE"})
    assert register(world, first) == {"added": 2, "total": 2}
    assert register(world, second) == {"added": 1, "total": 3, "uptiered": 1}
    assert exported(world) == {"a": "SMALL", "b": "LARGE", "c": "LARGE"}
    assert register(world, first, mode="REPLACE") == {"removed": 1, "total": 2, "downtiered": 1}
    assert exported(world) == {"a": "SMALL", "b": "SMALL"}
    assert register(world, first, second, mode="REPLACE") == {"added": 1, "total": 3, "uptiered": 1}


def test_lines_of_business_are_apart(world: World) -> None:
    """Each line of business has its own list; retail has no sizes and needs no column for them."""
    world.instance()
    register(world, registration_table(world, "first", {"a": "SMALL"}))
    retail = registration_table(world, "retail", {"x": "anything"}, sizes=False)
    assert register(world, retail, line=RETAIL) == {"added": 1, "total": 1}
    assert exported(world, RETAIL) == {"x": None}
    assert exported(world) == {"a": "SMALL"}


def test_validate_only_counts_and_changes_nothing(world: World) -> None:
    """validate_only answers what would happen."""
    world.instance()
    first = registration_table(world, "first", {"a": "SMALL"})
    assert register(world, first, validate_only=True) == {"added": 1, "total": 1}
    assert exported(world) == {}
    assert world.sealed_files() == []


def test_an_empty_table_replaces_everyone(world: World) -> None:
    """REPLACE by an empty table leaves nobody registered."""
    world.instance()
    register(world, registration_table(world, "first", {"a": "SMALL"}))
    nobody = registration_table(world, "nobody", {})
    assert register(world, nobody, mode="REPLACE") == {"removed": 1}
    assert exported(world) == {}


def test_a_party_stays_registered_for_the_minimum_time(tmp_path: Path) -> None:
    """Before its time a party is neither removed nor downtiered, which is counted; after it, it is."""
    clock = ManualClock()
    with aml(tmp_path, clock, minimum_registration=dt.timedelta(days=45)) as world:
        world.instance()
        register(world, registration_table(world, "first", {"a": "LARGE", "b": "SMALL"}))
        second = registration_table(world, "second", {"a": "SMALL"})
        early = register(world, second, mode="REPLACE")
        assert early == {"total": 2, "failed_to_remove": 1, "failed_to_downtier": 1}
        clock.advance(dt.timedelta(days=45))
        assert register(world, second, mode="REPLACE") == {"removed": 1, "total": 1, "downtiered": 1}


@pytest.mark.parametrize(
    ("parties", "text"),
    [
        ({"a": "small"}, "Invalid party_size present in table."),
        ({"a": "SMALL", "b": "HUGE"}, "Invalid party_size present in table."),
        ({"a": None}, "NOT_NULL_COLUMN_WITH_NULLS"),
    ],
)
def test_wrong_sizes_change_nothing(world: World, parties: dict[str, str | None], text: str) -> None:
    """One wrong size refuses the whole import, and the list stays as it was."""
    world.instance()
    register(world, registration_table(world, "first", {"z": "SMALL"}))
    operation = start(world, registration_table(world, "wrong", parties), mode="REPLACE")
    error = error_of_call(lambda: world.end(operation))
    assert isinstance(error, InvalidArgument)
    assert text in error.message
    assert "HUGE" not in error.message
    assert exported(world) == {"z": "SMALL"}


def test_wrong_requests_are_refused(world: World) -> None:
    """Mode, line of business and tables are required and checked; so are destination and disposition."""
    world.instance()
    for act, text in (
        (lambda: start(world, "bq://proj.data.x", mode="UPDATE_MODE_UNSPECIFIED"), "mode"),
        (lambda: start(world, "bq://proj.data.x", line=0), "line_of_business"),
        (lambda: start(world), "party_tables"),
        (lambda: start(world, "proj.data.x"), "party_tables[0]"),
        (lambda: start(world, "bq://proj.data.x", "bq://../x.y"), "party_tables[1]"),
        (lambda: export(world, "proj.out.x"), "dataset.table_uri"),
        (lambda: export(world, disposition=0), "write_disposition"),
        (lambda: export(world, line=0), "line_of_business"),
    ):
        error = error_of_call(act)
        assert isinstance(error, InvalidArgument)
        assert text in error.message
    assert isinstance(error_of_call(lambda: export(world)), NotFound)
    operation = start(world, "bq://proj.data.absent")
    assert isinstance(error_of_call(lambda: world.end(operation)), NotFound)


def test_an_export_has_the_documented_columns(world: World) -> None:
    """The output is one Parquet file of five text columns."""
    world.instance()
    register(world, registration_table(world, "first", {"a": "SMALL"}))
    (world.tables / "proj" / "out").mkdir()
    world.end(export(world))
    table = pq.read_table(world.tables / "proj" / "out" / "parties.parquet")
    assert table.schema.equals(registration.REGISTERED)
    [row] = table.to_pylist()
    times = "2026-01-01T00:00:00.000000Z"
    assert row == {
        "party_id": "a",
        "party_size": "SMALL",
        "earliest_remove_time": times,
        "party_with_prediction_intent": "false",
        "registration_or_uptier_time": times,
    }
    assert [path.name for path in (world.tables / "proj" / "out").iterdir()] == ["parties.parquet"]


def test_write_empty_keeps_what_is_there(world: World) -> None:
    """WRITE_EMPTY refuses a table with rows, and takes one without; WRITE_TRUNCATE replaces either; a table
    kept as CSV is never replaced."""
    world.instance()
    folder = world.tables / "proj" / "out"
    folder.mkdir(parents=True)
    world.end(export(world))
    register(world, registration_table(world, "first", {"a": "SMALL"}))
    world.end(export(world))
    assert isinstance(error_of_call(lambda: world.end(export(world))), AlreadyExists)
    world.end(export(world, disposition=2))
    (folder / "parties.parquet").rename(folder / "parties.csv")
    assert isinstance(error_of_call(lambda: world.end(export(world, disposition=2))), FailedPrecondition)
    assert not (folder / "parties.parquet").exists()


def test_an_export_leaves_the_root_for_nobody(world: World, tmp_path: Path) -> None:
    """A dataset directory that is a link to the outside does not exist as a destination."""
    world.instance()
    outside = tmp_path / "outside"
    outside.mkdir()
    (world.tables / "proj").mkdir()
    (world.tables / "proj" / "out").symlink_to(outside)
    assert isinstance(error_of_call(lambda: export(world)), NotFound)
    assert list(outside.iterdir()) == []


def test_without_the_key_nothing_of_it_is_read(world: World) -> None:
    """Import, export and an import's counts are refused without the key, and there again with it."""
    key = world.customer_key()
    world.instance(key)
    first = registration_table(world, "first", {"a": "SMALL"})
    operation = world.end(start(world, first))
    world.take(key, "disable")
    (world.tables / "proj" / "out").mkdir()
    for act in (
        lambda: start(world, first),
        lambda: export(world),
        lambda: world.get_operation(operation.name),
    ):
        assert isinstance(error_of_call(act), FailedPrecondition)
    world.set_state(f"{key}/cryptoKeyVersions/1", "ENABLED")
    assert world.get_operation(operation.name).HasField("response")
    assert exported(world) == {"a": "SMALL"}


def test_a_harmed_list_is_damaged(world: World) -> None:
    """A changed or missing file of the list: INTERNAL, and neither read nor replaced."""
    world.instance()
    first = registration_table(world, "first", {"a": "SMALL"})
    register(world, first)
    [path] = world.sealed_files()
    path.unlink()
    operation = start(world, first)
    error = error_of_call(lambda: world.end(operation))
    assert isinstance(error, Internal)
    assert error.message == f"The stored data of {INSTANCE} is damaged."


def test_parties_are_nowhere_on_the_disk(tmp_path: Path) -> None:
    """No party id and no table name is in any file of the data directory, whatever was imported and asked."""
    with aml(tmp_path) as world:
        world.record_data_access()
        world.instance()
        register(world, registration_table(world, "tablecanary", {"PARTYCANARY": "SMALL"}))
        exported(world)
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            for canary in (b"PARTYCANARY", b"tablecanary", b"bq://proj."):
                assert canary not in path.read_bytes()


def test_an_interrupted_import_is_done_once(tmp_path: Path) -> None:
    """Import and export that a stop left unfinished are done after the restart; the old list is gone."""
    with aml(tmp_path) as world:
        world.instance()
        register(world, registration_table(world, "first", {"a": "SMALL"}))
        second = registration_table(world, "second", {"b": "SMALL"})
        world.runner.stopping.set()
        operation = start(world, second)
    with aml(tmp_path) as world:
        assert world.runner.resume() == 1
        world.end(operation)
        assert exported(world) == {"a": "SMALL", "b": "SMALL"}
        assert len(world.sealed_files()) == 1


SIZES = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.sampled_from(["SMALL", "LARGE"]))


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=4))
def test_merging_is_what_a_dictionary_does(imports: list[tuple[dict[str, str], bool]]) -> None:
    """Any sequence of imports gives the list, and the counts, that plain dictionaries give."""
    table, model = registration.REGISTERED.empty_table(), {}
    for incoming, replace in imports:
        columns = {
            "party_id": pa.array(list(incoming), pa.string()),
            "party_size": pa.array(list(incoming.values()), pa.string()),
        }
        before = dict(model)
        model = dict(incoming) if replace else {**before, **incoming}
        table, counts = registration.merge(
            table, pa.table(columns), replace=replace, now=NOW, minimum=dt.timedelta(0)
        )
        found = dict(zip(table["party_id"].to_pylist(), table["party_size"].to_pylist(), strict=True))
        assert found == model
        both = [(before[party], incoming[party]) for party in before.keys() & incoming.keys()]
        assert counts == registration.Counts(
            parties_added=len(incoming.keys() - before.keys()),
            parties_removed=len(before.keys() - incoming.keys()) if replace else 0,
            parties_total=len(model),
            parties_failed_to_remove=0,
            parties_uptiered=both.count(("SMALL", "LARGE")),
            parties_downtiered=both.count(("LARGE", "SMALL")),
            parties_failed_to_downtier=0,
        )
