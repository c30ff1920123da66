"""CRC32C (Castagnoli, RFC 3720 appendix B.4), the checksum Cloud KMS carries beside every payload.

It detects accidents on the wire and nothing else; it is not a protection against an adversary.
"""

from __future__ import annotations

import google_crc32c

from keystead.crypto.secret import BytesLike


def crc32c(data: BytesLike) -> int:
    """The CRC32C of `data` as an unsigned 32-bit integer."""
    # The C extension reads only `bytes`; for those this makes no copy.
    return int(google_crc32c.value(bytes(data)))
