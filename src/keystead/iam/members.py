"""Members of policies: how they are spelled, and which of them a caller is.

Kinds (IAM, "Principal identifiers"): `user:`, `group:`, `serviceAccount:`, `domain:`, `allUsers`,
`allAuthenticatedUsers`, `projectOwner:`, `projectEditor:`, `projectViewer:`, `principal:`, `principalSet:`
and `deleted:<kind>:<value>?uid=<number>`.

`allUsers` and `allAuthenticatedUsers` are every caller (nobody calls without credentials); `domain:` is
every user of that mail domain, and no service account; `projectOwner:P` and its like are whoever the policy
of project P grants that basic role without a condition (`authorizer` resolves them). There is no directory
of groups or of federated identities, and what was deleted stays deleted: `group:`, `principal:`,
`principalSet:` and `deleted:` members are kept in policies and match nobody.

Whether a named account exists is not decided here.
"""

from __future__ import annotations

import re
from functools import lru_cache

from keystead.api.errors import InvalidArgument
from keystead.iam import roles

ALL_USERS = "allUsers"
ALL_AUTHENTICATED = "allAuthenticatedUsers"
EVERYONE = frozenset({ALL_USERS, ALL_AUTHENTICATED})

#: Members that stand for the holders of a basic role of a project.
CONVENIENCE = {
    "projectOwner": roles.OWNER,
    "projectEditor": roles.EDITOR,
    "projectViewer": roles.VIEWER,
}

_EMAIL = re.compile(r"[a-z0-9!#$&'*+/=^_`{|}~.-]{1,64}@(?:[a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{0,62}")
_DOMAIN = re.compile(r"(?:[a-z0-9-]{1,63}\.)+[a-z][a-z0-9-]{0,62}")
_PROJECT = re.compile(r"[a-z0-9](?:[a-z0-9:.-]{0,61}[a-z0-9])?")
_DELETED = re.compile(r"(user|group|serviceAccount):(\S{1,256})\?uid=[0-9]{1,30}")
_FEDERATED = re.compile(r"//[a-z0-9.-]+/\S{1,512}")
_KINDS = {"user": "User", "group": "Group", "serviceAccount": "Service account"}


def parse_member(text: str) -> str:
    """The member in its canonical spelling: mail addresses and domains are compared in lower case.

    Raises InvalidArgument for anything that is not a member.
    """
    if text in EVERYONE:
        return text
    kind, colon, value = text.partition(":")
    if not colon or not value:
        raise InvalidArgument('Policy members must be of the form "<type>:<value>".')
    if kind in _KINDS:
        if not _EMAIL.fullmatch(value.lower()):
            raise InvalidArgument(f"{_KINDS[kind]} {value[:200]} does not exist.")
        return f"{kind}:{value.lower()}"
    if kind == "domain":
        if not _DOMAIN.fullmatch(value.lower()):
            raise InvalidArgument(f"Domain {value[:200]} does not exist.")
        return f"domain:{value.lower()}"
    shape = _other_shape(kind)
    if shape is None:
        raise InvalidArgument(
            f"The member {text[:200]} is of an unknown type. Please set a valid type prefix for the member."
        )
    if not shape.fullmatch(value):
        raise InvalidArgument(f"Invalid member: {text[:200]}.")
    return text


def _other_shape(kind: str) -> re.Pattern[str] | None:
    if kind in CONVENIENCE:
        return _PROJECT
    return {"principal": _FEDERATED, "principalSet": _FEDERATED, "deleted": _DELETED}.get(kind)


def email_of(member: str) -> str:
    """The mail address of a `user:` or `serviceAccount:` member; empty for others."""
    kind, _, value = member.partition(":")
    return value if kind in {"user", "serviceAccount"} else ""


def is_group(member: str) -> bool:
    """Whether the member counts against the limit of groups and domains of a policy."""
    return member.startswith(("group:", "domain:", "principalSet:"))


@lru_cache(maxsize=8192)
def identities(principal: str) -> frozenset[str]:
    """The members that an authenticated caller is, besides what projects' basic roles make of it."""
    mine = {principal, *EVERYONE}
    if principal.startswith("user:"):
        mine.add("domain:" + principal.rpartition("@")[2])
    return frozenset(mine)
