"""A second implementation of docs/formats.md, on Tink (BoringSSL), written from that document alone.

It must never import `keystead`: its use is to disagree when the product and the document drift apart.
"""

from __future__ import annotations

import hmac
import json
import os
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from tink import TinkError, aead, proto_keyset_format, secret_key_access
from tink.proto import aes_gcm_pb2, tink_pb2, x_aes_gcm_pb2

aead.register()

Field = bytes | str | int


class Rejected(Exception):
    """The bytes are not what the document describes."""


def aad(label: str, *fields: Field) -> bytes:
    """Section 1."""
    out = _field(0, label.encode("utf-8"))
    for field in fields:
        if isinstance(field, bytes):
            out += _field(1, field)
        elif isinstance(field, str):
            out += _field(2, field.encode("utf-8"))
        else:
            out += _field(3, _shortest(field))
    return out


def _field(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + len(content).to_bytes(8, "big") + content


def _shortest(number: int) -> bytes:
    size = 1
    while not -(1 << (8 * size - 1)) <= number < 1 << (8 * size - 1):
        size += 1
    return number.to_bytes(size, "big", signed=True)


def _primitive(type_name: str, key: bytes) -> aead.Aead:
    keyset = tink_pb2.Keyset(
        primary_key_id=1,
        key=[
            tink_pb2.Keyset.Key(
                key_data=tink_pb2.KeyData(
                    type_url=f"type.googleapis.com/google.crypto.tink.{type_name}",
                    value=key,
                    key_material_type=tink_pb2.KeyData.SYMMETRIC,
                ),
                status=tink_pb2.ENABLED,
                key_id=1,
                output_prefix_type=tink_pb2.RAW,
            )
        ],
    )
    handle = proto_keyset_format.parse(keyset.SerializeToString(), secret_key_access.TOKEN)
    primitive: aead.Aead = handle.primitive(aead.Aead)
    return primitive


def _xaes(key: bytes) -> aead.Aead:
    params = x_aes_gcm_pb2.XAesGcmParams(salt_size=12)
    message = x_aes_gcm_pb2.XAesGcmKey(version=0, params=params, key_value=key)
    return _primitive("XAesGcmKey", message.SerializeToString())


def xaes_open(key: bytes, associated: bytes, sealed: bytes) -> bytes:
    """XAES(K, aad, P), backwards."""
    return _decrypt(_xaes(key), sealed, associated)


def xaes_seal(key: bytes, associated: bytes, plaintext: bytes) -> bytes:
    """XAES(K, aad, P)."""
    return bytes(_xaes(key).encrypt(plaintext, associated))


def gcm_open(key: bytes, nonce: bytes, associated: bytes, sealed: bytes) -> bytes:
    """GCM(K, N, aad, P), backwards. Tink keeps the nonce in front of the ciphertext."""
    message = aes_gcm_pb2.AesGcmKey(version=0, key_value=key)
    return _decrypt(_primitive("AesGcmKey", message.SerializeToString()), nonce + sealed, associated)


def _decrypt(primitive: aead.Aead, sealed: bytes, associated: bytes) -> bytes:
    try:
        return bytes(primitive.decrypt(sealed, associated))
    except TinkError as error:
        raise Rejected from error


def open_ciphertext(key: bytes, key_id: bytes, name: str, version: int, caller: bytes, data: bytes) -> bytes:
    """Section 2."""
    header = b"\x01" + key_id + version.to_bytes(4, "big")
    if data[:21] != header:
        raise Rejected
    return xaes_open(key, aad("keystead.ciphertext", header, name, version, caller), data[21:])


def seal_ciphertext(key: bytes, key_id: bytes, name: str, version: int, caller: bytes, data: bytes) -> bytes:
    """Section 2."""
    header = b"\x01" + key_id + version.to_bytes(4, "big")
    return header + xaes_seal(key, aad("keystead.ciphertext", header, name, version, caller), data)


def unwrap_key(wrapping_key: bytes, context: bytes, data: bytes) -> bytes:
    """Section 3."""
    if data[:1] != b"\x01":
        raise Rejected
    return xaes_open(wrapping_key, aad("keystead.wrapped-key", 1, context), data[1:])


def open_stored_key(root_key: bytes, name: str, use: str, data: bytes) -> bytes:
    """Section 7."""
    owner = {b"\x01": name, b"\x02": f"{name}#{use}", b"\x03": f"{name}#{use}#exportable"}.get(data[:1])
    if owner is None:
        raise Rejected
    wrapped = data if data[:1] == b"\x01" else data[1:]
    return unwrap_key(root_key, aad("keystead/kms/material/v1", owner), wrapped)


def fingerprint(root_key: bytes, material: bytes) -> bytes:
    """Section 7."""
    derived = hmac.digest(root_key, aad("keystead/kms/fingerprint-key/v1"), "sha256")
    return hmac.digest(derived, material, "sha256")


class RootKeyRecord(NamedTuple):
    """A sealed root key, taken apart."""

    kind: str
    parameters: dict[str, str | int]
    bound: bytes
    wrapped: bytes


def read_root_key(data: bytes) -> RootKeyRecord:
    """Section 9, format 2."""
    if data[:1] != b"\x02":
        raise Rejected
    kind, rest = data[2 : 2 + data[1]].decode("ascii"), data[2 + data[1] :]
    size = int.from_bytes(rest[:2], "big")
    parameters, wrapped = rest[2 : 2 + size], rest[2 + size :]
    bound = aad("keystead/root-key/v2", kind, parameters)
    return RootKeyRecord(kind, json.loads(parameters), bound, wrapped)


def passphrase_key(record: RootKeyRecord, passphrase: bytes) -> bytes:
    """Section 9, kind passphrase."""
    costs = {name: int(record.parameters[name]) for name in ("iterations", "lanes")}
    memory = int(record.parameters["memory_kib"])
    salt = bytes.fromhex(str(record.parameters["salt"]))
    return Argon2id(salt=salt, length=32, memory_cost=memory, **costs).derive(passphrase)


def open_sealed_bytes(kek: bytes, context: bytes, data: bytes) -> bytes:
    """Section 5."""
    if data[:1] != b"\x01":
        raise Rejected
    return xaes_open(kek, aad("keystead.sealed-bytes", 1, context), data[1:])


def open_sealed_file(kek: bytes, context: bytes, data: bytes) -> bytes:
    """Section 4."""
    header, body = data[:32], data[32:]
    chunk_size = int.from_bytes(header[12:16], "big")
    if header[:12] != b"KSTDSF1\n\x00\x00\x00\x01" or not 1 <= chunk_size <= 2**26 or len(header) < 32:
        raise Rejected
    full, rest = divmod(len(body), chunk_size + 88)
    if rest < 88:
        raise Rejected
    plaintext = b""
    for index in range(full + 1):
        chunk = body[index * (chunk_size + 88) : (index + 1) * (chunk_size + 88)]
        final = int(index == full)
        dek = xaes_open(kek, aad("keystead.sealed-file.dek", header, context, index, final), chunk[:72])
        payload_aad = aad("keystead.sealed-file.chunk", header[16:32], index, final)
        plaintext += gcm_open(dek, bytes(12), payload_aad, chunk[72:])
    return plaintext


def seal_file(kek: bytes, context: bytes, plaintext: bytes, chunk_size: int) -> bytes:
    """Section 4. Tink lets no caller choose a nonce, so here the payload's cipher is another library's."""
    header = b"KSTDSF1\n\x00\x00\x00\x01" + chunk_size.to_bytes(4, "big") + os.urandom(16)
    out = header
    count = len(plaintext) // chunk_size + 1
    for index in range(count):
        piece = plaintext[index * chunk_size : (index + 1) * chunk_size]
        final = int(index == count - 1)
        dek = os.urandom(32)
        out += xaes_seal(kek, aad("keystead.sealed-file.dek", header, context, index, final), dek)
        payload_aad = aad("keystead.sealed-file.chunk", header[16:], index, final)
        out += AESGCM(dek).encrypt(bytes(12), piece, payload_aad)
    return out
