"""The demo is the promise made to a newcomer: it must hold, and must say so when it does not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from keystead.cli.demo import story
from keystead.cli.demo.command import demo
from keystead.cli.demo.report import Report, StepFailedError
from keystead.financialservices.generator import generate


def run(*words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "160"}
    if path is not None:
        env["PATH"] = path
    command = [sys.executable, "-m", "keystead", "demo", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=env, check=False)


@pytest.mark.slow
def test_the_demo_holds_with_generated_input() -> None:
    """Every step holds, and the exit status says so."""
    done = run("--transactions", "20000")
    assert "All 8 steps held." in done.stdout, done.stdout[-3000:]
    assert done.returncode == 0


@pytest.mark.slow
def test_the_demo_takes_the_users_own_csv_files_and_needs_no_gcloud(tmp_path: Path) -> None:
    """A folder of CSV files serves as input; without gcloud the same calls are made over REST."""
    generate(tmp_path, seed=7, transactions=3000, file_format="csv")
    done = run("--input", str(tmp_path), path="/nonexistent")
    assert "All 8 steps held." in done.stdout, done.stdout[-3000:]
    assert "gcloud is not installed here" in done.stdout
    assert done.returncode == 0


def test_an_input_folder_without_the_tables_is_refused(tmp_path: Path) -> None:
    """The error names the tables that are missing and what they may be."""
    (tmp_path / "party.csv").write_text("party_id\n")
    answer = CliRunner().invoke(demo, ["--input", str(tmp_path)])
    assert answer.exit_code == 1
    assert "account_party_link, transaction, risk_case_event" in answer.output


@pytest.mark.slow
def test_a_step_that_does_not_hold_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where disabling the key changes nothing, the demo must notice and exit with status 1."""
    monkeypatch.setattr(story.Story, "_set_state", lambda *_: None)
    answer = CliRunner().invoke(demo, ["--transactions", "20000"], standalone_mode=False)
    assert answer.return_value == 1
    assert "not all held" in answer.output


def test_a_step_with_a_failed_check_ends_the_story() -> None:
    """A check that fails, and an exception, both count as a step that did not hold."""
    report = Report(Console(file=io.StringIO()))
    with pytest.raises(StepFailedError), report.step("one") as step:
        step.expect(False, "the sky is green", "it is blue")
    with pytest.raises(StepFailedError), report.step("two"):
        raise RuntimeError("boom")
    assert not report.held
    assert "it is blue" in report.steps[0].failed[0]
    assert "boom" in report.steps[1].failed[0]
