"""The lease: how long a KEK is held, and that it is gone when the key is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from keystead.api.errors import FailedPrecondition, Unavailable
from keystead.cmek.answers import Answer, KeyUnavailableError
from keystead.cmek.lease import Lease
from keystead.crypto.secret import SecretBytes

KEK = bytes(range(32))
REFUSED = KeyUnavailableError("key", Answer.DISABLED, FailedPrecondition("disabled"))


class KeyService:
    """What a lease asks: gives the KEK, unless `refusal` is set; `on_ask` is called before it answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.kek = KEK
        self.refusal: Exception | None = None
        self.on_ask: Callable[[], None] = lambda: None
        self.given: list[SecretBytes] = []

    def __call__(self) -> SecretBytes:
        self.asked += 1
        refusal = self.refusal
        self.on_ask()
        if refusal is not None:
            raise refusal
        self.given.append(SecretBytes(self.kek))
        return self.given[-1]


class Time:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The lease's own time."""
    made = Time()
    monkeypatch.setattr("keystead.cmek.lease.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


@pytest.fixture
def service() -> KeyService:
    return KeyService()


@pytest.fixture
def lease(time: Time, service: KeyService) -> Lease:
    """A lease good for half a second, given at this moment."""
    return Lease(SecretBytes(KEK), service, 0.5)


def test_a_young_lease_asks_nobody(lease: Lease, service: KeyService, time: Time) -> None:
    """Up to its maximal age the KEK is given from memory."""
    time.now += 0.5
    assert lease.key() == SecretBytes(KEK)
    assert service.asked == 0


def test_an_old_lease_asks_once_and_is_young_again(lease: Lease, service: KeyService, time: Time) -> None:
    """Past its age it asks, once for as long again; what it was given for an answer is wiped."""
    for count in (1, 2, 3):
        time.now += 0.51
        for _ in range(3):
            assert lease.key() == SecretBytes(KEK)
        assert service.asked == count
    assert all(secret.wiped for secret in service.given)


def test_age_counts_from_when_the_key_was_asked(service: KeyService, time: Time) -> None:
    """Not from when the answer came: a slow answer is old when it arrives."""
    lease = Lease(SecretBytes(KEK), service, 0.5, asked=time.now - 0.6)
    lease.key()
    assert service.asked == 1


def test_a_refusal_wipes_the_key_for_good(lease: Lease, service: KeyService, time: Time) -> None:
    """Everybody then gets the refusal, also after the key came back: that is a new lease."""
    kek = lease.key()
    service.refusal = REFUSED
    time.now += 1
    for _ in range(2):
        with pytest.raises(KeyUnavailableError) as refused:
            lease.key()
        assert refused.value is REFUSED
    assert service.asked == 1
    assert kek.wiped
    assert not lease.alive
    service.refusal = None
    with pytest.raises(KeyUnavailableError):
        lease.key()


def test_an_ended_lease_keeps_its_first_reason(lease: Lease) -> None:
    """Ending it again changes nothing."""
    kek = lease.key()
    lease.end(REFUSED)
    lease.end(KeyUnavailableError("key", Answer.DENIED, FailedPrecondition("later")))
    with pytest.raises(KeyUnavailableError) as refused:
        lease.key()
    assert refused.value is REFUSED
    assert kek.wiped


def test_a_doubted_lease_asks_before_its_next_use(lease: Lease, service: KeyService) -> None:
    """However young; and if the answer is yes, it goes on as before."""
    lease.doubt()
    for _ in range(3):
        assert lease.key() == SecretBytes(KEK)
    assert service.asked == 1


def test_a_doubt_while_the_key_is_asked_is_not_lost(lease: Lease, service: KeyService) -> None:
    """An answer from before the doubt does not settle it: the key is asked again."""

    def disable_meanwhile() -> None:
        if service.asked == 1:
            service.refusal = REFUSED
            lease.doubt()

    service.on_ask = disable_meanwhile
    lease.doubt()
    with pytest.raises(KeyUnavailableError):
        lease.key()
    assert service.asked == 2


def test_a_lease_that_ends_while_the_key_is_asked_stays_ended(lease: Lease, service: KeyService) -> None:
    """A yes that arrives too late does not bring it back, and reads as the refusal."""
    service.on_ask = lambda: lease.end(REFUSED)
    lease.doubt()
    with pytest.raises(KeyUnavailableError) as refused:
        lease.key()
    assert refused.value is REFUSED
    assert not lease.alive


def test_a_fault_of_our_own_ends_nothing_and_gives_nothing(lease: Lease, service: KeyService) -> None:
    """A store that is busy is no answer of the key: the call fails, the next one asks again."""
    service.refusal = Unavailable("The store is busy; retry the call.")
    lease.doubt()
    with pytest.raises(Unavailable):
        lease.key()
    assert lease.alive
    service.refusal = None
    assert lease.key() == SecretBytes(KEK)
    assert service.asked == 2


def test_an_answer_that_takes_longer_than_a_lease_lasts_is_used_once(
    lease: Lease, service: KeyService, time: Time
) -> None:
    """A key service slower than the maximal age is asked once per use, and not again and again."""

    def slow() -> None:
        time.now += 5

    service.on_ask = slow
    for count in (1, 2):
        time.now += 1
        assert lease.key() == SecretBytes(KEK)
        assert service.asked == count


def test_another_kek_is_never_given(lease: Lease, service: KeyService) -> None:
    """If the wrapped KEK turns out to be another than the lease's, nothing is given."""
    service.kek = bytes(32)
    lease.doubt()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            lease.key()


def test_readers_in_many_threads_ask_once_between_them(lease: Lease, service: KeyService) -> None:
    """Eight readers meet a doubted lease: one asks, all get the KEK."""
    barrier = threading.Barrier(8)
    good: list[bool] = []

    def read() -> None:
        barrier.wait()
        good.append(lease.key() == SecretBytes(KEK))

    lease.doubt()
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert good == [True] * 8
    assert service.asked == 1


def test_readers_in_many_threads_are_all_refused(lease: Lease, service: KeyService) -> None:
    """When the key refuses, none of them gets the KEK, and the key is asked once."""
    barrier = threading.Barrier(8)
    refused: list[KeyUnavailableError] = []

    def read() -> None:
        barrier.wait()
        try:
            lease.key()
        except KeyUnavailableError as error:
            refused.append(error)

    service.refusal = REFUSED
    lease.doubt()
    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert refused == [REFUSED] * 8
    assert service.asked == 1
