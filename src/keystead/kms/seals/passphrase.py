"""The passphrase seal: the root key is wrapped by a key derived from what somebody knows.

SECURITY: guessing costs Argon2id (RFC 9106) with the stored salt and costs for every try. Nothing of the
passphrase is stored; who forgets it has lost every software key. Costs below the least that is accepted are
refused also where they are read, before anything is derived.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

from keystead.crypto.aead import unwrap_key, wrap_key
from keystead.crypto.errors import CryptoError
from keystead.crypto.passphrase import derive
from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import Parameters, SealError, WrongSecretError

MIN_CHARACTERS = 12
_SALT_BYTES = 16
_FUNCTION = "argon2id"
_MAX_ITERATIONS = 32
_MAX_MEMORY_KIB = 1 << 22
_MAX_LANES = 64


@dataclass(frozen=True)
class Costs:
    """What one try costs: passes over the memory, its size in KiB, and how many lanes share it."""

    iterations: int
    memory_kib: int
    lanes: int


LEAST = Costs(iterations=3, memory_kib=64 * 1024, lanes=4)
"""The second recommendation of RFC 9106 (section 4)."""
USUAL = Costs(iterations=3, memory_kib=256 * 1024, lanes=4)
"""Four times the memory of that: about half a second, once at each opening."""


class PassphraseSeal:
    """Seals the root key with a passphrase. `salt` and `costs` are those of a root key that was sealed
    before; without a salt this is a new seal, for which the passphrase must be long enough."""

    kind = "passphrase"

    def __init__(self, passphrase: SecretBytes, *, salt: bytes = b"", costs: Costs = USUAL) -> None:
        self._passphrase = passphrase
        if not salt:
            require_strength(passphrase)
        self._salt = salt or os.urandom(_SALT_BYTES)
        self._costs = costs
        _check(self._salt, costs)

    @staticmethod
    def stored(parameters: Parameters, passphrase: SecretBytes) -> PassphraseSeal:
        """The seal that these parameters describe. Raises SealError where they describe none."""
        try:
            salt = bytes.fromhex(str(parameters["salt"]))
            costs = Costs(*(_whole(parameters, name) for name in ("iterations", "memory_kib", "lanes")))
            known = set(parameters) == {"function", "salt", *asdict(costs)}
        except (KeyError, ValueError):
            known = False
        if not known or parameters["function"] != _FUNCTION or not salt:
            raise SealError("The stored parameters of the passphrase seal are damaged. Restore the store.")
        return PassphraseSeal(passphrase, salt=salt, costs=costs)

    @property
    def parameters(self) -> Parameters:
        return {"function": _FUNCTION, "salt": self._salt.hex(), **asdict(self._costs)}

    def wrap(self, root_key: SecretBytes, aad: bytes) -> bytes:
        with self._key() as key:
            return wrap_key(key, root_key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> SecretBytes:
        with self._key() as key:
            try:
                return unwrap_key(key, wrapped, aad)
            except CryptoError:
                raise WrongSecretError("The passphrase is wrong: it does not open this store.") from None

    def _key(self) -> SecretBytes:
        try:
            return derive(
                self._passphrase,
                self._salt,
                iterations=self._costs.iterations,
                memory_kib=self._costs.memory_kib,
                lanes=self._costs.lanes,
            )
        except MemoryError:
            raise SealError(
                f"The passphrase needs {self._costs.memory_kib // 1024} MiB of free memory to be tried. "
                "Free some and try again."
            ) from None


def require_strength(passphrase: SecretBytes) -> None:
    """Raises SealError for a passphrase that is too short to seal with."""
    # Of UTF-8 text: the bytes that do not continue a character.
    characters = sum(1 for byte in passphrase.expose() if byte & 0xC0 != 0x80)
    if characters < MIN_CHARACTERS:
        raise SealError(
            f"The passphrase has {characters} characters; at least {MIN_CHARACTERS} are needed, because "
            "guesses can be tried on a copy of the store for years. Take five words chosen by dice, or 20 "
            "random letters."
        )


def _check(salt: bytes, costs: Costs) -> None:
    most = Costs(_MAX_ITERATIONS, _MAX_MEMORY_KIB, _MAX_LANES)
    for name, value in asdict(costs).items():
        if not getattr(LEAST, name) <= value <= getattr(most, name):
            raise SealError(
                f"The passphrase seal has costs that are not accepted: {name} {value}. They were altered, or "
                "the store is damaged: restore it from a backup."
            )
    if len(salt) != _SALT_BYTES:
        raise SealError("The salt of the passphrase seal is damaged. Restore the store from a backup.")


def _whole(parameters: Parameters, name: str) -> int:
    value = parameters[name]
    if not isinstance(value, int):
        raise ValueError(name)  # noqa: TRY004  (a damaged record, not a mistake of the program)
    return value
