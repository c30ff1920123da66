"""The clients the story is told with: REST as documented, the real gcloud where there is one, and the
official Python client."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from google.api_core.client_options import ClientOptions
from google.cloud import financialservices_v1
from google.oauth2.credentials import Credentials

from keystead.cli.env import exports

_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Reply:
    """An HTTP answer: its status and JSON body."""

    status: int
    body: dict[str, Any]

    @property
    def ok(self) -> bool:
        return self.status == 200

    @property
    def message(self) -> str:
        return str(self.body.get("error", {}).get("message", ""))


class Rest:
    """Calls as the documentation's curl commands make them."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._session = requests.Session()

    def call(self, verb: str, path: str, body: Any = None, *, who: str) -> Reply:
        """`path` begins with the service's prefix: `cloudkms/v1/projects/...`."""
        answer = self._session.request(
            verb,
            f"{self._base}/{path}",
            json=body,
            headers={"Authorization": f"Bearer {who}"},
            timeout=_TIMEOUT_S,
        )
        return Reply(answer.status_code, answer.json())


class Gcloud:
    """The real gcloud, pointed at the server by environment variables alone."""

    def __init__(self, port: int, grpc_port: int, *, project: str, who: str) -> None:
        self._config = tempfile.TemporaryDirectory(prefix="keystead-gcloud-")
        overrides = exports(port, grpc_port, project=project, principal=who)
        self._env = {**os.environ, **overrides, "CLOUDSDK_CONFIG": self._config.name}

    @staticmethod
    def installed() -> bool:
        return shutil.which("gcloud") is not None

    def run(self, *words: str) -> tuple[int, str]:
        """Exit status, and what it printed on both streams."""
        done = subprocess.run(
            ["gcloud", *words],  # noqa: S607  (the user's own gcloud is what is wanted)
            env=self._env,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def close(self) -> None:
        self._config.cleanup()


def aml_client(port: int, who: str) -> Any:
    """The official AML AI client over REST. The `http` scheme in the endpoint is what switches TLS off."""
    make: Any = Credentials  # the package has no annotations
    credentials = make(token=who)
    return financialservices_v1.AMLClient(
        credentials=credentials,
        transport="rest",
        client_options=ClientOptions(api_endpoint=f"http://127.0.0.1:{port}/financialservices"),
    )


def folder_size(path: Path) -> int:
    """Bytes in all files below a folder, as they stand now."""
    total = 0
    for root, _, files in os.walk(path):
        for name in files:
            try:
                total += (Path(root) / name).stat().st_size
            except FileNotFoundError:
                continue  # renamed meanwhile
    return total
