"""The story in its eight steps, on a running server.

Every step is done as the documentation does it: REST calls in the form of its curl commands, the real gcloud
where it is installed, and the official Python client for AML AI.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.api_core.exceptions import GoogleAPICallError
from google.cloud import financialservices_v1 as aml
from google.protobuf import timestamp_pb2
from google.type import interval_pb2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from keystead.cli.demo.canaries import search
from keystead.cli.demo.clients import Gcloud, Reply, Rest, aml_client, folder_size
from keystead.cli.demo.report import Report, Step
from keystead.cli.demo.stage import PROJECT, TABLES, Stage

OWNER = "user:owner@example.com"
VIEWER = "user:viewer@example.com"
LOCATION = "us-central1"
SERVICE = "financialservices.googleapis.com"
ROLE = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
PLANNED = 8

PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
_RING = f"{PARENT}/keyRings/customer-keys"
_KEY = f"{_RING}/cryptoKeys/aml-data"
_INSTANCE = f"{PARENT}/instances/bank"
_DATASET = f"{_INSTANCE}/datasets/payments"
_LIMIT_S = 1.0


class Story:
    """The state that the steps share."""

    def __init__(self, stage: Stage, report: Report, console: Console, canaries: list[bytes]) -> None:
        self._stage = stage
        self._report = report
        self._console = console
        self._canaries = canaries
        self._rest = Rest(stage.rest_port)
        self._gcloud: Gcloud | None = None
        if Gcloud.installed():
            self._gcloud = Gcloud(stage.rest_port, stage.grpc_port, project=PROJECT, who=OWNER)
        self._client = aml_client(stage.rest_port, OWNER)
        self._viewer = aml_client(stage.rest_port, VIEWER)
        self._agent = ""
        self._rows = 0

    def tell(self) -> None:
        """All steps in order. Raises StepFailedError after the first that does not hold."""
        steps: list[tuple[str, Callable[[Step], None]]] = [
            ("Create a key ring and a symmetric key", self._create_key),
            ("Create the service's identity", self._create_identity),
            ("Grant it the key", self._grant),
            ("Create an instance under the key, import the data, read it back", self._import),
            ("Look for the data in clear, in every file", self._search),
            ("Disable the key, and enable it again", self._disable),
            ("Rotate the key, and let the old version go", self._rotate),
            ("Revoke the grant, and delete the instance all the same", self._revoke),
        ]
        for title, act in steps:
            with self._report.step(title) as step:
                act(step)

    def close(self) -> None:
        if self._gcloud is not None:
            self._gcloud.close()

    # 1

    def _create_key(self, step: Step) -> None:
        made = self._call("POST", f"cloudkms/v1/{PARENT}/keyRings?key_ring_id=customer-keys")
        step.expect(made.ok and made.body.get("name") == _RING, f"REST made {_RING}", str(made.body))
        made = self._call(
            "POST", f"cloudkms/v1/{_RING}/cryptoKeys?crypto_key_id=aml-data", {"purpose": "ENCRYPT_DECRYPT"}
        )
        state = made.body.get("primary", {}).get("state")
        step.expect(state == "ENABLED", "REST made key aml-data, version 1 ENABLED", str(made.body))
        if self._gcloud is None:
            step.shown.append("gcloud is not installed here: the same calls are made over REST")
            return
        where = ("--location", LOCATION)
        self._run(step, "kms", "keyrings", "create", "gcloud-ring", *where)
        inside = ("--keyring", "gcloud-ring", *where)
        self._run(step, "kms", "keys", "create", "gcloud-key", *inside, "--purpose", "encryption")
        listed = self._run(step, "kms", "keys", "list", *inside)
        step.expect("gcloud-key" in listed, "gcloud kms, unchanged, made and lists a ring and a key", listed)

    # 2

    def _create_identity(self, step: Step) -> None:
        if self._gcloud is not None:
            words = ("beta", "services", "identity", "create", f"--service={SERVICE}", f"--project={PROJECT}")
            text = self._run(step, *words)
            step.expect(text.startswith("Service identity created: service-"), text.strip(), "not so")
            self._agent = text.strip().rsplit(" ", 1)[-1]
            return
        path = f"serviceusage/v1beta1/projects/{PROJECT}/services/{SERVICE}:generateServiceIdentity"
        made = self._call("POST", path)
        self._agent = made.body.get("response", {}).get("email", "")
        expected = self._agent.endswith("@gcp-sa-financialservices.iam.gserviceaccount.com")
        step.expect(expected, f"Service identity created: {self._agent}", str(made.body))

    # 3

    def _grant(self, step: Step) -> None:
        member = f"serviceAccount:{self._agent}"
        if self._gcloud is not None:
            words = ("--location", LOCATION, "--keyring=customer-keys", "--member", member, "--role", ROLE)
            text = self._run(
                step, "kms", "keys", "add-iam-policy-binding", "aml-data", f"--project={PROJECT}", *words
            )
            step.expect("Updated IAM policy for key [aml-data]." in text, "gcloud granted it the key", text)
        else:
            done = self._set_key_members([member])
            step.expect(done.ok, "granted it the key over REST", str(done.body))
        policy = self._call("GET", f"cloudkms/v1/{_KEY}:getIamPolicy").body
        step.expect(
            any(b["role"] == ROLE and member in b["members"] for b in policy.get("bindings", [])),
            f"the key's policy names {self._agent}",
            str(policy),
        )

    # 4

    def _import(self, step: Step) -> None:
        self._grant_viewer()
        instance = self._client.create_instance(
            parent=PARENT, instance_id="bank", instance=aml.Instance(kms_key=_KEY)
        ).result(timeout=120)
        step.expect(instance.kms_key == _KEY, f"instance {instance.name} under the key")
        dataset = aml.Dataset(
            table_specs={table: f"bq://{PROJECT}.input.{table}" for table in TABLES},
            date_range=_interval(1, 4_000_000_000),
        )
        operation = self._client.create_dataset(parent=_INSTANCE, dataset_id="payments", dataset=dataset)
        self._watch(operation)
        operation.result(timeout=1800)
        summary = self._summary(OWNER)
        self._rows = int(_at(summary.body, "transaction", "rows"))
        step.expect(self._rows > 0, f"imported and read back {self._rows:,} transactions", str(summary.body))
        parties = int(_at(summary.body, "party", "rows"))
        step.expect(parties > 0, f"and {parties:,} parties", str(summary.body))

    def _watch(self, operation: Any) -> None:
        """A progress bar of what is sealed on disk against what is read."""
        total = folder_size(self._stage.input)
        columns = (TextColumn("     sealing"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task("sealing", total=total)
            while not operation.done():
                progress.update(bar, completed=min(total, folder_size(self._stage.data_dir / "sealed")))
                time.sleep(0.1)

    # 5

    def _search(self, step: Step) -> None:
        total = folder_size(self._stage.data_dir)
        columns = (TextColumn("     searching"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task("searching", total=total)
            written = (self._stage.data_dir, self._stage.log)
            files, found = search(written, self._canaries, lambda size: progress.advance(bar, size))
        _, control = search([self._stage.input], self._canaries[:1] + self._canaries[-1:])
        step.expect(bool(control), "the search finds them in the input", "it found nothing where it must")
        where = f"{files} files, {total / (1 << 20):.0f} MiB"
        step.expect(
            not found, f"{len(self._canaries)} values of the input in none of {where}", str(found[:3])
        )

    # 6

    def _disable(self, step: Step) -> None:
        began = time.monotonic()
        self._set_state(1, "DISABLED")
        after = self._until(lambda: not self._summary(OWNER).ok, began)
        refused = self._summary(OWNER)
        step.expect(
            after < _LIMIT_S, f"refused {after * 1000:.0f} ms after the order to disable", f"{after:.2f} s"
        )
        step.expect(
            "is not enabled, current state is: DISABLED" in refused.message, refused.message, "other words"
        )
        self._refused_everywhere(step)
        instance = self._viewer.get_instance(name=_INSTANCE)
        step.expect(instance.name == _INSTANCE, "a viewer still gets the instance's metadata")
        began = time.monotonic()
        self._set_state(1, "ENABLED")
        after = self._until(lambda: self._summary(OWNER).ok, began)
        self._expect_whole(step, f"readable again {after * 1000:.0f} ms after the order to enable")

    def _refused_everywhere(self, step: Step) -> None:
        reads: list[tuple[str, Callable[[], Any]]] = [
            ("GetDataset", lambda: self._client.get_dataset(name=_DATASET)),
            ("ListDatasets", lambda: list(self._client.list_datasets(parent=_INSTANCE))),
            ("GetDataset by a viewer", lambda: self._viewer.get_dataset(name=_DATASET)),
        ]
        for what, read in reads:
            step.expect(_refused(read), f"{what} is refused", "it answered")

    # 7

    def _rotate(self, step: Step) -> None:
        before = _digests(self._stage.data_dir / "sealed")
        made = self._call("POST", f"cloudkms/v1/{_KEY}/cryptoKeyVersions", {})
        version = made.body.get("name", "?")
        began = time.monotonic()
        self._call("POST", f"cloudkms/v1/{_KEY}:updatePrimaryVersion", {"cryptoKeyVersionId": "2"})
        after = self._until(lambda: self._version_in_use() == version, began, limit_s=30)
        step.expect(
            self._version_in_use() == version,
            f"the key-encryption key is wrapped by version 2, {after * 1000:.0f} ms after the rotation",
            str(self._version_in_use()),
        )
        step.expect(_digests(self._stage.data_dir / "sealed") == before, "no sealed file changed by a byte")
        gone = self._call("POST", f"cloudkms/v1/{_KEY}/cryptoKeyVersions/1:destroy", {})
        step.expect(gone.body.get("state") == "DESTROY_SCHEDULED", "version 1 is scheduled for destruction")
        self._expect_whole(step, "still readable")

    def _version_in_use(self) -> str:
        rows = self._call("GET", f"cloudkms/v1/{_KEY}:protectedResources").body.get("protectedResources", [])
        return next((row["cryptoKeyVersion"] for row in rows if row["name"].endswith(_INSTANCE)), "")

    # 8

    def _revoke(self, step: Step) -> None:
        began = time.monotonic()
        self._set_key_members([])
        after = self._until(lambda: not self._summary(OWNER).ok, began)
        refused = self._summary(OWNER)
        step.expect(
            after < _LIMIT_S, f"refused {after * 1000:.0f} ms after the order to revoke", f"{after:.2f} s"
        )
        words = f"{self._agent} lacks permissions to KMS key {_KEY}"
        step.expect(words in refused.message, refused.message, "other words")
        self._client.delete_instance(name=_INSTANCE).result(timeout=120)
        left = [instance.name for instance in self._client.list_instances(parent=PARENT)]
        step.expect(not left, "the owner deleted the instance all the same", str(left))
        sealed = self._stage.data_dir / "sealed"
        self._until(lambda: folder_size(sealed) == 0, time.monotonic(), limit_s=10)
        step.expect(folder_size(sealed) == 0, "and nothing of it is left on disk")

    # helpers

    def _call(self, verb: str, path: str, body: Any = None) -> Reply:
        return self._rest.call(verb, path, body, who=OWNER)

    def _run(self, step: Step, *words: str) -> str:
        status, text = self._gcloud.run(*words) if self._gcloud else (1, "gcloud is not installed")
        if status != 0:
            step.failed.append(f"gcloud {' '.join(words[:4])}: {text[:300]}")
        return text

    def _summary(self, who: str) -> Reply:
        return self._rest.call("GET", f"financialservices/v1/{_DATASET}:summarize", who=who)

    def _expect_whole(self, step: Step, text: str) -> None:
        reply = self._summary(OWNER)
        rows = int(_at(reply.body, "transaction", "rows")) if reply.ok else 0
        step.expect(rows == self._rows, f"{text}: all {rows:,} transactions", reply.message)

    def _set_state(self, version: int, state: str) -> None:
        path = f"cloudkms/v1/{_KEY}/cryptoKeyVersions/{version}?updateMask=state"
        self._call("PATCH", path, {"state": state})

    def _set_key_members(self, members: list[str]) -> Reply:
        policy = self._call("GET", f"cloudkms/v1/{_KEY}:getIamPolicy").body
        policy["bindings"] = [{"role": ROLE, "members": members}] if members else []
        return self._call("POST", f"cloudkms/v1/{_KEY}:setIamPolicy", {"policy": policy})

    def _grant_viewer(self) -> None:
        path = f"cloudresourcemanager/v1/projects/{PROJECT}"
        policy = self._call("POST", f"{path}:getIamPolicy", {}).body
        role = {"role": "roles/financialservices.viewer", "members": [VIEWER]}
        policy["bindings"] = [*policy.get("bindings", []), role]
        self._call("POST", f"{path}:setIamPolicy", {"policy": policy})

    def _until(self, holds: Callable[[], bool], began: float, limit_s: float = 5.0) -> float:
        """Seconds since `began` until it holds, tried without pause; the limit if it does not."""
        while time.monotonic() - began < limit_s:
            if holds():
                return time.monotonic() - began
        return limit_s


def _refused(read: Callable[[], Any]) -> bool:
    try:
        read()
    except GoogleAPICallError:
        return True
    return False


def _interval(start_s: int, end_s: int) -> interval_pb2.Interval:
    return interval_pb2.Interval(
        start_time=timestamp_pb2.Timestamp(seconds=start_s), end_time=timestamp_pb2.Timestamp(seconds=end_s)
    )


def _at(body: dict[str, Any], *path: str) -> Any:
    value: Any = body
    for part in path:
        value = value.get(part, {}) if isinstance(value, dict) else {}
    return value or 0


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
