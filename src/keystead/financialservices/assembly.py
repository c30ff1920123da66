"""AML AI put together: what a composition root needs of this room."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keystead.api.clock import Clock
from keystead.api.operations import OperationRunner
from keystead.cmek.keychain import ClientFor, Keychain
from keystead.cmek.sealed_store import SealedStore
from keystead.financialservices.changes import Changes
from keystead.financialservices.customer_data import CustomerData, owned_generations
from keystead.financialservices.datasets import Datasets, DeleteDataset, UpdateDataset
from keystead.financialservices.destinations import TableDestinations
from keystead.financialservices.imports import ImportDataset
from keystead.financialservices.instances import CreateInstance, DeleteInstance, Instances, UpdateInstance
from keystead.financialservices.registered_parties import (
    ExportRegisteredParties,
    ImportRegisteredParties,
    RegisteredParties,
)
from keystead.financialservices.service import AML, INSTANCE_TYPE, REGIONS
from keystead.financialservices.sources import TableSources


@dataclass(frozen=True)
class AmlAi:
    """AML AI: `handlers` serve its RPCs, `keychain` holds its KEKs, for a guard to watch."""

    handlers: tuple[Any, ...]
    keychain: Keychain
    files: SealedStore
    store: Any

    def sweep(self) -> int:
        """Delete sealed files that no resource owns, left by a crash; how many. Only before operations are
        resumed and calls are answered: a file being written is nobody's yet."""
        return self.files.sweep(owned_generations(self.store))


def assemble(
    store: Any,
    clock: Clock,
    runner: OperationRunner,
    clients: ClientFor,
    agent_email: Callable[[str], str],
    *,
    sealed: Path,
    tables: Path | None,
    regions: Collection[str] = REGIONS,
    minimum_registration: dt.timedelta = dt.timedelta(0),
    lease_max_age_s: float = 0.5,
) -> AmlAi:
    """Make AML AI, and register its work with `runner`.

    clients, agent_email: the key client, and the address, of the service's agent in a project, by id.
    sealed: directory of the sealed files, its own. tables: root of input and output tables (see `sources`).
    minimum_registration: how long a registered party stays so at least.
    """
    keychain = Keychain(
        store, clients, clock, service=AML.name, resource_type=INSTANCE_TYPE, max_age_s=lease_max_age_s
    )
    files = SealedStore(sealed)
    customer = CustomerData(keychain, files, agent_email)
    changes = Changes(store, runner)
    sources, destinations = TableSources(tables), TableDestinations(tables)
    datasets = Datasets(store, customer, changes, sources)
    runner.register(
        CreateInstance(store, clock, customer),
        UpdateInstance(store, clock),
        DeleteInstance(store, clock, customer),
        ImportDataset(store, clock, customer, files, sources, read=datasets.read),
        UpdateDataset(datasets),
        DeleteDataset(customer),
        ImportRegisteredParties(store, clock, customer, sources, minimum=minimum_registration),
        ExportRegisteredParties(store, customer, destinations),
    )
    handlers = (
        Instances(store, customer, changes, regions=regions),
        datasets,
        RegisteredParties(store, customer, changes, sources, destinations),
    )
    return AmlAi(handlers, keychain, files, store)
