"""An instance's whole life, in any order: what can be read is exactly what the key's state says."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keystead.api.errors import FailedPrecondition, NotFound
from tests.financialservices.aml_world import INSTANCE, World, error_of_call
from tests.platform import CRYPTER

VERSIONS = st.integers(1, 4)


class InstanceLifecycle(RuleBasedStateMachine):
    """A model of which version wrapped the KEK, beside the real thing."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self._folder.name))
        self.enabled = {1: True}
        self.primary = 1
        self.granted = True
        self.wrapped_by: int | None = None
        self.datasets: set[str] = set()

    @initialize()
    def start(self) -> None:
        self.key = self.world.customer_key()
        self.specs = self.world.sample_tables()

    @property
    def readable(self) -> bool:
        return self.granted and self.wrapped_by is not None and self.enabled[self.wrapped_by]

    def key_changed(self) -> None:
        """The guard has done its work: a KEK that opens is wrapped by the primary version, if that works."""
        assert self.world.guard.settle(30)
        if self.readable and self.enabled[self.primary]:
            self.wrapped_by = self.primary

    @precondition(lambda self: self.wrapped_by is None)
    @rule()
    def create(self) -> None:
        if self.granted and self.enabled[self.primary]:
            self.world.end(self.world.create_instance(self.key))
            self.wrapped_by = self.primary
        else:
            error = error_of_call(lambda: self.world.create_instance(self.key))
            assert isinstance(error, FailedPrecondition)

    @precondition(lambda self: self.wrapped_by is not None and len(self.datasets) < 3)
    @rule()
    def import_dataset(self) -> None:
        name = f"d{len(self.datasets)}"
        if self.readable:
            self.world.end(self.world.create_dataset(self.specs, name))
            self.datasets.add(name)
        else:
            error = error_of_call(lambda: self.world.create_dataset(self.specs, name))
            assert isinstance(error, FailedPrecondition)

    @rule(number=VERSIONS, state=st.booleans())
    def enable_or_disable(self, number: int, state: bool) -> None:
        if number in self.enabled:
            version = f"{self.key}/cryptoKeyVersions/{number}"
            self.world.set_state(version, "ENABLED" if state else "DISABLED")
            self.enabled[number] = state
            self.key_changed()

    @precondition(lambda self: len(self.enabled) < 4)
    @rule()
    def rotate(self) -> None:
        self.primary = self.world.rotate(self.key)
        self.enabled[self.primary] = True
        self.key_changed()

    @precondition(lambda self: self.granted)
    @rule()
    def revoke(self) -> None:
        self.world.take(self.key, "revoke")
        self.granted = False
        self.key_changed()

    @precondition(lambda self: not self.granted)
    @rule()
    def grant(self) -> None:
        self.world.grant(self.key, self.world.agent(), CRYPTER)
        self.granted = True
        self.key_changed()

    @precondition(lambda self: self.wrapped_by is not None)
    @rule()
    def delete(self) -> None:
        self.world.end(self.world.delete(INSTANCE))
        self.wrapped_by = None
        self.datasets.clear()

    @rule()
    def restart(self) -> None:
        self.world.close()
        self.world = World(Path(self._folder.name))

    @invariant()
    def reads_follow_the_key(self) -> None:
        """Each dataset is read in full, or refused, or not there; the instance itself always answers."""
        for name in self.datasets:
            if self.readable:
                assert self.world.summary(f"{INSTANCE}/datasets/{name}")["party"]["rows"] == 3
            else:
                error = error_of_call(lambda n=name: self.world.get(f"{INSTANCE}/datasets/{n}"))
                assert isinstance(error, FailedPrecondition)
        if self.wrapped_by is None:
            assert isinstance(error_of_call(lambda: self.world.get(INSTANCE)), NotFound)
            assert self.world.sealed_files() == []
        else:
            assert self.world.get(INSTANCE).kms_key == self.key

    def teardown(self) -> None:
        self.world.close()
        self._folder.cleanup()


InstanceLifecycle.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Every example is a second of real work: shrinking a failure would take minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
TestInstanceLifecycle = InstanceLifecycle.TestCase
