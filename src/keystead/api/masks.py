"""Field masks: which fields of a resource an update changes, and changing only those.

It owns the reading of masks as clients send them (camelCase from gcloud and the Cloud KMS libraries,
snake_case from AlloyDB and Dataflow clients, map keys verbatim) and their application to raw messages
(AIP-134, AIP-161). It does not decide what may change: the method that updates says so.

Google's `json_format` refuses snake_case masks and any map key with an underscore, so masks do not go
through it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from keystead.api.errors import InvalidArgument, bad_field

Mask: TypeAlias = FieldMask | Iterable[str]

WILDCARD = "*"

# A query may be encoded once more than it is decoded.
_COMMA = re.compile(r",|%2[Cc]")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a path leads: along `fields` of a message, then to the entry `key` if the last is a map."""

    path: str
    fields: tuple[FieldDescriptor, ...]
    key: Any = None


def find_field(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """The field of that name, in snake_case or camelCase."""
    return descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map."""
    return field.message_type is not None and bool(cast(Any, field.message_type).GetOptions().map_entry)


def parse_mask_string(text: str) -> FieldMask:
    """The mask that "labels,versionTemplate.algorithm" spells, its paths as they are spelled.

    `normalize` reads them once the type they are about is known. "" is the empty mask; an empty path
    between commas is an InvalidArgument.
    """
    mask = FieldMask()
    if not text.strip():
        return mask
    for path in _split([text]):
        try:
            mask.paths.append(path)
        except ValueError:
            raise _invalid("it is not valid Unicode text") from None
    return mask


def require(mask: Mask) -> None:
    """Raise InvalidArgument if a mask names no field, for methods that need one."""
    if not any(path.strip() for path in _paths(mask)):
        raise bad_field("update_mask", "is required", "The update mask is required: name at least one field.")


def normalize(paths: Mask, descriptor: Descriptor) -> list[str]:
    """The paths in snake_case, each once, in order; map keys verbatim (`labels.cost_center`).

    A path that holds commas is several. "*" stands for everything, so it absorbs the rest. Raises
    InvalidArgument for a path that the type does not have, or that leads into a repeated field.
    """
    return list(dict.fromkeys(place.path for place in _places(paths, descriptor)))


def apply(
    target: Message,
    source: Message,
    mask: Mask,
    *,
    mutable: Collection[str],
    immutable: Collection[str] = (),
) -> None:
    """Make the masked fields of `target` what they are in `source`, and no other.

    `mutable` and `immutable` are snake_case paths and cover what lies below them; a field in neither is
    output only. A masked field that `source` does not set is cleared. A masked parent of mutable fields,
    and "*", mean those of them that are mutable; the immutable ones below keep their value, and `source` may
    repeat but not change them. An empty mask changes nothing.

    Raises InvalidArgument for an unknown field, or a masked one that may not be changed; `target` is
    changed only if nothing was raised. `target` and `source` have the same type, else ValueError.
    """
    descriptor = cast(Descriptor, target.DESCRIPTOR)
    if source.DESCRIPTOR != target.DESCRIPTOR:
        raise ValueError(f"{source.DESCRIPTOR.full_name} cannot update {descriptor.full_name}")
    chosen, kept = _choose(_places(mask, descriptor), descriptor, mutable, immutable)
    for place in kept:
        proposed = _read(source, place)
        if proposed is not None and proposed != _read(target, place):
            raise _immutable(place.path)
    before = type(target)()
    before.CopyFrom(target)
    for place in chosen:
        _copy(source, target, place)
    for place in kept:
        _copy(before, target, place)


def _choose(
    masked: list[_Place], descriptor: Descriptor, mutable: Collection[str], immutable: Collection[str]
) -> tuple[list[_Place], list[_Place]]:
    """The places to change, and the immutable ones below them."""
    chosen: list[_Place] = []
    kept: list[_Place] = []
    for place in masked:
        if _covers(immutable, place.path):
            raise _immutable(place.path)
        below = [path for path in mutable if _below(path, place.path)]
        if _covers(mutable, place.path):
            chosen.append(place)
        elif below:
            chosen.extend(_place(path, descriptor) for path in below)
        else:
            raise _output_only(place.path)
        kept.extend(_place(path, descriptor) for path in immutable if _below(path, place.path))
    return chosen, kept


# --- paths -------------------------------------------------------------------------------------------


def _paths(mask: Mask) -> Iterable[str]:
    return mask.paths if isinstance(mask, FieldMask) else mask


def _split(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        for piece in _COMMA.split(path):
            if not piece.strip():
                raise _invalid("it has an empty path")
            yield piece.strip()


def _places(mask: Mask, descriptor: Descriptor) -> list[_Place]:
    places = [_place(path, descriptor) for path in _split(_paths(mask))]
    everything = [place for place in places if place.path == WILDCARD]
    return everything[:1] or places


def _place(path: str, descriptor: Descriptor) -> _Place:
    if path == WILDCARD:
        return _Place(WILDCARD, ())
    fields: list[FieldDescriptor] = []
    current: Descriptor | None = descriptor
    segments = path.split(".")
    for depth, segment in enumerate(segments):
        if fields and fields[-1].is_repeated:
            raise _invalid(f"'{path[:100]}' leads into a repeated field; name the field itself")
        field = find_field(current, segment) if current is not None else None
        if field is None:
            raise _invalid(f"{descriptor.name} has no field '{path[:100]}'")
        fields.append(field)
        current = field.message_type
        rest = ".".join(segments[depth + 1 :])
        if is_map(field) and rest:
            # All that follows is the key: a mask names entries, not fields of entries.
            snake = ".".join(step.name for step in fields)
            return _Place(f"{snake}.{rest}", tuple(fields), _map_key(field, rest.strip("`"), path))
    return _Place(".".join(field.name for field in fields), tuple(fields))


def _map_key(field: FieldDescriptor, text: str, path: str) -> Any:
    kind = cast(Descriptor, field.message_type).fields_by_name["key"]
    if kind.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    try:
        return text == "true" if kind.cpp_type == FieldDescriptor.CPPTYPE_BOOL else int(text)
    except ValueError:
        raise _invalid(f"'{path[:100]}' does not end in a key of that map") from None


def _below(path: str, parent: str) -> bool:
    return parent == WILDCARD or path.startswith(f"{parent}.")


def _covers(paths: Collection[str], path: str) -> bool:
    return any(path == covering or _below(path, covering) for covering in paths)


# --- values ------------------------------------------------------------------------------------------


def _holder(message: Message, place: _Place) -> Any:
    """The message that holds the last field of a path, or None where a parent is unset."""
    holder: Any = message
    for field in place.fields[:-1]:
        if not holder.HasField(field.name):
            return None
        holder = getattr(holder, field.name)
    return holder


def _read(message: Message, place: _Place) -> Any:
    """The value at a path; None where it is unset or, if that cannot be told, the default."""
    holder = _holder(message, place)
    if holder is None:
        return None
    field = place.fields[-1]
    if place.key is not None:
        return getattr(holder, field.name).get(place.key)
    if field.is_repeated or not field.has_presence:
        return getattr(holder, field.name) or None
    return getattr(holder, field.name) if holder.HasField(field.name) else None


def _copy(source: Message, target: Message, place: _Place) -> None:
    value = _read(source, place)
    field = place.fields[-1]
    if value is None:
        # Walked only as far as it exists, so that clearing a field does not bring its parent into being.
        holder = _holder(target, place)
        if holder is not None and place.key is None:
            holder.ClearField(field.name)
        elif holder is not None:
            getattr(holder, field.name).pop(place.key, None)
        return
    holder = target
    for parent in place.fields[:-1]:
        holder = getattr(holder, parent.name)
    if place.key is not None:
        _put(getattr(holder, field.name), place.key, value)
        return
    holder.ClearField(field.name)
    if field.is_repeated:
        getattr(holder, field.name).MergeFrom(value)
    elif field.message_type is not None:
        getattr(holder, field.name).SetInParent()
        getattr(holder, field.name).CopyFrom(value)
    else:
        setattr(holder, field.name, value)


def _put(entries: Any, key: Any, value: Any) -> None:
    if isinstance(value, Message):
        entries[key].CopyFrom(value)
    else:
        entries[key] = value


# --- errors ------------------------------------------------------------------------------------------


def _invalid(why: str) -> InvalidArgument:
    return bad_field("update_mask", why, f"The update mask is invalid: {why}.")


def _immutable(path: str) -> InvalidArgument:
    return bad_field(path, "is immutable", f"The field '{path}' is immutable.")


def _output_only(path: str) -> InvalidArgument:
    return bad_field(path, "is output only", f"The field '{path}' is output only and cannot be updated.")
