"""The fuzzers run, and find nothing in a short while; `make fuzz` gives them longer."""

from __future__ import annotations

import pytest

from fuzz.__main__ import run
from fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_gives_nothing_but_answers_and_documented_errors(target: Target) -> None:
    """Mutated input is read or refused with the documented error, and never read as something else."""
    assert run(target, seconds=2.0) > 100


def test_a_finding_ends_the_fuzzer() -> None:
    """A parser that raises anything else is reported."""

    def fragile(data: str) -> None:
        if len(data) > 3:
            raise RecursionError

    with pytest.raises(RecursionError):
        run(Target("fragile", TARGETS[2].inputs, fragile), seconds=5.0)
