"""Customer data at rest: nothing readable on the disk, and nothing accepted that is not what was stored."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.api.errors import ApiError, FailedPrecondition, Internal, NotFound, Unavailable
from keystead.cmek.answers import Answer, KeyUnavailableError
from keystead.crypto.errors import SecretWipedError
from keystead.financialservices.customer_data import Body, CustomerData, StoredFile, generation_of
from keystead.financialservices.wording import refusal
from tests.financialservices.aml_world import DATASET, INSTANCE, World, aml, error_of_call

DAMAGED = f"The stored data of {DATASET} is damaged."
MARKERS = tuple(f"CANARY-{number}-{'x' * 12}" for number in range(4))


def test_nothing_readable_is_on_the_disk(tmp_path: Path) -> None:
    """No marker of the input, no table spec and no label is in any file under the data directory: not in the
    store, not in its log, not in a sealed file; and the markers are there to be read with the key."""
    with aml(tmp_path) as world:
        world.record_data_access()
        world.instance()
        specs = world.generated_tables(20_000, MARKERS)
        world.end(world.create_dataset(specs, labels={"label-canary": "1"}))
        world.summary()
        needles = [marker.encode() for marker in MARKERS] + [b"label-canary", b"bq://proj", b"PAR1"]
        assert_absent(world.data, needles)
        store = world.store
        customer = CustomerData(world.aml.keychain, world.aml.files, lambda _: world.agent_email)
        with store.read() as tx:
            row = tx.resources.get(DATASET)
        with customer.lease(DATASET) as lease:
            body = customer.open(lease, row)
            with customer.open_file(lease, DATASET, body, "party.parquet") as file:
                names = pq.read_table(pa.PythonFile(file, mode="r"), columns=["name"])["name"].to_pylist()
        assert set(MARKERS) <= set(names)
    assert_absent(tmp_path / "data", needles)


def assert_absent(directory: Path, needles: list[bytes]) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert any(path.name == "store.db" for path in files)
    for path in files:
        content = path.read_bytes()
        for needle in needles:
            assert needle not in content, f"{needle!r} in {path.name}"


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def swap(path: Path) -> None:
    other = path.with_name("account_party_link.parquet")
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: flip(path, 0), id="first byte"),
        pytest.param(lambda path: flip(path, 40), id="early byte"),
        pytest.param(lambda path: flip(path, -1), id="last byte"),
        pytest.param(truncate, id="cut"),
        pytest.param(lambda path: path.write_bytes(b""), id="emptied"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"\0"), id="longer"),
        pytest.param(lambda path: path.write_bytes(b"PAR1" * 100), id="plain"),
        pytest.param(swap, id="swapped with another table"),
        pytest.param(Path.unlink, id="deleted"),
    ],
)
def test_a_harmed_file_is_damaged_and_never_wrong_data(world: World, harm: Callable[[Path], object]) -> None:
    """Whatever is done to a sealed file, reading it answers the one fixed INTERNAL text."""
    world.instance()
    world.dataset()
    [path] = [path for path in world.sealed_files() if path.name == "party.parquet"]
    harm(path)
    error = error_of_call(world.summary)
    assert isinstance(error, Internal)
    assert error.message == DAMAGED
    assert world.get(DATASET).name == DATASET  # what is not in that file is still readable


def test_files_of_another_generation_or_dataset_do_not_fit(world: World) -> None:
    """An older import's file of the same table and dataset name, or another dataset's, is damage."""
    world.instance()
    world.dataset()
    [old] = [path for path in world.sealed_files() if path.name == "party.parquet"]
    kept = old.read_bytes()
    world.end(world.delete(DATASET))
    world.dataset()
    world.dataset("february")
    [path] = [
        path
        for path in world.sealed_files()
        if path.name == "party.parquet" and path.parent.name == generation(world, DATASET)
    ]
    mine = path.read_bytes()
    path.write_bytes(kept)
    assert error_of_call(world.summary).message == DAMAGED
    other = path.parents[1] / generation(world, f"{INSTANCE}/datasets/february") / "party.parquet"
    shutil.copyfile(other, path)
    assert error_of_call(world.summary).message == DAMAGED
    path.write_bytes(mine)
    assert world.summary()["party"]["rows"] == 3


def generation(world: World, name: str) -> str:
    with world.store.read() as tx:
        return generation_of(tx.resources.get(name))


def test_a_sealed_body_opens_only_in_its_own_row(world: World) -> None:
    """A body copied to another dataset's row, cut, or with the files of another, is damage."""
    world.instance()
    world.dataset()
    world.dataset("february")
    with world.store.read() as tx:
        mine, other = tx.resources.get(DATASET), tx.resources.get(f"{INSTANCE}/datasets/february")
    harmed: list[dict[str, object]] = [
        {"sealed": other.sealed},
        {"sealed": mine.sealed[:-1]},
        {"sealed": b""},
        {"sealed": None},
        {"alias": "sealed/" + "0" * 32},
    ]
    for changes in harmed:
        with world.store.write() as tx:
            row = tx.resources.get(DATASET)
            tx.resources.update(dataclasses.replace(mine, revision=row.revision, **changes))
        for read in world.reads().values():
            error = error_of_call(read)
            assert isinstance(error, Internal)
            assert "is damaged." in error.message


