"""The encoding of associated data is injective, and is the documented one."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keystead.crypto.aad import encode_aad, encode_field

fields = st.one_of(st.binary(max_size=20), st.text(max_size=20), st.integers())
lists = st.tuples(st.text(max_size=10), st.lists(fields, max_size=4))


def decode(data: bytes) -> tuple[str, list[bytes | str | int]]:
    """The inverse of encode_aad: that it exists for every encoding is what injective means."""
    items: list[bytes | str | int] = []
    while data:
        tag, size = data[0], int.from_bytes(data[1:9], "big")
        content, data = data[9 : 9 + size], data[9 + size :]
        assert len(content) == size
        items.append(
            {0: content.decode, 1: lambda c=content: c, 2: content.decode}[tag]()
            if tag < 3
            else integer(content)
        )
    return cast("str", items[0]), items[1:]


def integer(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)


@given(lists)
def test_every_encoding_can_be_read_back(item: tuple[str, list[bytes | str | int]]) -> None:
    """The label and the typed fields are recoverable, so no two lists share an encoding."""
    label, values = item
    got_label, got = decode(encode_aad(label, *values))
    assert got_label == label
    assert [(type(v), v) for v in got] == [(type(v), v) for v in values]


@given(lists, lists)
@example(("a", [b"b", b"c"]), ("a", [b"bc", b""]))
@example(("a", ["1"]), ("a", [1]))
@example(("a", [b"1"]), ("a", ["1"]))
@example(("a", [b""]), ("a", []))
@example(("ab", []), ("a", ["b"]))
def test_different_lists_give_different_bytes(
    left: tuple[str, list[bytes | str | int]], right: tuple[str, list[bytes | str | int]]
) -> None:
    """Moving bytes between fields, changing a type or dropping an empty field changes the encoding."""
    same = left[0] == right[0] and [(type(v), v) for v in left[1]] == [(type(v), v) for v in right[1]]
    assert (encode_aad(left[0], *left[1]) == encode_aad(right[0], *right[1])) == same


@given(lists, fields)
def test_appending_a_field_is_concatenation(
    item: tuple[str, list[bytes | str | int]], extra: bytes | str | int
) -> None:
    """A kept beginning plus one encoded field equals encoding the whole list."""
    label, values = item
    assert encode_aad(label, *values, extra) == encode_aad(label, *values) + encode_field(extra)


@pytest.mark.parametrize("wrong", [True, None, 1.0, ["x"]])
def test_other_types_are_refused(wrong: object) -> None:
    """A value that is not bytes, text or integer is an error in the program, bool included."""
    with pytest.raises(TypeError, match="associated-data field"):
        encode_aad("label", wrong)  # type: ignore[arg-type]


def test_text_that_is_not_unicode_is_refused() -> None:
    """A lone surrogate has no encoding and is not silently replaced."""
    with pytest.raises(ValueError, match="surrogates"):
        encode_aad("label", "\ud800")
