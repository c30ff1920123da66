"""What a transaction offers: the repositories, and for a writing one a place for what follows the commit.

Owns: the two faces of a transaction. The reading one has no changing method in its types, so a function that
takes a `ReadTx` cannot write. Deliberately does not begin or end itself: `Store.read` and `Store.write` do.
"""

from __future__ import annotations

from collections.abc import Callable

from keystead.store.audit import Audit, AuditWriter
from keystead.store.keychains import Keychains, KeychainsWriter
from keystead.store.material import Material, MaterialWriter
from keystead.store.meta import Meta, MetaWriter
from keystead.store.operations import Operations, OperationsWriter
from keystead.store.policies import Policies, PoliciesWriter
from keystead.store.resources import Resources, ResourcesWriter
from keystead.store.session import Session


class ReadTx:
    """One consistent snapshot of the store: the state at its first read, whatever others commit meanwhile."""

    resources: Resources
    policies: Policies
    material: Material
    keychains: Keychains
    operations: Operations
    audit: Audit
    meta: Meta

    def __init__(self, session: Session) -> None:
        self.resources = Resources(session)
        self.policies = Policies(session)
        self.material = Material(session)
        self.keychains = Keychains(session)
        self.operations = Operations(session)
        self.audit = Audit(session)
        self.meta = Meta(session)


class WriteTx(ReadTx):
    """The one writing transaction that is open at a time; sees everything committed, and its own changes."""

    resources: ResourcesWriter
    policies: PoliciesWriter
    material: MaterialWriter
    keychains: KeychainsWriter
    operations: OperationsWriter
    audit: AuditWriter
    meta: MetaWriter

    def __init__(self, session: Session) -> None:
        self.callbacks: list[Callable[[], object]] = []
        self.resources = ResourcesWriter(session)
        self.policies = PoliciesWriter(session)
        self.material = MaterialWriter(session)
        self.keychains = KeychainsWriter(session)
        self.operations = OperationsWriter(session)
        self.audit = AuditWriter(session)
        self.meta = MetaWriter(session)

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Has `callback` run once this transaction is committed and the epoch has moved; in the order given.

        Dropped if the transaction is rolled back. It runs in the committing thread outside of any transaction
        and may open one. What it raises is logged and reaches nobody: the commit stands.
        """
        self.callbacks.append(callback)
