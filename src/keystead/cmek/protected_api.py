"""Keystead's own call on a key: which resources it protects, and by which version.

The inventory of Cloud KMS knows no AML AI resources, so no official call answers this; it is what a customer
needs to know before a version may go.
"""

from __future__ import annotations

from google.protobuf import struct_pb2

from keystead.api.call import Call
from keystead.api.method import LogKind, method
from keystead.cmek.protected import ProtectedResources
from keystead.kms.messages import GetCryptoKeyRequest
from keystead.kms.service import KEY, KMS


class ProtectedResourcesOfKey:
    """`GET /cloudkms/v1/{key}:protectedResources`."""

    service = KMS

    def __init__(self, protected: ProtectedResources) -> None:
        self._protected = protected

    @method(
        "keystead.cmek.v1.ProtectedResources/ListProtectedResources",
        http=f"GET /v1/{{name={KEY}}}:protectedResources",
        permission="cloudkms.cryptoKeys.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def list(self, call: Call, request: GetCryptoKeyRequest) -> struct_pb2.Struct:
        rows = [
            {
                "name": found.full_name,
                "resourceType": found.resource_type,
                "location": found.location,
                "cryptoKeyVersion": found.key_version,
            }
            for found in self._protected.under(request.name)
        ]
        answer = struct_pb2.Struct()
        answer.update({"protectedResources": rows})
        return answer
