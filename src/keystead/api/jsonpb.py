"""Messages from and to JSON as Google's front end maps them (proto3 JSON mapping, with its leniencies).

Beyond `google.protobuf.json_format`, which does the mapping itself: names in camelCase or snake_case with
the front end's own words for unknown ones, bytes in the standard or the URL-safe alphabet, padded or not,
and never silently skipping characters, enums by name, number or number in a string, field masks in either
spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
import pybase64
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from keystead.api.errors import InvalidArgument, bad_field

_WELL_KNOWN = "google.protobuf."
_NUMBER = re.compile(r"-?[0-9]{1,10}")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    json_name: str
    kind: str  # scalar, bytes, enum, mask, message, map
    repeated: bool
    message: Any


@lru_cache(maxsize=1024)
def _table(descriptor: Descriptor) -> dict[str, _Field]:
    table: dict[str, _Field] = {}
    for field in descriptor.fields:
        entry = _Field(field.name, field.json_name, _kind(field), field.is_repeated, field.message_type)
        table[field.name] = table[field.json_name] = entry
    return table


def _kind(field: FieldDescriptor) -> str:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "bytes"
    if field.type == FieldDescriptor.TYPE_ENUM:
        return "enum"
    if field.message_type is None:
        return "bool" if field.type == FieldDescriptor.TYPE_BOOL else "scalar"
    if field.message_type.GetOptions().map_entry:
        return "map"
    if field.message_type.full_name == "google.protobuf.FieldMask":
        return "mask"
    return "scalar" if field.message_type.full_name.startswith(_WELL_KNOWN) else "message"


def loads(body: bytes) -> Any:
    """The JSON value of a body; nothing at all counts as an empty object. Raises InvalidArgument."""
    if not body or body.isspace():
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidArgument(f"Invalid JSON payload received. {error.msg}.") from None


def parse_into(message: Message, value: Any, where: str = "") -> None:
    """Merge a JSON object into a message. Raises InvalidArgument in the front end's words; the message
    may then be partly filled."""
    if value in ("", None):
        return
    descriptor: Any = message.DESCRIPTOR
    try:
        json_format.ParseDict(_normalize(descriptor, value, where), message)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"Invalid JSON payload received. {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = str(error).split("\n", 1)[0]
    return text if len(text) <= 300 else text[:300] + "..."


def _normalize(descriptor: Descriptor, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid_value(where or "(root)", descriptor.full_name, value)
    table = _table(descriptor)
    clean: dict[str, Any] = {}
    for key, item in value.items():
        field = table.get(key)
        if field is None:
            raise _unknown_name(key, where)
        if field.json_name in clean:
            raise InvalidArgument(
                f"Invalid JSON payload received. Duplicate name \"{key}\" at '{where or '(root)'}'."
            )
        if item is None:
            continue
        path = f"{where}.{field.name}" if where else field.name
        if field.kind in {"scalar", "bool", "map"}:
            clean[field.json_name] = item
        elif field.repeated:
            if not isinstance(item, list):
                raise _invalid_value(path, "repeated field", item)
            clean[field.json_name] = [_one(field, each, f"{path}[{i}]") for i, each in enumerate(item)]
        else:
            clean[field.json_name] = _one(field, item, path)
    return clean


def _one(field: _Field, item: Any, path: str) -> Any:
    if field.kind == "bytes":
        return pybase64.b64encode(decode_bytes(item, path)).decode("ascii")
    if field.kind == "enum":
        return _enum(item, path)
    if field.kind == "mask":
        return mask_to_json(item, path)
    return _normalize(field.message, item, path)


def _enum(item: Any, path: str) -> str | int:
    """An enum's name, or its number (which may come as a string)."""
    if isinstance(item, str):
        return int(item) if _NUMBER.fullmatch(item) else item
    if isinstance(item, bool) or not isinstance(item, int):
        raise _invalid_value(path, "TYPE_ENUM", item)
    return item


def decode_bytes(item: Any, path: str) -> bytes:
    """Strict base64 of either alphabet, padding optional."""
    if not isinstance(item, str):
        raise _invalid_value(path, "TYPE_BYTES", item)
    try:
        text = item.encode("ascii").translate(_TO_STANDARD)
        text += b"=" * (-len(text) % 4)
        return pybase64.b64decode(text, validate=True)
    except (ValueError, UnicodeEncodeError):
        description = "Base64 decoding failed"
        raise bad_field(
            path, description, f"Invalid value at '{path}' (TYPE_BYTES), {description}."
        ) from None


def mask_to_json(item: Any, path: str) -> str:
    """A field mask in the one spelling json_format takes: camelCase paths, comma-separated."""
    if isinstance(item, dict):
        item = ",".join(item.get("paths", ()))
    if not isinstance(item, str):
        raise _invalid_value(path, "google.protobuf.FieldMask", item)
    return ",".join(_camel(part.strip()) for part in item.split(",") if part.strip())


def _camel(path: str) -> str:
    head, *rest = path.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _unknown_name(key: str, where: str) -> InvalidArgument:
    at = f" at '{where}'" if where else ""
    description = f'Invalid JSON payload received. Unknown name "{key[:100]}"{at}: Cannot find field.'
    return bad_field(where, description, description)


def _invalid_value(path: str, wanted: str, item: Any) -> InvalidArgument:
    description = f"Invalid value at '{path}' ({wanted}), a {type(item).__name__} was given."
    return bad_field(path, description, description)


def dumps(message: Message, *, enum_numbers: bool = False) -> bytes:
    """The JSON text of a message: camelCase, defaults left out, bytes in standard base64."""
    return orjson.dumps(json_format.MessageToDict(message, use_integers_for_enums=enum_numbers))
