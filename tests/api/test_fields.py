"""Field paths: reading, writing and presence in official messages."""

from __future__ import annotations

import pytest
from google.cloud.kms_v1.types import resources, service

from keystead.api import fields

CryptoKey = resources.CryptoKey.pb()
UpdateCryptoKeyRequest = service.UpdateCryptoKeyRequest.pb()
EncryptRequest = service.EncryptRequest.pb()


def test_get_and_set_through_nested_messages() -> None:
    """A dotted path reads and writes the field of a nested message, and unset is the default."""
    request = UpdateCryptoKeyRequest()
    assert fields.get_path(request, "crypto_key.version_template.algorithm") == 0
    fields.set_path(request, "crypto_key.name", "k")
    assert fields.get_path(request, "crypto_key.name") == request.crypto_key.name == "k"


def test_reading_sets_nothing() -> None:
    """Looking at a path leaves the message as it was."""
    request = UpdateCryptoKeyRequest()
    fields.get_path(request, "crypto_key.version_template.algorithm")
    assert not fields.has_path(request, "crypto_key.version_template.algorithm")
    assert request == UpdateCryptoKeyRequest()


def test_presence_of_wrapped_and_nested_fields() -> None:
    """Where presence is tracked a default counts as set; where it is not, only other values do."""
    request = EncryptRequest()
    assert not fields.has_path(request, "plaintext_crc32c")
    request.plaintext_crc32c.value = 0
    assert fields.has_path(request, "plaintext_crc32c")
    assert not fields.has_path(request, "plaintext")
    request.plaintext = b"x"
    assert fields.has_path(request, "plaintext")


def test_presence_of_oneofs_maps_and_empty_messages() -> None:
    """A set oneof, a filled map and an empty but present message all count as set."""
    key = CryptoKey()
    paths = ("rotation_period", "labels", "key_access_justifications_policy")
    assert [fields.has_path(key, path) for path in paths] == [False, False, False]
    key.rotation_period.SetInParent()
    key.labels["a"] = "b"
    key.key_access_justifications_policy.SetInParent()
    assert [fields.has_path(key, path) for path in paths] == [True, True, True]


@pytest.mark.parametrize("path", ["nothing", "crypto_key.nothing"])
def test_paths_that_do_not_exist(path: str) -> None:
    """A path that the message does not have is a programming error and raises at once."""
    with pytest.raises((AttributeError, ValueError, KeyError)):
        fields.get_path(UpdateCryptoKeyRequest(), path)
