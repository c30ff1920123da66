"""Key versions under random use of every method, in SQLite."""

from __future__ import annotations

import pytest

from tests.kms.key_machine import run_machine


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_divergence_from_the_documentation_in_ten_thousand_steps() -> None:
    """Whatever is called in whatever order, each call answers, and the resources read, as the model says."""
    assert run_machine(lambda path: f"sqlite:///{path / 'store.db'}", 10_000) >= 10_000
