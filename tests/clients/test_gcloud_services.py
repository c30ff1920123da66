"""Projects and services with the real gcloud."""

from __future__ import annotations

import re

import pytest

from tests.clients.gcloud import Gcloud

pytestmark = pytest.mark.gcloud


@pytest.fixture(scope="module", autouse=True)
def project(gcloud: Gcloud) -> str:
    """The project p1, which comes into being when the owner first names it; its number."""
    gcloud.ok("kms", "keyrings", "create", "kr1", "--location=us-central1")
    number = gcloud.ok("projects", "describe", "p1", "--format=value(projectNumber)").out.strip()
    assert re.fullmatch(r"[0-9]{12}", number)
    return number


def test_projects_describe_and_list(gcloud: Gcloud, project: str) -> None:
    """A project shows its id, number, state and the organization it is in."""
    described = gcloud.ok("projects", "describe", "p1").shape
    listed = [line.split() for line in gcloud.ok("projects", "list").out.splitlines()]

    assert re.fullmatch(
        "createTime: 'TIME'\nlifecycleState: ACTIVE\nname: p1\n"
        "parent:\n  id: '[0-9]+'\n  type: organization\n"
        f"projectId: p1\nprojectNumber: '{project}'\n",
        described,
    )
    assert listed == [["PROJECT_ID", "NAME", "PROJECT_NUMBER"], ["p1", "p1", project]]


def test_a_project_has_its_organization_as_ancestor(gcloud: Gcloud) -> None:
    """`get-ancestors` names project and organization; with policies, the owner's grant shows."""
    ancestors = gcloud.ok("projects", "get-ancestors", "p1").out.splitlines()
    policies = gcloud.ok("projects", "get-ancestors-iam-policy", "p1").out

    assert ancestors[0].split() == ["ID", "TYPE"]
    assert ancestors[1].split() == ["p1", "project"]
    assert ancestors[2].split()[1] == "organization"
    assert "    - user:owner@example.com\n    role: roles/owner\n" in policies
    assert "type: organization\n" in policies


def test_a_project_of_others_reads_as_missing(gcloud: Gcloud) -> None:
    """A stranger is denied a project, and sees none in the list."""
    bob = "user:bob@example.com"
    denied = gcloud.refused("projects", "describe", "p1", token=bob)
    listed = gcloud.ok("projects", "list", token=bob)

    assert "Permission 'resourcemanager.projects.get' denied on resource 'projects/p1'" in denied
    assert (listed.out, listed.err) == ("", "Listed 0 items.\n")


@pytest.mark.parametrize(
    ("service", "agent"),
    [
        ("financialservices.googleapis.com", "gcp-sa-financialservices"),
        ("alloydb.googleapis.com", "gcp-sa-alloydb"),
        ("cloudkms.googleapis.com", "gcp-sa-ekms"),
    ],
)
def test_services_identity_create_names_the_agent(
    gcloud: Gcloud, project: str, service: str, agent: str
) -> None:
    """A service agent has the address Google gives it, and making it again answers the same."""
    for command in (("--project=p1",), ()):
        made = gcloud.ok("beta", "services", "identity", "create", f"--service={service}", *command)
        address = f"service-{project}@{agent}.iam.gserviceaccount.com"
        assert made.err == f"Service identity created: {address}\n"


def test_services_enable_ends_at_once_and_list_shows_what_is_served(gcloud: Gcloud) -> None:
    """A served API is enabled already; `services list --enabled` names all of them."""
    gcloud.ok("services", "enable", "cloudkms.googleapis.com")
    rows = [line.split(maxsplit=1) for line in gcloud.ok("services", "list", "--enabled").out.splitlines()]

    assert rows[0] == ["NAME", "TITLE"]
    titles = dict(rows[1:])
    assert titles["cloudkms.googleapis.com"] == "Cloud Key Management Service (KMS) API"
    assert {"iam.googleapis.com", "logging.googleapis.com", "serviceusage.googleapis.com"} <= set(titles)


def test_a_service_that_is_not_served_cannot_be_enabled(gcloud: Gcloud) -> None:
    """Enabling an API that is not there is refused, and names it."""
    text = gcloud.refused("services", "enable", "bigtable.googleapis.com")

    assert "Not found or permission denied for service(s): bigtable.googleapis.com." in text
