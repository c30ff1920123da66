"""The child process of an import: what it can reach, and what is left when it, its key or its server ends."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from google.rpc import error_details_pb2

from keystead.api.errors import ApiError, FailedPrecondition, Internal, InvalidArgument, NotFound
from keystead.financialservices import imports
from keystead.financialservices.failures import DatasetValidationError
from keystead.financialservices.sources import TableSources
from tests.cmek.children import eventually, gone
from tests.financialservices.aml_world import DATASET, TABLES, World, aml, error_of_call
from tests.financialservices.samples import arrow, imported, put, rows_of

CANARY = "CANARY-in-an-input"


class Paused:
    """An import whose child is stopped by SIGSTOP while it waits for its second table."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.child = 0
        self._others = set(psutil.Process().children())  # servers that other tests share
        self._reached, self._open_part = threading.Event(), imports.open_part
        monkeypatch.setattr(imports, "open_part", self._answer)

    def _answer(self, part: Any) -> int:
        if not part.name.startswith("party.") and not self.child:
            [child] = set(psutil.Process().children()) - self._others
            child.suspend()
            self.child = child.pid
            self._reached.set()
        return self._open_part(part)

    def start(self, world: World) -> Any:
        """The operation, once its child stands still."""
        operation = world.create_dataset(world.sample_tables())
        assert self._reached.wait(60)
        return operation


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Iterator[Paused]:
    """The next import stands still after its first table."""
    with monkeypatch.context() as patched:
        yield Paused(patched)


def assert_nothing_left(world: World) -> None:
    assert isinstance(error_of_call(lambda: world.get(DATASET)), NotFound)
    assert world.sealed_files() == []


def test_the_child_has_open_what_it_seals_into_and_nothing_of_the_store(world: World, paused: Paused) -> None:
    """In the middle of an import, the child's descriptors are its socket, nothing, and a file it was given;
    its memory maps no file of the data directory."""
    world.instance()
    operation = paused.start(world)
    links = {path.name: str(path.readlink()) for path in Path(f"/proc/{paused.child}/fd").iterdir()}
    mapped = Path(f"/proc/{paused.child}/maps").read_text()
    psutil.Process(paused.child).resume()
    world.end(operation)
    assert links.pop("0").startswith("socket:")
    assert links.pop("1") == links.pop("2") == "/dev/null"
    [sealed] = links.values()
    assert sealed.startswith(str(world.data / "sealed"))
    assert sealed.endswith(".partial")
    assert str(world.data) not in mapped
    assert gone(paused.child)


def test_the_child_is_nobody_and_is_told_nothing_by_its_start(world: World, paused: Paused) -> None:
    """It runs without root's rights; no name of a resource, table or file is in its command or variables."""
    world.instance()
    operation = paused.start(world)
    child = psutil.Process(paused.child)
    shown = " ".join(child.cmdline()) + Path(f"/proc/{paused.child}/environ").read_bytes().decode()
    status = Path(f"/proc/{paused.child}/status").read_text()
    child.resume()
    world.end(operation)
    for secret in ("january", "bank", "bq://", "party", str(world.data), str(world.tables)):
        assert secret not in shown
    if os.geteuid() == 0:
        assert "Uid:\t65534\t65534\t65534\t65534\n" in status
    assert "NoNewPrivs:\t1\n" in status


@pytest.mark.parametrize("how", ["disable", "destroy", "revoke"])
def test_a_key_taken_ends_the_child_within_a_second(world: World, paused: Paused, how: str) -> None:
    """Even a child that does not run is gone, and the operation has failed by the key's refusal."""
    key = world.customer_key()
    world.instance(key)
    operation = paused.start(world)
    start = time.monotonic()
    world.take(key, how)
    error = error_of_call(lambda: world.end(operation))
    assert time.monotonic() - start < 1.0
    assert isinstance(error, FailedPrecondition)
    assert key in error.message
    assert gone(paused.child)
    assert_nothing_left(world)


