"""Write src/keystead/iam/roles.json: the predefined roles of the served APIs, out of a full role listing.

    python tools/extract_roles.py LISTING.json

The listing maps a service to `roles` (role to title and permissions, as in Google's documentation of
predefined roles) and `permissions` (permission to the roles that hold it, the basic roles among them).
Cloud Resource Manager is not part of it: its few permissions and roles are written down here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parent.parent / "src" / "keystead" / "iam" / "roles.json"

# Service to its roles that are kept; None keeps all that are named after the service.
KEPT: dict[str, set[str] | None] = {
    "cloudkms": None,
    "financialservices": None,
    "logging": {"roles/logging.admin", "roles/logging.privateLogViewer", "roles/logging.viewer"},
    "serviceusage": {
        "roles/serviceusage.serviceUsageAdmin",
        "roles/serviceusage.serviceUsageConsumer",
        "roles/serviceusage.serviceUsageViewer",
    },
}

BASIC = {"roles/owner": "Owner", "roles/editor": "Editor", "roles/viewer": "Viewer"}

# Resource Manager's permissions (its IAM page), and the basic roles that hold each: o, e, v. Of those on the
# organization Google gives Owner only the first; here Owner of the organization is its first administrator.
RESOURCE_MANAGER = {
    "resourcemanager.projects.get": "oev",
    "resourcemanager.projects.list": "oev",
    "resourcemanager.projects.getIamPolicy": "oev",
    "resourcemanager.projects.setIamPolicy": "o",
    "resourcemanager.organizations.get": "oev",
    "resourcemanager.organizations.getIamPolicy": "o",
    "resourcemanager.organizations.setIamPolicy": "o",
}
RESOURCE_MANAGER_ROLES = {
    "roles/browser": (
        "Browser",
        [
            "resourcemanager.organizations.get",
            "resourcemanager.projects.get",
            "resourcemanager.projects.getIamPolicy",
            "resourcemanager.projects.list",
        ],
    ),
    "roles/resourcemanager.organizationAdmin": (
        "Organization Administrator",
        [
            "resourcemanager.organizations.get",
            "resourcemanager.organizations.getIamPolicy",
            "resourcemanager.organizations.setIamPolicy",
            "resourcemanager.projects.get",
            "resourcemanager.projects.getIamPolicy",
            "resourcemanager.projects.list",
            "resourcemanager.projects.setIamPolicy",
        ],
    ),
    "roles/resourcemanager.organizationViewer": (
        "Organization Viewer",
        ["resourcemanager.organizations.get"],
    ),
    "roles/resourcemanager.projectIamAdmin": (
        "Project IAM Admin",
        [
            "resourcemanager.projects.get",
            "resourcemanager.projects.getIamPolicy",
            "resourcemanager.projects.setIamPolicy",
        ],
    ),
}


def extract(listing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Role to `{title, permissions}`, sorted."""
    roles: dict[str, dict[str, Any]] = {}
    basic: dict[str, set[str]] = {role: set() for role in BASIC}
    for service, kept in KEPT.items():
        for role, entry in listing[service]["roles"].items():
            if role in kept if kept is not None else role.startswith(f"roles/{service}."):
                permissions = sorted(set(entry["permissions"]))
                roles[role] = {"title": entry["title"], "permissions": permissions}
        for permission, holders in listing[service]["permissions"].items():
            if permission.startswith(f"{service}."):
                for role in basic.keys() & set(holders):
                    basic[role].add(permission)
    for permission, letters in RESOURCE_MANAGER.items():
        for role in BASIC:
            if role[len("roles/")] in letters:
                basic[role].add(permission)
    for role, title in BASIC.items():
        roles[role] = {"title": title, "permissions": sorted(basic[role])}
    for role, (title, permissions) in RESOURCE_MANAGER_ROLES.items():
        roles[role] = {"title": title, "permissions": permissions}
    return dict(sorted(roles.items()))


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    listing = json.loads(Path(sys.argv[1]).read_text())
    TARGET.write_text(json.dumps(extract(listing), indent=1) + "\n")


if __name__ == "__main__":
    main()