def test_a_wrapped_kek_of_another_instance_opens_nothing(world: World) -> None:
    """The wrapped KEK is bound to its instance: exchanged with another's, the data is refused."""
    key = world.customer_key()
    world.instance(key)
    world.instance(key, "other")
    world.dataset()
    with world.store.write() as tx:
        row, other = tx.keychains.get(INSTANCE), tx.keychains.get(f"{INSTANCE[:-4]}other")
        tx.keychains.update(dataclasses.replace(row, wrapped_kek=other.wrapped_kek))
    world.aml.keychain.doubt("")
    error = error_of_call(world.summary)
    assert isinstance(error, FailedPrecondition)
    assert "cannot be used" in error.message


def test_a_lease_that_ends_in_the_middle_is_the_keys_refusal(world: World) -> None:
    """A wiped KEK, met in any form while data is read, is answered as the reason for which it was wiped."""
    key = world.customer_key()
    world.instance(key)
    customer = CustomerData(world.aml.keychain, world.aml.files, lambda _: "agent@example")
    reason = KeyUnavailableError(key, Answer.DENIED, NotFound("x"))
    for raised in (SecretWipedError(), OSError("an error of a reader"), ValueError("x")):
        with pytest.raises(FailedPrecondition, match="agent@example lacks permissions"):
            with customer.lease(DATASET) as lease:
                lease.end(reason)
                raise raised
        world.aml.keychain.forget(INSTANCE)


def test_rotation_keeps_data_readable_and_frees_the_old_version(world: World) -> None:
    """After a rotation the old version may be disabled: the data hangs on the new one, untouched."""
    key = world.customer_key()
    world.instance(key)
    world.dataset()
    before = {path: path.read_bytes() for path in world.sealed_files()}
    world.rotate(key)
    world.set_state(f"{key}/cryptoKeyVersions/1", "DISABLED")
    assert world.summary()["party"]["rows"] == 3
    assert {path: path.read_bytes() for path in world.sealed_files()} == before
    world.set_state(f"{key}/cryptoKeyVersions/2", "DISABLED")
    assert isinstance(error_of_call(world.summary), FailedPrecondition)


@given(
    st.builds(
        Body,
        message=st.binary(max_size=200),
        generation=st.text("0123456789abcdef", max_size=32),
        files=st.lists(
            st.builds(
                StoredFile,
                name=st.text(min_size=1, max_size=20),
                file_id=st.binary(min_size=16, max_size=16),
                size=st.integers(0, 2**40),
                rows=st.integers(0, 2**40),
            ),
            max_size=5,
        ).map(tuple),
    )
)
def test_a_body_is_read_as_it_was_written(body: Body) -> None:
    """Encoding keeps everything."""
    assert Body.decode(body.encode()) == body


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (Answer.DENIED, FailedPrecondition, "agent lacks permissions to KMS key K. Grant it"),
        (Answer.DISABLED, FailedPrecondition, "The KMS key K cannot be used: why"),
        (Answer.UNREACHABLE, Unavailable, "The KMS key K could not be reached: why"),
    ],
)
def test_each_answer_of_the_key_has_its_words(answer: Answer, kind: type[ApiError], text: str) -> None:
    """The three refusals: whose fault it is, and what the key service said."""
    error = refusal(KeyUnavailableError("K", answer, Unavailable("why")), "agent")
    assert type(error) is kind
    assert error.message.startswith(text)


def test_a_deleted_instance_is_not_found_rather_than_refused() -> None:
    """A lease that ended because its resource was deleted is answered as NOT_FOUND."""
    cause = NotFound("projects/p/locations/l/instances/i was deleted.")
    assert refusal(KeyUnavailableError("", Answer.DISABLED, cause), "agent") is cause
