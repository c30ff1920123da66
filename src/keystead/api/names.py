"""Resource names: templates, ids, and the parts of a name.

A name is a path such as `projects/p/locations/l/keyRings/r`. A template is the same with `*` (one
segment) and, last, `**` (one or more segments), as in google.api.http rules. Whether a resource
exists is not decided here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

from keystead.api.errors import InvalidArgument, bad_field

# Cloud KMS: ids of key rings, keys and import jobs.
KMS_ID = re.compile(r"[a-zA-Z0-9_-]{1,63}")
# AIP-122 user-settable ids, as AML AI, AlloyDB and most newer services take them.
AIP_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
# A project id (6 to 30 characters at Google; shorter ones are let pass so that `p1` works in tests).
PROJECT_ID = re.compile(r"[a-z](?:[a-z0-9:.-]{0,61}[a-z0-9])?")
# What may stand in any segment: no control characters, blanks, slashes or percent signs.
_SEGMENT = r"[^/\s%?#\x00-\x1f]{1,256}"


# Hot calls name the same few keys again and again; longer names than any real one are not worth keeping.
_REMEMBERED_LENGTH = 512


class NameTemplate:
    """A compiled name template.

    `match` gives the texts the wildcards stand for, or None; `**` gives its segments joined by `/`.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        parts = [self._part(part) for part in template.split("/")]
        self._pattern = re.compile("/".join(parts))

    @staticmethod
    def _part(part: str) -> str:
        if part == "**":
            return rf"({_SEGMENT}(?:/{_SEGMENT})*)"
        return f"({_SEGMENT})" if part == "*" else re.escape(part)

    def match(self, name: str) -> tuple[str, ...] | None:
        found = self._pattern.fullmatch(name)
        return found.groups() if found else None

    def format(self, *values: str) -> str:
        """The name with the wildcards replaced, in order."""
        remaining = iter(values)
        return "/".join(next(remaining) if p in {"*", "**"} else p for p in self.template.split("/"))

    def __repr__(self) -> str:
        return f"NameTemplate({self.template!r})"


def match_any(templates: Sequence[NameTemplate], name: str) -> bool:
    """Whether a name has one of the shapes."""
    if len(name) > _REMEMBERED_LENGTH:
        return any(template.match(name) is not None for template in templates)
    return any(_matches(template, name) for template in templates)


@lru_cache(maxsize=8192)
def _matches(template: NameTemplate, name: str) -> bool:
    return template.match(name) is not None


def malformed(field: str, name: str, templates: Sequence[NameTemplate]) -> InvalidArgument:
    """INVALID_ARGUMENT for a name that has none of the shapes its field may have."""
    shapes = " or ".join(f"`{template.template}`" for template in templates)
    return bad_field(
        field, f"'{name[:200]}' does not match {shapes}.", "Invalid resource field value in the request."
    )


def require_id(field: str, value: str, pattern: re.Pattern[str] = KMS_ID) -> str:
    """The id given for a new resource, or INVALID_ARGUMENT naming the field."""
    if not value:
        raise bad_field(field, "The id is required.", f"The request is missing the required field {field}.")
    if not pattern.fullmatch(value):
        raise bad_field(
            field,
            f"It must match the regular expression `{pattern.pattern}`.",
            f"Invalid {field} '{value[:80]}'.",
        )
    return value


def segment(name: str, collection: str) -> str:
    """The segment that follows a collection: `segment(n, "locations")`; empty if there is none."""
    parts = name.split("/")
    for here, following in itertools.pairwise(parts):
        if here == collection:
            return following
    return ""


def project_of(name: str) -> str:
    """The project segment of a name: an id or a number; empty if the name has none."""
    return name.split("/", 2)[1] if name.startswith("projects/") else ""


def location_of(name: str) -> str:
    """The location segment of a name; empty if the name has none."""
    return segment(name, "locations")


def parent_of(name: str) -> str:
    """The resource a name stands under: two segments less."""
    return name.rsplit("/", 2)[0] if name.count("/") >= 2 else ""


def last_of(name: str) -> str:
    """The last segment, usually the id."""
    return name.rsplit("/", 1)[-1]
