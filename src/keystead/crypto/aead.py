"""SECURITY: the one authenticated cipher of the product, XAES-256-GCM, and the wrapping of keys with it.

Property: 24-byte random nonces are safe for any practical number of messages under one key (2^80 messages at
a collision risk of 2^-32), which plain AES-GCM with its 12-byte nonces is not (2^32 messages, NIST SP 800-38D
8.3); a key service cannot count its messages across restarts and replicas, so it must not have to.

The algorithm is C2SP XAES-256-GCM (https://c2sp.org/XAES-256-GCM): a NIST SP 800-108r1 key derivation with
AES-256-CMAC from key and first nonce half, then AES-256-GCM with the second half. It is composed here from
the library's AES block and AES-GCM, and checked against the specification's vectors.

An `Aead` keeps OpenSSL's expanded copy of its key, which lives until the object is wiped or dropped, when
OpenSSL cleanses it. One made by `Aead(key)` therefore outlives a wiped key; one from `Aead.of(key)` is wiped
with it. Owns no message format beyond `nonce || ciphertext || tag`, and no caller can choose a nonce.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from keystead.crypto.aad import encode_aad
from keystead.crypto.errors import DecryptionError, MalformedError, SecretWipedError
from keystead.crypto.secret import BytesLike, SecretBytes, random_bytes, zeroise

KEY_SIZE = 32
NONCE_SIZE = 24
TAG_SIZE = 16
SEAL_OVERHEAD = NONCE_SIZE + TAG_SIZE
"""How many bytes longer a sealed message is than its plaintext."""

WRAP_FORMAT = 1
WRAP_OVERHEAD = 1 + SEAL_OVERHEAD
"""How many bytes longer a wrapped key is than the key."""

_HALF = NONCE_SIZE // 2
# SP 800-108 counter i, label "X", separator: the first four bytes of the two CMAC input blocks (C2SP, steps 3
# and 4).
_BLOCKS = int.from_bytes(b"\x00\x01X\x00" + bytes(12) + b"\x00\x02X\x00" + bytes(12), "big")
# Multiplying by this puts one 16-byte block into both halves of a 32-byte integer.
_TWICE = (1 << 128) | 1
# How many messages share the first half of their nonce, hence a derived key. Their second halves are random,
# and drawn together; AES-256-GCM with random 96-bit nonces is safe up to 2^32 messages (SP 800-38D 8.3).
_TURN = 256
# update_into demands room for one block less one byte beyond its output.
_SUBKEY_BUFFER = KEY_SIZE + 15


def _new_block(key: memoryview) -> CipherContext:
    # ECB of single, derived blocks is the bare AES permutation that CMAC is defined on; no data is encrypted
    # with it.
    return Cipher(AES(key), ECB()).encryptor()  # noqa: S305  # see the line above


_process = object()
"""Another object in every process: what was drawn before a fork is never used after it."""


def _forked() -> None:
    global _process
    _process = object()


os.register_at_fork(after_in_child=_forked)


class _Turn:
    """Nonces for the next messages of a cipher, each given out once, whichever thread asks."""

    __slots__ = ("cipher", "first", "halves", "process")

    def __init__(self, aead: Aead) -> None:
        self.process = _process
        drawn = random_bytes(_HALF * (_TURN + 1))
        self.first = drawn[:_HALF]
        self.cipher = aead.message_cipher(self.first)
        # A list's iterator hands out each element once, also to threads that ask at the same time.
        self.halves = iter([drawn[at : at + _HALF] for at in range(_HALF, len(drawn), _HALF)])


class Aead:
    """XAES-256-GCM under one key.

    Safe to share between threads; costs a few microseconds per short message.
    """

    __slots__ = ("_state", "_turn")

    def __init__(self, key: SecretBytes) -> None:
        """Expand `key` (32 bytes, else ValueError); the caller may wipe its copy.

        SecretWipedError if it is wiped.
        """
        if len(key) != KEY_SIZE:
            raise ValueError(f"an XAES-256-GCM key has {KEY_SIZE} bytes")
        block = key.use(_new_block)
        # CMAC subkey K1 (NIST SP 800-38B 6.1): doubling in GF(2^128), the same for every message.
        zero = int.from_bytes(block.update(bytes(16)), "big")
        doubled = (zero << 1) & ((1 << 128) - 1)
        k1 = doubled ^ 0x87 if zero >> 127 else doubled
        # One attribute, read once per message: another thread's `wipe` is then seen whole or not at all.
        self._state: tuple[CipherContext, int] | None = (block, _BLOCKS ^ (k1 * _TWICE))
        self._turn: _Turn | None = None

    @classmethod
    def of(cls, key: SecretBytes) -> Aead:
        """The one cipher of `key`, expanded on first use and kept until `key` is wiped, which wipes it too.

        It is shared with everyone who asks for it, so callers do not wipe it themselves.
        """
        kept = key.derived
        if isinstance(kept, Aead):
            return kept
        made = cls(key)
        key.attach(made)
        return made

    def seal(self, plaintext: BytesLike, aad: BytesLike) -> bytes:
        """`nonce (24, fresh random) || ciphertext || tag (16)`; `aad` is authenticated but not contained."""
        turn = self._turn
        second = None if turn is None or turn.process is not _process else next(turn.halves, None)
        if turn is None or second is None:
            self._turn = turn = _Turn(self)
            second = next(turn.halves)
        return turn.first + second + turn.cipher.encrypt(second, plaintext, aad)

    def open(self, sealed: BytesLike, aad: BytesLike) -> bytes:
        """The plaintext of what `seal` made under this key and `aad`; DecryptionError for anything else."""
        if len(sealed) < SEAL_OVERHEAD:
            raise DecryptionError
        view = memoryview(sealed)
        cipher = self.message_cipher(view[:NONCE_SIZE])
        try:
            return cipher.decrypt(view[_HALF:NONCE_SIZE], view[NONCE_SIZE:], aad)
        except InvalidTag:
            raise DecryptionError from None

    def open_secret(self, sealed: BytesLike, aad: BytesLike) -> SecretBytes:
        """As `open`, for sealed key material: the plaintext exists only inside the returned secret."""
        if len(sealed) < SEAL_OVERHEAD:
            raise DecryptionError
        view = memoryview(sealed)
        key = bytearray(len(sealed) - SEAL_OVERHEAD)
        decrypt_into(
            self.message_cipher(view[:NONCE_SIZE]),
            view[_HALF:NONCE_SIZE],
            view[NONCE_SIZE:],
            aad,
            memoryview(key),
        )
        return SecretBytes.adopt(key)

    def wipe(self) -> None:
        """Drop OpenSSL's copy of the key; every later call raises SecretWipedError."""
        self._state = None
        self._turn = None

    def message_cipher(self, nonce: BytesLike) -> AESGCM:
        """AES-256-GCM under the key derived from the first nonce half (C2SP, steps 3 to 5)."""
        state = self._state
        if state is None:
            raise SecretWipedError
        block, mask = state
        blocks = int.from_bytes(nonce[:_HALF], "big") * _TWICE ^ mask
        subkey = bytearray(_SUBKEY_BUFFER)
        block.update_into(blocks.to_bytes(KEY_SIZE, "big"), subkey)
        cipher = AESGCM(memoryview(subkey)[:KEY_SIZE])
        zeroise(subkey)
        return cipher


