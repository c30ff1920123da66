"""Keys and versions under random use, against a model of the documentation that is written down apart."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keystead.api.clock import moment
from keystead.api.errors import AlreadyExists, ApiError, FailedPrecondition, InvalidArgument, NotFound
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateCryptoKeyVersionRequest,
    CryptoKeyVersion,
    GetCryptoKeyRequest,
    ListCryptoKeyVersionsRequest,
    RestoreCryptoKeyVersionRequest,
    UpdateCryptoKeyPrimaryVersionRequest,
    UpdateCryptoKeyRequest,
)
from tests.platform import LOCATION, Platform

RING = f"{LOCATION}/keyRings/ring"
DAY = dt.timedelta(days=1)


@dataclass
class ModelVersion:
    state: str = "ENABLED"
    destroy_time: dt.datetime | None = None


@dataclass
class ModelKey:
    destroy_after: dt.timedelta
    versions: list[ModelVersion] = field(default_factory=list)
    primary: int = 0
    period: dt.timedelta | None = None
    next_rotation: dt.datetime | None = None

    def version(self, number: int) -> ModelVersion | None:
        return self.versions[number - 1] if 0 < number <= len(self.versions) else None


@dataclass(frozen=True)
class Message:
    key: str
    version: int
    plaintext: bytes
    ciphertext: bytes


Refusal = type[ApiError] | None
key_ids = st.sampled_from(["a", "b"])
numbers = st.integers(1, 4)


class KeyMachine(RuleBasedStateMachine):
    """Every call must answer as the model says, and the resources must then read as the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.platform = Platform(Path(self.directory.name))
        self.keys: dict[str, ModelKey] = {}
        self.messages: list[Message] = []

    @initialize()
    def begin(self) -> None:
        self.platform.ring()
        self.create_key("a", skip=False, period=2, destroy_days=3)

    def teardown(self) -> None:
        self.platform.close()
        self.directory.cleanup()

    # --- calls ---------------------------------------------------------------------------------------

    def expect(self, refusal: Refusal, act: Callable[[], Any]) -> Any:
        if refusal is None:
            return act()
        with pytest.raises(refusal):
            act()
        return None

    def call(self, rpc: str, request: Any) -> Callable[[], Any]:
        return lambda: self.platform.call(rpc, request)

    @property
    def now(self) -> dt.datetime:
        return self.platform.clock.now()

    def found(self, key_id: str, number: int) -> ModelVersion | None:
        key = self.keys.get(key_id)
        return key.version(number) if key else None

    @rule(
        key_id=key_ids,
        skip=st.booleans(),
        period=st.none() | st.integers(1, 3),
        destroy_days=st.integers(1, 4),
    )
    def create_key(self, key_id: str, *, skip: bool, period: int | None, destroy_days: int) -> None:
        model = ModelKey(destroy_days * DAY)
        wanted: dict[str, Any] = {
            "purpose": "ENCRYPT_DECRYPT",
            "destroy_scheduled_duration": destroy_days * DAY,
        }
        if period is not None:
            model.period = wanted["rotation_period"] = period * DAY
            model.next_rotation = self.now + model.period
        if not skip:
            model.versions.append(ModelVersion())
            model.primary = 1
        request = CreateCryptoKeyRequest(
            parent=RING, crypto_key_id=key_id, crypto_key=wanted, skip_initial_version_creation=skip
        )
        self.expect(AlreadyExists if key_id in self.keys else None, self.call("CreateCryptoKey", request))
        self.keys.setdefault(key_id, model)

    @rule(key_id=key_ids)
    def create_version(self, key_id: str) -> None:
        request = CreateCryptoKeyVersionRequest(parent=_key(key_id))
        act = self.call("CreateCryptoKeyVersion", request)
        made = self.expect(None if key_id in self.keys else NotFound, act)
        if made is not None:
            self.keys[key_id].versions.append(ModelVersion())
            assert made.name == _version(key_id, len(self.keys[key_id].versions))

    def draw_version(self, data: st.DataObject, *states: str) -> tuple[str, int]:
        """A version: mostly one in a state that makes the call interesting, at times any, or none at all."""
        found = [
            (key_id, number)
            for key_id, key in self.keys.items()
            for number, version in enumerate(key.versions, 1)
            if version.state in states
        ]
        anything = st.tuples(key_ids, numbers)
        return data.draw(st.sampled_from(found) | st.sampled_from(found) | anything if found else anything)

    @rule(data=st.data())
    def set_primary(self, data: st.DataObject) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED")
        there = self.found(key_id, number) is not None
        request = UpdateCryptoKeyPrimaryVersionRequest(name=_key(key_id), crypto_key_version_id=str(number))
        self.expect(None if there else NotFound, self.call("UpdateCryptoKeyPrimaryVersion", request))
        if there:
            self.keys[key_id].primary = number

    @rule(key_id=key_ids, period=st.none() | st.integers(1, 3))
    @precondition(lambda self: self.keys)
    def reschedule(self, key_id: str, period: int | None) -> None:
        wanted: dict[str, Any] = {"name": _key(key_id)}
        if period is not None:
            wanted["rotation_period"] = period * DAY
            wanted["next_rotation_time"] = self.now + period * DAY
        request = UpdateCryptoKeyRequest(
            crypto_key=wanted, update_mask={"paths": ["rotation_period", "next_rotation_time"]}
        )
        self.expect(None if key_id in self.keys else NotFound, self.call("UpdateCryptoKey", request))
        if key_id in self.keys:
            self.keys[key_id].period = None if period is None else period * DAY
            self.keys[key_id].next_rotation = None if period is None else self.now + period * DAY

    @rule(data=st.data(), state=st.sampled_from(["ENABLED", "DISABLED"]))
    def enable_or_disable(self, data: st.DataObject, state: str) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED")
        version = self.found(key_id, number)
        refusal = _unless(version, "ENABLED", "DISABLED")
        self.expect(refusal, lambda: self.platform.set_state(_version(key_id, number), state))
        if version is not None and refusal is None:
            version.state = state

    @rule(data=st.data())
    def destroy(self, data: st.DataObject) -> None:
        key_id, number = self.draw_version(data, "ENABLED", "DISABLED")
        version = self.found(key_id, number)
        refusal = _unless(version, "ENABLED", "DISABLED")
        self.expect(refusal, lambda: self.platform.destroy(_version(key_id, number)))
        if version is not None and refusal is None:
            version.state = "DESTROY_SCHEDULED"
            version.destroy_time = self.now + self.keys[key_id].destroy_after

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        key_id, number = self.draw_version(data, "DESTROY_SCHEDULED")
        version = self.found(key_id, number)
        refusal = _unless(version, "DESTROY_SCHEDULED")
        request = RestoreCryptoKeyVersionRequest(name=_version(key_id, number))
        self.expect(refusal, self.call("RestoreCryptoKeyVersion", request))
        if version is not None and refusal is None:
            version.state = "DISABLED"
            version.destroy_time = None

    @rule(hours=st.sampled_from([1, 11, 24, 48, 96]))
    def let_time_pass(self, hours: int) -> None:
        self.platform.clock.advance(dt.timedelta(hours=hours))
        changes = 0
        for key in self.keys.values():
            if key.next_rotation is not None and key.next_rotation <= self.now:
                key.versions.append(ModelVersion())
                key.primary = len(key.versions)
                changes += 1
                if key.period is None:
                    key.next_rotation = None
                while key.next_rotation is not None and key.period and key.next_rotation <= self.now:
                    key.next_rotation += key.period
            for version in key.versions:
                if version.destroy_time is not None and version.destroy_time <= self.now:
                    version.state, version.destroy_time = "DESTROYED", None
                    changes += 1
        assert self.platform.schedule.run_due(self.now) == changes

    @rule(key_id=key_ids, number=st.none() | numbers, plaintext=st.binary(min_size=1, max_size=20))
    def encrypt(self, key_id: str, number: int | None, plaintext: bytes) -> None:
        key = self.keys.get(key_id)
        chosen = number or (key.primary if key else 0)
        version = self.found(key_id, chosen)
        name = _key(key_id) if number is None else _version(key_id, number)
        refusal = _unless(version, "ENABLED")
        if key is not None and number is None and not chosen:
            refusal = FailedPrecondition
        ciphertext = self.expect(refusal, lambda: self.platform.encrypt(name, plaintext, b"aad"))
        if ciphertext is not None:
            self.messages.append(Message(key_id, chosen, plaintext, ciphertext))

    @rule(data=st.data(), key_id=key_ids)
    @precondition(lambda self: self.messages)
    def decrypt(self, data: st.DataObject, key_id: str) -> None:
        message = data.draw(st.sampled_from(self.messages))
        refusal: Refusal
        if key_id not in self.keys:
            refusal = NotFound
        elif key_id != message.key:
            refusal = InvalidArgument
        else:
            refusal = _unless(self.found(key_id, message.version), "ENABLED")
        opened = self.expect(refusal, lambda: self.platform.decrypt(_key(key_id), message.ciphertext, b"aad"))
        assert opened is None or opened == message.plaintext

    # --- what must hold after each -------------------------------------------------------------------

    @invariant()
    def reads_as_the_model(self) -> None:
        for key_id, model in self.keys.items():
            key = self.platform.call("GetCryptoKey", GetCryptoKeyRequest(name=_key(key_id)))
            assert key.primary.name == (_version(key_id, model.primary) if model.primary else "")
            if model.primary:
                assert _state(key.primary) == model.versions[model.primary - 1].state
            following = moment(key.next_rotation_time) if key.HasField("next_rotation_time") else None
            assert following == model.next_rotation
            request = ListCryptoKeyVersionsRequest(parent=_key(key_id), page_size=1000)
            listed = self.platform.call("ListCryptoKeyVersions", request)
            assert [(version.name, _state(version)) for version in listed.crypto_key_versions] == [
                (_version(key_id, number), version.state) for number, version in enumerate(model.versions, 1)
            ]

    @invariant()
    def keeps_material_of_what_is_not_destroyed(self) -> None:
        with self.platform.store.read() as tx:
            kept = set(tx.material.list(RING))
        assert kept == {
            _version(key_id, number)
            for key_id, model in self.keys.items()
            for number, version in enumerate(model.versions, 1)
            if version.state != "DESTROYED"
        }


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


TestKeyMachine = KeyMachine.TestCase
TestKeyMachine.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
