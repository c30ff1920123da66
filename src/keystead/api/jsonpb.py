"""Messages from and to JSON as Google's front end maps them (proto3 JSON mapping, with its leniencies).

Beyond `google.protobuf.json_format`: names in camelCase or snake_case with the front end's own words for
unknown ones, bytes in the standard or the URL-safe alphabet, padded or not, and never silently skipping
characters, enums by name, number or number in a string, field masks in either spelling.

Plain fields (texts, bytes, numbers, enums, messages, wrapped integers) are mapped here, which costs a third;
whatever has rules of its own (maps, oneofs, times, floats, Any, Struct) is left to `json_format`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
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
# Up to here every whole number is a double of its own.
_EXACT = 2**53
_WRAPPED_INTEGERS = frozenset(f"{_WELL_KNOWN}{name}Value" for name in ("Int32", "Int64", "UInt32", "UInt64"))
_LONG = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})
_PLAIN: dict[int, type] = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
    FieldDescriptor.CPPTYPE_UINT32: int,
    FieldDescriptor.CPPTYPE_UINT64: int,
}
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


Writer = Callable[[Any, bool], Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """What is known of a field. plain: values of exactly this type are set as they are."""

    name: str
    json_name: str
    kind: str  # plain, bytes, enum, mask, message, wrapped, other
    plain: type | None
    repeated: bool
    oneof: bool
    numbers: dict[str, int]
    message: Any


@lru_cache(maxsize=1024)
def _table(descriptor: Descriptor) -> dict[str, _Field]:
    table: dict[str, _Field] = {}
    for field in descriptor.fields:
        kind = _kind(field)
        table[field.name] = table[field.json_name] = _Field(
            name=field.name,
            json_name=field.json_name,
            kind=kind,
            plain=_PLAIN.get(field.cpp_type) if kind == "plain" else None,
            repeated=field.is_repeated,
            oneof=_in_oneof(field),
            numbers=_numbers(field),
            message=field.message_type,
        )
    return table


def _kind(field: FieldDescriptor) -> str:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "bytes"
    if field.type == FieldDescriptor.TYPE_ENUM:
        return "enum"
    if field.message_type is None:
        return "plain"
    name = field.message_type.full_name
    if field.message_type.GetOptions().map_entry:
        return "other"
    if name == "google.protobuf.FieldMask":
        return "mask"
    if name in _WRAPPED_INTEGERS:
        return "wrapped"
    return "other" if name.startswith(_WELL_KNOWN) else "message"


def _in_oneof(field: FieldDescriptor) -> bool:
    """Whether setting the field may clear another (the one-field oneofs of `optional` do not count)."""
    return field.containing_oneof is not None and len(field.containing_oneof.fields) > 1


def _numbers(field: FieldDescriptor) -> dict[str, int]:
    if field.enum_type is None:
        return {}
    return {name: value.number for name, value in field.enum_type.values_by_name.items()}


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
    try:
        _fill(message, value, where)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise InvalidArgument(f"Invalid JSON payload received. {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = str(error).split("\n", 1)[0]
    return text if len(text) <= 300 else text[:300] + "..."


def _fill(message: Any, value: Any, where: str) -> None:
    """Merge the fields of a JSON object into a message."""
    if type(value) is not dict or not _fill_quickly(message, value):
        _fill_any(message, value, where)


def _fill_quickly(message: Any, value: dict[str, Any]) -> bool:
    """The hot calls' way: members in camelCase that hold standard base64, texts or checksums. False for
    anything else, which is then merged from the beginning with all its rules."""
    quick = _quick(message.DESCRIPTOR)
    for key, item in value.items():
        name, kind = quick.get(key, _NOT_QUICK)
        if type(item) is not str or kind is None:
            return False
        if kind == "bytes":
            try:
                setattr(message, name, pybase64.b64decode(item, validate=True))
            except ValueError:
                return False
        elif kind == "wrapped":
            if not _NUMBER.fullmatch(item):
                return False
            getattr(message, name).value = int(item)
        else:
            setattr(message, name, item)
    return True


_NOT_QUICK: tuple[str, str | None] = ("", None)


@lru_cache(maxsize=1024)
def _quick(descriptor: Descriptor) -> dict[str, tuple[str, str | None]]:
    """By JSON name: the field's name, and its kind if it is one that `_fill_quickly` sets."""
    found: dict[str, tuple[str, str | None]] = {}
    for name, field in _table(descriptor).items():
        kind = "text" if field.plain is str else field.kind
        if name == field.json_name and not field.repeated and not field.oneof:
            found[name] = (field.name, kind if kind in {"text", "bytes", "wrapped"} else None)
    return found


def _fill_any(message: Any, value: Any, where: str) -> None:
    rest: dict[str, Any] = {}
    for field, item, path in _items(message.DESCRIPTOR, value, where):
        if field.repeated or field.oneof or not _set(message, field, item, path):
            rest[field.json_name] = _normalized(field, item, path)
    if rest:
        json_format.ParseDict(rest, message)


