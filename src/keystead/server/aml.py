"""Putting AML AI together: the part of the composition root that needs the `financialservices` extra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keystead.api.clock import Clock
from keystead.api.method import Service
from keystead.api.operations import OperationRunner
from keystead.cmek.keychain import ClientFor, Keychain
from keystead.cmek.sealed_store import SealedStore
from keystead.financialservices import datasets, instances
from keystead.financialservices.changes import Changes
from keystead.financialservices.customer_data import CustomerData, owned_generations
from keystead.financialservices.imports import ImportDataset
from keystead.financialservices.service import AML, INSTANCE_TYPE, REGIONS
from keystead.financialservices.sources import TableSources
from keystead.server.settings import Settings


@dataclass
class AmlService:
    """AML AI as the platform needs it."""

    store: Any
    files: SealedStore
    handlers: tuple[Any, ...]
    keychains: tuple[Keychain, ...]
    services: tuple[Service, ...] = (AML,)

    def recover(self) -> None:
        """Delete what a crash left of files that no resource owns."""
        self.files.sweep(owned_generations(self.store))


def assemble(
    settings: Settings,
    clock: Clock,
    store: Any,
    operations: OperationRunner,
    *,
    clients: ClientFor,
    agent_email: Callable[[str], str],
) -> AmlService:
    """Make the service, and register the work of its operations."""
    keychain = Keychain(store, clients, clock, service=AML.name, resource_type=INSTANCE_TYPE)
    files = SealedStore(settings.data_dir / "sealed")
    customer = CustomerData(keychain, files, agent_email)
    changes = Changes(store, operations)
    sources = TableSources(settings.tables_dir)
    regions = (*REGIONS, *settings.aml_regions)
    dataset_api = datasets.Datasets(store, customer, changes, sources)
    operations.register(
        instances.CreateInstance(store, clock, customer),
        instances.UpdateInstance(store, clock),
        instances.DeleteInstance(store, clock, customer),
        ImportDataset(store, clock, customer, sources, dataset_api.read),
        datasets.UpdateDataset(dataset_api),
        datasets.DeleteDataset(customer),
    )
    handlers = (instances.Instances(store, customer, changes, regions=regions), dataset_api)
    return AmlService(store, files, handlers, (keychain,))
