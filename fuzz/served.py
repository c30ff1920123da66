"""The methods of the key service, for their HTTP rules alone: nothing of them is called."""

from __future__ import annotations

from typing import Any

from keystead.api.clock import SystemClock
from keystead.api.operations import OperationRunner
from keystead.api.registry import Registry
from keystead.kms.assembly import assemble
from keystead.kms.events import KeyEvents


def kms_registry() -> Registry:
    """A registry with every method that Cloud KMS serves itself."""
    nothing: Any = None
    clock = SystemClock()
    runner = OperationRunner(nothing, clock, nothing)
    registry = Registry()
    registry.add(list(assemble(nothing, clock, runner, KeyEvents(), []).handlers))
    return registry
