"""Service agents: the identities under which the served services use what customers own.

SECURITY: nobody may be a service agent but the service itself, in process. Listeners refuse credentials that
name an agent's address (`is_agent_address`), and a policy may name an agent only once it exists, so that an
address typed wrong is an error and not a grant that waits for somebody.

An agent is a row of kind `ServiceAgent`, `projects/ID/serviceAgents/SERVICE`, with the address as its alias;
its body is the ServiceIdentity that Service Usage answers. Source of the addresses: Google's table of
service agents, and the AML AI documentation.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any

from keystead.api.errors import InvalidArgument, PermissionDenied
from keystead.iam.hierarchy import find_project, number_of
from keystead.iam.official import ServiceIdentity
from keystead.store import Resource

KIND = "ServiceAgent"


@dataclass(frozen=True, slots=True)
class Agent:
    """A service's agent: the mail domain of its address, whether generateServiceIdentity names it, and the
    agents that come into being with it."""

    domain: str
    named: bool = True
    along: tuple[str, ...] = ()


# Cloud EKM's agent is the one that generateServiceIdentity names for Cloud KMS; it creates both.
AGENTS = {
    "alloydb": Agent("gcp-sa-alloydb.iam.gserviceaccount.com"),
    "cloudkms": Agent("gcp-sa-cloudkms.iam.gserviceaccount.com"),
    "compute": Agent("compute-system.iam.gserviceaccount.com"),
    "dataflow": Agent("dataflow-service-producer-prod.iam.gserviceaccount.com"),
    "ekms": Agent("gcp-sa-ekms.iam.gserviceaccount.com", along=("cloudkms",)),
    "financialservices": Agent("gcp-sa-financialservices.iam.gserviceaccount.com"),
    "storage": Agent("gs-project-accounts.iam.gserviceaccount.com", named=False),
}
_PRIMARY = {"cloudkms": "ekms"}

_DOMAINS = "|".join(re.escape(agent.domain) for agent in AGENTS.values())
_ADDRESS = re.compile(
    rf"[^@]+@(?:{_DOMAINS}|gcp-sa-[a-z0-9-]+\.iam\.gserviceaccount\.com"
    r"|bigquery-encryption\.iam\.gserviceaccount\.com)"
)


def is_agent_address(email: str) -> bool:
    """Whether a mail address is one that only a service agent can have."""
    return _ADDRESS.fullmatch(email.lower()) is not None


def agent_email(project_number: int, service: str) -> str:
    """The address of a service's agent in a project; `service` is the first label of the API's name, as in
    `financialservices`. Raises KeyError for a service without one."""
    return f"service-{project_number}@{AGENTS[service].domain}"


def agent_principal(project_number: int, service: str) -> str:
    """The agent as a member of policies and as a caller."""
    return f"serviceAccount:{agent_email(project_number, service)}"


def ensure_agent(tx: Any, project: str, service: str) -> str:
    """The address of a service's agent in an existing project (id, number or name), created if need be.

    Raises PermissionDenied if there is no such project.
    """
    found = find_project(tx, project)
    if found is None:
        raise PermissionDenied("The caller does not have permission")
    email = agent_email(number_of(found), service)
    for along in AGENTS[service].along:
        ensure_agent(tx, project, along)
    name = f"projects/{found.project_id}/serviceAgents/{service}"
    if tx.resources.get(name) is None:
        unique_id = str(10**20 + secrets.randbelow(10**20))
        tx.resources.insert(
            Resource(
                name=name,
                kind=KIND,
                parent=f"projects/{found.project_id}",
                sort=service,
                body=ServiceIdentity(email=email, unique_id=unique_id).SerializeToString(),
                alias=f"serviceAccounts/{email}",
            )
        )
    return email


def identity_for(tx: Any, project: str, service: str) -> Any:
    """The ServiceIdentity that Service Usage answers for an API's agent, created if need be.

    It is empty for a service whose agent that API does not name (Cloud Storage). Raises InvalidArgument for
    a service that has none.
    """
    primary = _PRIMARY.get(service, service)
    if primary not in AGENTS:
        raise InvalidArgument(
            f"Service {service}.googleapis.com has not been configured for service identities."
        )
    email = ensure_agent(tx, project, primary)
    if not AGENTS[primary].named:
        return ServiceIdentity()
    return ServiceIdentity.FromString(tx.resources.by_alias(f"serviceAccounts/{email}").body)


def agent_exists(tx: Any, email: str) -> bool:
    """Whether an agent of this address has been created."""
    return tx.resources.by_alias(f"serviceAccounts/{email}") is not None
