"""The import of a dataset: it ends with everything stored, or with nothing left; also when it is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.rpc import error_details_pb2

from keystead.api.errors import Cancelled, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from keystead.cmek.sealed_store import PartialObject, SealedStore
from keystead.financialservices import imports
from keystead.financialservices import messages as m
from tests.financialservices.aml_world import DATASET, INSTANCE, TABLES, World, aml, error_of_call
from tests.financialservices.samples import party, rows_of, transaction

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")


def assert_nothing_left(world: World) -> None:
    """No dataset, no file, and the name is free again."""
    with world.store.read() as tx:
        assert tx.resources.list_kind("Dataset") == []
    assert world.sealed_files() == []
    world.dataset()


def test_every_failed_check_is_reported_and_nothing_is_left(world: World) -> None:
    """Failures in several tables end the operation with INVALID_ARGUMENT, one ErrorInfo each, no resource."""
    world.instance()
    specs = world.sample_tables(
        party=[party(1, type="ALIEN"), party(2, type=None)],
        transaction=[transaction(1), transaction(1)],
    )
    operation = world.create_dataset(specs)
    error = error_of_call(lambda: world.end(operation))
    assert isinstance(error, InvalidArgument)
    found = set()
    for detail in error.details:
        info = error_details_pb2.ErrorInfo()
        assert detail.Unpack(info)
        found.add((info.reason, info.metadata["data_table"]))
        assert {"count", "data_table", "data_field", "description", "test"} == set(info.metadata)
    assert found == {
        ("UNSUPPORTED_VALUE", "party"),
        ("NOT_NULL_COLUMN_WITH_NULLS", "party"),
        ("DUPLICATE_PRIMARY_KEY", "transaction"),
    }
    assert "ALIEN" not in error.message
    assert_nothing_left(world)


def test_ids_that_join_nothing_are_reported(world: World) -> None:
    """A transaction of an account that no link names fails the import: checks span tables."""
    world.instance()
    operation = world.create_dataset(world.sample_tables(transaction=[transaction(1, account_id="A99")]))
    error = error_of_call(lambda: world.end(operation))
    assert "JOINABILITY_ISSUE_ACCOUNT_ID in transaction" in error.message
    assert_nothing_left(world)


def test_a_missing_input_table_is_named_by_its_key_only(world: World) -> None:
    """The operation ends NOT_FOUND naming `party`, not the customer's own name for it; nothing is left."""
    world.instance()
    operation = world.create_dataset({**world.sample_tables(), "party": "bq://proj.data.absent"})
    error = error_of_call(lambda: world.end(operation))
    assert isinstance(error, NotFound)
    assert "'party'" in error.message
    assert "absent" not in error.message
    assert_nothing_left(world)


def test_a_full_disk_is_said_and_nothing_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while a sealed file is written: RESOURCE_EXHAUSTED that says what to do, nothing left."""
    world.instance()
    specs = world.sample_tables()
    original = SealedStore.partial

    @contextmanager
    def full(self: SealedStore, generation: str, name: str) -> Iterator[PartialObject]:
        with original(self, generation, name) as partial, FULL.open("wb", buffering=0) as raw:
            partial.raw = raw
            yield partial

    with monkeypatch.context() as patched:
        patched.setattr(SealedStore, "partial", full)
        operation = world.create_dataset(specs)
        error = error_of_call(lambda: world.end(operation))
    assert isinstance(error, ResourceExhausted)
    assert "Free space" in error.message
    assert_nothing_left(world)


class Gate:
    """Holds an import after its first table until a test has done something: its child waits for an input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._open_part = imports.open_part
        monkeypatch.setattr(imports, "open_part", self)

    def __call__(self, part: Any) -> int:
        if not part.name.startswith("party."):
            self.reached.set()
            assert self.opened.wait(60)
        return self._open_part(part)


def during_import(world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[str], object]) -> Exception:
    """What the import ends with when `act` (given its operation's name) happens in its middle."""
    specs = world.sample_tables()
    with monkeypatch.context() as patched:
        gate = Gate(patched)
        operation = world.create_dataset(specs)
        assert gate.reached.wait(60)
        assert world.sealed_files()
        act(operation.name)
        gate.opened.set()
        return error_of_call(lambda: world.end(operation))


@pytest.mark.parametrize("how", ["disable", "destroy", "revoke"])
def test_a_key_taken_during_the_import_ends_it(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The operation ends with the key's refusal; the dataset is gone and so is every file of it."""
    key = world.customer_key()
    world.instance(key)
    error = during_import(world, monkeypatch, lambda _: world.take(key, how))
    assert isinstance(error, FailedPrecondition)
    assert key in error.message
    assert world.sealed_files() == []
    assert isinstance(error_of_call(lambda: world.get(DATASET)), NotFound)


def test_an_import_can_be_cancelled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """CancelOperation ends the import with CANCELLED and leaves nothing."""
    world.instance()

    def cancel(name: str) -> None:
        world.call("CancelOperation", operations_pb2.CancelOperationRequest(name=name))

    assert isinstance(during_import(world, monkeypatch, cancel), Cancelled)
    assert_nothing_left(world)


def test_an_instance_deleted_during_an_import_takes_it_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import of a deleted instance ends with an error and leaves no file, even if it still writes."""
    world.instance()
    error = during_import(world, monkeypatch, lambda _: world.end(world.delete(INSTANCE)))
    assert isinstance(error, NotFound)
    assert world.sealed_files() == []


def test_a_stopped_import_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops in the middle of an import finishes it after the next start."""
    with aml(tmp_path) as world:
        world.instance()
        specs = world.sample_tables()
        with monkeypatch.context() as patched:
            gate = Gate(patched)
            operation = world.create_dataset(specs)
            assert gate.reached.wait(60)
            world.runner.stopping.set()
            gate.opened.set()
    with aml(tmp_path) as world:
        assert world.runner.resume() == 1
        world.end(operation)
        assert world.summary()["transaction"]["rows"] == 3


@pytest.mark.parametrize("moment", ["party", "transaction", "commit"])
def test_a_killed_import_is_run_again_from_the_start(tmp_path: Path, moment: str) -> None:
    """kill -9 in the middle of an import: after the restart the dataset is complete, and no file is left
    over."""
    with aml(tmp_path) as world:
        world.generated_tables(20_000)
    command = [sys.executable, "-m", "tests.financialservices.importer_process", str(tmp_path), moment]
    ended = subprocess.run(command, cwd=ROOT, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    with aml(tmp_path) as world:
        assert world.get(DATASET).state == m.Dataset.State.CREATING
        with world.store.read() as tx:
            unfinished = [row.name for row in tx.operations.unfinished()]
        assert world.runner.resume() == len(unfinished) == 1
        world.end(operations_pb2.Operation(name=unfinished[0]))
        assert world.summary()["transaction"]["rows"] == 20_000
        assert {path.name for path in world.sealed_files()} == {f"{table}.parquet" for table in TABLES}


def test_a_sweep_removes_what_nobody_owns(tmp_path: Path) -> None:
    """Files of no resource are deleted at the start; those of resources stay and are readable."""
    with aml(tmp_path) as world:
        world.instance()
        world.dataset()
        orphan = tmp_path / "data" / "sealed" / ("0" * 32)
        orphan.mkdir()
        (orphan / "party.parquet").write_bytes(b"left by a crash")
    with aml(tmp_path) as world:
        assert not orphan.exists()
        assert world.summary()["party"]["rows"] == len(rows_of("party"))
