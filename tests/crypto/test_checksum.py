"""CRC32C is the Castagnoli polynomial of RFC 3720."""

from __future__ import annotations

import pytest

from keystead.crypto.checksum import crc32c

READ_10_COMMAND = bytes.fromhex(
    "01c00000000000000000000000000000140000000000040000000014000000182800000000000000" + "0200000000000000"
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0x00000000),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (READ_10_COMMAND, 0xD9963A56),
    ],
)
def test_published_vectors(data: bytes, expected: int) -> None:
    """The examples of RFC 3720 appendix B.4 hold, for every kind of buffer."""
    assert crc32c(data) == expected
    assert crc32c(bytearray(data)) == expected
    assert crc32c(memoryview(data)) == expected
