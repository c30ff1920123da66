"""The contract of resources, on both engines."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from keystead.api.errors import Aborted, InvalidArgument
from keystead.store import Resource, Store
from tests.stores import a_resource


def test_a_resource_comes_back_as_it_was_stored(store: Store) -> None:
    """Every field survives, with bytes of every value and names outside ASCII."""
    everything = Resource(
        name="projects/ü/things/日本",
        kind="Thing",
        parent="projects/ü",
        sort="日本",
        body=bytes(range(256)),
        sealed=b"\x00\xff",
        revision=7,
        due=2**53 + 1,
        alias="uid/\U0001f511",
    )
    bare = a_resource(body=b"")
    with store.write() as tx:
        assert tx.resources.insert(everything)
        assert tx.resources.insert(bare)
    with store.read() as tx:
        assert tx.resources.get(everything.name) == everything
        assert tx.resources.by_alias("uid/\U0001f511") == everything
        assert tx.resources.get(bare.name) == bare
        assert tx.resources.get("projects/p/things/none") is None
        assert tx.resources.by_alias("none") is None


@pytest.mark.parametrize("taken", ["name", "alias"])
def test_insert_says_when_a_name_or_alias_is_taken(store: Store, taken: str) -> None:
    """A refused insert changes nothing, moves no epoch, and leaves the transaction usable."""
    with store.write() as tx:
        assert tx.resources.insert(a_resource("t/a", alias="x"))
    epoch = store.epoch
    second = a_resource("t/a", body=b"other") if taken == "name" else a_resource("t/b", alias="x")
    with store.write() as tx:
        assert not tx.resources.insert(second)
        tx.meta.put("after", b"1")
    with store.read() as tx:
        assert tx.resources.list("Thing", "t") == [a_resource("t/a", alias="x")]
        assert tx.meta.get("after") == b"1"
    assert store.epoch == epoch


def test_two_resources_cannot_share_a_sort_key(store: Store) -> None:
    """A sort key that is taken is a mistake of the program and raises, as a list would lose rows by it."""
    with pytest.raises(ValueError, match="sort key"), store.write() as tx:
        assert tx.resources.insert(a_resource("t/a", sort="1"))
        assert tx.resources.insert(a_resource("t/b", sort="1", kind="Other"))
        tx.resources.insert(a_resource("t/c", sort="1"))


def test_update_writes_and_raises_the_revision(store: Store) -> None:
    """Body, sealed, due, sort and alias are written; name, kind and parent stay."""
    with store.write() as tx:
        tx.resources.insert(a_resource("t/a"))
    changed = a_resource("t/a", body=b"new", sealed=b"s", due=5, sort="z", alias="x")
    with store.write() as tx:
        tx.resources.update(changed)
    with store.read() as tx:
        assert tx.resources.get("t/a") == dataclasses.replace(changed, revision=2)


@pytest.mark.parametrize("name", ["t/a", "t/gone"])
def test_update_of_an_old_revision_is_aborted(store: Store, name: str) -> None:
    """Of two writers that read the same revision the second is told, and nothing of it remains."""
    with store.write() as tx:
        tx.resources.insert(a_resource("t/a", revision=4))
    with pytest.raises(Aborted), store.write() as tx:
        tx.meta.put("half", b"1")
        tx.resources.update(a_resource(name, body=b"late", revision=3))
    with store.read() as tx:
        assert tx.resources.get("t/a") == a_resource("t/a", revision=4)
        assert tx.meta.get("half") is None


def test_update_to_a_taken_alias_is_aborted(store: Store) -> None:
    """An update never takes the alias of another resource, and fails as a whole."""
    with store.write() as tx:
        tx.resources.insert(a_resource("t/a", alias="x"))
        tx.resources.insert(a_resource("t/b"))
    with pytest.raises(Aborted), store.write() as tx:
        tx.resources.update(a_resource("t/b", alias="x"))
    with store.read() as tx:
        assert tx.resources.get("t/b") == a_resource("t/b")


def test_lists_are_in_bytewise_order(store: Store) -> None:
    """The order is that of the UTF-8 bytes, whatever the locale of the database."""
    keys = ["Z", "a", "a-b", "a0", "ab", "a_b", "B", "é", "z", "\U0001f511", "\ue000", "10", "9", "A"]
    with store.write() as tx:
        for key in keys:
            tx.resources.insert(a_resource(f"t/{key}"))
    with store.read() as tx:
        listed = [row.sort for row in tx.resources.list("Thing", "t")]
        by_name = [row.name for row in tx.resources.list_kind("Thing")]
    assert listed == sorted(keys, key=str.encode)
    assert by_name == [f"t/{key}" for key in listed]


def test_pages_cover_a_list_once(store: Store) -> None:
    """Seeking from the last row of each page yields every row once, also when rows vanish in between."""
    with store.write() as tx:
        for number in range(25):
            tx.resources.insert(a_resource(f"t/{number:02}"))
            tx.resources.insert(a_resource(f"u/{number:02}"))
            tx.resources.insert(a_resource(f"t/others/{number:02}", parent="t", kind="Other"))
    seen: list[str] = []
    while True:
        with store.write() as tx:
            page = tx.resources.list("Thing", "t", after=seen[-1] if seen else None, limit=4)
            if page:
                tx.resources.delete(page[-1].name)
        if not page:
            break
        seen += [row.sort for row in page]
    assert seen == [f"{number:02}" for number in range(25)]
    with store.read() as tx:
        assert tx.resources.count("Thing", "t") == 18
        assert tx.resources.count("Thing", "none") == 0
        names = [row.name for row in tx.resources.list_kind("Thing", after_name="t/23", limit=3)]
        assert names == ["u/00", "u/01", "u/02"]


def test_a_list_can_be_walked_from_its_end(store: Store) -> None:
    """Descending pages are the ascending list turned round."""
    with store.write() as tx:
        for number in range(10):
            tx.resources.insert(a_resource(f"t/{number}"))
        tx.resources.insert(a_resource("u/1"))
        tx.resources.insert(a_resource("t/x", kind="Other"))
    seen: list[str] = []
    with store.read() as tx:
        while page := tx.resources.list(
            "Thing", "t", after=seen[-1] if seen else None, limit=3, descending=True
        ):
            seen += [row.sort for row in page]
    assert seen == [str(number) for number in reversed(range(10))]


def test_many_resources_are_read_at_once(store: Store) -> None:
    """Those that are there, by name, however many were asked for and however often."""
    rows = [a_resource(f"t/{number}", body=str(number).encode()) for number in range(1200)]
    with store.write() as tx:
        for row in rows:
            tx.resources.insert(row)
    with store.read() as tx:
        assert tx.resources.get_many([]) == {}
        assert tx.resources.get_many(["t/none", "t/7", "t/7"]) == {"t/7": rows[7]}
        names = (f"t/{number}" for number in range(-10, 1300))
        assert tx.resources.get_many(names) == {row.name: row for row in rows}


def test_numbers_are_given_once(store: Store) -> None:
    """Deleting what has a number does not free it; those of a transaction that was rolled back come again."""
    with store.write() as tx:
        assert [tx.resources.next_number("Thing", "t") for _ in range(2)] == [1, 2]
        assert tx.resources.next_number("Other", "t") == tx.resources.next_number("Thing", "u") == 1
        tx.resources.insert(a_resource("t/2"))
        assert tx.resources.delete("t/2")
        assert tx.resources.next_number("Thing", "t") == 3
        assert tx.resources.count("Thing", "t") == 0
    with pytest.raises(KeyError), store.write() as tx:
        assert tx.resources.next_number("Thing", "t") == 4
        tx.resources.insert(a_resource("t/4"))
        raise KeyError
    with store.write() as tx:
        assert tx.resources.count("Thing", "t") == 0
        assert tx.resources.next_number("Thing", "t") == 4


def test_a_number_is_above_every_count_there_was(store: Store) -> None:
    """Resources that were numbered by counting are not met by numbers, also when they are gone."""
    with store.write() as tx:
        for number in (1, 2, 3):
            assert tx.resources.count("Thing", "t") + 1 == number
            tx.resources.insert(a_resource(f"t/{number}"))
    with store.write() as tx:
        assert tx.resources.delete("t/3")
        assert tx.resources.next_number("Thing", "t") == 4


def test_due_finds_what_a_loop_must_look_at(store: Store) -> None:
    """Only resources whose time has come, the longest due first, no more than asked for."""
    dues = {"t/a": 30, "t/b": 10, "t/c": None, "t/d": 20, "t/e": 31, "t/f": 10}
    with store.write() as tx:
        for name, due in dues.items():
            tx.resources.insert(a_resource(name, due=due))
        tx.resources.insert(a_resource("t/other", kind="Other", due=1))
    with store.read() as tx:
        assert [row.name for row in tx.resources.due("Thing", 30, 10)] == ["t/b", "t/f", "t/d", "t/a"]
        assert [row.name for row in tx.resources.due("Thing", 30, 2)] == ["t/b", "t/f"]
        assert tx.resources.due("Thing", 9, 10) == []


def test_delete_says_whether_there_was_one(store: Store) -> None:
    """A deleted resource is gone, and its name, alias and sort key are free again."""
    with store.write() as tx:
        tx.resources.insert(a_resource("t/a", alias="x"))
        assert tx.resources.delete("t/a")
        assert not tx.resources.delete("t/a")
        assert tx.resources.insert(a_resource("t/a", alias="x"))


def test_a_name_that_has_no_utf8_is_refused(store: Store) -> None:
    """A lone surrogate, as JSON can hold, is the caller's mistake and not a failure of the store."""
    with pytest.raises(InvalidArgument), store.read() as tx:
        tx.resources.get("t/\ud800")


