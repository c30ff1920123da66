"""Keys and versions under random use, against a model of the documentation that is written down apart.

The model is that of Cloud KMS: "Key version states", "Key rotation", "Destroy and restore key versions",
"Re-import destroyed keys", DeleteCryptoKey. Every call must answer as the model says, and the resources must
then read as the model's.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keystead.api.clock import moment
from keystead.api.errors import AlreadyExists, ApiError, FailedPrecondition, InvalidArgument, NotFound
from keystead.kms.messages import (
    AsymmetricSignRequest,
    CreateCryptoKeyRequest,
    CreateCryptoKeyVersionRequest,
    CreateImportJobRequest,
    CryptoKeyVersion,
    DeleteCryptoKeyRequest,
    DeleteCryptoKeyVersionRequest,
    GetCryptoKeyRequest,
    GetImportJobRequest,
    GetPublicKeyRequest,
    ImportCryptoKeyVersionRequest,
    ListCryptoKeyVersionsRequest,
    MacSignRequest,
    MacVerifyRequest,
    RawDecryptRequest,
    RawEncryptRequest,
    RestoreCryptoKeyVersionRequest,
    UpdateCryptoKeyPrimaryVersionRequest,
    UpdateCryptoKeyRequest,
)
from tests.kms.backends import outside
from tests.platform import LOCATION, Platform

RING = f"{LOCATION}/keyRings/ring"
DAY = dt.timedelta(days=1)
METHOD = "HPKE_KEM_ML_KEM_768_HKDF_SHA256_AES_256_GCM"
KINDS = {
    "sym": ("ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION"),
    "imported": ("ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION"),
    "raw": ("RAW_ENCRYPT_DECRYPT", "AES_256_GCM"),
    "mac": ("MAC", "HMAC_SHA256"),
    "sign": ("ASYMMETRIC_SIGN", "EC_SIGN_ED25519"),
}
ENCRYPTING = ("sym", "imported")
MATERIAL = (bytes(range(32)), bytes(range(32, 64)))
HOLDING = frozenset({"ENABLED", "DISABLED", "DESTROY_SCHEDULED"})


class Deferred(Executor):
    """Holds what is submitted until it is told to run it."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.waiting.append(lambda: function(*args, **kwargs))
        return Future()

    def run(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


@dataclass
class ModelVersion:
    state: str = "ENABLED"
    destroy_time: dt.datetime | None = None
    was_imported: bool = False  # its key came, or was to come, from outside
    held: bytes | None = None  # the imported material it ever held
    arriving: bytes | None = None  # what an import will unwrap to; None is garbage
    until: dt.datetime | None = None  # when the import job expires that can unwrap it


@dataclass
class ModelKey:
    kind: str
    destroy_after: dt.timedelta
    versions: dict[int, ModelVersion] = field(default_factory=dict)
    last: int = 0
    primary: int = 0
    period: dt.timedelta | None = None
    next_rotation: dt.datetime | None = None

    def add(self, version: ModelVersion) -> int:
        self.last += 1
        self.versions[self.last] = version
        return self.last


@dataclass(frozen=True)
class Message:
    key: str
    version: int
    plaintext: bytes
    ciphertext: bytes


@dataclass
class ModelJob:
    name: str
    expires: dt.datetime
    public: bytes


Refusal = type[ApiError] | tuple[type[ApiError], ...] | None
key_ids = st.sampled_from(["a", "b", "c", "d"])
numbers = st.integers(1, 4)


class KeyMachine(RuleBasedStateMachine):
    """`new_store(directory)` gives the URL of an empty store; `steps` counts every step ever taken."""

    new_store: ClassVar[Callable[[Path], str]]
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name)
        self.background = Deferred()
        url = type(self).new_store(path)
        self.platform = Platform(path, store_url=url, key_executor=self.background)
        self.keys: dict[str, ModelKey] = {}
        self.retired: set[str] = set()
        self.messages: list[Message] = []
        self.job: ModelJob | None = None
        self.jobs = 0
        self.touched: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self.platform.ring()
        self.create_key("a", kind="sym", skip=False, period=2, destroy_days=3)
        self.create_key("b", kind="imported", skip=True, period=None, destroy_days=0)

    def teardown(self) -> None:
        self.touched = set(self.keys)
        self.reads_as_the_model()
        self.platform.close()
        self.directory.cleanup()

    # --- calls ---------------------------------------------------------------------------------------

    def expect(self, refusal: Refusal, rpc: str, request: Any) -> Any:
        if refusal is None:
            return self.platform.call(rpc, request)
        with pytest.raises(refusal):
            self.platform.call(rpc, request)
        return None

    @property
    def now(self) -> dt.datetime:
        return self.platform.clock.now()

    def found(self, key_id: str, number: int) -> ModelVersion | None:
        self.touched.add(key_id)
        key = self.keys.get(key_id)
        return key.versions.get(number) if key else None

    @rule(
        key_id=key_ids,
        kind=st.sampled_from(sorted(KINDS)),
        skip=st.booleans(),
        period=st.none() | st.integers(1, 3),
        destroy_days=st.integers(0, 4),
    )
    def create_key(
        self, key_id: str, *, kind: str, skip: bool, period: int | None, destroy_days: int
    ) -> None:
        purpose, algorithm = KINDS[kind]
        model = ModelKey(kind, destroy_days * DAY)
        wanted: dict[str, Any] = {
            "purpose": purpose,
            "version_template": {"algorithm": algorithm},
            "destroy_scheduled_duration": destroy_days * DAY,
            "import_only": kind == "imported",
        }
        if period is not None:
            model.period = wanted["rotation_period"] = period * DAY
            model.next_rotation = self.now + model.period
        if not skip:
            made = model.add(ModelVersion("PENDING_GENERATION" if kind == "sign" else "ENABLED"))
            model.primary = made if kind == "sym" else 0
        request = CreateCryptoKeyRequest(
            parent=RING, crypto_key_id=key_id, crypto_key=wanted, skip_initial_version_creation=skip
        )
        wrong = (
            (period is not None and kind != "sym")
            or (destroy_days == 0 and kind != "imported")
            or (kind == "imported" and not skip)
        )
        taken = key_id in self.keys or key_id in self.retired
        refusals = tuple(
            error for error, is_so in ((InvalidArgument, wrong), (AlreadyExists, taken)) if is_so
        )
        if refusals:
            with pytest.raises(refusals):
                self.platform.call("CreateCryptoKey", request)
            return
        self.platform.call("CreateCryptoKey", request)
        self.keys[key_id] = model
        self.touched.add(key_id)

    @rule(key_id=key_ids)
    def create_version(self, key_id: str) -> None:
        key = self.keys.get(key_id)
        refusal: Refusal = None if key else NotFound
        if key is not None and key.kind == "imported":
            refusal = FailedPrecondition
        request = CreateCryptoKeyVersionRequest(parent=_key(key_id))
        made = self.expect(refusal, "CreateCryptoKeyVersion", request)
        if key is not None and made is not None:
            state = "PENDING_GENERATION" if key.kind == "sign" else "ENABLED"
            assert made.name == _version(key_id, key.add(ModelVersion(state)))
            assert _state(made) == state
            self.touched.add(key_id)

    def draw_version(self, data: st.DataObject, *states: str) -> tuple[str, int]:
        """A version: mostly one in a state that makes the call interesting, at times any, or none at all."""
        found = [
            (key_id, number)
            for key_id, key in self.keys.items()
            for number, version in key.versions.items()
            if version.state in states
        ]
        anything = st.tuples(key_ids, numbers)
        return data.draw(st.sampled_from(found) | st.sampled_from(found) | anything if found else anything)

    @rule(data=st.data())
    def set_primary(self, data: st.DataObject) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED")
        there = self.found(key_id, number) is not None
        key = self.keys.get(key_id)
        refusal: Refusal = None if there else NotFound
        if key is not None and key.kind not in ENCRYPTING:
            refusal = FailedPrecondition
        request = UpdateCryptoKeyPrimaryVersionRequest(name=_key(key_id), crypto_key_version_id=str(number))
        self.expect(refusal, "UpdateCryptoKeyPrimaryVersion", request)
        if key is not None and refusal is None:
            key.primary = number

    @rule(key_id=key_ids, period=st.none() | st.integers(1, 3))
    def reschedule(self, key_id: str, period: int | None) -> None:
        wanted: dict[str, Any] = {"name": _key(key_id)}
        if period is not None:
            wanted["rotation_period"] = period * DAY
            wanted["next_rotation_time"] = self.now + period * DAY
        request = UpdateCryptoKeyRequest(
            crypto_key=wanted, update_mask={"paths": ["rotation_period", "next_rotation_time"]}
        )
        key = self.keys.get(key_id)
        refusal: Refusal = None if key else NotFound
        if key is not None and key.kind != "sym" and period is not None:
            refusal = InvalidArgument
        self.expect(refusal, "UpdateCryptoKey", request)
        if key is not None and refusal is None:
            key.period = None if period is None else period * DAY
            key.next_rotation = None if period is None else self.now + period * DAY
            self.touched.add(key_id)

    @rule(data=st.data(), state=st.sampled_from(["ENABLED", "DISABLED"]))
    def enable_or_disable(self, data: st.DataObject, state: str) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED")
        version = self.found(key_id, number)
        refusal = _unless(version, "ENABLED", "DISABLED")
        if refusal is not None:
            with pytest.raises(refusal):
                self.platform.set_state(_version(key_id, number), state)
            return
        self.platform.set_state(_version(key_id, number), state)
        assert version is not None
        version.state = state

    @rule(data=st.data())
    def destroy(self, data: st.DataObject) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED")
        version = self.found(key_id, number)
        refusal = _unless(version, "ENABLED", "DISABLED")
        if refusal is not None:
            with pytest.raises(refusal):
                self.platform.destroy(_version(key_id, number))
            return
        self.platform.destroy(_version(key_id, number))
        assert version is not None
        version.state = "DESTROY_SCHEDULED"
        version.destroy_time = self.now + self.keys[key_id].destroy_after

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        key_id, number = self.draw_version(data, "DESTROY_SCHEDULED")
        version = self.found(key_id, number)
        refusal = _unless(version, "DESTROY_SCHEDULED")
        if version is not None and version.destroy_time is not None and version.destroy_time <= self.now:
            refusal = FailedPrecondition
        request = RestoreCryptoKeyVersionRequest(name=_version(key_id, number))
        self.expect(refusal, "RestoreCryptoKeyVersion", request)
        if version is not None and refusal is None:
            version.state = "DISABLED"
            version.destroy_time = None

    @rule(data=st.data())
    def delete_version(self, data: st.DataObject) -> None:
        key_id, number = self.draw_version(data, "DESTROYED", "IMPORT_FAILED")
        version = self.found(key_id, number)
        refusal = _unless(version, "DESTROYED", "IMPORT_FAILED", "GENERATION_FAILED")
        if version is not None and version.held is not None:
            refusal = FailedPrecondition
        request = DeleteCryptoKeyVersionRequest(name=_version(key_id, number))
        self.expect(refusal, "DeleteCryptoKeyVersion", request)
        if refusal is None:
            key = self.keys[key_id]
            del key.versions[number]
            if key.primary == number:
                key.primary = 0

    @rule(key_id=key_ids)
    def delete_key(self, key_id: str) -> None:
        key = self.keys.get(key_id)
        refusal: Refusal = NotFound if key is None else FailedPrecondition if key.versions else None
        self.expect(refusal, "DeleteCryptoKey", DeleteCryptoKeyRequest(name=_key(key_id)))
        if refusal is None:
            del self.keys[key_id]
            self.retired.add(key_id)
            self.touched.discard(key_id)

    # --- time and what runs by itself ----------------------------------------------------------------

    @rule()
    def run_background(self) -> None:
        self.background.run()
        for key_id, key in self.keys.items():
            for version in key.versions.values():
                if version.state == "PENDING_GENERATION":
                    version.state = "ENABLED"
                elif version.state == "PENDING_IMPORT":
                    self.arrive(version)
                else:
                    continue
                self.touched.add(key_id)

    @staticmethod
    def arrive(version: ModelVersion) -> None:
        good = version.arriving is not None and version.held in {None, version.arriving}
        version.state = "ENABLED" if good else "IMPORT_FAILED"
        version.held = version.arriving if good else version.held
        version.arriving = None

    @rule(hours=st.sampled_from([0, 1, 11, 24, 48, 96]))
    def let_time_pass(self, hours: int) -> None:
        self.platform.clock.advance(dt.timedelta(hours=hours))
        self.platform.schedule.run_due(self.now)
        for key_id, key in self.keys.items():
            self.touched.add(key_id)
            if key.next_rotation is not None and key.next_rotation <= self.now:
                key.primary = key.add(ModelVersion())
                if key.period is None:
                    key.next_rotation = None
                while key.next_rotation is not None and key.period and key.next_rotation <= self.now:
                    key.next_rotation += key.period
            for version in key.versions.values():
                if version.destroy_time is not None and version.destroy_time <= self.now:
                    version.state, version.destroy_time = "DESTROYED", None
                if version.until is not None and version.until <= self.now:
                    version.arriving = None  # its job's key is gone

    # --- import --------------------------------------------------------------------------------------

    def usable_job(self) -> ModelJob:
        if self.job is None or self.job.expires <= self.now:
            self.jobs += 1
            request = CreateImportJobRequest(
                parent=RING,
                import_job_id=f"j{self.jobs}",
                import_job={"import_method": METHOD, "protection_level": "SOFTWARE"},
            )
            name = self.platform.call("CreateImportJob", request).name
            self.run_background()
            made = self.platform.call("GetImportJob", GetImportJobRequest(name=name))
            self.job = ModelJob(name, self.now + 3 * DAY, bytes(made.public_key.data))
        return self.job

    @rule(data=st.data(), material=st.none() | st.sampled_from(MATERIAL), new=st.booleans())
    def import_version(self, data: st.DataObject, material: bytes | None, *, new: bool) -> None:
        job = self.usable_job()
        key_id, number = self.draw_version(data, "DESTROYED", "IMPORT_FAILED")
        if new:
            key_id = data.draw(st.sampled_from([*sorted(self.keys), key_id]))
        version = None if new else self.found(key_id, number)
        key = self.keys.get(key_id)
        refusal: Refusal = None
        missing = key is None or (not new and version is None)
        if key is not None and key.kind not in ENCRYPTING:
            refusal = (InvalidArgument, NotFound) if missing else InvalidArgument  # which is seen first
        elif missing:
            refusal = NotFound
        elif version is not None and not (
            version.was_imported and version.state in {"DESTROYED", "IMPORT_FAILED"}
        ):
            refusal = FailedPrecondition
        wrapped = bytes(1200) if material is None else outside.wrap(METHOD, job.public, material)
        request = ImportCryptoKeyVersionRequest(
            parent=_key(key_id),
            crypto_key_version="" if new else _version(key_id, number),
            algorithm="GOOGLE_SYMMETRIC_ENCRYPTION",
            import_job=job.name,
            wrapped_key=wrapped,
        )
        made = self.expect(refusal, "ImportCryptoKeyVersion", request)
        if made is None or key is None:
            return
        assert _state(made) == "PENDING_IMPORT"
        self.touched.add(key_id)
        if version is None:
            version = ModelVersion(was_imported=True)
            assert made.name == _version(key_id, key.add(version))
        version.state, version.arriving, version.destroy_time = "PENDING_IMPORT", material, None
        version.until = job.expires

    # --- use -----------------------------------------------------------------------------------------

    @rule(data=st.data(), by_key=st.booleans(), plaintext=st.binary(min_size=1, max_size=20))
    def encrypt(self, data: st.DataObject, *, by_key: bool, plaintext: bytes) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED")
        key = self.keys.get(key_id)
        chosen = (key.primary if key else 0) if by_key else number
        refusal = _unless(self.found(key_id, chosen), "ENABLED")
        if key is not None and (key.kind not in ENCRYPTING or (by_key and not chosen)):
            refusal = FailedPrecondition
        name = _key(key_id) if by_key else _version(key_id, number)
        if refusal is not None:
            with pytest.raises(refusal):
                self.platform.encrypt(name, plaintext, b"aad")
            return
        self.messages.append(
            Message(key_id, chosen, plaintext, self.platform.encrypt(name, plaintext, b"aad"))
        )

    @rule(data=st.data(), key_id=key_ids)
    @precondition(lambda self: self.messages)
    def decrypt(self, data: st.DataObject, key_id: str) -> None:
        message = data.draw(st.sampled_from(self.messages))
        key = self.keys.get(key_id)
        refusal: Refusal = None
        if key is None:
            refusal = NotFound
        elif key.kind not in ENCRYPTING:
            refusal = FailedPrecondition
        elif key_id != message.key or message.version not in key.versions:
            refusal = InvalidArgument
        else:
            refusal = _unless(self.found(key_id, message.version), "ENABLED")
        if refusal is not None:
            with pytest.raises(refusal):
                self.platform.decrypt(_key(key_id), message.ciphertext, b"aad")
            return
        assert self.platform.decrypt(_key(key_id), message.ciphertext, b"aad") == message.plaintext

    @rule(data=st.data(), kind=st.sampled_from(["raw", "mac", "sign", "public"]))
    def use_version(self, data: st.DataObject, kind: str) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED", "PENDING_GENERATION")
        key = self.keys.get(key_id)
        name = _version(key_id, number)
        refusal = _unless(self.found(key_id, number), "ENABLED")
        if key is not None and key.kind != {"public": "sign"}.get(kind, kind):
            refusal = FailedPrecondition
        if kind == "raw":
            sealed = self.expect(refusal, "RawEncrypt", RawEncryptRequest(name=name, plaintext=b"text"))
            if sealed is not None:
                iv = sealed.initialization_vector
                opening = RawDecryptRequest(name=name, ciphertext=sealed.ciphertext, initialization_vector=iv)
                assert self.platform.call("RawDecrypt", opening).plaintext == b"text"
        elif kind == "mac":
            tag = self.expect(refusal, "MacSign", MacSignRequest(name=name, data=b"data"))
            if tag is not None:
                check = MacVerifyRequest(name=name, data=b"data", mac=tag.mac)
                assert self.platform.call("MacVerify", check).success
        elif kind == "sign":
            signed = self.expect(refusal, "AsymmetricSign", AsymmetricSignRequest(name=name, data=b"data"))
            assert signed is None or len(signed.signature) == 64
        else:
            public = self.expect(refusal, "GetPublicKey", GetPublicKeyRequest(name=name))
            assert public is None or "BEGIN PUBLIC KEY" in public.pem

    # --- what must hold after each -------------------------------------------------------------------

    @invariant()
    def reads_as_the_model(self) -> None:
        type(self).steps += 1
        for key_id in sorted(self.touched & set(self.keys)):
            model = self.keys[key_id]
            key = self.platform.call("GetCryptoKey", GetCryptoKeyRequest(name=_key(key_id)))
            assert key.primary.name == (_version(key_id, model.primary) if model.primary else "")
            if model.primary:
                assert _state(key.primary) == model.versions[model.primary].state
            following = moment(key.next_rotation_time) if key.HasField("next_rotation_time") else None
            assert following == model.next_rotation
            request = ListCryptoKeyVersionsRequest(parent=_key(key_id), page_size=1000)
            listed = self.platform.call("ListCryptoKeyVersions", request)
            states = [(version.name, _state(version)) for version in listed.crypto_key_versions]
            assert states == [
                (_version(key_id, number), version.state)
                for number, version in sorted(model.versions.items())
            ]
            assert listed.total_size == len(model.versions)
            for version in listed.crypto_key_versions:
                self.shows_its_times(version)
        self.touched.clear()

    def shows_its_times(self, version: Any) -> None:
        state = _state(version)
        assert version.HasField("destroy_time") == (state in {"DESTROY_SCHEDULED", "DESTROYED"})
        assert version.HasField("destroy_event_time") == (state == "DESTROYED")
        assert bool(version.import_failure_reason) == (state == "IMPORT_FAILED")

    @invariant()
    def keeps_material_of_what_holds_a_key(self) -> None:
        with self.platform.store.read() as tx:
            kept = {name for name in tx.material.list(RING) if "/importJobs/" not in name}
        assert kept == {
            _version(key_id, number)
            for key_id, model in self.keys.items()
            for number, version in model.versions.items()
            if version.state in HOLDING
        }


def run_machine(new_store: Callable[[Path], str], steps: int) -> int:
    """Run machines on stores of this kind until so many steps were taken; returns how many."""

    class Machine(KeyMachine):
        pass

    Machine.new_store = staticmethod(new_store)  # type: ignore[assignment]
    Machine.steps = 0
    while Machine.steps < steps:
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=25,
                stateful_step_count=80,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
    return Machine.steps


def _key(key_id: str) -> str:
    return f"{RING}/cryptoKeys/{key_id}"


def _version(key_id: str, number: int) -> str:
    return f"{_key(key_id)}/cryptoKeyVersions/{number}"


def _state(version: Any) -> str:
    return str(CryptoKeyVersion.CryptoKeyVersionState.Name(version.state))


def _unless(version: ModelVersion | None, *states: str) -> Refusal:
    if version is None:
        return NotFound
    return None if version.state in states else FailedPrecondition
