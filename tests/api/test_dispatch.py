"""The one door: the order of its steps, what is recorded, and what never gets out."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from google.cloud.kms_v1.types import resources, service

from keystead.api.call import Call, WouldBlock
from keystead.api.clock import ManualClock
from keystead.api.dispatch import Dispatcher
from keystead.api.errors import (
    AlreadyExists,
    ApiError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unimplemented,
)
from keystead.api.method import LogKind, Method, Service, method
from keystead.api.registry import Registry
from tests.api.fakes import Grants, MemoryStore, Trail

KMS = Service("cloudkms.googleapis.com", "Cloud KMS", short_method_names=True)
API = "google.cloud.kms.v1.KeyManagementService"
ALICE = "user:alice@example.com"
LOCATION = "projects/p1/locations/us"
RING = f"{LOCATION}/keyRings/r1"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KeyRing = resources.KeyRing.pb()
CryptoKey = resources.CryptoKey.pb()
CreateKeyRingRequest = service.CreateKeyRingRequest.pb()
GetKeyRingRequest = service.GetKeyRingRequest.pb()
CreateCryptoKeyRequest = service.CreateCryptoKeyRequest.pb()
ImportRequest = service.ImportCryptoKeyVersionRequest.pb()
EncryptRequest = service.EncryptRequest.pb()
EncryptResponse = service.EncryptResponse.pb()
_R = "projects/*/locations/*/keyRings/*"
TRANSACTIONS = {"CreateKeyRing": "write", "GetKeyRing": "read", "CreateCryptoKey": "own", "Encrypt": "hot"}


class KeyService:
    """One function of each kind. `act` runs in the middle of each of them."""

    service = KMS

    def __init__(self) -> None:
        self.act: Callable[[Call], None] = lambda call: None
        self.late: Callable[[Call], None] = lambda call: None
        self.threads: list[int] = []
        self.inline: list[bool] = []

    def _run(self, call: Call) -> None:
        self.threads.append(threading.get_ident())
        self.inline.append(call.inline)
        self.act(call)

    @method(
        f"{API}/CreateKeyRing",
        http="POST /v1/{parent=projects/*/locations/*}/keyRings",
        body="key_ring",
        permission="cloudkms.keyRings.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        required=("key_ring_id",),
        unsupported=("key_ring.create_time",),
    )
    def create_ring(self, call: Call, request: CreateKeyRingRequest) -> KeyRing:
        name = f"{request.parent}/keyRings/{request.key_ring_id}"
        if name in call.tx.rows:
            raise AlreadyExists(f"KeyRing {name} already exists.")
        call.tx.rows[name] = b""
        self._run(call)
        return KeyRing(name=name)

    @method(
        f"{API}/GetKeyRing",
        http=f"GET /v1/{{name={_R}}}",
        permission="cloudkms.keyRings.get",
        on="name",
        log=LogKind.ADMIN_READ,
    )
    def get_ring(self, call: Call, request: GetKeyRingRequest) -> KeyRing:
        self._run(call)
        return KeyRing(name=request.name)

    @method(
        f"{API}/CreateCryptoKey",
        http=f"POST /v1/{{parent={_R}}}/cryptoKeys",
        body="crypto_key",
        permission="cloudkms.cryptoKeys.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        own_transaction=True,
    )
    def create_key(self, call: Call, request: CreateCryptoKeyRequest) -> CryptoKey:
        assert call.tx is None
        name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
        with call.transaction() as tx:
            tx.rows[name] = b""
            self._run(call)
        self.late(call)
        request.crypto_key_id = "changed by the function"
        return CryptoKey(name=name)

    @method(
        f"{API}/ImportCryptoKeyVersion",
        permission="cloudkms.cryptoKeyVersions.create",
        on="parent",
        log=LogKind.ADMIN_WRITE,
        own_transaction=True,
        templates=(_R,),
    )
    def never_opens(self, call: Call, request: ImportRequest) -> CryptoKey:
        self._run(call)
        return CryptoKey()

    @method(
        f"{API}/Encrypt",
        http=f"POST /v1/{{name={_R}/cryptoKeys/**}}:encrypt",
        body="*",
        permission="cloudkms.cryptoKeyVersions.useToEncrypt",
        on="name",
        log=LogKind.DATA_READ,
        hot=True,
    )
    def encrypt(self, call: Call, request: EncryptRequest) -> EncryptResponse:
        self._run(call)
        return EncryptResponse(name=request.name)


class Door:
    """A dispatcher over fakes that tests can reach into."""

    def __init__(self) -> None:
        self.handler = KeyService()
        self.store = MemoryStore()
        self.grants = Grants()
        self.grants.everything.add(ALICE)
        self.trail = Trail()
        self.clock = ManualClock(NOW)
        self.refusals: list[ApiError] = []
        self.registry = Registry()
        self.registry.add([self.handler])
        self.dispatcher = Dispatcher(
            self.registry, self.store, self.grants, self.trail, self.clock, policies=(self._policy,)
        )

    def _policy(self, _method: Method, _request: Any, _call: Call) -> None:
        for refusal in self.refusals:
            raise refusal

    def run(self, rpc: str, request: Any = None, call: Call | None = None) -> Any:
        return self.dispatcher.call(f"{API}/{rpc}", request or a_request(rpc), call or Call(ALICE))

    async def dispatch(self, rpc: str, call: Call | None = None) -> Any:
        found = self.registry.methods[f"{API}/{rpc}"]
        return await self.dispatcher.dispatch(found, a_request(rpc), call or Call(ALICE))

    def want_all(self) -> None:
        self.trail.methods = {found.spec.short_name for found in self.registry.methods.values()}

    def fail_with(self, error: Exception) -> None:
        def act(_call: Call) -> None:
            raise error

        self.handler.act = act


def a_request(rpc: str) -> Any:
    return {
        "CreateKeyRing": CreateKeyRingRequest(parent=LOCATION, key_ring_id="r1"),
        "GetKeyRing": GetKeyRingRequest(name=RING),
        "CreateCryptoKey": CreateCryptoKeyRequest(parent=RING, crypto_key_id="k1"),
        "ImportCryptoKeyVersion": ImportRequest(parent=RING),
        "Encrypt": EncryptRequest(name=f"{RING}/cryptoKeys/k1"),
    }[rpc]


@pytest.fixture
def door() -> Door:
    return Door()


def test_order_of_the_steps(door: Door) -> None:
    """Each step's refusal comes before the next step's, whatever else is wrong with the call."""
    request = CreateKeyRingRequest(parent="not/a name")
    request.key_ring.create_time.seconds = 1
    call = Call(None, deadline=NOW)
    door.grants.everything.clear()
    door.refusals.append(FailedPrecondition("organization policy"))
    door.fail_with(NotFound("the function"))
    permission = "cloudkms.keyRings.create"
    steps: list[tuple[type[ApiError], str, Callable[[], Any]]] = [
        (DeadlineExceeded, "deadline", lambda: setattr(call, "deadline", NOW + dt.timedelta(seconds=1))),
        (InvalidArgument, "key_ring_id", lambda: setattr(request, "key_ring_id", "r1")),
        (Unimplemented, "create_time", lambda: request.key_ring.ClearField("create_time")),
        (Unauthenticated, "credential", lambda: setattr(call, "principal", ALICE)),
        (InvalidArgument, "resource", lambda: setattr(request, "parent", LOCATION)),
        (PermissionDenied, permission, lambda: door.grants.granted.add((ALICE, permission))),
        (FailedPrecondition, "organization policy", door.refusals.clear),
        (NotFound, "the function", lambda: setattr(door.handler, "act", lambda call: None)),
    ]
    for kind, words, mend in steps:
        with pytest.raises(kind, match=words) as refused:
            door.run("CreateKeyRing", request, call)
        assert type(refused.value) is kind
        mend()
    assert door.run("CreateKeyRing", request, call).name == RING


@pytest.mark.parametrize("rpc", TRANSACTIONS)
def test_denial_is_recorded_and_changes_nothing(door: Door, rpc: str) -> None:
    """A denied call leaves one record, asked for or not, and no row, project or run of a function."""
    door.grants.everything.clear()
    with pytest.raises(PermissionDenied):
        door.run(rpc)
    [event] = door.store.records
    assert not event.granted
    assert isinstance(event.error, PermissionDenied)
    assert event.permission == door.registry.methods[f"{API}/{rpc}"].spec.permission
    assert event.call.principal == ALICE
    assert (door.store.rows, door.grants.projects, door.handler.threads) == ({}, set(), [])


def test_a_denial_that_cannot_be_recorded_stays_a_failure(door: Door) -> None:
    """Where no record can be written a denied call fails all the same."""
    door.grants.everything.clear()
    door.trail.full = True
    with pytest.raises(Internal):
        door.run("CreateKeyRing")
    assert not door.store.rows


@pytest.mark.parametrize("rpc", [*TRANSACTIONS, "ImportCryptoKeyVersion"])
def test_one_record_for_a_success(door: Door, rpc: str) -> None:
    """A call whose success is wanted leaves exactly one record, of the request as it was sent."""
    door.want_all()
    door.run(rpc)
    [event] = door.store.records
    assert (event.granted, event.error) == (True, None)
    assert event.request == a_request(rpc)


@pytest.mark.parametrize("rpc", ["CreateKeyRing", "GetKeyRing", "Encrypt", "ImportCryptoKeyVersion"])
def test_a_record_holds_the_response(door: Door, rpc: str) -> None:
    """The record of a success carries what was answered."""
    door.want_all()
    response = door.run(rpc)
    assert door.store.records[0].response == response


@pytest.mark.parametrize("rpc", [*TRANSACTIONS, "ImportCryptoKeyVersion"])
@pytest.mark.parametrize("error", [FailedPrecondition("no"), ValueError("plaintext-canary")])
def test_one_record_for_a_failure(door: Door, rpc: str, error: Exception) -> None:
    """A call that fails in its function leaves exactly one record, of the failure, and nothing else."""
    door.want_all()
    door.fail_with(error)
    with pytest.raises(ApiError) as refused:
        door.run(rpc)
    [event] = door.store.records
    assert event.error is refused.value
    assert event.response is None
    assert door.store.rows == {}


@pytest.mark.parametrize("rpc", [*TRANSACTIONS, "ImportCryptoKeyVersion"])
def test_no_record_where_none_is_wanted(door: Door, rpc: str) -> None:
    """A call whose kind is not logged leaves no record, whether it succeeds or fails."""
    door.run(rpc)
    door.fail_with(FailedPrecondition("no"))
    with pytest.raises(ApiError):
        door.run(rpc)
    assert door.store.records == []


@pytest.mark.parametrize("rpc", [*TRANSACTIONS, "ImportCryptoKeyVersion"])
def test_a_call_that_cannot_be_recorded_fails(door: Door, rpc: str) -> None:
    """Where the record of a wanted call cannot be written the call fails and its change is not made."""
    door.want_all()
    door.trail.full = True
    with pytest.raises(Internal) as refused:
        door.run(rpc)
    assert "canary" not in str(refused.value)
    assert door.store.rows == {}


def test_own_transaction_is_committed_with_its_record(door: Door) -> None:
    """A function that opens its own transaction and fails after it leaves the change and one record of it."""
    door.want_all()

    def late(_call: Call) -> None:
        raise FailedPrecondition("after the commit")

    door.handler.late = late
    with pytest.raises(FailedPrecondition):
        door.run("CreateCryptoKey")
    assert f"{RING}/cryptoKeys/k1" in door.store.rows
    assert [event.error for event in door.store.records] == [None]


def test_own_transaction_belongs_to_its_functions_only(door: Door) -> None:
    """A function that was given a transaction cannot open a second one."""

    def act(call: Call) -> None:
        call.transaction()

    door.handler.act = act
    with pytest.raises(Internal):
        door.run("CreateKeyRing")
    assert door.store.rows == {}


@pytest.mark.parametrize("rpc", TRANSACTIONS)
def test_a_project_comes_into_being_with_a_granted_call(door: Door, rpc: str) -> None:
    """A project that is named for the first time exists after a granted call of any kind that succeeds."""
    door.run(rpc)
    assert door.grants.projects == {"projects/p1"}
    assert "projects/p1" in door.store.rows


@pytest.mark.parametrize("rpc", TRANSACTIONS)
def test_a_failed_call_makes_no_project(door: Door, rpc: str) -> None:
    """A granted call that fails brings no project into being."""
    door.fail_with(NotFound("missing"))
    with pytest.raises(NotFound):
        door.run(rpc)
    assert (door.grants.projects, door.store.rows) == (set(), {})


def test_numbers_become_ids(door: Door) -> None:
    """A project number in a name is the project's id before anybody is asked or anything is stored."""
    door.grants.numbers["12345"] = "p1"
    call = Call(ALICE)
    request = CreateKeyRingRequest(parent="projects/12345/locations/us", key_ring_id="r1")
    assert door.run("CreateKeyRing", request, call).name == RING
    assert (call.resource, call.now) == (LOCATION, NOW)


