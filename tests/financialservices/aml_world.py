"""AML AI on a real platform, in a directory of the test's own: `data/` is the server's, `tables/` the
customer's. Owns the wiring and short ways to call; promises nothing by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from keystead.api.clock import ManualClock
from keystead.api.errors import ApiError
from keystead.api.operations import error_of
from keystead.cmek.guard import KeyGuard
from keystead.cmek.keyclient import InProcessKeyClient
from keystead.financialservices import messages as m
from keystead.financialservices.assembly import assemble
from keystead.financialservices.generator import generate
from keystead.financialservices.service import AML
from keystead.kms.messages import CreateCryptoKeyVersionRequest, UpdateCryptoKeyPrimaryVersionRequest
from keystead.kms.service import KMS
from tests.financialservices.samples import arrow, put, rows_of
from tests.platform import CRYPTER, OWNER, PROJECT, Platform

PARENT = f"{PROJECT}/locations/europe-west4"
INSTANCE = f"{PARENT}/instances/bank"
DATASET = f"{INSTANCE}/datasets/january"
KEY_RING = "projects/keys/locations/europe-west4/keyRings/ring"
TABLES = ("party", "account_party_link", "transaction", "risk_case_event")
RANGE = {"start_time": {"seconds": 1_700_000_000}, "end_time": {"seconds": 1_760_000_000}}
VIEWER = "user:viewer@example.com"
ADMIN = "user:admin@example.com"


class World(Platform):
    """A platform with AML AI in it, its guard listening, and its operations running in two threads."""

    operation_services = (AML, KMS)

    def __init__(self, directory: Path, clock: ManualClock | None = None, **options: Any) -> None:
        self.data, self.tables = directory / "data", directory / "tables"
        self.data.mkdir(exist_ok=True)
        self.tables.mkdir(exist_ok=True)
        self.threads = ThreadPoolExecutor(2)
        super().__init__(self.data, clock, operation_executor=self.threads)
        self.runner = self.operations
        self.aml = assemble(
            self.store,
            self.clock,
            self.runner,
            lambda _: InProcessKeyClient(self.dispatcher, self.agent(), AML.name),
            lambda _: self.agent_email,
            sealed=self.data / "sealed",
            tables=self.tables,
            **options,
        )
        self.guard = KeyGuard([self.aml.keychain])
        self.key_events.subscribe(self.guard.key_changed)
        self.policy_events.subscribe(self.guard.policy_changed)
        self.registry.add(list(self.aml.handlers))
        self._rpcs = {method.spec.short_name: rpc for rpc, method in self.registry.methods.items()}
        self.aml.sweep()
        self.guard.start()

    @property
    def agent_email(self) -> str:
        return self.agent().removeprefix("serviceAccount:")

    def close(self) -> None:
        self.guard.stop()
        self.runner.stop()
        self.threads.shutdown()
        self.aml.keychain.close()
        super().close()

    # --- the customer's key --------------------------------------------------------------------------

    def customer_key(self, key_id: str = "key") -> str:
        """A key in another project, granted to the service's agent."""
        key = self.key(key_id, KEY_RING)
        self.grant(key, self.agent(), CRYPTER)
        return key

    def take(self, key: str, how: str) -> None:
        """Take the key away: `disable`, `destroy` or `revoke`."""
        if how == "disable":
            self.set_state(f"{key}/cryptoKeyVersions/1", "DISABLED")
        elif how == "destroy":
            self.destroy(f"{key}/cryptoKeyVersions/1")
        else:
            self._given.setdefault(key, set()).add((CRYPTER, self.agent()))
            self.revoke(key, self.agent(), CRYPTER)

    def rotate(self, key: str) -> int:
        """A new primary version, by hand; its number. The guard has re-wrapped when it returns."""
        version = self.call("CreateCryptoKeyVersion", CreateCryptoKeyVersionRequest(parent=key)).name
        number = int(version.rsplit("/", 1)[1])
        request = UpdateCryptoKeyPrimaryVersionRequest(name=key, crypto_key_version_id=str(number))
        self.call("UpdateCryptoKeyPrimaryVersion", request)
        assert self.guard.settle(30)
        return number

    # --- AML AI --------------------------------------------------------------------------------------

    def get_operation(self, name: str, principal: str = OWNER) -> operations_pb2.Operation:
        request = operations_pb2.GetOperationRequest(name=name)
        found: operations_pb2.Operation = self.call("GetOperation", request, principal)
        return found

    def end(self, operation: operations_pb2.Operation) -> operations_pb2.Operation:
        """The operation once it has ended well; raises its error."""
        self.runner.wait(operation.name, 120)
        ended = self.get_operation(operation.name)
        assert ended.done
        if (error := error_of(ended)) is not None:
            raise error
        return ended

    def create_instance(self, key: str, instance_id: str = "bank", **fields: Any) -> Any:
        request = m.CreateInstanceRequest(
            parent=fields.pop("parent", PARENT),
            instance_id=instance_id,
            request_id=fields.pop("request_id", ""),
            instance={"kms_key": key, **fields},
        )
        return self.call("CreateInstance", request)

    def instance(self, key: str | None = None, instance_id: str = "bank") -> str:
        """An ACTIVE instance; its name."""
        self.end(self.create_instance(key or self.customer_key(), instance_id))
        return f"{PARENT}/instances/{instance_id}"

    def sample_tables(self, **changes: Any) -> dict[str, str]:
        """Small valid tables, with the rows of some replaced; their specs."""
        rows = {table: changes.get(table, rows_of(table)) for table in TABLES}
        return {table: put(self.tables, table, arrow(table, given)) for table, given in rows.items()}

    def generated_tables(self, transactions: int, markers: tuple[str, ...] = ()) -> dict[str, str]:
        folder = self.tables / "proj" / "data"
        generate(folder, seed=7, transactions=transactions, markers=markers)
        return {table: f"bq://proj.data.{table}" for table in TABLES}

    def create_dataset(
        self, specs: dict[str, str], dataset_id: str = "january", request_id: str = "", **fields: Any
    ) -> Any:
        request = m.CreateDatasetRequest(
            parent=fields.pop("parent", INSTANCE),
            dataset_id=dataset_id,
            request_id=request_id,
            dataset={"table_specs": specs, "date_range": RANGE, **fields},
        )
        return self.call("CreateDataset", request)

    def dataset(self, dataset_id: str = "january", **fields: Any) -> str:
        """An ACTIVE dataset of sample tables; its name."""
        self.end(self.create_dataset(self.sample_tables(), dataset_id, **fields))
        return f"{INSTANCE}/datasets/{dataset_id}"

    def get(self, name: str, principal: str = OWNER) -> Any:
        """GetInstance or GetDataset."""
        kind = "Dataset" if "/datasets/" in name else "Instance"
        return self.call(f"Get{kind}", getattr(m, f"Get{kind}Request")(name=name), principal)

    def summary(self, name: str = DATASET) -> dict[str, Any]:
        return dict(self.call("SummarizeDataset", m.GetDatasetRequest(name=name)))

    def delete(self, name: str, principal: str = OWNER) -> Any:
        kind = "Dataset" if "/datasets/" in name else "Instance"
        return self.call(f"Delete{kind}", getattr(m, f"Delete{kind}Request")(name=name), principal)

    def reads(self) -> dict[str, Callable[[], Message]]:
        """Every way to read customer data of DATASET."""
        return {
            "get": lambda: self.get(DATASET),
            "list": lambda: self.call("ListDatasets", m.ListDatasetsRequest(parent=INSTANCE)),
            "summarize": lambda: self.call("SummarizeDataset", m.GetDatasetRequest(name=DATASET)),
        }

    def sealed_files(self) -> list[Path]:
        return [path for path in (self.data / "sealed").rglob("*") if path.is_file()]


@contextmanager
def aml(directory: Path, clock: ManualClock | None = None, **options: Any) -> Iterator[World]:
    """AML AI over whatever the directory holds, closed at the end: to restart one."""
    world = World(directory, clock, **options)
    try:
        yield world
    finally:
        world.close()


def error_of_call(act: Callable[[], Any]) -> ApiError:
    """The error that a call ends with."""
    try:
        act()
    except ApiError as error:
        return error
    raise AssertionError("the call succeeded")


def violations(error: ApiError) -> list[tuple[str, str]]:
    """Type and subject of each PreconditionFailure violation of an error."""
    found = []
    for detail in error.details:
        failure = error_details_pb2.PreconditionFailure()
        if hasattr(detail, "Unpack"):
            if not detail.Unpack(failure):
                continue
        elif isinstance(detail, error_details_pb2.PreconditionFailure):
            failure = detail
        found += [(violation.type, violation.subject) for violation in failure.violations]
    return found
