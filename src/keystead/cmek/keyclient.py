"""How a service calls the customer's key: encrypt, decrypt, describe.

`InProcessKeyClient` goes through dispatch as the service's own agent, so that IAM, audit and quotas apply
as to any other caller. Nothing here keeps a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from keystead.api.call import Call
from keystead.api.dispatch import Dispatcher
from keystead.api.errors import ApiError
from keystead.cmek.answers import KeyUnavailableError, answer_of
from keystead.crypto.secret import SecretBytes
from keystead.kms.messages import DecryptRequest, EncryptRequest

_API = "google.cloud.kms.v1.KeyManagementService"


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A wrapped key, and the name of the key version that wrapped it."""

    ciphertext: bytes
    key_version: str


class KeyClient(Protocol):
    """The calls a service makes to one customer's keys. All raise KeyUnavailableError."""

    def encrypt(self, key: str, secret: SecretBytes, aad: bytes) -> Wrapped:
        """Wrap a secret by the key's primary version."""

    def decrypt(self, key: str, ciphertext: bytes, aad: bytes) -> SecretBytes:
        """Unwrap what `encrypt` made, by whichever version did."""

    def describe(self, key: str) -> str:
        """The name of the version that encrypts now. The agent's role has no permission to read the key,
        so it is found by encrypting nothing."""


class InProcessKeyClient:
    """Calls the key service of the same deployment as `principal`, a service agent."""

    def __init__(self, dispatcher: Dispatcher, principal: str, user_agent: str) -> None:
        self._dispatcher = dispatcher
        self._principal = principal
        self._user_agent = user_agent

    def encrypt(self, key: str, secret: SecretBytes, aad: bytes) -> Wrapped:
        request = EncryptRequest(
            name=key, plaintext=bytes(secret.expose()), additional_authenticated_data=aad
        )
        try:
            response = self._dispatcher.call(f"{_API}/Encrypt", request, self._call())
        except ApiError as error:
            raise KeyUnavailableError(key, answer_of(error), error) from error
        return Wrapped(response.ciphertext, response.name)

    def decrypt(self, key: str, ciphertext: bytes, aad: bytes) -> SecretBytes:
        request = DecryptRequest(name=key, ciphertext=ciphertext, additional_authenticated_data=aad)
        try:
            response = self._dispatcher.call(f"{_API}/Decrypt", request, self._call())
        except ApiError as error:
            raise KeyUnavailableError(key, answer_of(error), error) from error
        return SecretBytes(response.plaintext)

    def describe(self, key: str) -> str:
        with SecretBytes(b"") as nothing:
            return self.encrypt(key, nothing, b"").key_version

    def _call(self) -> Call:
        return Call(principal=self._principal, user_agent=self._user_agent)
