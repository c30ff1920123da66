"""The service agents of every project, as callers of the key service."""

from __future__ import annotations

from collections.abc import Callable

from keystead.api.call import Transactions
from keystead.api.dispatch import Dispatcher
from keystead.api.errors import FailedPrecondition
from keystead.api.method import Service
from keystead.cmek.keyclient import InProcessKeyClient, KeyClient
from keystead.iam.hierarchy import Projects, number_of
from keystead.iam.service_agents import agent_email


class ServiceAgents:
    """Knows their addresses, and calls in their name."""

    def __init__(self, store: Transactions, projects: Projects, dispatcher: Dispatcher) -> None:
        self._store = store
        self._projects = projects
        self._dispatcher = dispatcher
        self._numbers: dict[str, int] = {}

    def email(self, service: Service, project: str) -> str:
        """The address of a service's agent in a project."""
        if project not in self._numbers:
            with self._store.read() as tx:
                found = self._projects.get(tx, project)
            if found is None:
                raise FailedPrecondition(
                    f"Project {project} has no service identity of {service.name} yet. Create it, and grant "
                    f"it the key: gcloud beta services identity create --service={service.name} "
                    f"--project={project}"
                )
            self._numbers[project] = number_of(found)
        return agent_email(self._numbers[project], service.prefix)

    def clients(self, service: Service) -> Callable[[str], KeyClient]:
        """The key client of a service in a project: calls as its agent there."""

        def client(project: str) -> KeyClient:
            principal = f"serviceAccount:{self.email(service, project)}"
            return InProcessKeyClient(self._dispatcher, principal, service.name)

        return client
