"""The organization, its projects, and what a resource stands under.

There is one organization; its number is made when the store is first opened and never changes. A project is
a row of kind `Project`: `projects/ID`, alias `projects/NUMBER`, its body a resourcemanager.v3.Project. Names
in the store carry ids; a number in a request is replaced before anything else looks at the name.

It does not decide who may see or create a project.
"""

from __future__ import annotations

import secrets
from typing import Any

from keystead.api import names
from keystead.api.clock import Clock, timestamp
from keystead.api.etags import as_text, new_etag
from keystead.iam.messages import Organization, Project
from keystead.store import Resource

KIND = "Project"

_META_NUMBER = "iam.organization.number"
_META_CREATED = "iam.organization.create_time_us"

# The collections whose members may carry a policy. All others (versions, operations, data sets, ...) are
# under the policies of what they stand in.
_CARRIERS = frozenset({"organizations", "projects", "keyRings", "cryptoKeys", "importJobs", "ekmConnections"})


def ensure_organization(tx: Any, clock: Clock) -> str:
    """The organization's name, `organizations/NUMBER`; made up if there is none yet."""
    number = tx.meta.get(_META_NUMBER)
    if number is None:
        number = str(secrets.randbelow(9 * 10**11) + 10**11).encode()
        tx.meta.put(_META_NUMBER, number)
        tx.meta.put(_META_CREATED, str(int(clock.now().timestamp() * 1_000_000)).encode())
    return f"organizations/{number.decode()}"


def read_organization(tx: Any) -> Organization:
    """The organization as Resource Manager v3 shows it."""
    created_us = int(tx.meta.get(_META_CREATED))
    organization = Organization(
        name=f"organizations/{tx.meta.get(_META_NUMBER).decode()}",
        display_name="keystead",
        state=Organization.State.ACTIVE,
        etag=as_text(new_etag(1)),
    )
    organization.create_time.FromMicroseconds(created_us)
    organization.update_time.FromMicroseconds(created_us)
    return organization


def ancestors(name: str, organization: str) -> tuple[str, ...]:
    """The resources whose policies hold for a resource, nearest first, itself included if it can carry one.

    A name outside of any project and organization has none. Whether they exist is not asked.
    """
    parts = name.split("/")
    if parts[0] not in {"projects", "organizations"} or len(parts) < 2:
        return ()
    found = ["/".join(parts[:end]) for end in range(2, len(parts) + 1, 2) if parts[end - 2] in _CARRIERS]
    if len(parts) % 2 and parts[-1] == "ekmConfig":
        found.append(name)
    if parts[0] == "projects":
        found.insert(0, organization)
    return tuple(reversed(found))


def is_number(project: str) -> bool:
    """Whether a project segment is a number: ids begin with a letter."""
    return project.isascii() and project.isdigit()


def find_project(tx: Any, project: str) -> Project | None:
    """The project with this id or number, bare or as `projects/...`; None if there is none."""
    name = "projects/" + project.removeprefix("projects/")
    number = is_number(name[len("projects/") :])
    row = tx.resources.by_alias(name) if number else tx.resources.get(name)
    return None if row is None or row.kind != KIND else Project.FromString(row.body)


def number_of(project: Project) -> int:
    """The number of a project."""
    return int(project.name.removeprefix("projects/"))


class Projects:
    """Creates and lists the organization's projects."""

    def __init__(self, organization: str, clock: Clock) -> None:
        self.organization = organization
        self._clock = clock

    def get(self, tx: Any, project: str) -> Project | None:
        """The project with this id or number, bare or as `projects/...`; None if there is none."""
        return find_project(tx, project)

    def ensure(self, tx: Any, project_id: str) -> Project:
        """The project with this id, created if there is none. The id must match names.PROJECT_ID."""
        found = find_project(tx, project_id)
        if found is not None:
            return found
        names.require_id("project_id", project_id, names.PROJECT_ID)
        now = timestamp(self._clock.now())
        project = Project(
            name=f"projects/{_free_number(tx)}",
            parent=self.organization,
            project_id=project_id,
            display_name=project_id,
            state=Project.State.ACTIVE,
            create_time=now,
            update_time=now,
            etag=as_text(new_etag(1)),
        )
        tx.resources.insert(
            Resource(
                name=f"projects/{project_id}",
                kind=KIND,
                parent=self.organization,
                sort=project_id,
                body=project.SerializeToString(),
                alias=project.name,
            )
        )
        return project

    def list(self, tx: Any, after: str | None, limit: int) -> list[Project]:
        """Projects ascending by id, from the one after `after`."""
        rows = tx.resources.list(KIND, self.organization, after=after, limit=limit)
        return [Project.FromString(row.body) for row in rows]


def _free_number(tx: Any) -> int:
    while True:
        number = secrets.randbelow(9 * 10**11) + 10**11
        if tx.resources.by_alias(f"projects/{number}") is None:
            return number
