"""`keystead env`: point gcloud, the Google client libraries and curl at a running server."""

from __future__ import annotations

import shlex

import click

from keystead.cli.output import say

# Also what is not served yet where gcloud would otherwise send the bearer token to Google.
GCLOUD_SERVICES = ("cloudkms", "serviceusage", "cloudresourcemanager", "iam", "iamcredentials", "logging")


def exports(port: int, grpc_port: int, *, project: str, principal: str) -> dict[str, str]:
    """The environment variables, by name. gcloud wants a trailing slash in its overrides."""
    base = f"http://127.0.0.1:{port}"
    found = {
        "KEYSTEAD_URL": base,
        "KEYSTEAD_GRPC": f"127.0.0.1:{grpc_port}",
        "CLOUDSDK_AUTH_ACCESS_TOKEN": principal,
        "CLOUDSDK_CORE_PROJECT": project,
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
    }
    for service in GCLOUD_SERVICES:
        found[f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}"] = f"{base}/{service}/"
    return found


@click.command()
@click.option("--port", default=8080, show_default=True)
@click.option("--grpc-port", default=8081, show_default=True)
@click.option("--project", default="demo-project", show_default=True)
@click.option("--as", "principal", default="user:owner@example.com", show_default=True, help="Who you are.")
def env(port: int, grpc_port: int, project: str, principal: str) -> None:
    """Print shell exports that point gcloud and curl at a server on this machine.

    \b
    eval "$(keystead env)"
    gcloud kms keyrings list --location us-central1
    """
    for name, value in exports(port, grpc_port, project=project, principal=principal).items():
        say(f"export {name}={shlex.quote(value)}")
