"""The token of a server: its back end for HSM keys, and the attestations of what is made in it."""

from __future__ import annotations

import importlib.util
from typing import Any

from keystead.api.clock import Clock
from keystead.kms.algorithms import ALGORITHMS
from keystead.kms.attestation import Attestor
from keystead.kms.backends import Made
from keystead.kms.deployment import deployment_id
from keystead.kms.material import LEVELS
from keystead.kms.messages import ImportJob
from keystead.kms.rootkey import RootKey
from keystead.server.settings import Settings, SettingsError
from keystead.store.engine import Store

_METHOD = ImportJob.ImportMethod


class ServerToken:
    """The back end (`backend`) over a token, and `attest` for what it makes."""

    def __init__(self, config: Any, store: Store, root_key: RootKey, clock: Clock) -> None:
        # Here, because the library for tokens is an extra.
        from keystead.kms.backends.hsm.backend import HsmBackend

        self.backend = HsmBackend(config)
        self._attestor = Attestor(store, root_key, clock)

    def attest(self, message: Any, made: Made) -> Any:
        """The attestation of a CryptoKeyVersion or an ImportJob whose key was just made; None for keys that
        are not in the token. Raises Unavailable."""
        if message.protection_level != LEVELS["HSM"]:
            return None
        is_version = "algorithm" in message.DESCRIPTOR.fields_by_name
        algorithm = ALGORITHMS[message.algorithm] if is_version else None
        facts = self.backend.facts(message.name, algorithm, made.stored)
        label = _METHOD.Name(message.import_method) if algorithm is None else algorithm.name
        return self._attestor.attest(message.name, label, "HSM", made.public, facts)

    def usable(self) -> bool:
        """Whether the token can be used now."""
        return self.backend.status().usable


def token_of(settings: Settings, store: Store, root_key: RootKey, clock: Clock) -> ServerToken | None:
    """The token that the settings name; None where they name none. Raises SettingsError."""
    if settings.hsm_module is None or settings.hsm_pin_file is None:
        return None
    if importlib.util.find_spec("pkcs11") is None:
        raise SettingsError("Keys in a token need one more package. Run: pip install 'keystead[hsm]'")
    from keystead.kms.backends.hsm.config import HsmConfig

    config = HsmConfig(
        module=settings.hsm_module,
        token=settings.hsm_token,
        pin=settings.hsm_pin_file,
        deployment=deployment_id(store),
    )
    return ServerToken(config, store, root_key, clock)
