"""The composition root: makes every part and hands each what it needs. Nothing else constructs rooms.

`build` opens the store and makes a `Platform` that answers calls; `start` begins what runs by itself.
"""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources

from keystead.api.clock import Clock, SystemClock
from keystead.api.dispatch import Dispatcher
from keystead.api.errors import Unavailable
from keystead.api.locations import Locations, Offer
from keystead.api.operations import OperationRunner, Operations
from keystead.api.registry import Registry
from keystead.audit.logging_api import Logs
from keystead.audit.operators import OperatorTrail
from keystead.audit.services import LOGGING
from keystead.audit.trail import Trail
from keystead.cmek.guard import KeyGuard
from keystead.cmek.keychain import Keychain
from keystead.cmek.protected import ProtectedResources
from keystead.cmek.protected_api import ProtectedResourcesOfKey
from keystead.financialservices.assembly import AmlAi
from keystead.financialservices.assembly import assemble as assemble_aml
from keystead.financialservices.service import AML, REGIONS
from keystead.iam.audit_configs import AuditConfigs
from keystead.iam.authentication import Authenticator, DevAuthenticator
from keystead.iam.authorizer import Authorizer
from keystead.iam.bootstrap import prepare_organization
from keystead.iam.hierarchy import Projects, ensure_organization, read_organization
from keystead.iam.iam_policy import IamPolicy, ResourceType
from keystead.iam.policies import PolicyEvents
from keystead.iam.resource_manager import OrganizationsV3, ProjectsV3
from keystead.iam.resource_manager_v1 import OrganizationsV1, ProjectsV1
from keystead.iam.role_catalog import RoleCatalog
from keystead.iam.service_usage import ServiceUsage
from keystead.iam.services import IAM, RESOURCE_MANAGER, SERVICE_USAGE
from keystead.kms.assembly import KeyService, policy_carriers
from keystead.kms.assembly import assemble as assemble_kms
from keystead.kms.backends import Backend
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.events import KeyEvents
from keystead.kms.keycache import KeyCache
from keystead.kms.pending import Attest
from keystead.kms.rootkey import ROOT_KEY, RootKey
from keystead.kms.service import KMS
from keystead.server.agents import ServiceAgents
from keystead.server.control import ControlSocket
from keystead.server.health import Health
from keystead.server.loops import Loop
from keystead.server.seal_commands import seal_commands
from keystead.server.sealing import SEAL_S, Sealing
from keystead.server.settings import Settings
from keystead.server.token import token_of
from keystead.store.engine import Follower, Store, open_store
from keystead.store.lock import DataDirLock, ServerLock, server_lock

log = logging.getLogger(__name__)

DEV_OWNER = "user:owner@example.com"
SCHEDULE_S = 1.0
LOCK_S = 1.0
API_THREADS = 16
OPERATION_THREADS = 4
KEY_THREADS = 2


@dataclass(frozen=True)
class _Locks:
    """What a server holds while it serves: `all`, the store too; `server` can be lost with its database."""

    all: ExitStack
    server: ServerLock


@dataclass
class Platform:
    """A whole Keystead in one process, listeners aside."""

    settings: Settings
    clock: Clock
    store: Store
    registry: Registry
    dispatcher: Dispatcher
    authenticator: Authenticator
    health: Health
    key_events: KeyEvents
    policy_events: PolicyEvents
    keys: KeyService
    operations: OperationRunner
    guard: KeyGuard
    keychains: tuple[Keychain, ...]
    protected: ProtectedResources
    aml: AmlAi
    root_key: RootKey
    sealing: Sealing
    _locks: _Locks
    _executors: tuple[ThreadPoolExecutor, ...]
    _control: ControlSocket
    _loops: list[Loop] = field(default_factory=list)

    def start(self) -> None:
        """Take up what a stop or crash left, and begin watching keys and schedules."""
        self.aml.sweep()
        left = self.operations.unfinished()
        self.sealing.when_open(lambda: self.operations.resume(left))
        self.guard.start()
        self.guard.poll()
        poll_s = self.settings.key_poll_interval.total_seconds()
        self._loops = [
            Loop("key-schedule", self._run_schedule, SCHEDULE_S),
            Loop("key-poll", self.guard.poll, poll_s),
            Loop("server-lock", self._check_lock, LOCK_S),
            Loop("seal", self.sealing.retry, SEAL_S),
        ]
        for loop in self._loops:
            loop.start()
        self._control.start()

    def _run_schedule(self) -> None:
        self.keys.schedule.run_due(self.clock.now(), making=self.root_key.is_open)

    def _check_lock(self) -> None:
        """Another server may take the store once the lock on it is lost, and what is in memory here would
        then no longer follow the store: stop serving."""
        if not self._locks.server.held():
            log.critical("the lock on the store was lost (its database went away?); this server stops")
            self.health.stopping()
            signal.raise_signal(signal.SIGTERM)

    def close(self) -> None:
        """Stop in the order in which the parts depend on each other; wipe every key."""
        self._control.stop()
        for loop in self._loops:
            loop.stop()
        self.guard.stop()
        self.operations.stop()
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)
        for keychain in self.keychains:
            keychain.close()
        self.sealing.stop()
        self._locks.all.close()