def _items(descriptor: Any, value: Any, where: str) -> Iterator[tuple[_Field, Any, str]]:
    """Field, value and path of each member of a JSON object that is not null."""
    if not isinstance(value, dict):
        raise _invalid_value(where or "(root)", descriptor.full_name, value)
    table = _table(descriptor)
    seen = set()
    for key, item in value.items():
        field = table.get(key)
        if field is None:
            raise _unknown_name(key, where)
        if field.name in seen:
            raise InvalidArgument(
                f"Invalid JSON payload received. Duplicate name \"{key}\" at '{where or '(root)'}'."
            )
        seen.add(field.name)
        if item is not None:
            yield field, item, f"{where}.{field.name}" if where else field.name


def _set(message: Any, field: _Field, item: Any, path: str) -> bool:
    """Set a field that needs no rules but these; False, and nothing done, if it does."""
    kind = field.kind
    if kind == "bytes":
        setattr(message, field.name, decode_bytes(item, path))
    elif kind == "plain" and type(item) is field.plain:
        setattr(message, field.name, item)
    elif kind == "wrapped" and (type(item) is int or (type(item) is str and _NUMBER.fullmatch(item))):
        getattr(message, field.name).value = int(item)
    elif kind == "message":
        child = getattr(message, field.name)
        _fill(child, item, path)
        child.SetInParent()
    elif kind == "enum":
        named = _enum(item, path)
        number = field.numbers.get(named) if isinstance(named, str) else named
        if number is None:
            return False
        setattr(message, field.name, number)
    else:
        return False
    return True


def _normalize(descriptor: Any, value: Any, where: str) -> dict[str, Any]:
    """A JSON object in the spelling that json_format takes."""
    return {
        field.json_name: _normalized(field, item, path)
        for field, item, path in _items(descriptor, value, where)
    }


def _normalized(field: _Field, item: Any, path: str) -> Any:
    if field.kind in {"plain", "wrapped", "other"}:
        return item
    if not field.repeated:
        return _one(field, item, path)
    if not isinstance(item, list):
        raise _invalid_value(path, "repeated field", item)
    return [_one(field, each, f"{path}[{i}]") for i, each in enumerate(item)]


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
    return orjson.dumps(_to_json(message, enum_numbers))


def _to_json(message: Any, enum_numbers: bool) -> Any:
    writers = _writers(message.DESCRIPTOR)
    if writers is None:
        return _whole(json_format.MessageToDict(message, use_integers_for_enums=enum_numbers))
    result = {}
    for field, value in message.ListFields():
        name, write = writers[field.number]
        result[name] = value if write is None else write(value, enum_numbers)
    return result


def _whole(value: Any) -> Any:
    """Whole numbers without a fraction, as Google's front end writes the numbers of a Struct: 3, not 3.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return value


@lru_cache(maxsize=1024)
def _writers(descriptor: Descriptor) -> dict[int, tuple[str, Writer | None]] | None:
    """By field number the JSON name and what writes the value (None: as it is); None where the message is
    json_format's business."""
    if descriptor.full_name.startswith(_WELL_KNOWN) or descriptor.is_extendable:
        return None
    writers: dict[int, tuple[str, Writer | None]] = {}
    for field in descriptor.fields:
        if field.cpp_type in _FLOATS or (field.message_type and field.message_type.GetOptions().map_entry):
            if not _is_text_map(field):
                return None
            writers[field.number] = (field.json_name, lambda value, _: dict(value))
            continue
        write = _writer(field)
        if field.is_repeated:
            write = _each(write)
        writers[field.number] = (field.json_name, write)
    return writers


def _is_text_map(field: FieldDescriptor) -> bool:
    if field.message_type is None:
        return False
    inner = field.message_type.fields
    return all(
        each.cpp_type == FieldDescriptor.CPPTYPE_STRING and each.type != each.TYPE_BYTES for each in inner
    )


def _each(write: Writer | None) -> Writer:
    if write is None:
        return lambda values, _: list(values)
    return lambda values, enum_numbers: [write(value, enum_numbers) for value in values]


def _writer(field: FieldDescriptor) -> Writer | None:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value, _: pybase64.b64encode_as_string(value)
    if field.enum_type is not None:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda value, enum_numbers: value if enum_numbers else names.get(value, value)
    if field.message_type is not None:
        if field.message_type.full_name in _WRAPPED_INTEGERS:
            return _wrapped_writer(field.message_type.full_name)
        return _to_json
    return (lambda value, _: str(value)) if field.cpp_type in _LONG else None


def _wrapped_writer(name: str) -> Writer:
    if name.endswith("64Value"):
        return lambda value, _: str(value.value)
    return lambda value, _: value.value
