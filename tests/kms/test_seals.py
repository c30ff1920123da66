"""The four seals: one contract for all, and the stored form of a sealed root key."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keystead.crypto.secret import SecretBytes
from keystead.kms.rootkey import unseal
from keystead.kms.seals import SealError, SealOptionsError
from keystead.kms.seals.choice import SealOptions, describe, new_seal, stored_seal
from keystead.kms.seals.file import FileSeal
from keystead.kms.seals.known import KnownSeals
from keystead.kms.seals.record import SealedRootKey
from tests.crypto import independent
from tests.hsm import PIN
from tests.kms.sealroom import KINDS, PASSPHRASE, KeyService, Scene, make_scene, refuse
from tests.live import OWNER

VALUES = st.text(max_size=40) | st.integers(-(2**63), 2**63)
PARAMETERS = st.dictionaries(st.text(max_size=20), VALUES, max_size=6)


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    """One of each kind."""
    return make_scene(request.param, request, tmp_path)


# --- the contract ------------------------------------------------------------------------------------


def test_what_a_seal_closes_it_opens(scene: Scene) -> None:
    """The stored record and the secret are enough; nothing of the key is in the record."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        assert sealed.kind == scene.options.kind
        assert bytes(root_key.expose()) not in sealed.encode()
        with scene.open(sealed) as opened:
            assert opened == root_key


def test_each_sealing_is_another(scene: Scene) -> None:
    """The same root key sealed twice gives two records, and each opens."""
    with SecretBytes.random() as root_key:
        first, second = scene.seal(root_key), scene.seal(root_key)
        assert first.wrapped != second.wrapped
        for sealed in (first, second):
            with scene.open(sealed) as opened:
                assert opened == root_key


def test_no_changed_bit_opens(scene: Scene) -> None:
    """Any changed byte of the wrapped key, a cut one and a longer one are refused in words."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    size = len(sealed.wrapped)
    for at in sorted({0, 1, 13, size // 2, size - 17, size - 1}):
        changed = bytearray(sealed.wrapped)
        changed[at] ^= 1
        refuse(scene, dataclasses.replace(sealed, wrapped=bytes(changed)))
    for wrapped in (sealed.wrapped[:-1], sealed.wrapped + b"\0", sealed.wrapped[:5]):
        refuse(scene, dataclasses.replace(sealed, wrapped=wrapped))


def test_no_changed_parameter_opens(scene: Scene, key_service: KeyService) -> None:
    """Each parameter, changed to something that leads to the same secret where that is possible, is refused:
    what is stored beside the wrapped key is bound to it."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    data_dir = scene.data_dir
    same: dict[str, Callable[[], str | int]] = {
        "path": lambda: shutil.copy2(data_dir / "seal" / "root.key", data_dir / "copy") and "copy",
        "memory_kib": lambda: int(sealed.parameters["memory_kib"]) + 1024,
        "iterations": lambda: int(sealed.parameters["iterations"]) + 1,
        "lanes": lambda: int(sealed.parameters["lanes"]) + 1,
        "salt": lambda: "00" * 16,
        "module": lambda: str(Path(str(sealed.parameters["module"])).resolve().parent / "libsofthsm2.so"),
        "pin_file": lambda: shutil.copy2(str(scene.options.pin_file), data_dir / "copy") and "copy",
        "endpoint": lambda: key_service.endpoint.replace("127.0.0.1", "localhost"),
        "token_file": lambda: shutil.copy2(data_dir / "token", data_dir / "copy") and "copy",
    }
    for name, value in sealed.parameters.items():
        other = same[name]() if name in same else f"{value}-other"
        assert other != value, name
        refuse(scene, dataclasses.replace(sealed, parameters={**sealed.parameters, name: other}))
    refuse(scene, dataclasses.replace(sealed, parameters={**sealed.parameters, "extra": "1"}))


def test_no_other_kind_opens(scene: Scene) -> None:
    """A record that is called another kind, or comes from another kind, is refused."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    for kind in (*KINDS, "other"):
        if kind != sealed.kind:
            refuse(scene, dataclasses.replace(sealed, kind=kind))
    with pytest.raises(SealError, match=f"is sealed by '{sealed.kind}', but the server was started with"):
        unseal(sealed, Elsewhere())


class Elsewhere(FileSeal):
    kind = "elsewhere"

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"), create=False)


def test_it_is_described_without_secrets(scene: Scene) -> None:
    """An operator reads which seal it is; no passphrase, PIN or token stands there, nor in the record."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
    for secret in (PASSPHRASE, PIN.encode(), OWNER.encode()):
        assert secret not in sealed.encode()
        assert secret.decode() not in describe(sealed)
    assert repr(sealed.wrapped) not in repr(sealed)


def test_what_is_stored_reads_as_documented(scene: Scene) -> None:
    """An implementation of docs/formats.md that shares no code with the product takes a record apart, and
    opens one of a file or a passphrase."""
    with SecretBytes.random() as root_key:
        sealed = scene.seal(root_key)
        record = independent.read_root_key(sealed.encode())
        assert (record.kind, record.parameters) == (sealed.kind, sealed.parameters)
        if sealed.kind == "file":
            key = (scene.data_dir / "seal" / "root.key").read_bytes()
        elif sealed.kind == "passphrase":
            key = independent.passphrase_key(record, PASSPHRASE)
        else:
            return
        assert independent.unwrap_key(key, record.bound, record.wrapped) == bytes(root_key.expose())