def build(settings: Settings, clock: Clock | None = None) -> Platform:
    """Open the data directory and make the platform. Raises SettingsError, SealError and ApiError."""
    clock = clock or SystemClock()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    locks = ExitStack()
    locks.enter_context(DataDirLock(settings.data_dir))
    try:
        store = open_store(settings.database_url)
        locks.callback(store.close)
        lock = server_lock(store)
        locks.enter_context(lock)
        trail = OperatorTrail(clock, lambda tx: ensure_organization(tx, clock))
        sealing = Sealing(store, RootKey(), settings.data_dir, settings.seal, trail)
        sealing.start()
        return _assemble(settings, clock, store, sealing, _Locks(locks, lock))
    except BaseException:
        locks.close()
        raise


@dataclass(frozen=True)
class Hot:
    """What a worker process is made of: every RPC is declared, hot ones can be answered, nothing runs by
    itself."""

    registry: Registry
    dispatcher: Dispatcher
    authenticator: Authenticator
    cache: KeyCache
    executors: tuple[ThreadPoolExecutor, ...]


@dataclass(frozen=True)
class _Ground:
    """What every room is built on."""

    clock: Clock
    store: Store | Follower
    registry: Registry
    projects: Projects
    authorizer: Authorizer
    dispatcher: Dispatcher
    operations: OperationRunner
    key_events: KeyEvents
    policy_events: PolicyEvents
    executors: tuple[ThreadPoolExecutor, ...]


def _ground(settings: Settings, clock: Clock, store: Store | Follower, organization: str) -> _Ground:
    api_threads = ThreadPoolExecutor(API_THREADS, thread_name_prefix="api")
    operation_threads = ThreadPoolExecutor(OPERATION_THREADS, thread_name_prefix="operation")
    key_threads = ThreadPoolExecutor(KEY_THREADS, thread_name_prefix="key-making")
    projects = Projects(organization, clock)
    authorizer = Authorizer(store, projects, dev=settings.dev)
    trail = Trail(AuditConfigs(store, organization).wanted, clock)
    registry = Registry()
    return _Ground(
        clock=clock,
        store=store,
        registry=registry,
        projects=projects,
        authorizer=authorizer,
        dispatcher=Dispatcher(registry, store, authorizer, trail, clock, executor=api_threads),
        operations=OperationRunner(store, clock, operation_threads),
        key_events=KeyEvents(),
        policy_events=PolicyEvents(),
        executors=(api_threads, operation_threads, key_threads),
    )


