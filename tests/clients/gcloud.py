"""The real gcloud, set up by nothing but what `keystead env` prints.

Owns running it, and taking from its output what differs between two runs: times, project numbers, etags.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from keystead.cli.env import exports
from tests.live import OWNER

_TIMEOUT_S = 120.0
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_ETAG = re.compile(r'(etag"?: )"?[A-Za-z0-9+/]{4,}=*"?')


@dataclass(frozen=True)
class Printed:
    """What one command left: exit status, and both streams."""

    status: int
    out: str
    err: str

    @property
    def shape(self) -> str:
        """Standard output with every time as TIME and every etag as ETAG."""
        return _ETAG.sub(r"\1ETAG", _TIME.sub("TIME", self.out))


class Gcloud:
    """Runs commands in `directory`, where its configuration and the files of a test lie. `ran` holds them."""

    def __init__(self, port: int, grpc_port: int, *, directory: Path, project: str) -> None:
        self.directory = directory
        self.ran: set[tuple[str, ...]] = set()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CLOUDSDK_")},
            **exports(port, grpc_port, project=project, principal=OWNER),
            "CLOUDSDK_CONFIG": str(directory / "config"),
        }

    def run(self, *words: str, token: str | None = OWNER) -> Printed:
        """Run `gcloud WORDS`; `token` is the bearer token, None for no credentials at all."""
        self.ran.add(words)
        environment = dict(self._environment)
        if token is None:
            del environment["CLOUDSDK_AUTH_ACCESS_TOKEN"]
            environment["CLOUDSDK_AUTH_DISABLE_CREDENTIALS"] = "1"
        else:
            environment["CLOUDSDK_AUTH_ACCESS_TOKEN"] = token
        done = subprocess.run(
            ["gcloud", *words],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return Printed(done.returncode, done.stdout, done.stderr)

    def has_run(self, command: str) -> bool:
        """Whether `gcloud kms COMMAND` was run."""
        words = ("kms", *command.split())
        return any(ran[: len(words)] == words for ran in self.ran)

    def ok(self, *words: str, token: str | None = OWNER) -> Printed:
        """The same, and it must succeed."""
        printed = self.run(*words, token=token)
        assert printed.status == 0, f"gcloud {' '.join(words)}\n{printed.err}"
        return printed

    def refused(self, *words: str, token: str | None = OWNER) -> str:
        """The same, and it must fail in gcloud's ordinary way; what it says."""
        printed = self.run(*words, token=token)
        assert printed.status == 1, f"gcloud {' '.join(words)} ended with {printed.status}\n{printed.out}"
        assert "Traceback" not in printed.err, "gcloud crashed"
        return printed.err
