"""SECURITY: a key from a passphrase, by Argon2id (RFC 9106, version 0x13).

Property: trying one passphrase costs the given time and memory, so that a stolen sealed key cannot be opened
by guessing at the speed of a hash. The costs are not secret, but must be kept where they cannot be lowered
unnoticed: whoever stores them binds them to what the key seals.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keystead.crypto.secret import SecretBytes

DERIVED_SIZE = 32
MIN_SALT_SIZE = 8

# Altered costs must not be able to occupy the machine before the key they give is found to be wrong. The
# first recommendation of RFC 9106 (section 4) is 2 GiB.
MAX_MEMORY_KIB = 1 << 22
MAX_ITERATIONS = 1000
MAX_LANES = 255


def derive(
    passphrase: SecretBytes, salt: bytes, *, iterations: int, memory_kib: int, lanes: int
) -> SecretBytes:
    """32 bytes from `passphrase` (any length) and `salt` (8 bytes or more; RFC 9106 recommends 16).

    iterations: passes over the memory, 1 to 1000. memory_kib: from 8 per lane to 4 GiB. lanes: 1 to 255.
    Raises ValueError for parameters outside of that, SecretWipedError.
    """
    _require("iterations", iterations, 1, MAX_ITERATIONS)
    _require("lanes", lanes, 1, MAX_LANES)
    _require("memory_kib", memory_kib, 8 * lanes, MAX_MEMORY_KIB)
    _require("the length of the salt", len(salt), MIN_SALT_SIZE, (1 << 32) - 1)
    function = Argon2id(
        salt=salt, length=DERIVED_SIZE, iterations=iterations, lanes=lanes, memory_cost=memory_kib
    )
    key = bytearray(DERIVED_SIZE)
    # The library takes any buffer, though it is declared to take bytes, of which a copy would remain.
    passphrase.use(lambda view: function.derive_into(view, key))  # type: ignore[arg-type]
    return SecretBytes.adopt(key)


def _require(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"Argon2id: {name} must be from {least} to {most}")