def _assemble(settings: Settings, clock: Clock, store: Store, sealing: Sealing, locks: _Locks) -> Platform:
    root_key = sealing.root_key
    organization = prepare_organization(store, clock, owner=DEV_OWNER if settings.dev else None)
    ground = _ground(settings, clock, store, organization)
    token = token_of(settings, store, root_key, clock)
    backends: list[Backend] = [SoftwareBackend(root_key), *([token.backend] if token else [])]
    attest = token.attest if token else None
    keys = _add_key_service(ground, backends, root_key.require_open, attest)
    _add_identity_and_audit(ground)
    aml = _add_aml(ground, settings, keys)
    guard = KeyGuard([aml.keychain])
    ground.key_events.subscribe(guard.key_changed)
    ground.policy_events.subscribe(guard.policy_changed)
    # First the epoch: what a running call still opened and keeps after this is of one that is over.
    sealing.subscribe(closed=store.move_epoch)
    sealing.subscribe(closed=keys.cache.clear)
    sealing.subscribe(closed=lambda: aml.keychain.end_leases(Unavailable("Keystead was sealed.")))
    sealing.subscribe(opened=guard.poll, closed=guard.poll)
    checks = {"store": lambda: _answers(store), "seal": lambda: root_key.is_open}
    if token is not None:
        checks["token"] = token.usable
        locks.all.callback(token.backend.close)
    return Platform(
        settings=settings,
        clock=clock,
        store=store,
        registry=ground.registry,
        dispatcher=ground.dispatcher,
        authenticator=DevAuthenticator(),
        health=Health(checks, optional=["token"], executor=ground.executors[0]),
        key_events=ground.key_events,
        policy_events=ground.policy_events,
        keys=keys,
        operations=ground.operations,
        guard=guard,
        keychains=(aml.keychain,),
        aml=aml,
        protected=ProtectedResources(store),
        root_key=root_key,
        sealing=sealing,
        _locks=locks,
        _executors=ground.executors,
        _control=ControlSocket(settings.data_dir, seal_commands(sealing)),
    )


def build_worker(settings: Settings, clock: Clock, store: Follower, backends: Iterable[Backend]) -> Hot:
    """Make what a worker process answers hot calls with, over the store of a main process that has built its
    platform."""
    with store.read() as tx:
        organization = read_organization(tx).name
    ground = _ground(settings, clock, store, organization)
    keys = _add_key_service(ground, backends)
    _add_identity_and_audit(ground)
    _add_aml(ground, settings, keys)
    return Hot(ground.registry, ground.dispatcher, DevAuthenticator(), keys.cache, ground.executors)


def _add_key_service(
    ground: _Ground,
    backends: Iterable[Backend],
    require_open: Callable[[], object] = lambda: None,
    attest: Attest | None = None,
) -> KeyService:
    keys = assemble_kms(
        ground.store,
        ground.clock,
        ground.operations,
        ground.key_events,
        backends,
        executor=ground.executors[2],
        require_open=require_open,
        attest=attest,
    )
    types = [ResourceType(shape, prefix, KMS, exists) for shape, prefix, exists in policy_carriers()]
    ground.registry.add(
        [
            *keys.handlers,
            ProtectedResourcesOfKey(ProtectedResources(ground.store)),
            IamPolicy(types, ground.authorizer, ground.policy_events, services=[KMS]),
        ]
    )
    ground.registry.know(KMS, known_rpcs("kms"))
    return keys


def _add_identity_and_audit(ground: _Ground) -> None:
    authorizer = ground.authorizer
    hierarchy = (ground.projects, authorizer, ground.policy_events)
    ground.registry.add(
        [
            Logs(
                lambda *asked: authorizer.allowed(*asked, inline=False),
                lambda name: authorizer.canonical(name, inline=False),
            ),
            ServiceUsage([KMS, AML, LOGGING, RESOURCE_MANAGER, SERVICE_USAGE, IAM]),
            RoleCatalog(),
            ProjectsV1(*hierarchy),
            ProjectsV3(*hierarchy),
            OrganizationsV1(*hierarchy),
            OrganizationsV3(*hierarchy),
        ]
    )


def _add_aml(ground: _Ground, settings: Settings, keys: KeyService) -> AmlAi:
    agents = ServiceAgents(ground.store, ground.projects, ground.dispatcher)
    regions = (*REGIONS, *settings.aml_regions)
    aml = assemble_aml(
        ground.store,
        ground.clock,
        ground.operations,
        agents.clients(AML),
        lambda project: agents.email(AML, project),
        sealed=settings.data_dir / "sealed",
        tables=settings.tables_dir,
        regions=regions,
    )
    ground.registry.add(
        [
            *aml.handlers,
            Operations(ground.operations, [AML, KMS]),
            Locations({KMS: keys.offer, AML: Offer(regions)}),
        ]
    )
    ground.registry.know(AML, known_rpcs("financialservices"))
    return aml


def known_rpcs(room: str) -> dict[str, list[tuple[str, str | None]]]:
    """The RPCs of a room's official API, from its table."""
    text = resources.files(f"keystead.{room}").joinpath("rpcs.json").read_text()
    return {rpc: [(rule, body) for rule, body in rules] for rpc, rules in json.loads(text).items()}


def _answers(store: Store) -> bool:
    with store.read() as tx:
        tx.meta.get(ROOT_KEY)
    return True
