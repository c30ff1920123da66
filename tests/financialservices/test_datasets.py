"""Datasets: what can be created, what is answered, and that nothing is answered without the key."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from google.longrunning import operations_pb2

from keystead.api.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from keystead.financialservices import messages as m
from keystead.financialservices.service import DATASETS
from tests.financialservices.aml_world import (
    DATASET,
    INSTANCE,
    RANGE,
    TABLES,
    VIEWER,
    World,
    error_of_call,
)
from tests.platform import PROJECT

UUID = "0b6b7a0e-7a6f-4c55-9f4c-0a4a3c1d2e3f"
SPECS = {table: f"bq://proj.data.{table}" for table in TABLES}


def test_a_dataset_is_answered_as_it_was_given(world: World) -> None:
    """The operation, Get and List answer the same dataset: what was sent, plus name, times and state."""
    world.instance()
    fields = {"labels": {"month": "january"}, "time_zone": {"id": "Europe/Berlin"}}
    operation = world.create_dataset(world.sample_tables(), **fields)
    created = m.Dataset()
    assert world.end(operation).response.Unpack(created)
    sent = m.Dataset(table_specs=SPECS, date_range=RANGE, **fields)
    got = world.get(DATASET)
    assert got == created
    assert (got.name, got.state) == (DATASET, m.Dataset.State.ACTIVE)
    assert got.create_time.seconds > 0
    for field in ("name", "state", "create_time", "update_time"):
        got.ClearField(field)
    assert got == sent
    world.dataset("february")
    listed = world.call("ListDatasets", m.ListDatasetsRequest(parent=INSTANCE, filter="labels.month:january"))
    assert list(listed.datasets) == [created]


def test_a_list_comes_in_pages(world: World) -> None:
    """All pages together are all datasets, in the order of their names."""
    world.instance()
    for name in ("c", "a", "b"):
        world.dataset(name)
    found, token = [], ""
    while True:
        request = m.ListDatasetsRequest(parent=INSTANCE, page_size=2, page_token=token)
        page = world.call("ListDatasets", request)
        found += [dataset.name.rsplit("/", 1)[1] for dataset in page.datasets]
        token = page.next_page_token
        if not token:
            break
    assert found == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"specs": {k: v for k, v in SPECS.items() if k != "party"}}, "TABLE_EXISTENCE in party"),
        ({"specs": {}}, "TABLE_EXISTENCE"),
        ({"specs": {**SPECS, "secret_table": "bq://a.b.c"}}, "dataset.table_specs"),
        ({"specs": {**SPECS, "party": "proj.data.party"}}, "dataset.table_specs[party]"),
        ({"specs": {**SPECS, "party": "bq://proj.data"}}, "dataset.table_specs[party]"),
        ({"specs": {**SPECS, "party": "bq://proj.data.../../x"}}, "dataset.table_specs[party]"),
        ({"specs": {**SPECS, "party": ""}}, "dataset.table_specs[party]"),
        ({"date_range": {}}, "dataset.date_range"),
        ({"date_range": {"start_time": {"seconds": 1}}}, "dataset.date_range"),
        ({"date_range": {"start_time": {"seconds": 2}, "end_time": {"seconds": 1}}}, "before its end_time"),
        ({"date_range": {"start_time": {"seconds": 2}, "end_time": {"seconds": 2}}}, "before its end_time"),
        ({"time_zone": {"id": "Mars/Base"}}, "dataset.time_zone"),
        ({"time_zone": {"id": "../../etc/passwd"}}, "dataset.time_zone"),
        ({"labels": {"Not Valid": "x"}}, "dataset.labels"),
        ({"dataset_id": "January"}, "dataset_id"),
        ({"dataset_id": ""}, "dataset_id"),
        ({"request_id": "1"}, "request_id"),
    ],
)
def test_a_wrong_request_creates_nothing(world: World, changes: dict[str, Any], field: str) -> None:
    """Every wrong field of CreateDataset is INVALID_ARGUMENT in words that name it, and nothing is made."""
    world.instance()
    specs = changes.pop("specs", SPECS)
    error = error_of_call(lambda: world.create_dataset(specs, **changes))
    assert isinstance(error, InvalidArgument)
    assert field in error.message
    with world.store.read() as tx:
        assert tx.resources.list_kind("Dataset") == []


def test_a_dataset_needs_its_instance_and_exists_once(world: World) -> None:
    """Without the instance it is NOT_FOUND; a second of its name ALREADY_EXISTS; a retry the same call."""
    with pytest.raises(NotFound):
        world.create_dataset(SPECS)
    world.instance()
    first = world.create_dataset(world.sample_tables(), request_id=UUID)
    world.end(first)
    assert world.create_dataset(SPECS, request_id=UUID).name == first.name
    with pytest.raises(AlreadyExists):
        world.create_dataset(SPECS)


def test_only_labels_can_be_updated(world: World) -> None:
    """An update changes labels and keeps the tables readable; anything else is immutable."""
    world.instance()
    world.dataset()
    world.end(update(world, ["labels"], labels={"a": "1"}))
    assert dict(world.get(DATASET).labels) == {"a": "1"}
    world.end(update(world, [], labels={"b": "2"}))
    assert dict(world.get(DATASET).labels) == {"b": "2"}
    for mask in (["table_specs"], ["date_range"], ["time_zone"], ["state"], ["nothing"]):
        with pytest.raises(InvalidArgument):
            update(world, mask)
    with pytest.raises(InvalidArgument, match="immutable"):
        update(world, [], time_zone={"id": "UTC"})
    assert world.summary()["party"]["rows"] == 3


def update(world: World, mask: list[str], **fields: Any) -> Any:
    request = m.UpdateDatasetRequest(dataset={"name": DATASET, **fields}, update_mask={"paths": mask})
    return world.call("UpdateDataset", request)


@pytest.mark.parametrize("how", ["disable", "destroy", "revoke"])
def test_the_very_next_call_after_the_key_is_gone_is_refused(world: World, how: str) -> None:
    """Get, List, Summarize, Update, Create and the operation's response: refused as soon as the call that
    took the key away has returned, with nothing of the dataset in the error; readable again after."""
    key = world.customer_key()
    world.instance(key)
    operation = world.create_dataset(world.sample_tables())
    world.end(operation)
    for read in world.reads().values():
        read()
    world.take(key, how)
    for name, read in world.reads().items():
        error = error_of_call(read)
        assert isinstance(error, FailedPrecondition), name
        assert key in error.message
        assert "bq://" not in error.message
    for act in (
        lambda: update(world, [], labels={"a": "1"}),
        lambda: world.create_dataset(SPECS, "february"),
        lambda: world.get_operation(operation.name),
    ):
        assert isinstance(error_of_call(act), FailedPrecondition)
    if how == "disable":
        world.set_state(f"{key}/cryptoKeyVersions/1", "ENABLED")
    elif how == "revoke":
        world.grant(key, world.agent(), "roles/cloudkms.cryptoKeyEncrypterDecrypter")
    if how != "destroy":
        assert world.get(DATASET).table_specs == SPECS
        assert world.summary()["party"]["rows"] == 3


def test_a_summary_counts_what_was_imported(world: World) -> None:
    """SummarizeDataset answers the rows of every table of the dataset."""
    world.instance()
    world.dataset()
    summary = world.summary()
    assert {table: summary[table]["rows"] for table in TABLES} == dict.fromkeys(TABLES, 3)


def test_deleting_a_dataset_removes_its_files(world: World) -> None:
    """A deleted dataset is NOT_FOUND and leaves no file, also without the key; another keeps its own."""
    key = world.customer_key()
    world.instance(key)
    world.dataset()
    world.dataset("february")
    world.take(key, "disable")
    world.end(world.delete(DATASET))
    assert isinstance(error_of_call(lambda: world.get(DATASET)), NotFound)
    world.set_state(f"{key}/cryptoKeyVersions/1", "ENABLED")
    assert world.summary(f"{INSTANCE}/datasets/february")["party"]["rows"] == 3
    assert len({path.parent for path in world.sealed_files()}) == 1


def test_a_dataset_being_deleted_refuses_to_be_changed(world: World) -> None:
    """DELETING: summary, update and a second delete are FAILED_PRECONDITION."""
    world.instance()
    world.dataset()
    with world.store.write() as tx:
        stored = DATASETS.require(tx, DATASET)
        stored.message.state = m.Dataset.State.DELETING
        DATASETS.update(tx, stored)
    for act in (world.summary, lambda: update(world, []), lambda: world.delete(DATASET)):
        assert "DELETING" in error_of_call(act).message


def test_the_viewer_reads_and_changes_nothing(world: World) -> None:
    """The viewer role gets datasets while the key is there, and creates and deletes none."""
    world.instance()
    world.dataset()
    world.grant(PROJECT, VIEWER, "roles/financialservices.viewer")
    assert world.get(DATASET, VIEWER).name == DATASET
    with pytest.raises(PermissionDenied):
        world.delete(DATASET, VIEWER)


def test_no_log_holds_a_dataset(world: World) -> None:
    """With every data access recorded, no audit record has a table spec or label of a dataset."""
    world.record_data_access()
    world.instance()
    world.dataset(labels={"customer-canary": "1"})
    for read in world.reads().values():
        read()
    world.end(update(world, [], labels={"other-canary": "2"}))
    with world.store.read() as tx:
        names = [row.name for row in tx.operations.list("projects/p1/locations/europe-west4")]
    for name in names:
        world.call("GetOperation", operations_pb2.GetOperationRequest(name=name))
    error_of_call(lambda: world.create_dataset({**SPECS, "party": "bq://canary.x"}, "bad"))
    bodies = b"".join(world.audit_bodies())
    assert b"SummarizeDataset" in bodies
    assert b"CreateDataset" in bodies
    for canary in (b"canary", b"bq://proj."):
        assert canary not in bodies


def test_many_readers_survive_a_key_that_comes_and_goes(world: World) -> None:
    """Concurrent reads end in the data or in the refusal, never in anything else."""
    key = world.customer_key()
    world.instance(key)
    world.dataset()
    outcomes: list[object] = []

    def read() -> None:
        for _ in range(30):
            try:
                outcomes.append(world.summary()["party"]["rows"])
            except Exception as error:
                outcomes.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        world.take(key, "disable")
        world.set_state(f"{key}/cryptoKeyVersions/1", "ENABLED")
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 90
    assert all(outcome == 3 or isinstance(outcome, FailedPrecondition) for outcome in outcomes)
