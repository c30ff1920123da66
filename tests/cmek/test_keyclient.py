"""Key clients: one contract, which every way to call a customer's key has to keep."""

from __future__ import annotations

import datetime as dt
from typing import Protocol

import pytest

from keystead.api import errors
from keystead.cmek.answers import Answer, KeyUnavailableError, answer_of
from keystead.cmek.keyclient import InProcessKeyClient, KeyClient
from keystead.crypto.secret import SecretBytes
from tests.cmek.scene import FIRST, KEY, Scene
from tests.platform import CRYPTER, Platform

SECRET = bytes(range(32))


class Customer(Protocol):
    """What the contract needs of an implementation: a client, a key, and the customer's hand on the key."""

    client: KeyClient
    key: str

    def disable(self) -> None: ...
    def enable(self) -> None: ...
    def destroy(self) -> None: ...
    def revoke(self) -> None: ...
    def rotate(self) -> str: ...
    def lose_contact(self) -> None: ...


class KeyClientContract:
    """Derive, and give a fixture `customer`."""

    def test_what_was_wrapped_unwraps(self, customer: Customer) -> None:
        """The secret comes back, and the wrapping names the version that made it."""
        with SecretBytes(SECRET) as secret:
            wrapped = customer.client.encrypt(customer.key, secret, b"aad")
        assert wrapped.key_version.startswith(f"{customer.key}/cryptoKeyVersions/")
        assert SECRET not in wrapped.ciphertext
        with customer.client.decrypt(customer.key, wrapped.ciphertext, b"aad") as opened:
            assert opened == SecretBytes(SECRET)

    def test_a_wrapping_is_bound_to_its_aad(self, customer: Customer) -> None:
        """Under another AAD it does not open, which counts as the key not being there."""
        wrapped = customer.client.encrypt(customer.key, SecretBytes(SECRET), b"aad")
        with pytest.raises(KeyUnavailableError) as refused:
            customer.client.decrypt(customer.key, wrapped.ciphertext, b"other")
        assert refused.value.answer is Answer.DISABLED

    def test_the_version_that_encrypts_now_is_told(self, customer: Customer) -> None:
        """`describe` follows a rotation, and what older versions wrapped still opens."""
        old = customer.client.encrypt(customer.key, SecretBytes(SECRET), b"")
        assert customer.client.describe(customer.key) == old.key_version
        second = customer.rotate()
        assert customer.client.describe(customer.key) == second
        assert customer.client.encrypt(customer.key, SecretBytes(SECRET), b"").key_version == second
        assert customer.client.decrypt(customer.key, old.ciphertext, b"") == SecretBytes(SECRET)

    @pytest.mark.parametrize(
        ("deed", "answer"),
        [
            ("disable", Answer.DISABLED),
            ("destroy", Answer.DISABLED),
            ("revoke", Answer.DENIED),
            ("lose_contact", Answer.UNREACHABLE),
        ],
    )
    def test_every_way_to_lose_a_key_is_one_of_the_answers(
        self, customer: Customer, deed: str, answer: Answer
    ) -> None:
        """All three calls give it, with the key's name and what the key service said."""
        wrapped = customer.client.encrypt(customer.key, SecretBytes(SECRET), b"")
        getattr(customer, deed)()
        for attempt in (
            lambda: customer.client.encrypt(customer.key, SecretBytes(SECRET), b""),
            lambda: customer.client.decrypt(customer.key, wrapped.ciphertext, b""),
            lambda: customer.client.describe(customer.key),
        ):
            with pytest.raises(KeyUnavailableError) as refused:
                attempt()
            assert (refused.value.answer, refused.value.key) == (answer, customer.key)
            assert refused.value.cause.message
            assert SECRET.hex() not in str(refused.value)

    def test_a_key_that_comes_back_opens_everything_again(self, customer: Customer) -> None:
        """Disabled and enabled, nothing is lost."""
        wrapped = customer.client.encrypt(customer.key, SecretBytes(SECRET), b"")
        customer.disable()
        customer.enable()
        assert customer.client.decrypt(customer.key, wrapped.ciphertext, b"") == SecretBytes(SECRET)


class InProcessCustomer:
    """A key of the same deployment."""

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self._scene = scene
        self._monkeypatch = monkeypatch
        self.client: KeyClient = InProcessKeyClient(scene.platform.dispatcher, scene.agent, "keystead-test")
        self.key = KEY

    def disable(self) -> None:
        self._scene.platform.set_state(FIRST, "DISABLED")

    def enable(self) -> None:
        self._scene.platform.set_state(FIRST, "ENABLED")

    def destroy(self) -> None:
        platform = self._scene.platform
        platform.destroy(FIRST)
        platform.clock.advance(dt.timedelta(days=30))
        platform.schedule.run_due(platform.clock.now())

    def revoke(self) -> None:
        self._scene.platform.revoke(KEY, self._scene.agent, CRYPTER)

    def rotate(self) -> str:
        return self._scene.rotate()

    def lose_contact(self) -> None:
        def busy(*_: object) -> None:
            raise errors.Unavailable("The store is busy; retry the call.")

        self._scene.platform.cache.clear()
        self._monkeypatch.setattr(self._scene.platform.store, "read", busy)


class TestInProcessKeyClient(KeyClientContract):
    """The client of the same deployment's key service."""

    @pytest.fixture
    def customer(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Customer:
        return InProcessCustomer(scene, monkeypatch)


def test_the_service_calls_as_its_own_agent(scene: Scene, platform: Platform) -> None:
    """IAM sees the agent, and the audit trail names it where data access is recorded."""
    platform.record_data_access()
    client = InProcessKeyClient(platform.dispatcher, scene.agent, "keystead-test")
    client.encrypt(KEY, SecretBytes(SECRET), b"")
    last = platform.audit_bodies()[-1]
    assert scene.agent.removeprefix("serviceAccount:").encode() in last
    assert b"keystead-test" in last
    stranger = InProcessKeyClient(platform.dispatcher, "serviceAccount:x@example.com", "keystead-test")
    with pytest.raises(KeyUnavailableError) as refused:
        stranger.describe(KEY)
    assert refused.value.answer is Answer.DENIED


def test_a_key_that_is_not_there_is_denied_to_who_may_not_know(scene: Scene, platform: Platform) -> None:
    """An agent with grants on one key learns nothing of others; with a grant above, that it is missing."""
    client = InProcessKeyClient(platform.dispatcher, scene.agent, "keystead-test")
    for expected in (Answer.DENIED, Answer.DISABLED):
        with pytest.raises(KeyUnavailableError) as refused:
            client.describe(f"{KEY}-missing")
        assert refused.value.answer is expected
        platform.grant("projects/p1", scene.agent, CRYPTER)


@pytest.mark.parametrize("kind", errors.BY_CODE.values())
def test_every_error_of_a_key_service_is_one_answer(kind: type[errors.ApiError]) -> None:
    """A refusal of grants is DENIED, one of the key is DISABLED, and whatever says nothing is UNREACHABLE."""
    expected = {
        errors.PermissionDenied: Answer.DENIED,
        errors.Unauthenticated: Answer.DENIED,
        errors.FailedPrecondition: Answer.DISABLED,
        errors.NotFound: Answer.DISABLED,
        errors.InvalidArgument: Answer.DISABLED,
    }
    assert answer_of(kind("x")) is expected.get(kind, Answer.UNREACHABLE)
