"""Cloud KMS put together: what a composition root needs of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from keystead.api.clock import Clock
from keystead.api.locations import Offer
from keystead.api.operations import OperationRunner
from keystead.kms import lifecycle
from keystead.kms.backends import Backend
from keystead.kms.cryptokeys import CryptoKeys
from keystead.kms.decryption import AsymmetricDecryption
from keystead.kms.deletion import Deletion, RetiredResources
from keystead.kms.events import KeyEvents
from keystead.kms.importing import Importing, PendingImports, Way
from keystead.kms.importjobs import ImportJobs, JobGeneration
from keystead.kms.imports import ByJob, Imports
from keystead.kms.keycache import KeyCache
from keystead.kms.keyrings import KeyRings
from keystead.kms.mac import Macs
from keystead.kms.material import Material
from keystead.kms.messages import LocationMetadata
from keystead.kms.pending import Attest, Generation, PendingKeys
from keystead.kms.public_keys import PublicKeys
from keystead.kms.random import RandomBytes, RandomSource
from keystead.kms.raw import RawEncryption
from keystead.kms.schedule import KeySchedule
from keystead.kms.service import JOB, JOBS, KEY, KEYS, LOCATIONS, RING, RINGS, VERSIONS
from keystead.kms.signing import Signing
from keystead.kms.symmetric import SymmetricEncryption
from keystead.kms.trusted_wrapping import ByTrustedKey, TrustedWrapping
from keystead.kms.versions import CryptoKeyVersions
from keystead.store.collection import Collection


@dataclass(frozen=True)
class KeyService:
    """Cloud KMS: `handlers` serve its RPCs, `schedule` does what happens by itself, `cache` holds opened keys
    (`cache.clear` lets go of all of them), `offer` is what it says of its locations."""

    handlers: tuple[Any, ...]
    schedule: KeySchedule
    cache: KeyCache
    material: Material
    pending: PendingKeys
    offer: Offer


def assemble(
    store: Any,
    clock: Clock,
    runner: OperationRunner,
    events: KeyEvents,
    backends: Iterable[Backend],
    *,
    executor: Executor | None = None,
    attest: Attest | None = None,
    require_open: Callable[[], object] = lambda: None,
) -> KeyService:
    """Make the key service over its back ends, and register its work with `runner`.

    executor: where keys are made that take long; without one, in the thread of the call. attest: see
    `PendingKeys`. require_open: see `Material`.
    """
    back_ends = tuple(backends)
    material = Material(back_ends, require_open)
    cache = KeyCache(store, material)
    events.subscribe(cache.key_changed)
    pending = PendingKeys(store, clock, material, executor=executor, attest=attest)
    versions = CryptoKeyVersions(material, pending, events)
    importing = Importing(material, versions, pending)
    _register(pending, store, material, events)
    generator = next((backend for backend in back_ends if isinstance(backend, RandomSource)), None)
    handlers = (
        KeyRings(LOCATIONS),
        CryptoKeys(versions, events),
        versions,
        Deletion(runner, events),
        RetiredResources(),
        ImportJobs(material, pending),
        Imports(importing),
        TrustedWrapping(store, material, importing),
        SymmetricEncryption(cache),
        RawEncryption(cache),
        Signing(cache),
        AsymmetricDecryption(cache),
        Macs(cache),
        PublicKeys(cache),
        RandomBytes(LOCATIONS, generator),
    )
    has_token = any(backend.level == "HSM" for backend in back_ends)
    return KeyService(
        handlers=handlers,
        schedule=KeySchedule(store, versions, pending, material, events),
        cache=cache,
        material=material,
        pending=pending,
        offer=Offer(LOCATIONS, LocationMetadata(hsm_available=has_token, ekm_available=False)),
    )


def _register(pending: PendingKeys, store: Any, material: Material, events: KeyEvents) -> None:
    """What `pending` does for each pending state."""
    ways: dict[str, Way] = {
        "ImportCryptoKeyVersionRequest": ByJob(store, material),
        "ImportTrustedKeyWrappedCryptoKeyVersionRequest": ByTrustedKey(store, material),
    }
    pending.register(VERSIONS, lifecycle.PENDING_GENERATION, Generation(material, events))
    pending.register(VERSIONS, lifecycle.PENDING_IMPORT, PendingImports(material, events, ways))
    pending.register(JOBS, lifecycle.JOB_PENDING, JobGeneration(material))


def policy_carriers() -> tuple[tuple[str, str, Callable[[Any, str], None]], ...]:
    """Name shape, permission prefix and existence check of everything that carries an IAM policy: key rings,
    keys and import jobs, not versions."""
    return (
        (RING, "cloudkms.keyRings", _exists(RINGS)),
        (KEY, "cloudkms.cryptoKeys", _exists(KEYS)),
        (JOB, "cloudkms.importJobs", _exists(JOBS)),
    )


def _exists(collection: Collection) -> Callable[[Any, str], None]:
    def check(tx: Any, name: str) -> None:
        collection.require(tx, name)

    return check
