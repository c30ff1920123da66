"""The hash functions by the names that the algorithms of Cloud KMS use for them (FIPS 180-4)."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


def hash_of(name: str) -> hashes.HashAlgorithm:
    """The library's object for `sha1`, `sha224`, `sha256`, `sha384` or `sha512`; ValueError for others.

    SHA-1 is there for HMAC and OAEP, whose security does not rest on collisions (NIST SP 800-131A).
    """
    try:
        return _HASHES[name]()
    except KeyError:
        raise ValueError(f"there is no hash function '{name}' here") from None


def digest(name: str, data: bytes) -> bytes:
    """The digest of `data` by the hash of that name."""
    context = hashes.Hash(hash_of(name))
    context.update(data)
    return context.finalize()
