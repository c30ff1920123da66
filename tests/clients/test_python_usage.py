"""What programs written against google-cloud-kms rely on beside the calls: masks, enums, operations, error
details, retries, project numbers, asyncio, and Tink."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import tink
from google.api_core import exceptions, protobuf_helpers, retry
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.rpc import error_details_pb2
from tink import aead
from tink.integration import gcpkms

from tests.clients.pyclients import (
    TRANSPORTS,
    async_kms_client,
    details_of,
    kms_client,
    projects_client,
    refusal,
)
from tests.clients.scene import MADE_S, SYMMETRIC, Level, Scene, State, ids, new_ring
from tests.live import OWNER, LiveServer

Algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
PRECONDITION = "type.googleapis.com/google.rpc.PreconditionFailure"

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=TRANSPORTS)
def scene(request: pytest.FixtureRequest, live: LiveServer) -> Scene:
    return Scene(live, request.param)


# --- messages ----------------------------------------------------------------------------------------


def test_requests_may_be_dicts_messages_or_arguments(scene: Scene) -> None:
    """The three ways of the client say the same, and so do its helpers for names."""
    kms, name = scene.kms, scene.key()
    path = kms.crypto_key_path(*name.split("/")[1::2])
    sealed = (
        kms.encrypt({"name": path, "plaintext": b"x"}),
        kms.encrypt(request=kms_v1.EncryptRequest(name=path, plaintext=b"x")),
        kms.encrypt(name=path, plaintext=b"x"),
        kms.encrypt(name=f"{path}/cryptoKeyVersions/1", plaintext=b"x"),
    )
    assert path == name
    assert {kms.decrypt(name=path, ciphertext=each.ciphertext).plaintext for each in sealed} == {b"x"}


def test_enums_are_members_and_may_be_given_in_any_form(scene: Scene) -> None:
    """Purpose, algorithm, level and state of an answer are members of the client's enums; a request may hold
    a member, its name or its number."""
    template: list[Any] = [Algorithm.HMAC_SHA256, "HMAC_SHA256", int(Algorithm.HMAC_SHA256)]
    purposes: list[Any] = [Purpose.MAC, "MAC", int(Purpose.MAC)]
    for purpose, algorithm in zip(purposes, template, strict=True):
        fields = {"purpose": purpose, "version_template": {"algorithm": algorithm, "protection_level": 1}}
        made = scene.kms.create_crypto_key(
            parent=scene.ring, crypto_key_id=f"enum-{next(_numbers)}", crypto_key=fields
        )
        assert made.purpose is Purpose.MAC
        assert made.version_template.algorithm is Algorithm.HMAC_SHA256
        assert made.version_template.protection_level is Level.SOFTWARE
        (version,) = scene.kms.list_crypto_key_versions(parent=made.name)
        assert version.state in {State.PENDING_GENERATION, State.ENABLED}


def test_rest_answers_enums_by_name_or_as_asked_by_number(live: LiveServer) -> None:
    """`$alt=json;enum-encoding=int`, which the clients send in either spelling, gives numbers throughout."""
    scene = Scene(live, "rest")
    ring = new_ring(scene.kms)
    scene.kms.create_crypto_key(
        parent=ring, crypto_key_id="k", crypto_key={"purpose": Purpose.ENCRYPT_DECRYPT}
    )  # fmt: skip
    url, headers = f"{live.url}/cloudkms/v1/{ring}/cryptoKeys", {"Authorization": f"Bearer {OWNER}"}

    def enums(query: str) -> tuple[Any, ...]:
        (key,) = requests.get(f"{url}{query}", headers=headers, timeout=60).json()["cryptoKeys"]
        return (
            key["purpose"], key["versionTemplate"]["protectionLevel"], key["primary"]["state"],
            key["primary"]["algorithm"],
        )  # fmt: skip

    names = ("ENCRYPT_DECRYPT", "SOFTWARE", "ENABLED", "GOOGLE_SYMMETRIC_ENCRYPTION")
    assert enums("") == enums("?alt=json") == enums("?$alt=json") == names
    assert enums("?$alt=json;enum-encoding=int") == (1, 1, 1, 1)
    assert enums("?%24alt=json%3Benum-encoding%3Dint") == (1, 1, 1, 1)


def test_masks_made_by_the_helpers_of_the_client_library(scene: Scene) -> None:
    """`protobuf_helpers.field_mask` compares two messages; it names fields inside of times and durations."""
    kms = scene.kms
    before = kms_v1.CryptoKey.pb(kms.get_crypto_key(name=scene.key(labels={"a": "b"})))

    def update(**seconds: int) -> tuple[list[str], Any]:
        after = type(before)()
        after.CopyFrom(before)
        for field, value in seconds.items():
            getattr(after, field).seconds = value
        after.labels["a"] = str(len(seconds))
        mask = protobuf_helpers.field_mask(before, after)
        return list(mask.paths), kms.update_crypto_key(
            crypto_key=kms_v1.CryptoKey(after), update_mask=mask
        )  # fmt: skip

    paths, changed = update(rotation_period=86_400 * 30, next_rotation_time=4_102_444_800)
    assert set(paths) == {"rotation_period.seconds", "next_rotation_time.seconds", "labels"}
    assert (changed.rotation_period.days, changed.next_rotation_time.year) == (30, 2100)
    assert dict(changed.labels) == {"a": "2"}
    one = kms.update_crypto_key(
        crypto_key={"name": before.name, "labels": {"cost_center": "x"}},
        update_mask={"paths": ["labels.cost_center"]},
    )
    assert dict(one.labels) == {"a": "2", "cost_center": "x"}
    assert dict(kms.update_crypto_key(crypto_key={"name": before.name}, update_mask="labels").labels) == {}


def test_a_project_may_be_given_by_its_number(scene: Scene, live: LiveServer) -> None:
    """In every name of a request, those in other fields than the first included; answers carry the id."""
    kms = scene.kms
    number = projects_client(live, scene.transport).get_project(name="projects/p1").name

    def numbered(name: str) -> str:
        assert name.startswith("projects/p1/")
        return name.replace("projects/p1", number)

    key = kms.create_crypto_key(
        parent=numbered(scene.ring), crypto_key_id=f"number-{next(_numbers)}",
        crypto_key={"purpose": Purpose.ENCRYPT_DECRYPT},
    ).name  # fmt: skip
    assert key.startswith("projects/p1/")
    sealed = kms.encrypt(name=numbered(key), plaintext=b"x").ciphertext
    assert kms.decrypt(name=key, ciphertext=sealed).plaintext == b"x"
    sealed = kms.encrypt(name=key, plaintext=b"y").ciphertext
    assert kms.decrypt(name=numbered(key), ciphertext=sealed).plaintext == b"y"
    changed = kms.update_crypto_key(
        crypto_key={"name": numbered(key), "labels": {"a": "b"}}, update_mask={"paths": ["labels"]}
    )
    assert (changed.name, dict(changed.labels)) == (key, {"a": "b"})

    request = {
        "parent": numbered(scene.key(empty=True)), "algorithm": SYMMETRIC,
        "import_job": numbered(scene.job.name), "wrapped_key": b"no wrapped key",
    }  # fmt: skip
    version = kms.import_crypto_key_version(request=request)
    assert version.import_job == scene.job.name
    scene.settle(version.name, State.IMPORT_FAILED)
    request |= {"crypto_key_version": numbered(version.name), "wrapped_key": scene.wrap(os.urandom(32))}
    kms.import_crypto_key_version(request=request)
    scene.settle(version.name)

    deletion = kms.delete_crypto_key(request={"name": numbered(scene.key(empty=True))})
    deletion.result(timeout=MADE_S)
    assert kms.get_operation(request={"name": numbered(deletion.operation.name)}).done
    assert kms.get_retired_resource(name=numbered(deletion.metadata.retired_resource)).delete_time


# --- operations and errors ---------------------------------------------------------------------------


def test_deletions_are_operations_with_results(scene: Scene) -> None:
    """`result()` returns once the key is gone; its metadata names the retired resource; the name is not given
    again, and a key with versions, or a version with a key in it, is not deleted."""
    kms, key = scene.kms, scene.key()
    version = f"{key}/cryptoKeyVersions/1"
    for call, name, words in (
        (kms.delete_crypto_key, key, "still has 1 CryptoKeyVersion(s); delete them first."),
        (kms.delete_crypto_key_version, version, "has value ENABLED in field crypto_key_version.state."),
    ):
        error = refusal(call, {"name": name})
        assert isinstance(error, exceptions.BadRequest)
        assert error.message.endswith(words)

    name = scene.key(empty=True)
    deletion = kms.delete_crypto_key(request={"name": name})
    assert deletion.result(timeout=MADE_S) is not None
    assert (deletion.done(), deletion.exception()) == (True, None)
    retired = kms.get_retired_resource(name=deletion.metadata.retired_resource)
    assert retired.original_resource == name
    again = {
        "parent": scene.ring, "crypto_key_id": name.rsplit("/", 1)[1],
        "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT},
    }  # fmt: skip
    assert isinstance(refusal(kms.create_crypto_key, again), exceptions.Conflict)

    failed = scene.imported(scene.key(empty=True), b"no wrapped key").name
    assert scene.settle(failed, State.IMPORT_FAILED).import_failure_reason
    assert kms.delete_crypto_key_version(request={"name": failed}).result(timeout=MADE_S) is not None
    assert isinstance(refusal(kms.get_crypto_key_version, {"name": failed}), exceptions.NotFound)


@pytest.mark.parametrize(
    ("algorithm", "call", "fields"),
    [
        ("EC_SIGN_P256_SHA256", "asymmetric_sign", {"data": b"x"}),
        ("EC_SIGN_P256_SHA256", "get_public_key", {}),
        ("HMAC_SHA256", "mac_sign", {"data": b"x"}),
        ("HMAC_SHA256", "mac_verify", {"data": b"x", "mac": bytes(32)}),
        ("AES_256_GCM", "raw_encrypt", {"plaintext": b"x"}),
        ("AES_256_GCM", "raw_decrypt", {"ciphertext": bytes(32), "initialization_vector": bytes(12)}),
        ("ML_KEM_768", "decapsulate", {"ciphertext": bytes(1088)}),
    ],
)
def test_the_violation_reaches_the_caller_as_the_message_it_is(
    scene: Scene, algorithm: str, call: str, fields: dict[str, bytes]
) -> None:
    """Every use of a disabled version raises with a PreconditionFailure in `details`, which says so."""
    name = f"{scene.key(algorithm)}/cryptoKeyVersions/1"
    scene.settle(name)
    disabled = {"name": name, "state": State.DISABLED}
    scene.kms.update_crypto_key_version(crypto_key_version=disabled, update_mask={"paths": ["state"]})
    error = refusal(getattr(scene.kms, call), {"name": name, **fields})

    assert isinstance(error, exceptions.BadRequest)
    assert error.message.endswith(f"{name} is not enabled, current state is: DISABLED.")
    assert details_of(error) == [
        {"@type": PRECONDITION, "violations": [{"type": "KEY_DISABLED", "subject": name}]}
    ]
    if scene.transport == "grpc":
        assert isinstance(error, exceptions.FailedPrecondition)
        (detail,) = error.details
        assert isinstance(detail, error_details_pb2.PreconditionFailure)


@pytest.mark.slow
def test_a_call_is_tried_again_until_the_server_is_back(tmp_path: Path) -> None:
    """A call over gRPC that is made while nothing listens is UNAVAILABLE, which the client's own predicate
    tries again: it is answered once the server runs."""
    before = LiveServer(tmp_path)
    before.start()
    scene = Scene(before, "grpc")
    key, port = scene.key(), before.grpc_port
    assert before.stop() == 0
    call, errors = {"name": key, "plaintext": b"x"}, list[Exception]()
    with pytest.raises(exceptions.ServiceUnavailable):
        scene.kms.encrypt(request=call, retry=None)
    policy = retry.Retry(
        predicate=retry.if_exception_type(exceptions.ServiceUnavailable, exceptions.DeadlineExceeded),
        maximum=1.0, timeout=200.0, on_error=errors.append,
    )  # fmt: skip
    after = LiveServer(tmp_path, "--grpc-port", str(port))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(scene.kms.encrypt, request=call, retry=policy)
        try:
            after.start()
            assert waiting.result().name == f"{key}/cryptoKeyVersions/1"
        finally:
            after.stop()
    assert {type(error) for error in errors} == {exceptions.ServiceUnavailable}


# --- asyncio and Tink --------------------------------------------------------------------------------


async def test_the_asyncio_client_works_too(live: LiveServer) -> None:
    """Calls, pages, errors and operations of KeyManagementServiceAsyncClient."""
    ring = new_ring(kms_client(live, "grpc"))
    kms = async_kms_client(live)
    for n in range(3):
        key = {"purpose": Purpose.ENCRYPT_DECRYPT}
        await kms.create_crypto_key(parent=ring, crypto_key_id=f"k{n}", crypto_key=key)
    listed = await kms.list_crypto_keys(request={"parent": ring, "page_size": 1})
    names = [key.name async for key in listed]
    assert ids([await kms.get_crypto_key(name=name) for name in names]) == ["k0", "k1", "k2"]
    sealed = await kms.encrypt(name=names[0], plaintext=b"x")
    assert (await kms.decrypt(name=names[0], ciphertext=sealed.ciphertext)).plaintext == b"x"
    with pytest.raises(exceptions.InvalidArgument):
        await kms.decrypt(name=names[1], ciphertext=sealed.ciphertext)
    request = {
        "parent": ring, "crypto_key_id": "gone", "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT},
        "skip_initial_version_creation": True,
    }  # fmt: skip
    empty = await kms.create_crypto_key(request=request)
    deletion = await kms.delete_crypto_key(request={"name": empty.name})
    await deletion.result(timeout=MADE_S)
    with pytest.raises(exceptions.NotFound):
        await kms.get_crypto_key(name=empty.name)
    await kms.transport.close()


def test_tink_encrypts_with_the_service(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """GcpKmsClient's AEAD, Tink's envelope encryption over it, and a keyset kept encrypted by it. Tink takes
    no endpoint: it is given the client that it would make."""
    aead.register()
    key = scene.key()
    client = kms_client(scene.live, scene.transport)
    monkeypatch.setattr(kms_v1, "KeyManagementServiceClient", lambda credentials: client)
    uri = f"gcp-kms://{key}"
    remote = gcpkms.GcpKmsClient(uri, credentials=AnonymousCredentials()).get_aead(uri)
    envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, remote)
    for cipher in (remote, envelope):
        sealed = cipher.encrypt(b"plaintext", b"context")
        assert cipher.decrypt(sealed, b"context") == b"plaintext"
        for data, context in ((sealed, b"other"), (sealed[:-1], b"context")):
            with pytest.raises(tink.TinkError):
                cipher.decrypt(data, context)

    keyset = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
    kept = tink.json_proto_keyset_format.serialize_encrypted(keyset, remote, b"")
    read = tink.json_proto_keyset_format.parse_encrypted(kept, remote, b"")
    sealed = keyset.primitive(aead.Aead).encrypt(b"plaintext", b"")
    assert read.primitive(aead.Aead).decrypt(sealed, b"") == b"plaintext"
