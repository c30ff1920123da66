"""The keys of versions: which back end holds them, and what the store keeps so that it can open them.

SECURITY: the store holds of a software key only its material wrapped by the root key, and of a token's key
only the name of its object. Removing that row, and the token's object, is what makes a version DESTROYED.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keystead.api.errors import InvalidArgument, Unimplemented
from keystead.kms.algorithms import ALGORITHMS, Algorithm
from keystead.kms.backends import Backend, Key, Made
from keystead.kms.messages import CryptoKeyVersion
from keystead.kms.seals import SealError

_LEVEL = CryptoKeyVersion.DESCRIPTOR.fields_by_name["protection_level"].enum_type
LEVELS: dict[str, int] = {value.name: value.number for value in _LEVEL.values}
_NAMES: dict[int, str] = {value.number: value.name for value in _LEVEL.values}


class Material:
    """The keys of all versions, by protection level.

    require_open: raises Unavailable while no key may be opened, not even one that needs no root key: the
    deployment is sealed.
    """

    def __init__(
        self, backends: Iterable[Backend], require_open: Callable[[], object] = lambda: None
    ) -> None:
        self._backends = {LEVELS[backend.level]: backend for backend in backends}
        self._require_open = require_open

    def require_open(self) -> None:
        """Raises Unavailable while the deployment is sealed: no key can be made or used."""
        self._require_open()

    def backend(self, level: int) -> Backend:
        """The back end of a protection level. Raises Unimplemented where this server has none."""
        found = self._backends.get(level)
        if found is None:
            name = _NAMES.get(level, str(level))
            hint = " Start it with a token: keystead serve --hsm-module." if name == "HSM" else ""
            raise Unimplemented(f"Keys of protection level {name} are not supported by this server.{hint}")
        return found

    def require(self, level: int, algorithm: Algorithm) -> Backend:
        """The back end that can hold a key of this algorithm.

        Raises Unimplemented naming what is not offered, InvalidArgument for an algorithm that Cloud KMS has
        at another level only, Unavailable where the token cannot be asked.
        """
        backend = self.backend(level)
        if algorithm.name not in backend.algorithms:
            if algorithm.curve == "secp256k1" and backend.level == "SOFTWARE":
                raise InvalidArgument(
                    f"Algorithm {algorithm.name} is supported only with protection level HSM."
                )
            raise Unimplemented(
                f"Algorithm {algorithm.name} is not supported with protection level {backend.level} "
                "by this server."
            )
        return backend

    def keep(self, tx: Any, version: str, made: Made) -> None:
        """Keep the key of a version, in the transaction that makes it usable."""
        tx.material.put(version, made.stored, made.public)

    def open(self, tx: Any, version: Any) -> Key:
        """The key of a version (its message). Raises SealError when it is missing or damaged, Unavailable."""
        self._require_open()
        stored = tx.material.get(version.name)
        if stored is None:
            raise SealError(f"The material of {version.name} is missing.")
        backend = self.backend(version.protection_level)
        return backend.load(version.name, ALGORITHMS[version.algorithm], stored)

    def remove_from_backend(self, tx: Any, version: Any) -> None:
        """Take a key out of where it lies beyond the store; repeatable. Raises Unavailable."""
        stored = tx.material.get(version.name)
        if stored is not None:
            self.backend(version.protection_level).remove(version.name, stored)

    def forget(self, tx: Any, version: str) -> None:
        """Delete what the store keeps; `store.scrub` then leaves no copy of it in the store's files."""
        tx.material.delete(version)
