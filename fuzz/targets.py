"""What is fuzzed. A target takes one input and returns; whatever it raises is a finding.

Each knows which errors are documented for its parser, and a property beyond "it does not crash": a changed
ciphertext never opens, a request that was read can be written and read again, a filter answers yes or no,
and a wrapped key that was changed is never imported as another.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st

from fuzz.mutations import mutated, mutated_text
from fuzz.served import kms_registry
from fuzz.wrapping import wrapped_samples
from keystead.api import filters, jsonpb
from keystead.api.errors import ApiError, InvalidArgument
from keystead.api.transcoding import Router, bind
from keystead.crypto.aead import Aead
from keystead.crypto.ciphertext import KeyVersionRef, open_message, parse_header, seal_message
from keystead.crypto.errors import CryptoError
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import BY_NAME
from keystead.kms.backends import ImportFailedError, WrappedKey
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.messages import CryptoKey, CryptoKeyVersion
from keystead.kms.rootkey import RootKey
from keystead.kms.service import KMS

Check = Callable[[Any], None]


@dataclass(frozen=True)
class Target:
    """One parser: where its inputs come from, and what must hold of each."""

    name: str
    inputs: Callable[[], st.SearchStrategy[Any]]
    check: Check


# --- ciphertexts -------------------------------------------------------------------------------------

_REF = KeyVersionRef(bytes(range(16)), "projects/p/locations/l/keyRings/r/cryptoKeys/k", 7)


@cache
def _sealed() -> tuple[Aead, dict[bytes, bytes]]:
    aead = Aead(SecretBytes(bytes(range(32))))
    plaintexts = (b"", b"a", bytes(31), bytes(1000))
    return aead, {seal_message(aead, _REF, plain, b"aad"): plain for plain in plaintexts}


def _ciphertexts() -> st.SearchStrategy[bytes]:
    return mutated(st.sampled_from(list(_sealed()[1]))) | st.binary(max_size=200)


def _check_ciphertext(data: bytes) -> None:
    aead, known = _sealed()
    try:
        header = parse_header(data)
        assert header.format in {1, 2}
        assert header.version
        opened = open_message(aead, _REF, data, b"aad")
    except CryptoError:
        assert data not in known
        return
    assert known.get(data) == opened, "a ciphertext that was never made opened"


# --- JSON requests -----------------------------------------------------------------------------------

_KEY = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
_RING = "projects/p/locations/l/keyRings/r"
_NEW_KEY = {
    "purpose": "ENCRYPT_DECRYPT",
    "versionTemplate": {"algorithm": 1},
    "nextRotationTime": "2027-01-01T00:00:00Z",
}
_POLICY = {"policy": {"bindings": [{"role": "r", "members": ["user:a"]}]}}
_WRAPPED = {"algorithm": "HMAC_SHA256", "importJob": "x", "wrappedKey": base64.b64encode(bytes(40)).decode()}
_REQUESTS = (
    ("POST", f"/v1/{_KEY}:encrypt", "", {"plaintext": "AAEC", "plaintextCrc32c": "12"}),
    ("POST", f"/v1/{_KEY}:decrypt", "", {"ciphertext": "AAEC", "ciphertext_crc32c": {"value": 1}}),
    ("PATCH", f"/v1/{_KEY}", "updateMask=labels%2CrotationPeriod", {"labels": {"a": "b"}}),
    ("POST", f"/v1/{_RING}/cryptoKeys", "cryptoKeyId=k&skipInitialVersionCreation=True", _NEW_KEY),
    ("POST", f"/v1/{_KEY}:setIamPolicy", "", _POLICY),
    ("GET", f"/v1/{_KEY}/cryptoKeyVersions", "pageSize=3&filter=a%3Db&$alt=json;enum-encoding=int", None),
    ("POST", f"/v1/{_KEY}/cryptoKeyVersions:import", "", _WRAPPED),
)


@cache
def _router() -> Router:
    return Router(kms_registry())


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=14), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, str, bytes, bytes]:
    verb, path, query, body = draw(st.sampled_from(_REQUESTS))
    if body is not None and draw(st.booleans()):
        field = draw(st.sampled_from(sorted(body)) | st.text(max_size=10))
        body = {**body, field: draw(_json)}
    raw = b"" if body is None else json.dumps(body).encode()
    return (
        draw(st.sampled_from([verb, verb, "GET", "POST", "DELETE", "PUT"])),
        draw(mutated_text(st.just(path), most=2)),
        draw(mutated(st.just(query.encode()), most=3)),
        draw(mutated(st.just(raw), most=3)),
    )


def _check_request(request: tuple[str, str, bytes, bytes]) -> None:
    verb, path, query, body = request
    match = _router().find(KMS.prefix, verb, path)
    if match is None:
        return
    try:
        message, as_numbers = bind(match, query, body)
    except ApiError as error:
        assert error.status in {"INVALID_ARGUMENT", "UNIMPLEMENTED"}, error.status
        return
    written = jsonpb.dumps(message, enum_numbers=as_numbers)
    again = type(message)()
    jsonpb.parse_into(again, jsonpb.loads(written))
    assert again == message, "what was read is not what is written"


# --- filters -----------------------------------------------------------------------------------------

_FILTERS = (
    "state != DESTROYED AND state != DESTROY_SCHEDULED",
    'labels.env = "prod" OR name : "key" -purpose=MAC',
    "(primary.state = ENABLED OR createTime > 2026-01-01T00:00:00Z) NOT importOnly = true",
    'create_time <= "2026-01-01T00:00:00.5+02:00" destroy_scheduled_duration:*',
)
_PIECES = ["state", "labels.a", "name", "=", "!=", ":", "<=", " ", "AND", "OR", "NOT ", "-", "(", ")", '"']
_MORE_PIECES = ["\\", "*", ".", "ENABLED", "1", "2026-01-01T00:00:00Z", "\n", "\x00", "é"]
_pieces = st.sampled_from(_PIECES + _MORE_PIECES)


def _filters() -> st.SearchStrategy[str]:
    return (
        mutated_text(st.sampled_from(_FILTERS))
        | st.lists(_pieces, max_size=40).map("".join)
        | st.text(max_size=80)
    )


def _check_filter(text: str) -> None:
    key = CryptoKey(name=_KEY, purpose="ENCRYPT_DECRYPT", labels={"env": "prod", "a": "1"})
    version = CryptoKeyVersion(name=f"{_KEY}/cryptoKeyVersions/1", state="ENABLED")
    for item in (key, version):
        try:
            wanted = filters.parse(text)
            wanted.check(item.DESCRIPTOR)
            answer = wanted.matches(item)
        except InvalidArgument:
            continue
        assert answer is True or answer is False


# --- import ------------------------------------------------------------------------------------------


@cache
def _importing() -> tuple[SoftwareBackend, list[tuple[WrappedKey, str]]]:
    backend = SoftwareBackend(RootKey(SecretBytes(bytes(range(32)))))
    return backend, wrapped_samples(backend)


@st.composite
def _imports(draw: st.DrawFn) -> tuple[int, bytes, str]:
    _, samples = _importing()
    number = draw(st.integers(0, len(samples) - 1))
    wrapped, algorithm = samples[number]
    data = draw(mutated(st.just(wrapped.data), most=3) | st.binary(max_size=600))
    return number, data, draw(st.sampled_from([algorithm, algorithm, *sorted(_IMPORTABLE)]))


_IMPORTABLE = frozenset(
    name for name in BY_NAME if not name.startswith(("EXTERNAL", "PQ_SIGN_SLH", "PQ_SIGN_HASH"))
)


def _check_import(case: tuple[int, bytes, str]) -> None:
    number, data, algorithm = case
    backend, samples = _importing()
    sample, whole = samples[number]
    wrapped = WrappedKey(sample.job, sample.method, sample.opened_by, data)
    try:
        made = backend.import_key(wrapped, "version", BY_NAME[algorithm])
    except ImportFailedError as error:
        assert str(error)
        assert (data, algorithm) != (sample.data, whole), f"a good key was refused: {error}"
        return
    assert data == sample.data, "changed bytes were imported"
    backend.load("version", BY_NAME[algorithm], made.stored)


TARGETS = (
    Target("ciphertext", _ciphertexts, _check_ciphertext),
    Target("json", _requests, _check_request),
    Target("filter", _filters, _check_filter),
    Target("import", _imports, _check_import),
)
