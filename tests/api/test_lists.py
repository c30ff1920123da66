"""Lists: pages, tokens and order."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from google.cloud import kms_v1
from google.cloud.logging_v2.types import ListLogEntriesRequest
from hypothesis import given
from hypothesis import strategies as st

from keystead.api import filters, lists
from keystead.api.errors import InvalidArgument
from keystead.api.lists import OrderTerm, Page, PageRequest, collect, page_request, paginate, parse_order

CryptoKey = kms_v1.CryptoKey.pb()
ListCryptoKeysRequest = kms_v1.ListCryptoKeysRequest.pb()
ListKeyRingsRequest = kms_v1.ListKeyRingsRequest.pb()

PARENT = "projects/p/locations/l/keyRings/r"


def request(**fields: Any) -> Any:
    return ListCryptoKeysRequest(parent=PARENT, **fields)


def key(number: int, **fields: Any) -> Any:
    return CryptoKey(name=f"{PARENT}/cryptoKeys/{number:04}", **fields)


class Store:
    """Rows that can be sought, and a count of how many were read."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = sorted((row.name, row) for row in rows)
        self.read = 0

    def fetch(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        return self._some([(name, row) for name, row in self.rows if after is None or name > after], limit)

    def backward(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        down = self.rows[::-1]
        return self._some([(name, row) for name, row in down if after is None or name < after], limit)

    def _some(self, rows: list[tuple[str, Any]], limit: int) -> list[tuple[str, Any]]:
        self.read += len(rows[:limit])
        return rows[:limit]

    def page(self, **fields: Any) -> Page[Any]:
        """The page of a request with these fields; `read` is then what was read for it."""
        self.read = 0
        return collect(page_request(request(**fields)), self.fetch, backward=self.backward)


def all_pages(store: Store, **fields: Any) -> list[list[Any]]:
    pages: list[list[Any]] = []
    token = ""
    while True:
        page = store.page(page_token=token, **fields)
        pages.append(page.items)
        token = page.next_page_token
        if not token:
            return pages


# --- requests and tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "given_"), [(0, 100), (1, 1), (100, 100), (1000, 1000), (5000, 1000)])
def test_a_page_size_has_a_default_and_a_maximum(asked: int, given_: int) -> None:
    """No page size means 100, one above 1000 means 1000."""
    assert page_request(request(page_size=asked)).page_size == given_


def test_a_negative_page_size_is_refused() -> None:
    """AIP-158: a negative page size is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument):
        page_request(request(page_size=-1))


def test_a_request_is_read_field_by_field() -> None:
    """Parent, filter and order are taken from the fields of those names."""
    page = page_request(request(filter="purpose=MAC", order_by="name desc"))
    assert (page.parent, page.after, page.order) == (PARENT, None, (OrderTerm("name", True),))
    assert page.filter is not None
    assert page.filter.text == "purpose=MAC"
    assert page_request(request(filter="  ")).filter is None


def test_a_request_without_a_parent_still_pages() -> None:
    """Cloud Logging lists by resource names: what fields a request lacks are simply not given."""
    page = page_request(ListLogEntriesRequest.pb()(resource_names=["projects/p"], order_by="timestamp desc"))
    assert (page.parent, page.order) == ("", (OrderTerm("timestamp", True),))


def test_a_token_belongs_to_the_parameters_it_was_issued_for() -> None:
    """With another parent, filter, order or kind of list a page token is refused; the page size may vary."""
    token = page_request(request(filter="purpose=MAC")).next_token("k")
    assert page_request(request(filter="purpose=MAC", page_token=token, page_size=7)).after == "k"
    for other in (
        request(page_token=token),
        request(filter="purpose=MAC ", page_token=token),
        request(filter="purpose=MAC", order_by="name", page_token=token),
        ListCryptoKeysRequest(parent=PARENT + "2", filter="purpose=MAC", page_token=token),
        ListKeyRingsRequest(parent=PARENT, filter="purpose=MAC", page_token=token),
    ):
        with pytest.raises(InvalidArgument, match=r"^The page token is invalid\.$"):
            page_request(other)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_a_made_up_token_is_refused(token: str) -> None:
    """Whatever is not a token is INVALID_ARGUMENT, never another error."""
    if not token:
        return
    with pytest.raises(InvalidArgument, match="page token"):
        page_request(request(page_token=token))


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.data())
def test_a_changed_token_is_refused(after: str, data: st.DataObject) -> None:
    """A token is read strictly: padded, respelled or cut it is refused."""
    token = page_request(request()).next_token(after)
    assert page_request(request(page_token=token)).after == after
    cut = data.draw(st.integers(1, 33))
    for changed in (token + "=", "A" + token, token[:cut], token + "\n", "Ag" + token[2:]):
        with pytest.raises(InvalidArgument, match="page token"):
            page_request(request(page_token=changed))


def test_fields_are_checked_against_the_type_of_the_rows() -> None:
    """A filter or order over fields that do not exist is refused even where there is nothing to list."""
    for fields in (
        {"filter": "nope=1"}, {"order_by": "nope"}, {"order_by": "primary"}, {"order_by": "name.x"},
        {"order_by": "labels"},
    ):  # fmt: skip
        with pytest.raises(InvalidArgument):
            page_request(request(**fields), of=CryptoKey.DESCRIPTOR)
    for order in ("create_time", "createTime desc", "primary.state", "labels.env-name", "rotation_period"):
        page_request(request(order_by=order), of=CryptoKey.DESCRIPTOR)


# --- order -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  ", []),
        ("name", [OrderTerm("name")]),
        ("name  desc", [OrderTerm("name", True)]),
        ("create_time DESC, name asc", [OrderTerm("create_time", True), OrderTerm("name")]),
        ("primary.state", [OrderTerm("primary.state")]),
    ],
)
def test_an_order_is_fields_with_directions(text: str, terms: list[OrderTerm]) -> None:
    """Comma-separated fields, each ascending unless followed by desc."""
    assert parse_order(text) == terms


@pytest.mark.parametrize(
    "text", [",", "name,", "name up", "name desc desc", "1x", "name,name desc", "a b c", "x;y"]
)
def test_a_broken_order_is_refused(text: str) -> None:
    """Anything else is INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument):
        parse_order(text)


@given(st.text(max_size=40))
def test_no_text_makes_reading_an_order_fail_otherwise(text: str) -> None:
    """Whatever is sent as an order is read, or is INVALID_ARGUMENT."""
    with contextlib.suppress(InvalidArgument):
        assert all(term.path for term in parse_order(text))


def test_rows_are_ordered_by_any_field() -> None:
    """Times and enums are ordered by value, unset first; ties keep the order of names."""
    rows = [key(1, purpose=9), key(2), key(3, purpose=1), key(4, purpose=9)]
    rows[0].create_time.seconds = 30
    rows[2].create_time.seconds = 4
    store = Store(rows)

    def order(text: str) -> list[int]:
        return [int(row.name[-1]) for page in all_pages(store, order_by=text, page_size=3) for row in page]

    assert order("create_time") == [2, 4, 3, 1]
    assert order("createTime desc") == [1, 3, 2, 4]
    assert order("purpose desc, name desc") == [4, 1, 3, 2]
    assert order("purpose desc") == [1, 4, 3, 2]
    assert order("name desc") == [4, 3, 2, 1]


def test_documents_are_ordered_by_time_not_by_spelling() -> None:
    """ "…:00.5Z" comes after "…:00Z", although its text comes before."""
    rows = [
        {"insertId": "a", "timestamp": "2026-01-01T00:00:00.5Z"},
        {"insertId": "b", "timestamp": "2026-01-01T00:00:00Z"},
        {"insertId": "c"},
    ]
    asked = page_request(ListLogEntriesRequest.pb()(order_by="timestamp desc"))
    page = paginate(rows, asked, key=lambda row: str(row["insertId"]))
    assert [row["insertId"] for row in page.items] == ["a", "b", "c"]


# --- pages -------------------------------------------------------------------------------------------


numbers = st.sets(st.integers(0, 60), max_size=25)
orders = st.sampled_from(["", "name", "name desc", "purpose", "purpose desc, name", "labels.a, create_time"])


wanteds = st.sampled_from(["", "purpose=MAC", "-labels:a", "name:2", "purpose=RAW_ENCRYPT_DECRYPT"])


def a_list(rows: set[int]) -> Store:
    """Keys of which every third is no MAC key and every other one has a label."""
    return Store([
        key(n, purpose=9 if n % 3 else 1, labels={"a": str(n % 4)} if n % 2 else {}) for n in rows
    ])  # fmt: skip


@given(numbers, st.integers(1, 12), orders, wanteds)
def test_pages_make_up_the_whole_list(rows: set[int], size: int, order: str, wanted: str) -> None:
    """For any rows, order, filter and page size the pages in a row are the list; without a filter, or in an
    order that is made here, only the last page is short."""
    store = a_list(rows)
    pages = all_pages(store, page_size=size, order_by=order, filter=wanted)
    [whole] = all_pages(store, page_size=1000, order_by=order, filter=wanted)
    assert [row.name for page in pages for row in page] == [row.name for row in whole]
    assert all(len(page) <= size for page in pages)
    if not (wanted and order in {"", "name", "name desc"}):
        assert all(len(page) == size for page in pages[:-1])
        assert len(pages) == max(1, -(-len(whole) // size))
    matching = {row.name for _, row in store.rows if filters.parse(wanted).matches(row)}
    assert {row.name for row in whole} == matching


@given(numbers, st.integers(1, 12), st.sampled_from(["", "name", "name desc"]), wanteds, st.integers(1, 40))
def test_pages_by_name_are_the_list_whatever_their_bound(
    rows: set[int], size: int, order: str, wanted: str, bound: int
) -> None:
    """However few rows may be looked at for one page, the pages are the matching rows in the order asked for,
    and none looks at more."""
    store = a_list(rows)
    expected = [name for name, row in store.rows if filters.parse(wanted).matches(row)]
    found: list[str] = []
    token = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "MAX_SCAN", bound)
        for _ in range(len(rows) + 2):
            page = store.page(page_size=size, order_by=order, filter=wanted, page_token=token)
            assert store.read <= max(bound, size + 1)
            found += [row.name for row in page.items]
            token = page.next_page_token
            if not token:
                break
    assert token == ""
    assert found == (expected[::-1] if order == "name desc" else expected)


@given(numbers, st.integers(1, 5), st.sampled_from(["", "name desc"]), st.data())
def test_rows_that_come_and_go_do_not_disturb_the_others(
    rows: set[int], size: int, order: str, data: st.DataObject
) -> None:
    """Deleting rows between pages neither skips nor repeats any row that stays."""
    first = Store([key(n) for n in rows]).page(page_size=size, order_by=order)
    gone = data.draw(st.sets(st.sampled_from(sorted(rows)))) if rows else set()
    left = Store([key(n) for n in rows - gone])
    seen = [row.name for row in first.items]
    token = first.next_page_token
    while token:
        page = left.page(page_size=size, order_by=order, page_token=token)
        seen += [row.name for row in page.items]
        token = page.next_page_token
    assert len(seen) == len(set(seen))
    assert {name for name, _ in left.rows} <= set(seen)


@pytest.mark.parametrize("order", ["", "name", "name desc"])
def test_a_page_in_key_order_reads_no_more_than_it_needs(order: str) -> None:
    """Listing by name seeks, either way: any page of two out of a hundred reads three rows."""
    store = Store([key(n) for n in range(100)])
    token = ""
    for _ in range(40):
        page = store.page(page_size=2, order_by=order, page_token=token)
        assert (store.read, len(page.items)) == (3, 2)
        token = page.next_page_token


@pytest.mark.parametrize("order", ["name", "name desc"])
def test_a_filter_that_matches_often_reads_little_more(order: str) -> None:
    """A filter that every row passes costs no row more than none; one that every other passes, twice as many
    and not even that again."""
    store = Store([key(n, import_only=n % 2 == 0) for n in range(1000)])
    for size in (1, 10, 100):
        every = store.page(page_size=size, order_by=order, filter="purpose!=MAC")
        assert (len(every.items), store.read) == (size, size + 1)
        other = store.page(page_size=size, order_by=order, filter="import_only=true")
        assert len(other.items) == size
        assert store.read <= 4 * size + 2


def test_a_full_page_does_not_search_for_the_next_match() -> None:
    """It ends with a token, and the page after it may be the empty end of the list."""
    store = Store([key(n, import_only=n < 5) for n in range(500)])
    first = store.page(page_size=5, filter="import_only=true")
    assert ([row.name for row in first.items], store.read) == ([key(n).name for n in range(5)], 6)
    second = store.page(page_size=5, filter="import_only=true", page_token=first.next_page_token)
    assert (second.items, second.next_page_token) == ([], "")


def test_a_rare_match_in_a_huge_list_bounds_the_work_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many rows a page comes back short, with a token that goes on to the match."""
    monkeypatch.setattr(lists, "MAX_SCAN", 400)
    store = Store([key(n, import_only=n == 1500) for n in range(1590)])
    pages = all_pages(store, filter="import_only=true")
    assert [[row.name for row in page] for page in pages] == [[], [], [], [key(1500).name]]
    assert store.page(filter="import_only=true").next_page_token
    assert store.read == 400


def test_a_list_too_long_to_be_sorted_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """By any field but the name a list is sorted in memory, so its length is bounded; by name it is not."""
    monkeypatch.setattr(lists, "MAX_SCAN", 1500)
    store = Store([key(n) for n in range(1501)])
    with pytest.raises(InvalidArgument, match="more than 1500 can be ordered by 'name' only"):
        store.page(order_by="purpose")
    assert store.page(order_by="name desc", page_size=1).items == [key(1500)]
    store.rows.pop()
    assert len(store.page(order_by="purpose", page_size=7).items) == 7


def test_the_total_is_told_only_without_a_filter() -> None:
    """`total_size` is not filled when a filter is used, and not even counted then."""
    asked: list[int] = []

    def total() -> int:
        asked.append(1)
        return 3

    store = Store([key(n) for n in range(3)])
    assert collect(page_request(request(page_size=1)), store.fetch, total=total).total == 3
    assert collect(page_request(request(filter="purpose=MAC")), store.fetch, total=total).total is None
    assert len(asked) == 1


@given(numbers, st.integers(1, 7))
def test_rows_in_memory_page_like_rows_in_a_store(rows: set[int], size: int) -> None:
    """`paginate` over any iterable gives the pages that `collect` gives over a store."""
    items = [key(n) for n in sorted(rows, reverse=True)]
    page: PageRequest = page_request(request(page_size=size))
    in_memory = paginate(items, page, key=lambda row: str(row.name))
    stored = collect(page, Store(items).fetch)
    assert (in_memory.items, in_memory.next_page_token) == (stored.items, stored.next_page_token)
    assert in_memory.total == len(rows)