# --- what is stored, and what was said ---------------------------------------------------------------


@settings(deadline=None)
@given(st.sampled_from(KINDS), PARAMETERS, st.binary(min_size=1, max_size=200))
def test_a_record_comes_back_as_it_was(kind: str, parameters: dict[str, str | int], wrapped: bytes) -> None:
    """Whatever the parameters, in whatever order: one spelling, read back alike, and bound alike."""
    record = SealedRootKey(kind, parameters, wrapped)
    turned = dict(reversed(parameters.items()))
    assert SealedRootKey(kind, turned, wrapped).encode() == record.encode()
    again = SealedRootKey.decode(record.encode())
    assert (again, again.aad) == (record, record.aad)


@settings(deadline=None)
@given(PARAMETERS, PARAMETERS, st.sampled_from(KINDS), st.sampled_from(KINDS))
def test_two_records_are_bound_alike_only_if_they_are(
    one: dict[str, str | int], other: dict[str, str | int], kind: str, another: str
) -> None:
    """The associated data is the same for the same kind and parameters, and for no others."""
    same = (kind, one) == (another, other)
    assert (SealedRootKey(kind, one, b"w").aad == SealedRootKey(another, other, b"w").aad) == same


@settings(deadline=None)
@given(st.data())
def test_no_other_bytes_are_a_record(data: st.DataObject) -> None:
    """Cut, changed or made-up bytes are refused as damaged, or read as a record of exactly these bytes."""
    record = SealedRootKey("kms", {"key": "k", "n": 1}, b"wrapped").encode()
    changed = bytearray(record)
    changed[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    for stored in (bytes(changed), cut, data.draw(st.binary(max_size=80)), b"\x02" + data.draw(st.binary())):
        try:
            read = SealedRootKey.decode(stored)
        except SealError as error:
            assert "damaged" in str(error)
        else:
            assert read.encode() == stored


@pytest.mark.parametrize(
    "parameters",
    [b"", b"{", b"[]", b"1", b'{"a":1.5}', b'{"a":true}', b'{"a":null}', b'{"a":[1]}', b'{"b":1,"a":1}',
     b'{"a": 1}', b'{"a":1,"a":2}', b'{"a":"\xc3\xa9"}', b'{"a":' + b"9" * 5000 + b"}", b"[" * 5000,
     b'{"a":"' + b"x" * 5000 + b'"}'],
)  # fmt: skip
def test_parameters_have_one_spelling(parameters: bytes) -> None:
    """JSON that is no flat object of texts and whole numbers, or that is spelled otherwise, is refused."""
    stored = b"\x02\x04file" + len(parameters).to_bytes(2, "big") + parameters + b"wrapped"
    with pytest.raises(SealError, match="damaged"):
        SealedRootKey.decode(stored)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("file", SealOptions(passphrase_file=Path("/x"))),
        ("file", SealOptions(kms_key="k")),
        ("passphrase", SealOptions(seal_file=Path("/x"))),
        ("passphrase", SealOptions("file")),
        ("pkcs11", SealOptions(pkcs11_token="another")),
        ("pkcs11", SealOptions(pkcs11_key="another")),
        ("kms", SealOptions(kms_key="another")),
        ("kms", SealOptions(pin_file=Path("/x"))),
    ],
)
def test_what_was_said_must_fit_what_is_stored(kind: str, options: SealOptions) -> None:
    """An option that belongs to another seal, or names another token or key, is no slip to be ignored."""
    parameters: dict[str, str | int] = {"token": "t", "key": "k", "module": "/m"} if kind == "pkcs11" else {}
    with pytest.raises(SealOptionsError):
        stored_seal(SealedRootKey(kind, parameters, b"w"), Path("/data"), options, SecretBytes(b"x"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (SealOptions("pkcs11"), "needs --pkcs11-module"),
        (SealOptions("kms", kms_key="k"), "does not name a key"),
        (SealOptions("kms"), "--kms-key is missing"),
        (SealOptions("passphrase"), "waits for its passphrase"),
        (SealOptions("smoke"), "There is no seal of kind 'smoke'"),
        (SealOptions("file", kms_key="k"), "--kms-key belongs to a seal of kind kms"),
    ],
)
def test_a_new_seal_says_what_is_missing(options: SealOptions, says: str) -> None:
    """Each kind names the options that it needs."""
    with pytest.raises(SealError, match=says):
        new_seal(options, Path("/data"))


def test_a_seal_that_reaches_out_is_known_only_once_it_was_used(tmp_path: Path) -> None:
    """What the store says of a token or another service is followed only where this data directory used it
    before; a file and a passphrase need no leave."""
    known = KnownSeals(tmp_path)
    records = [SealedRootKey(kind, {"key": "k"}, b"w") for kind in KINDS]
    assert [known.knows(record) for record in records] == [True, True, False, False]
    known.add(records[3])
    other = SealedRootKey("kms", {"key": "k", "endpoint": "https://evil.example.com"}, b"w")
    assert [known.knows(record) for record in (records[2], records[3], other)] == [False, True, False]
    known.add(records[2])
    assert known.knows(records[2]) and known.knows(records[3])
    known.only(records[2])
    assert known.knows(records[2]) and not known.knows(records[3])
    known.only(records[0])
    assert not known.knows(records[2])
