"""What a rotation costs an instance that holds much, beside one that holds little.

Two instances of one deployment, 1 MB and 1 GB of sealed data: each round makes a new primary version of the
one's key and waits until its key-encryption key is re-wrapped, then the same for the other. Medians of
wall-clock time are compared, since what is promised is that the data is not touched. Exit status 1 if the
target is missed.

Run: `python bench/rotation.py [--mib 1024] [--rounds 15]`
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from google.iam.v1 import iam_policy_pb2
from google.longrunning import operations_pb2
from google.protobuf import json_format

from keystead.api.call import Call
from keystead.cmek.sealed_store import SealedStore
from keystead.financialservices.messages import CreateInstanceRequest, Instance
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateCryptoKeyVersionRequest,
    CreateKeyRingRequest,
    CryptoKey,
    UpdateCryptoKeyPrimaryVersionRequest,
)
from keystead.server.settings import Settings
from keystead.server.wiring import Platform, build

TARGET = 1.2
OWNER = "user:owner@example.com"
PARENT = "projects/bench/locations/us-central1"
KMS = "google.cloud.kms.v1.KeyManagementService"
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        platform = build(Settings(data_dir=Path(scratch) / "data", dev=True))
        platform.start()
        try:
            ratio = compare(platform, options.mib, options.rounds)
        finally:
            platform.close()
    good = ratio <= TARGET
    print(
        f"rotation_{options.mib}MiB_vs_1MiB {ratio:.2f} (target <= {TARGET:.2f}) {'ok' if good else 'MISSED'}"
    )
    return 0 if good else 1


def compare(platform: Platform, mib: int, rounds: int) -> float:
    """The ratio of medians, large to small."""
    sealed = SealedStore(platform.settings.data_dir / "sealed")
    ask(platform, f"{KMS}/CreateKeyRing", CreateKeyRingRequest(parent=PARENT, key_ring_id="ring"))
    for name, size in (("small", 1), ("large", mib)):
        prepare(platform, sealed, name, size)
    samples: dict[str, list[float]] = {"small": [], "large": []}
    for turn in range(rounds):
        for name in ("small", "large") if turn % 2 else ("large", "small"):
            samples[name].append(rotate(platform, name))
    return statistics.median(samples["large"]) / statistics.median(samples["small"])


def prepare(platform: Platform, sealed: SealedStore, name: str, mib: int) -> None:
    """A key, a grant, an instance, and that many MiB sealed under it."""
    ask(
        platform,
        f"{KMS}/CreateCryptoKey",
        CreateCryptoKeyRequest(
            parent=f"{PARENT}/keyRings/ring", crypto_key_id=name, crypto_key=CryptoKey(purpose=1)
        ),
    )
    identity = platform.registry.methods[
        "google.api.serviceusage.v1beta1.ServiceUsage/GenerateServiceIdentity"
    ]
    request = identity.request_type(parent="projects/bench/services/financialservices.googleapis.com")
    made = platform.dispatcher.run(identity, request, Call(principal=OWNER))
    agent = identity_of(made)
    policy = iam_policy_pb2.SetIamPolicyRequest(resource=key(name))
    policy.policy.bindings.add(role="roles/cloudkms.cryptoKeyEncrypterDecrypter", members=[agent])
    ask(platform, "google.iam.v1.IAMPolicy/SetIamPolicy", policy)
    operation = ask(
        platform,
        "google.cloud.financialservices.v1.AML/CreateInstance",
        CreateInstanceRequest(parent=PARENT, instance_id=name, instance=Instance(kms_key=key(name))),
    )
    platform.operations.wait(operation.name, 60)
    instance = f"{PARENT}/instances/{name}"
    lease = platform.keychains[0].lease(instance)
    block = os.urandom(MIB)
    with sealed.create(lease, instance, sealed.new_generation(), "data") as out:
        for _ in range(mib):
            out.write(block)


def identity_of(operation: operations_pb2.Operation) -> str:
    """The service agent that GenerateServiceIdentity answered, as a member."""
    return f"serviceAccount:{json_format.MessageToDict(operation)['response']['email']}"


def rotate(platform: Platform, name: str) -> float:
    """Seconds from the order to the re-wrapped key-encryption key."""
    version = ask(platform, f"{KMS}/CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=key(name)))
    number = version.name.rsplit("/", 1)[-1]
    platform.guard.settle(30)
    began = time.perf_counter()
    order = UpdateCryptoKeyPrimaryVersionRequest(name=key(name), crypto_key_version_id=number)
    ask(platform, f"{KMS}/UpdateCryptoKeyPrimaryVersion", order)
    platform.guard.settle(30)
    took = time.perf_counter() - began
    row = platform.protected.of(f"{PARENT}/instances/{name}")
    if row is None or row.key_version != version.name:
        raise RuntimeError(f"{name} was not re-wrapped")
    return took


def key(name: str) -> str:
    return f"{PARENT}/keyRings/ring/cryptoKeys/{name}"


def ask(platform: Platform, rpc: str, request: object) -> object:
    return platform.dispatcher.call(rpc, request, Call(principal=OWNER))


if __name__ == "__main__":
    sys.exit(main())
