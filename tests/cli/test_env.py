"""`keystead env`: exports that a shell can read and gcloud accepts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import Keystead


def sourced(text: str, command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell that has evaluated the exports, with nothing of gcloud's from outside."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDSDK_")}
    return subprocess.run(
        ["sh", "-c", f"{text}\n{command}"],
        env={**clean, "CLOUDSDK_CONFIG": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_shell_reads_what_env_prints(keystead: Keystead, tmp_path: Path) -> None:
    """Evaluated by a shell, every line is an export; values with quotes and spaces arrive unchanged."""
    who = "user:o'hara $HOME@example.com"
    ran = keystead("env", "--port", "18080", "--grpc-port", "18081", "--project", "p 1", "--as", who)
    seen = sourced(ran.out, "env -0", tmp_path).stdout
    variables = dict(line.split("=", 1) for line in seen.split("\0") if line)

    assert ran.status == 0
    assert all(line.startswith("export ") for line in ran.out.splitlines())
    assert variables["KEYSTEAD_URL"] == "http://127.0.0.1:18080"
    assert variables["KEYSTEAD_GRPC"] == "127.0.0.1:18081"
    assert variables["CLOUDSDK_AUTH_ACCESS_TOKEN"] == who
    assert variables["CLOUDSDK_CORE_PROJECT"] == "p 1"


def test_overrides_end_with_the_slash_that_gcloud_demands(keystead: Keystead) -> None:
    """Every endpoint override is the service's path prefix on this machine, with a trailing slash."""
    lines = keystead("env", "--port", "18080").out.splitlines()
    overrides = dict(
        line.removeprefix("export CLOUDSDK_API_ENDPOINT_OVERRIDES_").split("=", 1)
        for line in lines
        if "OVERRIDES" in line
    )

    served = {"CLOUDKMS", "SERVICEUSAGE", "CLOUDRESOURCEMANAGER", "IAM", "LOGGING"}
    assert set(overrides) == {*served, "IAMCREDENTIALS"}
    for service, url in overrides.items():
        assert url == f"http://127.0.0.1:18080/{service.lower()}/"


@pytest.mark.gcloud
def test_gcloud_accepts_the_exports(keystead: Keystead, tmp_path: Path) -> None:
    """gcloud takes every property that `env` sets, and complains about none."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed: NOT TESTED is whether it accepts what `keystead env` prints.")
    exports = keystead("env", "--port", "18080", "--project", "p1").out
    done = sourced(exports, "gcloud config list --format=json", tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    config = json.loads(done.stdout)
    assert config["api_endpoint_overrides"]["cloudkms"] == "http://127.0.0.1:18080/cloudkms/"
    assert config["core"]["project"] == "p1"
    assert str(config["core"]["disable_prompts"]) in {"1", "True", "true"}