NAMES = st.sampled_from([f"t/{sort}" for sort in ["", "a", "b", "B", "a-", "a0", "é", "\U0001f511"]])
ALIASES = st.none() | st.sampled_from(["x", "y", "z"])
DUES = st.none() | st.integers(0, 5)


class ResourcesModel(RuleBasedStateMachine):
    """The repository beside a dict: the same calls, the same answers."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.model: dict[str, Resource] = {}
        with store.write() as tx:
            for row in tx.resources.list_kind("Thing"):
                tx.resources.delete(row.name)
            # Numbers go on from where the example before left them.
            self.last = tx.resources.next_number("Thing", "t")

    def _alias_taken(self, alias: str | None, name: str) -> bool:
        return alias is not None and any(
            row.alias == alias and row.name != name for row in self.model.values()
        )

    @rule(name=NAMES, body=st.binary(max_size=20), alias=ALIASES, due=DUES)
    def insert(self, name: str, body: bytes, alias: str | None, due: int | None) -> None:
        row = a_resource(name, body=body, alias=alias, due=due)
        fits = name not in self.model and not self._alias_taken(alias, name)
        with self.store.write() as tx:
            assert tx.resources.insert(row) is fits
        if fits:
            self.model[name] = row
            self.last = max(self.last, len(self.model))

    @rule(name=NAMES, body=st.binary(max_size=20), alias=ALIASES, due=DUES, stale=st.booleans())
    def update(self, name: str, body: bytes, alias: str | None, due: int | None, stale: bool) -> None:
        revision = self.model[name].revision if name in self.model else 1
        row = a_resource(name, body=body, alias=alias, due=due, revision=revision - stale)
        if name not in self.model or stale or self._alias_taken(alias, name):
            with pytest.raises(Aborted), self.store.write() as tx:
                tx.resources.update(row)
            return
        with self.store.write() as tx:
            tx.resources.update(row)
        self.model[name] = dataclasses.replace(row, revision=revision + 1)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        with self.store.write() as tx:
            assert tx.resources.delete(name) is (self.model.pop(name, None) is not None)

    @rule(name=NAMES, times=st.integers(1, 3))
    def change_and_roll_back(self, name: str, times: int) -> None:
        others = len(self.model.keys() - {name})
        with pytest.raises(KeyError), self.store.write() as tx:
            for _ in range(times):
                tx.resources.delete(name)
                assert tx.resources.count("Thing", "t") == others
                tx.resources.next_number("Thing", "t")
                assert tx.resources.insert(a_resource(name))
            raise KeyError

    @rule(times=st.integers(1, 3), name=NAMES)
    def number(self, times: int, name: str) -> None:
        with self.store.write() as tx:
            for _ in range(times):
                self.last += 1
                assert tx.resources.next_number("Thing", "t") == self.last
            assert tx.resources.delete(name) is (self.model.pop(name, None) is not None)
            assert tx.resources.count("Thing", "t") == len(self.model)

    @rule(after=st.none() | NAMES, limit=st.none() | st.integers(0, 4), now=st.integers(0, 5))
    def read(self, after: str | None, limit: int | None, now: int) -> None:
        ordered = sorted(self.model.values(), key=lambda row: row.sort.encode())
        sort = None if after is None else after.removeprefix("t/")
        rest = [row for row in ordered if sort is None or row.sort.encode() > sort.encode()]
        due = [row for row in self.model.values() if row.due is not None and row.due <= now]
        due.sort(key=lambda row: (row.due, row.name.encode()))
        with self.store.read() as tx:
            assert tx.resources.list("Thing", "t", after=sort, limit=limit) == rest[:limit]
            assert tx.resources.list_kind("Thing", after, limit) == rest[:limit]
            before = [row for row in ordered if sort is None or row.sort.encode() < sort.encode()][::-1]
            assert tx.resources.list("Thing", "t", after=sort, limit=limit, descending=True) == before[:limit]
            assert tx.resources.count("Thing", "t") == len(ordered)
            assert tx.resources.due("Thing", now, 3) == due[:3]

    @invariant()
    def same_rows(self) -> None:
        with self.store.read() as tx:
            assert {row.name: row for row in tx.resources.list_kind("Thing")} == self.model
            assert tx.resources.get_many([*self.model, "t/none"]) == self.model
            for row in self.model.values():
                assert tx.resources.get(row.name) == row
                assert row.alias is None or tx.resources.by_alias(row.alias) == row


def test_resources_behave_as_a_dict_does(store: Store) -> None:
    """Whatever the order of calls, the repository holds what a dict with the same rules would hold."""

    class OnThisStore(ResourcesModel):
        def __init__(self) -> None:
            super().__init__(store)

    run_state_machine_as_test(
        OnThisStore,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
