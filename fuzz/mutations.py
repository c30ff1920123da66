"""Inputs near valid ones: what a parser gets wrong lies close to what it accepts."""

from __future__ import annotations

from hypothesis import strategies as st

Change = tuple[str, int, bytes]

_changes = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "replace", "repeat"]),
    st.integers(0, 1 << 16),
    st.binary(min_size=1, max_size=12),
)


def mutated(seeds: st.SearchStrategy[bytes], *, most: int = 4) -> st.SearchStrategy[bytes]:
    """A seed with up to `most` changes."""
    return st.builds(_apply, seeds, st.lists(_changes, max_size=most))


def mutated_text(seeds: st.SearchStrategy[str], *, most: int = 4) -> st.SearchStrategy[str]:
    """The same of text; what is no UTF-8 any more becomes replacement characters."""
    return mutated(seeds.map(lambda text: text.encode("utf-8", "replace")), most=most).map(
        lambda data: data.decode("utf-8", "replace")
    )


def _apply(data: bytes, changes: list[Change]) -> bytes:
    for kind, where, piece in changes:
        at = where % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ (piece[0] or 1)]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + len(piece) :]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "replace":
            data = data[:at] + piece + data[at + len(piece) :]
        elif kind == "repeat" and len(data) < 4096:
            data = data[:at] * 2 + data[at:]
    return data
