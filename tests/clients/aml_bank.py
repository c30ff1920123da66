"""A customer of AML AI, as the official Python clients make one: for the tests over both transports.

Owns the project, its key ring, keys and grants, the generated input tables, and the ways in which customer
data is read and used. Promises nothing by itself.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from google.api_core import exceptions
from google.api_core.future import polling
from google.cloud import financialservices_v1 as aml_v1
from google.cloud import kms_v1
from google.cloud.financialservices_v1.services.aml.transports.grpc import AMLGrpcTransport
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning import operations_pb2

from keystead.financialservices.generator import generate
from tests.clients.pyclients import Token, channel, kms_client, projects_client
from tests.live import OWNER, LiveServer

REGION = "europe-west4"
SERVICE = "financialservices.googleapis.com"
CRYPTER = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
VIEWER = "user:viewer@example.com"
ADMIN = "user:aml-admin@example.com"
INPUT = "bq://inputs.bank"
TRANSACTIONS = 20_000
TABLES = ("party", "account_party_link", "transaction", "risk_case_event")
SPECS = {table: f"{INPUT}.{table}" for table in TABLES}
RANGE = {"start_time": {"seconds": 1}, "end_time": {"seconds": 4_000_000_000}}
PRECONDITION = "type.googleapis.com/google.rpc.PreconditionFailure"

Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
KeyState = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
Mode = aml_v1.ImportRegisteredPartiesRequest.UpdateMode
WRITE_EMPTY = aml_v1.BigQueryDestination.WriteDisposition.WRITE_EMPTY
COMMERCIAL = aml_v1.LineOfBusiness.COMMERCIAL

_POLLING = polling.DEFAULT_POLLING.with_delay(initial=0.05, maximum=0.5)
_numbers = itertools.count(1)


def aml_client(live: LiveServer, transport: str, token: str = OWNER) -> Any:
    """google-cloud-financialservices."""
    if transport == "rest":
        options = {"api_endpoint": f"{live.url}/financialservices"}
        credentials: Any = Token  # its package has no annotations
        return aml_v1.AMLClient(transport="rest", credentials=credentials(token), client_options=options)
    return aml_v1.AMLClient(transport=AMLGrpcTransport(channel=channel(live, token)))


def ended(operation: Any) -> Any:
    """What a long-running operation ends with; raises its error."""
    return operation.result(timeout=120, polling=_POLLING)


def until(holds: Callable[[], bool], limit_s: float) -> None:
    """Wait until it holds; fails when the time is over."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answers(read: Callable[[], Any]) -> bool:
    """Whether a read is answered."""
    try:
        read()
    except exceptions.BadRequest:
        return False
    return True


