"""Predefined roles and what each permits: data, in `roles.json`, written by `tools/extract_roles.py`.

Source: Google's documentation of predefined roles, snapshot of May 2026, cut to the APIs that are served.
Basic roles are taken from the same data, permission by permission, and not guessed from verbs:

- `roles/owner` holds every documented permission of the served APIs that Google gives Owner; that includes
  the use of keys, and the `...ViaDelegation` variants, which no served method asks for.
- `roles/editor` may create, update and delete, but sets no policy, uses no key, reads no private log and
  neither destroys nor restores key versions.
- `roles/viewer` reads metadata, policies of keys and key rings included.

Custom roles are not kept here: a policy that names a role of another kind is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

from keystead.api.errors import InvalidArgument

OWNER = "roles/owner"
EDITOR = "roles/editor"
VIEWER = "roles/viewer"


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """A predefined role: `name` is `roles/cloudkms.admin`."""

    name: str
    title: str
    permissions: frozenset[str]


@cache
def predefined() -> Mapping[str, RoleDefinition]:
    """All predefined roles by name."""
    data = json.loads((resources.files(__package__) / "roles.json").read_text("utf-8"))
    found = {
        name: RoleDefinition(name, entry["title"], frozenset(entry["permissions"]))
        for name, entry in data.items()
    }
    return MappingProxyType(found)


@cache
def known_permissions() -> frozenset[str]:
    """All permissions that some predefined role holds."""
    return frozenset[str]().union(*(role.permissions for role in predefined().values()))


def require_role(name: str) -> RoleDefinition:
    """The role that a binding names, or INVALID_ARGUMENT in IAM's words."""
    role = predefined().get(name)
    if role is None:
        raise InvalidArgument(f"Role {name[:200]} is not supported for this resource.")
    return role