async def test_hot_calls_stay_on_the_loop(door: Door) -> None:
    """A hot call with everything in memory runs once, inline, in the event loop's own thread."""
    door.grants.projects.add("projects/p1")
    await door.dispatch("Encrypt")
    assert (door.handler.inline, door.handler.threads) == ([True], [threading.get_ident()])


async def test_other_calls_leave_the_loop(door: Door) -> None:
    """A call that is not hot runs once, in another thread."""
    await door.dispatch("GetKeyRing")
    assert door.handler.inline == [False]
    assert door.handler.threads != [threading.get_ident()]


@pytest.mark.parametrize("cause", ["cold cache", "function", "project", "record", "denial"])
async def test_hot_calls_that_would_block_run_in_a_thread(door: Door, cause: str) -> None:
    """Whatever a hot call does not find in memory, or must write, sends it to a thread, where it ends."""
    door.grants.projects.add("projects/p1")
    if cause == "cold cache":
        door.grants.cold = True
    elif cause == "project":
        door.grants.projects.clear()
    elif cause == "record":
        door.want_all()
    elif cause == "denial":
        door.grants.everything.clear()
    else:

        def act(call: Call) -> None:
            if call.inline:
                raise WouldBlock

        door.handler.act = act
    if cause == "denial":
        with pytest.raises(PermissionDenied):
            await door.dispatch("Encrypt")
    else:
        await door.dispatch("Encrypt")
        assert door.handler.inline[-1] is False
        assert door.handler.threads[-1] != threading.get_ident()
    assert len(door.store.records) == (1 if cause in {"record", "denial"} else 0)
    assert len(door.handler.threads) == {"denial": 0, "function": 2}.get(cause, 1)