def decrypt_into(
    cipher: AESGCM, nonce: BytesLike, sealed: BytesLike, aad: BytesLike, out: memoryview
) -> None:
    """Open `sealed` (ciphertext || tag) into `out` (as long as the plaintext); on failure `out` is zeroed.

    The library writes plaintext before it has checked the tag. Handing that to a caller would be a release of
    unverified plaintext, so it is overwritten before DecryptionError leaves.
    """
    try:
        cipher.decrypt_into(nonce, sealed, aad, out)
    except InvalidTag:
        zeroise(out)
        raise DecryptionError from None


def wrap_key(kek: SecretBytes, key: SecretBytes, aad: bytes) -> bytes:
    """`key` (any length) sealed under `kek` and bound to `aad`: docs/formats.md, section 3.

    Raises SecretWipedError when either key is wiped.
    """
    wrapper = Aead.of(kek)
    return key.use(lambda view: bytes((WRAP_FORMAT,)) + wrapper.seal(view, _wrap_aad(aad)))


def unwrap_key(kek: SecretBytes, wrapped: bytes, aad: bytes) -> SecretBytes:
    """The key that `wrap_key` wrapped. MalformedError for another format or a cut, else DecryptionError."""
    if len(wrapped) < WRAP_OVERHEAD:
        raise MalformedError("a wrapped key is too short")
    if wrapped[0] != WRAP_FORMAT:
        raise MalformedError("a wrapped key has an unknown format")
    return Aead.of(kek).open_secret(memoryview(wrapped)[1:], _wrap_aad(aad))


def _wrap_aad(aad: bytes) -> bytes:
    return encode_aad("keystead.wrapped-key", WRAP_FORMAT, aad)
