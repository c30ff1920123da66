"""The KMS seal: the root key is encrypted by a key of another key service that speaks Cloud KMS: Google's, or
another Keystead.

SECURITY: the root key travels to that service and back, so plain HTTP is refused but to this machine. Kind
and parameters of the seal go along as additional authenticated data; checksums are sent and verified both
ways. What the client libraries would log at DEBUG holds the root key and is switched off.

Permissions needed on the key: cloudkms.cryptoKeyVersions.useToEncrypt to seal, useToDecrypt to open.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud import kms_v1
from google.oauth2.credentials import Credentials
from requests import RequestException

from keystead.crypto.checksum import crc32c
from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import Parameters, SealError
from keystead.kms.seals.private_files import read_line
from keystead.kms.service import KEY_NAME

TIMEOUT_S = 10.0
_GOOGLE = "Google Cloud KMS"
_LOGGERS = (
    "google.cloud.kms_v1.services.key_management_service.client",
    "google.cloud.kms_v1.services.key_management_service.transports.rest",
    "google.auth.transport.requests",
)
_GRANT = "Grant roles/cloudkms.cryptoKeyEncrypterDecrypter on the key to whoever the token stands for."
_REMEDIES = {
    "PERMISSION_DENIED": _GRANT,
    "UNAUTHENTICATED": _GRANT,
    "FAILED_PRECONDITION": "Enable the key again; without it no key of this store opens.",
    "INVALID_ARGUMENT": "Key and store do not belong together: restore the one or the other.",
}
_OTHERWISE = "See to it that the key is there and the service answers."


class KmsSeal:
    """Seals the root key with `key` (a CryptoKey's name).

    endpoint: where the service answers over REST, such as https://kms.example.com:8080/cloudkms; empty is
    Google's. token_file: a file with a bearer token, read for each call; without one, Application Default
    Credentials. recorded: the token file as it is stored; the same unless given.
    """

    kind = "kms"

    def __init__(
        self, key: str, endpoint: str = "", token_file: Path | None = None, *, recorded: str = ""
    ) -> None:
        if KEY_NAME.match(key) is None:
            raise SealError(
                f"{key!r} does not name a key. Give projects/P/locations/L/keyRings/R/cryptoKeys/K."
            )
        self._key = key
        self._endpoint = endpoint.rstrip("/")
        self._token_file = token_file
        self._recorded = recorded or str(token_file or "")
        if self._endpoint:
            _check_endpoint(self._endpoint)

    @staticmethod
    def stored(parameters: Parameters, token_file: Path | None, *, endpoint: str = "") -> KmsSeal:
        """The seal that these parameters describe, its token in `token_file`; `endpoint` is where the service
        answers now, if elsewhere. Raises SealError where they describe none."""
        values = {name: str(value) for name, value in parameters.items()}
        if not values.keys() <= {"key", "endpoint", "token_file"} or "key" not in values:
            raise SealError("The stored parameters of the KMS seal are damaged. Restore the store.")
        return KmsSeal(values["key"], endpoint or values.get("endpoint", ""), token_file)

    @property
    def parameters(self) -> Parameters:
        found: Parameters = {"key": self._key}
        if self._endpoint:
            found["endpoint"] = self._endpoint
        if self._recorded:
            found["token_file"] = self._recorded
        return found

    def wrap(self, root_key: SecretBytes, aad: bytes) -> bytes:
        plaintext = bytes(root_key.expose())
        request = {
            "name": self._key,
            "plaintext": plaintext,
            "plaintext_crc32c": crc32c(plaintext),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": crc32c(aad),
        }
        response = self._call("encrypt", request)
        verified = (
            response.verified_plaintext_crc32c
            and response.verified_additional_authenticated_data_crc32c
            and response.ciphertext_crc32c == crc32c(response.ciphertext)
            and response.name.startswith(f"{self._key}/cryptoKeyVersions/")
        )
        if not verified:
            raise self._corrupted()
        return bytes(response.ciphertext)

    def unwrap(self, wrapped: bytes, aad: bytes) -> SecretBytes:
        request = {
            "name": self._key,
            "ciphertext": wrapped,
            "ciphertext_crc32c": crc32c(wrapped),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": crc32c(aad),
        }
        response = self._call("decrypt", request)
        if response.plaintext_crc32c != crc32c(response.plaintext):
            raise self._corrupted()
        return SecretBytes(response.plaintext)

    @property
    def _where(self) -> str:
        return self._endpoint or _GOOGLE

    def _corrupted(self) -> SealError:
        return SealError(f"What {self._where} answered was damaged on its way. Try again.")

    def _call(self, name: str, request: dict[str, Any]) -> Any:
        """One call of the service. Raises SealError with what it answered and what to do."""
        try:
            call: Callable[..., Any] = getattr(self._client(), name)
            return call(request=request, retry=None, timeout=TIMEOUT_S)
        except exceptions.GoogleAPICallError as error:
            status, message = _answer(error)
            remedy = _REMEDIES.get(status, _OTHERWISE)
            raise SealError(
                f"The key {self._key} of {self._where} does not serve: {message} {remedy}"
            ) from None
        except GoogleAuthError as error:
            raise SealError(
                f"There are no credentials for {self._where} ({type(error).__name__}). Set up Application "
                "Default Credentials, or name a file with a token by --kms-token-file."
            ) from None
        except (RequestException, exceptions.GoogleAPIError) as error:
            raise SealError(
                f"{self._where}, which seals this store, cannot be reached ({type(error).__name__}). Start "
                "it, or mend the network."
            ) from None

    def _client(self) -> Any:
        _silence()
        options = {"api_endpoint": self._endpoint} if self._endpoint else {}
        credentials = None
        if self._token_file is not None:
            with read_line(self._token_file, "The token file") as token:
                text = bytes(token.expose()).decode("ascii", "replace")
                credentials = _Token(text)  # type: ignore[no-untyped-call]
        return kms_v1.KeyManagementServiceClient(
            transport="rest", credentials=credentials, client_options=options
        )


class _Token(Credentials):
    """A bearer token as it is: the client would try to renew one that was refused."""

    def refresh(self, request: Any) -> None:
        """Nothing to renew it with; the file is read again for the next call."""


def _answer(error: exceptions.GoogleAPICallError) -> tuple[str, str]:
    """Status and message that the service answered: over REST the library tells neither."""
    try:
        answer = error.response.json()["error"]
        return str(answer["status"]), str(answer["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return "", str(error.message)


def _silence() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.username:
        raise SealError(
            f"{endpoint!r} is not where a key service answers. Give https://host:port/cloudkms for a "
            "Keystead; leave it out for Google Cloud KMS."
        )
    if parts.scheme == "http" and not _this_machine(parts.hostname):
        raise SealError(
            f"The root key would travel to {endpoint} in clear. Give an https:// endpoint: http:// is for "
            "loopback only."
        )


def _this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
