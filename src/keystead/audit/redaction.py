"""SECURITY: what of a request or response may stand in an audit record.

Property: no customer data and no secret gets into a record. Three lines of defence, each enough for what it
knows: the paths that the RPC's declaration redacts; every field of type bytes but etags (plaintext,
ciphertext, digests, signatures, key material are all bytes); and every field, map entry or JSON key whose
name is that of a secret, whatever its type. What is packed in an Any is unpacked and treated alike, and left
out where its type is not known. What is left is bounded in size and depth.

Owns the choice and the bounds. Deliberately knows no log entry: `entries` does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

#: A request or response that needs more is recorded by type and name only.
MAX_BYTES = 16 * 1024
# Deeper JSON could be written but, being three protobuf levels each, not read back (limit 100).
_MAX_DEPTH = 25
# Of messages within messages, Anys unpacked: what is deeper is cleared unseen.
_MAX_LEVELS = 60

_KEPT_BYTES = frozenset({"etag"})
_SECRETS = frozenset(
    {
        "plaintext", "ciphertext", "additional_authenticated_data", "wrapped_key", "rsa_aes_wrapped_key",
        "wrapped_kek", "wrapped_dek", "dek", "kek", "key_material", "shared_secret", "secret", "secret_data",
        "client_secret", "password", "passphrase", "private_key", "private_key_data", "access_token",
        "refresh_token", "id_token", "token", "auth_token", "bearer_token", "assertion", "authorization",
        "signed_jwt", "signed_blob", "credential", "credentials", "api_key",
    }
)  # fmt: skip
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_Paths = list[tuple[str, ...]]


def payload(message: Message, redact: Collection[str] = ()) -> struct_pb2.Struct:
    """The `request` or `response` of an AuditLog: the JSON of a message with its `@type`, redacted.

    `redact`: dotted field paths; on their way they go through repeated fields, maps (with or without a
    segment for the key, `*` being any) and Anys. A message of more than MAX_BYTES, or one that has no JSON
    (a time out of range), is its `@type` and `name`: whatever a caller sends, there is a record of it.
    """
    clean = type(message)()
    clean.CopyFrom(message)
    _strip(clean, [tuple(path.split(".")) for path in redact], 0)
    kind = {"@type": f"type.googleapis.com/{message.DESCRIPTOR.full_name}"}
    document = _json(clean)
    if document is not None:
        fields = document if isinstance(document, dict) else {"value": document}
        full = _bounded({**fields, **kind})
        if full is not None:
            return full
    name = getattr(clean, "name", None)
    return _struct({**kind, "name": name[:1000]} if isinstance(name, str) else kind)


def facts(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """The `metadata` of an AuditLog: what a function noted on its call, as JSON values, redacted.

    Raises ValueError for what is no JSON value (bytes above all).
    """
    struct = _struct(values)
    _strip(struct, [], 0)
    document = _json(struct)
    bounded = None if document is None else _bounded(document)
    return _struct({"truncated": True}) if bounded is None else bounded


def known(packed: any_pb2.Any) -> bool:
    """Whether this program can read what is packed; if not, no entry that holds it could become JSON."""
    message = _unpack(packed)
    return message is not None and _json(message) is not None


def _json(message: Message) -> Any:
    """The JSON value of a message; None where it has none (an unknown Any, a NaN, an odd field mask)."""
    try:
        return json_format.MessageToDict(message)
    except (json_format.Error, ValueError, TypeError):
        return None


def _struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


def _bounded(document: dict[str, Any]) -> struct_pb2.Struct | None:
    if _depth(document) > _MAX_DEPTH:
        return None
    struct = _struct(document)
    return struct if struct.ByteSize() <= MAX_BYTES else None


def _depth(document: Any) -> int:
    """How deep dicts and lists are nested, looking no deeper than it matters."""
    level, depth = [document], 0
    while depth <= _MAX_DEPTH:
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        if not level:
            return depth
        depth += 1
    return depth


def _strip(message: Any, paths: _Paths, depth: int) -> None:
    """Clear, in place, what may not be recorded."""
    kind = message.DESCRIPTOR.full_name
    if depth > _MAX_LEVELS:
        message.Clear()
    elif kind == "google.protobuf.Any":
        _strip_any(message, paths, depth)
    elif kind == "google.protobuf.Struct":
        _strip_map(message.fields, message.DESCRIPTOR.fields_by_name["fields"], paths, depth)
    else:
        # A path names what JSON shows: the kind of a Value is not part of it.
        transparent = kind in {"google.protobuf.Value", "google.protobuf.ListValue"}
        for field, value in message.ListFields():
            inner = paths if transparent else [path[1:] for path in paths if path[0] == field.name]
            if () in inner or _forbidden(field):
                message.ClearField(field.name)
            elif field.message_type is not None:
                _strip_field(field, value, inner, depth)


def _strip_field(field: Any, value: Any, paths: _Paths, depth: int) -> None:
    if field.message_type.GetOptions().map_entry:
        _strip_map(value, field, paths, depth)
    elif field.is_repeated:
        for item in value:
            _strip(item, paths, depth + 1)
    else:
        _strip(value, paths, depth + 1)


def _strip_map(entries: Any, field: Any, paths: _Paths, depth: int) -> None:
    content = field.message_type.fields_by_name["value"]
    for key in list(entries):
        inner = [path[1:] for path in paths if path[0] in {str(key), "*"}]
        secret = _is_secret(str(key)) or content.type == FieldDescriptor.TYPE_BYTES
        if secret or () in inner:
            del entries[key]
        elif content.message_type is not None:
            _strip(entries[key], [*inner, *paths], depth + 1)


def _strip_any(packed: Any, paths: _Paths, depth: int) -> None:
    inner = _unpack(packed)
    if inner is None:
        packed.Clear()
        return
    _strip(inner, paths, depth + 1)
    packed.value = inner.SerializeToString()


def _unpack(packed: any_pb2.Any) -> Message | None:
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        message: Message = message_factory.GetMessageClass(descriptor)()
        message.ParseFromString(packed.value)
    except (KeyError, DecodeError):
        return None
    return message


def _forbidden(field: FieldDescriptor) -> bool:
    is_data = field.type == FieldDescriptor.TYPE_BYTES and field.name not in _KEPT_BYTES
    return is_data or _is_secret(field.name)


def _is_secret(name: str) -> bool:
    return _BOUNDARY.sub("_", name).lower().replace("-", "_") in _SECRETS