def test_a_killed_child_fails_the_import_cleanly(
    world: World, paused: Paused, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL of the child: the operation ends INTERNAL, the log names the signal, nothing is left, and the
    same import can be run again."""
    world.instance()
    operation = paused.start(world)
    os.kill(paused.child, signal.SIGKILL)
    error = error_of_call(lambda: world.end(operation))
    assert isinstance(error, Internal)
    assert error.message == "The worker process ended unexpectedly."
    assert "ended: SIGKILL" in caplog.text
    assert_nothing_left(world)
    world.dataset()


def test_a_server_that_stops_ends_the_child_and_finishes_later(tmp_path: Path, paused: Paused) -> None:
    """The stop takes no longer than a moment; the operation is unfinished, and the next start finishes it."""
    with aml(tmp_path) as world:
        world.instance()
        operation = paused.start(world)
        start = time.monotonic()
        world.runner.stop()
        assert time.monotonic() - start < 1.0
        assert eventually(lambda: gone(paused.child))
    with aml(tmp_path) as world:
        assert world.runner.resume() == 1
        world.end(operation)
        assert world.summary()["transaction"]["rows"] == 3
        assert {path.name for path in world.sealed_files()} == {f"{table}.parquet" for table in TABLES}


def csv(content: bytes) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        put(root, "party", arrow("party", rows_of("party")), name="kept")
        (root / "proj/data/party.csv").write_bytes(content)

    return write


def parquet(rows: list[dict[str, Any]], cut: int | None = None) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        path = root / "proj/data/party.parquet"
        put(root, "party", arrow("party", rows))
        path.write_bytes(path.read_bytes()[:cut])

    return write


HEADER = b"party_id,validity_start_time,type,exit_date,join_date,nationalities\n"
HARMED = {
    "not csv": csv(HEADER + CANARY.encode() + b",2025-01-01T00:00:00Z\n"),
    "no instant": csv(HEADER + b"a," + CANARY.encode() + b",CONSUMER,,,\n"),
    "no zone": csv(HEADER + b"a,2025-01-01 00:00:00,CONSUMER,,,\n"),
    "no date": csv(HEADER + b"a,,," + CANARY.encode() + b",,\n"),
    "no json": csv(HEADER + b"a,,,,," + CANARY.encode() + b"\n"),
    "no utf-8": csv(b"\xff" + CANARY.encode()),
    "empty": csv(b""),
    "header only": csv(HEADER),
    "other column twice": csv(b"party_id,party_id\n" + CANARY.encode() + b",b\n"),
    "values": parquet([{**rows_of("party")[0], "type": CANARY, "party_id": None}] * 2),
    "cut": parquet(rows_of("party"), 100),
    "no parquet": parquet(rows_of("party"), 4),
}


@pytest.mark.parametrize("harm", HARMED)
def test_a_refused_input_is_refused_as_in_one_process(
    world: World, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """Whatever is wrong with an input, a child that can read none of the program's files reports the very
    failures that reading it here finds; no value is in the error, the log or any file of the server."""
    caplog.set_level(logging.DEBUG)
    world.instance()
    specs = world.sample_tables()
    (world.tables / "proj/data/party.parquet").unlink()
    HARMED[harm](world.tables)
    with pytest.raises(DatasetValidationError) as expected:
        imported(TableSources(world.tables).resolve(specs["party"]), "party")
    error = error_of_call(lambda: world.end(world.create_dataset(specs)))
    assert isinstance(error, InvalidArgument)
    assert of_party(error) == [failure.error_info() for failure in expected.value.failures]
    assert CANARY not in caplog.text + str(error) + str([str(detail) for detail in error.details])
    assert "unexpected" not in caplog.text
    for path in world.data.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes()


def of_party(error: ApiError) -> list[error_details_pb2.ErrorInfo]:
    """The failures of the table `party` in an error's details."""
    found = []
    for detail in error.details:
        info = error_details_pb2.ErrorInfo()
        assert detail.Unpack(info)
        if info.metadata["data_table"] == "party":
            found.append(info)
    return found


def test_an_input_that_vanishes_is_reported_by_its_table(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is gone when the child wants it: the failed check says so, and names the file only."""
    world.instance()
    specs = world.sample_tables()
    original = imports.open_part

    def gone_now(part: Any) -> int:
        part.unlink(missing_ok=True)
        return original(part)

    with monkeypatch.context() as patched:
        patched.setattr(imports, "open_part", gone_now)
        error = error_of_call(lambda: world.end(world.create_dataset(specs)))
    [info] = of_party(error)
    assert info.reason == "UNREADABLE_INPUT"
    assert "party.parquet: No such file or directory" in info.metadata["description"]
    assert_nothing_left(world)


def test_a_table_of_many_parts_needs_no_more_descriptors(world: World) -> None:
    """More parts than a process may have open are read one after the other, whatever their names."""
    world.instance()
    specs = world.sample_tables()
    (world.tables / "proj/data/risk_case_event.parquet").unlink()
    for number in range(150):
        rows = [{**rows_of("risk_case_event")[0], "risk_case_event_id": f"E{number}"}]
        put(
            world.tables,
            "risk_case_event",
            arrow("risk_case_event", rows),
            name=f"risk_case_event/part-{number:03d}",
        )
    last = world.tables / "proj/data/risk_case_event/part-149.parquet"
    last.rename(os.fsdecode(os.fsencode(last.parent) + b"/part-\xff.parquet"))
    world.end(world.create_dataset(specs))
    assert world.summary()["risk_case_event"]["rows"] == 150