class Bank:
    """A customer: a project, both clients as its owner, a key ring, and the service's agent."""

    def __init__(self, live: LiveServer, transport: str) -> None:
        self.live = live
        self.transport = transport
        self.project = f"bank-{transport}"
        self.parent = f"projects/{self.project}/locations/{REGION}"
        self.kms = kms_client(live, transport)
        self.aml = aml_client(live, transport)
        self.ring = self.make_ring(REGION)
        self.agent = self._identity()
        self._let_in()

    def rest(self, verb: str, path: str) -> dict[str, Any]:
        """A call that neither client has a method for."""
        headers = {"authorization": f"Bearer {OWNER}"}
        answer = requests.request(verb, f"{self.live.url}/{path}", headers=headers, timeout=30)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def _identity(self) -> str:
        path = f"serviceusage/v1beta1/projects/{self.project}/services/{SERVICE}:generateServiceIdentity"
        return str(self.rest("POST", path)["response"]["email"])

    def _let_in(self) -> None:
        """Roles of AML AI on the project, for one who looks and one who administers."""
        projects = projects_client(self.live, self.transport)
        policy = policy_pb2.Policy()
        for name, member in (("viewer", VIEWER), ("admin", ADMIN)):
            policy.bindings.add(role=f"roles/financialservices.{name}", members=[member])
        resource = f"projects/{self.project}"
        projects.set_iam_policy(request=iam_policy_pb2.SetIamPolicyRequest(resource=resource, policy=policy))

    def make_ring(self, region: str) -> str:
        """The customer's key ring of a region; its name."""
        parent = f"projects/{self.project}/locations/{region}"
        request = {"parent": parent, "key_ring_id": "ring", "key_ring": {}}
        return str(self.kms.create_key_ring(request=request).name)

    def make_key(self, *, ring: str = "", granted: bool = True, **fields: Any) -> str:
        """A key, by default a symmetric one that AML AI may use; its name."""
        request = {
            "parent": ring or self.ring, "crypto_key_id": f"key-{next(_numbers)}",
            "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT}, **fields,
        }  # fmt: skip
        key = str(self.kms.create_crypto_key(request=request).name)
        if granted:
            self.grant(key)
        return key

    def grant(self, key: str, *members: str) -> None:
        """Let the agent, or exactly these members, use a key."""
        binding = policy_pb2.Binding(role=CRYPTER, members=members or [f"serviceAccount:{self.agent}"])
        policy = policy_pb2.Policy(bindings=[binding])
        self.kms.set_iam_policy(request=iam_policy_pb2.SetIamPolicyRequest(resource=key, policy=policy))

    def set_state(self, key: str, state: Any, version: int = 1) -> None:
        """Enable or disable a version of a key."""
        name = f"{key}/cryptoKeyVersions/{version}"
        change = {"crypto_key_version": {"name": name, "state": state}, "update_mask": {"paths": ["state"]}}
        self.kms.update_crypto_key_version(request=change)

    def creation(self, key: str, **changes: Any) -> dict[str, Any]:
        """A CreateInstanceRequest, with some fields changed."""
        instance_id = f"bank-{next(_numbers)}"
        request = {"parent": self.parent, "instance_id": instance_id, "instance": {"kms_key": key}}
        return {**request, **changes}

    def make_instance(self, key: str) -> str:
        """An ACTIVE instance under a key; its name."""
        return str(ended(self.aml.create_instance(request=self.creation(key))).name)

    def make_dataset(self, instance: str, dataset_id: str = "january", **fields: Any) -> Any:
        """The operation that imports the generated tables."""
        dataset = {"table_specs": SPECS, "date_range": RANGE, **fields}
        return self.aml.create_dataset(
            request={"parent": instance, "dataset_id": dataset_id, "dataset": dataset}
        )

    def rows(self, dataset: str) -> dict[str, int]:
        """How many rows each table of a dataset has, read from its sealed files."""
        summary = self.rest("GET", f"financialservices/v1/{dataset}:summarize")
        return {table: int(summary[table]["rows"]) for table in TABLES}

    def sealed_bytes(self) -> int:
        """What lies in sealed files."""
        sealed = self.live.data_dir / "sealed"
        return sum(path.stat().st_size for path in sealed.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Vault:
    """An instance with a dataset in it, and the operation that imported that."""

    key: str
    instance: str
    dataset: str
    operation: str


def input_tables(live: LiveServer) -> Path:
    """Generate what SPECS names; the directory it lies in."""
    directory = live.tables_dir / "inputs" / "bank"
    generate(directory, seed=11, transactions=TRANSACTIONS)
    return directory


def make_vault(bank: Bank) -> Vault:
    """A new key, an instance under it, and in that a dataset of the input tables."""
    key = bank.make_key()
    instance = bank.make_instance(key)
    operation = bank.make_dataset(instance, labels={"quarter": "q1"})
    return Vault(key, instance, ended(operation).name, operation.operation.name)


def reads(client: Any, vault: Vault) -> list[tuple[Callable[..., Any], Any]]:
    """Every way in which the client reads customer data."""
    return [
        (client.get_dataset, {"name": vault.dataset}),
        (client.list_datasets, {"parent": vault.instance}),
        (client.get_operation, operations_pb2.GetOperationRequest(name=vault.operation)),
    ]


def writes(client: Any, vault: Vault) -> list[tuple[Callable[..., Any], Any]]:
    """Every way in which the client would use customer data without reading it."""
    dataset = {"table_specs": SPECS, "date_range": RANGE}
    table = {"table_uri": f"{INPUT}.out", "write_disposition": WRITE_EMPTY}
    registration = {
        "name": vault.instance, "party_tables": [f"{INPUT}.registration"], "mode": Mode.APPEND,
        "line_of_business": COMMERCIAL,
    }  # fmt: skip
    export = {"name": vault.instance, "dataset": table, "line_of_business": COMMERCIAL}
    return [
        (client.create_dataset, {"parent": vault.instance, "dataset_id": "other", "dataset": dataset}),
        (client.update_dataset, {"dataset": {"name": vault.dataset, "labels": {"a": "b"}}}),
        (client.import_registered_parties, registration),
        (client.export_registered_parties, export),
    ]
