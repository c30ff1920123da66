"""Key versions under random use of every method, in PostgreSQL."""

from __future__ import annotations

import pytest

from tests.kms.key_machine import run_machine
from tests.stores import PostgresForTests


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_no_divergence_from_the_documentation_in_ten_thousand_steps(pg_server: PostgresForTests) -> None:
    """Whatever is called in whatever order, each call answers, and the resources read, as the model says."""
    made: list[str] = []

    def new_store(_: object) -> str:
        while made:  # the one before is done
            pg_server.drop(made.pop())
        made.append(pg_server.create_store())
        return made[-1]

    assert run_machine(new_store, 10_000) >= 10_000
