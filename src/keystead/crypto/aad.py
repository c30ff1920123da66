"""SECURITY: one encoding for everything that is bound as associated data.

Property: the encoding is injective. Two different lists of a label and typed fields never give the same
bytes, so a caller cannot shift bytes from one field into its neighbour, nor have an integer taken for text.
Owns only the encoding (docs/formats.md, section 1); which fields are bound is each format's own decision.
"""

from __future__ import annotations

import struct

_FIELD = struct.Struct(">BQ")
_LABEL_TAG = 0x00
_BYTES_TAG = 0x01
_TEXT_TAG = 0x02
_INTEGER_TAG = 0x03


def encode_aad(label: str, *fields: bytes | str | int) -> bytes:
    """The label, then every field, each as a type tag, an 8-byte big-endian length and its content.

    Text is UTF-8; an integer is the shortest two's-complement big-endian form. Field encodings simply follow
    each other, so `encode_aad(label, a, b) == encode_aad(label, a) + encode_field(b)`. Raises TypeError for
    any other type (bool included: it would read as the integer 1), ValueError for text that is not valid
    Unicode.
    """
    name = label.encode()
    return b"".join((_FIELD.pack(_LABEL_TAG, len(name)), name, *map(encode_field, fields)))


def encode_field(field: bytes | str | int) -> bytes:
    """One field of `encode_aad`, for callers that keep the encoded beginning of a list and append to it."""
    if isinstance(field, bytes):
        return _FIELD.pack(_BYTES_TAG, len(field)) + field
    if isinstance(field, str):
        text = field.encode()
        return _FIELD.pack(_TEXT_TAG, len(text)) + text
    if isinstance(field, bool) or not isinstance(field, int):
        raise TypeError(f"an associated-data field is bytes, str or int, not {type(field).__name__}")
    # ~n has the bit length a negative n needs; one more bit is the sign.
    magnitude = field if field >= 0 else ~field
    size = magnitude.bit_length() // 8 + 1
    return _FIELD.pack(_INTEGER_TAG, size) + field.to_bytes(size, "big", signed=True)