async def test_the_loop_is_free_while_a_call_blocks(door: Door) -> None:
    """While one call waits in a thread the event loop answers others."""
    door.grants.projects.add("projects/p1")
    release = threading.Event()

    def act(call: Call) -> None:
        if not call.inline:
            release.wait(10)

    door.handler.act = act
    waiting = asyncio.create_task(door.dispatch("GetKeyRing"))
    await door.dispatch("Encrypt")
    assert not waiting.done()
    release.set()
    assert (await waiting).name == RING


@pytest.mark.parametrize("rpc", TRANSACTIONS)
@pytest.mark.parametrize("where", ["function", "authorizer"])
@pytest.mark.parametrize("threaded", [True, False])
async def test_unexpected_exceptions_never_leak(
    door: Door, rpc: str, where: str, threaded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that is none of ours becomes INTERNAL: its text is in no answer, record or log."""
    door.grants.projects.add("projects/p1")
    if where == "function":
        door.fail_with(KeyError("plaintext-canary"))
    else:
        door.grants.broken = KeyError("plaintext-canary")
    with pytest.raises(ApiError) as refused:
        if threaded:
            door.run(rpc)
        else:
            await door.dispatch(rpc)
    assert type(refused.value) is Internal
    assert refused.value.message == "Internal error encountered."
    assert refused.value.details == ()
    assert "KeyError" in caplog.text
    assert "canary" not in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_rooms_call_each_other_by_name(door: Door) -> None:
    """An RPC that nobody serves is UNIMPLEMENTED for other rooms too."""
    with pytest.raises(Unimplemented, match="Nobody/Knows"):
        door.dispatcher.call("Nobody/Knows", KeyRing(), Call(ALICE))
