"""GenerateRandomBytes: bytes from the generator of a token. Who wants the operating system's asks that."""

from __future__ import annotations

from collections.abc import Collection as Names
from typing import Protocol, runtime_checkable

from keystead.api import names
from keystead.api.call import Call
from keystead.api.errors import Unimplemented, bad_field
from keystead.api.method import LogKind, method
from keystead.crypto.checksum import crc32c
from keystead.kms.keyrings import require_location
from keystead.kms.material import LEVELS
from keystead.kms.messages import GenerateRandomBytesRequest, GenerateRandomBytesResponse
from keystead.kms.service import KMS, LOCATION

_API = "google.cloud.kms.v1.KeyManagementService"
_SHORTEST, _LONGEST = 8, 1024
_HSM = LEVELS["HSM"]
_NAMES = {number: name for name, number in LEVELS.items()}


@runtime_checkable
class RandomSource(Protocol):
    """A back end whose token makes random bytes."""

    def random(self, n: int, /) -> bytes:
        """`n` bytes, at most 1024. Raises Unavailable."""


class RandomBytes:
    """GenerateRandomBytes of KeyManagementService. It is not hot: it always waits for the token.

    locations: those that this deployment serves. source: the token, if there is one.
    """

    service = KMS

    def __init__(self, locations: Names[str], source: RandomSource | None) -> None:
        self._locations = frozenset(locations)
        self._source = source

    @method(
        f"{_API}/GenerateRandomBytes",
        http=f"POST /v1/{{location={LOCATION}}}:generateRandomBytes",
        body="*",
        permission="cloudkms.locations.generateRandomBytes",
        on="location",
        log=LogKind.NONE,
        redact=("data", "data_crc32c"),
    )
    def generate(self, call: Call, request: GenerateRandomBytesRequest) -> GenerateRandomBytesResponse:
        require_location(self._locations, names.location_of(request.location))
        length = request.length_bytes
        if not _SHORTEST <= length <= _LONGEST:
            raise bad_field("length_bytes", f"It must be between {_SHORTEST} and {_LONGEST}.")
        level = request.protection_level
        if level != _HSM:
            raise Unimplemented(
                f"Protection level {_NAMES.get(level, level)} is not supported for random bytes, only HSM is."
            )
        if self._source is None:
            raise Unimplemented(
                "Random bytes of protection level HSM are not supported by this server. Start it with a "
                "token: keystead serve --hsm-module."
            )
        data = self._source.random(length)
        response = GenerateRandomBytesResponse(data=data)
        response.data_crc32c.value = crc32c(data)
        return response
