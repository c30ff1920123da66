"""Kinds of resources as their messages: pages of them, and reading many at once, on both engines."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud import kms_v1
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keystead.api.errors import InvalidArgument, NotFound
from keystead.store import Store
from keystead.store.collection import Collection, Stored

CryptoKeyVersion = kms_v1.CryptoKeyVersion.pb()
ListCryptoKeyVersionsRequest = kms_v1.ListCryptoKeyVersionsRequest.pb()

PARENT = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
VERSIONS = Collection("CryptoKeyVersion", CryptoKeyVersion)


def name(number: int) -> str:
    return f"{PARENT}/cryptoKeyVersions/{number}"


def fill(store: Store, numbers: set[int]) -> None:
    """The versions of these numbers and no others; every third is disabled."""
    with store.write() as tx:
        for stored in VERSIONS.all(tx, PARENT):
            tx.resources.delete(stored.row.name)
        for number in numbers:
            version = CryptoKeyVersion(name=name(number), state=2 if number % 3 == 0 else 1)
            VERSIONS.insert(tx, version, parent=PARENT, sort=f"{number:010d}")


def pages(store: Store, **fields: Any) -> tuple[list[list[int]], set[int | None]]:
    """The numbers on each page of a list, and the totals that the pages told."""
    found, totals, token = [], set(), ""
    while True:
        request = ListCryptoKeyVersionsRequest(parent=PARENT, page_token=token, **fields)
        with store.read() as tx:
            page = VERSIONS.page(tx, request, PARENT)
        found.append([int(version.name.rsplit("/", 1)[1]) for version in page.items])
        totals.add(page.total)
        token = page.next_page_token
        if not token:
            return found, totals


def test_versions_are_listed_by_number(store: Store) -> None:
    """9 comes before 10 and 100, up and down, also where a page ends between them."""
    fill(store, {1, 2, 9, 10, 11, 99, 100})
    assert pages(store, page_size=3) == ([[1, 2, 9], [10, 11, 99], [100]], {7})
    assert pages(store, page_size=3, order_by="name desc") == ([[100, 99, 11], [10, 9, 2], [1]], {7})
    assert pages(store, page_size=7, order_by="name") == ([[1, 2, 9, 10, 11, 99, 100]], {7})


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    st.sets(st.integers(1, 1200), max_size=25),
    st.integers(1, 30),
    st.sampled_from(["", "name", "name desc"]),
    st.sampled_from(["", "state=DISABLED", "state!=DISABLED", "name:versions/1", "state=DESTROYED"]),
)
def test_pages_are_the_list(store: Store, numbers: set[int], size: int, order: str, wanted: str) -> None:
    """Together they are what was asked for, in that order; every page tells the total, with a filter none."""
    fill(store, numbers)
    meaning = {
        "": lambda number: True,
        "state=DISABLED": lambda number: number % 3 == 0,
        "state!=DISABLED": lambda number: number % 3 > 0,
        "name:versions/1": lambda number: str(number).startswith("1"),
        "state=DESTROYED": lambda number: False,
    }
    expected = sorted(filter(meaning[wanted], numbers), reverse=order == "name desc")
    found, totals = pages(store, page_size=size, order_by=order, filter=wanted)
    assert [number for page in found for number in page] == expected
    assert all(len(page) <= size for page in found)
    assert totals == {None if wanted else len(numbers)}


def test_what_a_page_needs_besides_is_read_for_all_its_rows_at_once(store: Store) -> None:
    """`complete_all` gets many rows in their order, and the filter sees what it made of them."""
    fill(store, set(range(1, 101)))
    asked: list[int] = []

    def complete_all(tx: Any, found: list[Stored]) -> list[Any]:
        asked.append(len(found))
        rows = VERSIONS.require_many(tx, [each.row.name for each in found])
        for each in found:
            each.message.import_job = f"of {rows[each.row.name].row.sort}"
        return [each.message for each in found]

    request = ListCryptoKeyVersionsRequest(page_size=10, filter='import_job<="of 0000000050"')
    with store.read() as tx:
        page = VERSIONS.page(tx, request, PARENT, complete_all=complete_all)
    assert [version.name for version in page.items] == [name(number) for number in range(1, 11)]
    assert asked == [11]


def test_many_are_required_together(store: Store) -> None:
    """All of them, by name; one that is missing, or of another kind, is named."""
    fill(store, {1, 2, 3})
    others = Collection("ImportJob", CryptoKeyVersion)
    with store.read() as tx:
        found = VERSIONS.require_many(tx, iter([name(2), name(3), name(2)]))
        assert {each: stored.message.name for each, stored in found.items()} == {
            name(2): name(2),
            name(3): name(3),
        }
        assert VERSIONS.require_many(tx, []) == {}
        with pytest.raises(NotFound, match=rf"^CryptoKeyVersion {name(4)} not found\.$"):
            VERSIONS.require_many(tx, [name(1), name(4)])
        with pytest.raises(NotFound, match=rf"^ImportJob {name(1)} not found\.$"):
            others.require_many(tx, [name(1)])


def test_a_filter_or_order_of_no_field_is_refused_where_there_is_nothing(store: Store) -> None:
    """An empty list is no reason to accept what can never be meant."""
    for fields in ({"filter": "nope=1"}, {"order_by": "nope"}):
        with pytest.raises(InvalidArgument):
            pages(store, **fields)
