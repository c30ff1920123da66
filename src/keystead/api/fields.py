"""Field paths of protobuf messages: reading, writing, presence.

Paths are dotted proto (snake_case) names, `crypto_key.version_template.algorithm`. They never walk
into repeated fields or maps.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def get_path(message: Message, path: str) -> Any:
    """The value at a path (defaults for what is unset)."""
    if "." not in path:
        return getattr(message, path)
    value: Any = message
    for part in path.split("."):
        value = getattr(value, part)
    return value


def set_path(message: Message, path: str, value: Any) -> None:
    """Set a scalar at a path."""
    if "." not in path:
        setattr(message, path, value)
        return
    *parents, last = path.split(".")
    holder: Any = message
    for part in parents:
        holder = getattr(holder, part)
    setattr(holder, last, value)


def has_path(message: Message, path: str) -> bool:
    """Whether a path is set: present where presence is tracked, else other than the default."""
    holder: Any = message
    *parents, last = path.split(".")
    for part in parents:
        if not holder.HasField(part):
            return False
        holder = getattr(holder, part)
    descriptor = holder.DESCRIPTOR.fields_by_name[last]
    if descriptor.has_presence:
        return bool(holder.HasField(last))
    return bool(getattr(holder, last))
