"""Lists of keys: pages, filters and orders over what keys really are."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from keystead.api.errors import InvalidArgument
from keystead.kms import lifecycle
from keystead.kms.messages import ListCryptoKeysRequest
from tests.platform import LOCATION, Platform

RING = f"{LOCATION}/keyRings/ring"


def create(platform: Platform, key_id: str, **fields: Any) -> None:
    platform.key(key_id, RING, **fields)


def listed(platform: Platform, **fields: Any) -> tuple[list[str], Any]:
    page = platform.call("ListCryptoKeys", ListCryptoKeysRequest(parent=RING, **fields))
    return [key.name.rsplit("/", 1)[1] for key in page.crypto_keys], page


def test_keys_list_in_pages_that_hold_every_key_once(platform: Platform) -> None:
    """All pages together are all keys by name; total_size counts them all on every page."""
    for number in range(7):
        create(platform, f"k{number}")
    found: list[str] = []
    token = ""
    for _ in range(3):
        ids, page = listed(platform, page_size=3, page_token=token)
        assert page.total_size == 7
        found += ids
        token = page.next_page_token
    assert (found, token) == ([f"k{number}" for number in range(7)], "")
    assert listed(platform, order_by="name desc", page_size=2)[0] == ["k6", "k5"]


def test_keys_can_be_filtered_by_what_they_are(platform: Platform) -> None:
    """Filters see labels, purposes and the primary's real state; a filtered list has no total."""
    create(platform, "a", labels={"team": "red"})
    create(platform, "b", labels={"team": "blue"})
    platform.set_state(f"{RING}/cryptoKeys/b/cryptoKeyVersions/1", "DISABLED")
    for text, expected in (
        ("labels.team=red", ["a"]),
        ("labels.team:*", ["a", "b"]),
        ("primary.state=DISABLED", ["b"]),
        ("purpose=ENCRYPT_DECRYPT AND NOT primary.state=DISABLED", ["a"]),
        ("name:cryptoKeys/b", ["b"]),
    ):
        ids, page = listed(platform, filter=text)
        assert ids == expected, text
        assert page.total_size == 0
    with pytest.raises(InvalidArgument):
        listed(platform, filter="nonsense=1")


def test_a_page_token_belongs_to_its_list(platform: Platform) -> None:
    """A token used with another parent or filter is INVALID_ARGUMENT."""
    for number in range(3):
        create(platform, f"k{number}")
    token = listed(platform, page_size=1)[1].next_page_token
    for fields in ({"filter": "purpose=MAC"}, {"order_by": "name desc"}):
        with pytest.raises(InvalidArgument):
            listed(platform, page_token=token, **fields)
    with pytest.raises(InvalidArgument):
        listed(platform, page_token="nonsense")
    with pytest.raises(InvalidArgument):
        listed(platform, page_size=-1)


def test_a_page_of_keys_reads_their_primaries_together(platform: Platform) -> None:
    """However many keys a page shows, it takes as many statements as a page of one, each way."""
    for number in range(12):
        create(platform, f"k{number:02}")
    listed(platform)  # who may list is remembered from here on
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(platform.store.backend.engine, "before_cursor_execute", note)
    taken = {}
    for order in ("name", "name desc"):
        for size in (1, 11):
            statements.clear()
            ids, page = listed(platform, page_size=size, order_by=order)
            assert [key.primary.state for key in page.crypto_keys] == [lifecycle.ENABLED] * size
            assert len(ids) == size
            taken[order, size] = len(statements)
    assert len(set(taken.values())) == 1, taken
