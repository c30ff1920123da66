"""Keys in a token: their material never leaves it, and what is stored opens nothing but its own key."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from keystead.api.errors import Unavailable
from keystead.crypto.errors import DecryptionError
from keystead.kms.algorithms import BY_NAME, Algorithm, Family
from keystead.kms.backends import (
    GenerationFailedError,
    ImportFailedError,
    Made,
    NotExportableError,
    WrappedKey,
)
from keystead.kms.backends.hsm import importing
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.backends.hsm.keys import KINDS
from keystead.kms.backends.hsm.objects import ObjectRef
from keystead.kms.backends.hsm.session import Session
from keystead.kms.seals import SealError
from tests.hsm import SoftToken, make_token

from . import outside
from .contract import new_version

METHOD = "RSA_OAEP_3072_SHA1_AES_256"
JOB = "projects/p/locations/l/keyRings/r/importJobs/j"
SMALL = (
    "GOOGLE_SYMMETRIC_ENCRYPTION", "AES_128_GCM", "AES_256_CBC", "AES_256_CTR", "HMAC_SHA256", "AES_256_KWP",
    "EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384", "EC_SIGN_SECP256K1_SHA256", "EC_SIGN_ED25519",
    "RSA_SIGN_PSS_2048_SHA256", "RSA_DECRYPT_OAEP_2048_SHA1",
)  # fmt: skip
CURVES = [name for name in SMALL if BY_NAME[name].curve]


@pytest.fixture(scope="module")
def token(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """A token for this module."""
    return make_token(softhsm, tmp_path_factory.mktemp("pin") / "pin")


@pytest.fixture(scope="module")
def backend(token: SoftToken) -> Iterator[HsmBackend]:
    """A back end on it."""
    made = HsmBackend(token.config())
    yield made
    made.close()


@pytest.fixture(scope="module")
def job(backend: HsmBackend) -> Made:
    """The key of an import job."""
    return backend.generate_import_key(JOB, METHOD)


def object_of(session: Session, version: str, made: Made, name: str) -> Any:
    return session.key(ObjectRef.decode(version, made.stored), KINDS[BY_NAME[name].family].held)


def imported(
    backend: HsmBackend, job: Made, name: str, key: bytes, *, exportable: bool = False
) -> tuple[str, Made]:
    version = new_version()
    wrapped = WrappedKey(JOB, METHOD, job.stored, outside.wrap(METHOD, job.public, key))
    return version, backend.import_key(wrapped, version, BY_NAME[name], exportable=exportable)


# What never leaves


@pytest.mark.parametrize("name", SMALL)
def test_a_generated_key_cannot_be_read_or_wrapped(backend: HsmBackend, name: str) -> None:
    """Sensitive and not extractable from the first moment; the token refuses its value and its wrapping, also
    to who holds the PIN, and does not let that be changed."""
    version = new_version()
    made = backend.generate(version, BY_NAME[name])

    def look(session: Session) -> None:
        key = object_of(session, version, made, name)
        told = {
            attribute: key[attribute]
            for attribute in (
                Attribute.SENSITIVE, Attribute.ALWAYS_SENSITIVE, Attribute.EXTRACTABLE,
                Attribute.NEVER_EXTRACTABLE, Attribute.LOCAL, Attribute.TOKEN, Attribute.PRIVATE,
            )
        }  # fmt: skip
        assert list(told.values()) == [True, True, False, True, True, True, True]
        assert key[Attribute.LABEL] == version
        for attribute in _secrets(BY_NAME[name]):
            with pytest.raises(pkcs11.AttributeSensitive):
                key[attribute]
        wrapping = session.raw.generate_key(KeyType.AES, 256)
        for mechanism in (Mechanism.AES_KEY_WRAP_PAD, Mechanism.AES_KEY_WRAP):
            with pytest.raises((pkcs11.KeyUnextractable, pkcs11.MechanismInvalid)):
                wrapping.wrap_key(key, mechanism=mechanism)
        wrapping.destroy()
        for attribute, value in ((Attribute.EXTRACTABLE, True), (Attribute.SENSITIVE, False)):
            with pytest.raises(pkcs11.PKCS11Error):
                key[attribute] = value

    backend._token.use(look)


def _secrets(algorithm: Algorithm) -> tuple[Attribute, ...]:
    if algorithm.family in outside.RSA:
        return Attribute.PRIVATE_EXPONENT, Attribute.PRIME_1, Attribute.COEFFICIENT
    return (Attribute.VALUE,)


@pytest.mark.parametrize("name", SMALL)
def test_a_key_may_do_what_its_family_does_and_no_more(backend: HsmBackend, name: str) -> None:
    """A signing key does not decrypt, a decryption key does not sign, and only wrapping keys wrap."""
    version = new_version()
    made = backend.generate(version, BY_NAME[name])
    uses = (
        Attribute.ENCRYPT,
        Attribute.DECRYPT,
        Attribute.SIGN,
        Attribute.WRAP,
        Attribute.UNWRAP,
        Attribute.DERIVE,
    )

    def allowed(session: Session) -> set[Attribute]:
        key = object_of(session, version, made, name)
        found = set()
        for use in uses:
            try:
                if key[use]:
                    found.add(use)
            except pkcs11.AttributeTypeInvalid:
                continue
        return found

    family = BY_NAME[name].family
    expected = {
        Family.HMAC: {Attribute.SIGN},
        Family.AES_KWP: {Attribute.WRAP, Attribute.UNWRAP},
        Family.RSA_OAEP: {Attribute.DECRYPT},
    }.get(family, {Attribute.ENCRYPT, Attribute.DECRYPT} if BY_NAME[name].symmetric else {Attribute.SIGN})
    assert backend._token.use(allowed) == expected


@pytest.mark.parametrize(
    "name", ["AES_256_CBC", "HMAC_SHA512", "EC_SIGN_P384_SHA384", "RSA_SIGN_PSS_2048_SHA256"]
)
def test_an_imported_key_is_never_in_this_process(
    backend: HsmBackend, job: Made, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the library returned while the key was imported, and nothing that the back end returned,
    holds a piece of it; in the token it is as closed as a generated one."""
    returned: list[bytes] = []
    for method in (Session.random, Session.search):
        _record(monkeypatch, Session, method.__name__, returned)
    known = outside.known(BY_NAME[name])
    version, made = imported(backend, job, name, known.private)
    key = backend.load(version, BY_NAME[name], made.stored)
    shown = (
        b"".join(returned) + repr((made, key, backend.facts(version, BY_NAME[name], made.stored))).encode()
    )
    shown += made.stored + made.public + made.fingerprint
    for at in range(0, len(known.private) - 12, 4):
        piece = known.private[at : at + 12]
        if piece not in known.public:
            assert piece not in shown
            assert piece.hex().encode() not in shown

    def look(session: Session) -> None:
        held = object_of(session, version, made, name)
        assert held[Attribute.SENSITIVE] is True
        assert held[Attribute.EXTRACTABLE] is False
        for attribute in _secrets(BY_NAME[name]):
            with pytest.raises(pkcs11.AttributeSensitive):
                held[attribute]

    backend._token.use(look)


def _record(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, into: list[bytes]) -> None:
    before = getattr(kind, name)

    def recorded(self: Any, *arguments: Any) -> Any:
        result = before(self, *arguments)
        into.append(result if isinstance(result, bytes) else repr(result).encode())
        return result

    monkeypatch.setattr(kind, name, recorded)


def test_no_passing_object_stays(backend: HsmBackend, job: Made) -> None:
    """Imports, failed or not, and finding out what the token can do leave nothing behind but the keys."""

    def everything(session: Session) -> int:
        # Each session has a data object of its own.
        return sum(each[Attribute.CLASS] is not ObjectClass.DATA for each in session.search({}))

    before = backend._token.use(everything)
    version, made = imported(
        backend, job, "EC_SIGN_P256_SHA256", outside.known(BY_NAME["EC_SIGN_P256_SHA256"]).private
    )
    with pytest.raises(ImportFailedError):
        imported(backend, job, "EC_SIGN_P256_SHA256", os.urandom(150))
    with pytest.raises(ImportFailedError):
        imported(backend, job, "AES_256_GCM", os.urandom(16))
    assert backend._token.use(everything) == before + 1
    backend.remove(version, made.stored)
    fresh = HsmBackend(backend._token._config)
    assert fresh.algorithms
    assert backend._token.use(everything) == before


# Imports


@pytest.mark.parametrize("name", CURVES)
def test_the_public_key_of_an_ec_key_is_learnt_in_the_token(
    backend: HsmBackend, job: Made, name: str
) -> None:
    """PKCS#8 may leave the public key out; it is found all the same, whichever of the two points it is, and
    with leading zeros."""
    curve = outside.CURVES[BY_NAME[name].curve]
    signs, short = set(), 0
    scalars = iter(range(2, 4000))
    wanted: list[ec.EllipticCurvePrivateKey] = []
    while len(signs) < 2 or not short:
        key = ec.derive_private_key(next(scalars), curve)
        numbers = key.public_key().public_numbers()
        first = numbers.x >> (curve.key_size - 8) == 0
        if numbers.y % 2 not in signs or (first and not short):
            signs.add(numbers.y % 2)
            short += first
            wanted.append(key)
    for key in wanted:
        der = _without_public(key)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert imported(backend, job, name, der)[1].public == public


def _without_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 as RFC 5915 allows it: without parameters and public key inside."""
    size = (key.curve.key_size + 7) // 8
    secret = key.private_numbers().private_value.to_bytes(size, "big")
    inner = b"\x02\x01\x01\x04" + bytes((size,)) + secret
    inner = b"\x30" + bytes((len(inner),)) + inner
    oid = {
        "secp256r1": "06082a8648ce3d030107",
        "secp384r1": "06052b81040022",
        "secp256k1": "06052b8104000a",
    }[key.curve.name]
    algorithm = bytes.fromhex("06072a8648ce3d0201" + oid)
    body = b"\x02\x01\x00\x30" + bytes((len(algorithm),)) + algorithm + b"\x04" + bytes((len(inner),)) + inner
    return b"\x30" + bytes((len(body),)) + body


def test_an_ed25519_key_is_refused_where_its_public_key_cannot_be_learnt(
    backend: HsmBackend, job: Made
) -> None:
    """SoftHSM2 can generate Ed25519 keys and not import them; the reason says what to do instead."""
    der = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    with pytest.raises(ImportFailedError, match="cannot import Ed25519 keys"):
        imported(backend, job, "EC_SIGN_ED25519", der)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("AES_256_GCM", 16), ("AES_256_GCM", 24), ("AES_256_GCM", 31), ("AES_256_GCM", 33),
        ("AES_256_GCM", 25),
        ("AES_128_GCM", 32), ("AES_128_GCM", 15), ("AES_128_GCM", 9), ("AES_256_KWP", 31),
        ("HMAC_SHA256", 31), ("HMAC_SHA256", 33), ("HMAC_SHA256", 20), ("HMAC_SHA1", 19), ("HMAC_SHA1", 25),
        ("HMAC_SHA224", 27), ("HMAC_SHA512", 63), ("HMAC_SHA512", 32), ("GOOGLE_SYMMETRIC_ENCRYPTION", 1),
    ],
)  # fmt: skip
def test_a_secret_of_another_length_is_refused(backend: HsmBackend, job: Made, name: str, size: int) -> None:
    """SoftHSM2 does not tell the length of an unwrapped key; it is found out all the same."""
    with pytest.raises(ImportFailedError):
        imported(backend, job, name, os.urandom(size))


def test_a_private_key_that_does_not_fit_itself_is_refused(backend: HsmBackend, job: Made) -> None:
    """An RSA key whose numbers are not one key's is unwrapped by the token without a word; the signature it
    makes gives it away."""
    known = outside.known(BY_NAME["RSA_SIGN_PSS_2048_SHA256"])
    at = known.private.index(known.public[40:60])  # in the modulus
    damaged = known.private[:at] + bytes((known.private[at] ^ 1,)) + known.private[at + 1 :]
    with pytest.raises(ImportFailedError):
        imported(backend, job, "RSA_SIGN_PSS_2048_SHA256", damaged)


def test_an_imported_aes_key_is_the_one_that_was_wrapped(backend: HsmBackend, job: Made) -> None:
    """Its GCM messages are nobody else's: the same bytes in CBC give what the library gives."""
    key, iv = os.urandom(32), os.urandom(16)
    version, made = imported(backend, job, "AES_256_CBC", key)
    opened: Any = backend.load(version, BY_NAME["AES_256_CBC"], made.stored)
    context = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    assert opened.encrypt(bytes(32), iv, b"") == context.update(bytes(32)) + context.finalize()


def test_ctr_counts_on_from_zero(backend: HsmBackend, job: Made) -> None:
    """SoftHSM2 refuses to count past the last block; the answer is that of every other implementation."""
    key, data = os.urandom(32), os.urandom(100)
    version, made = imported(backend, job, "AES_256_CTR", key)
    opened: Any = backend.load(version, BY_NAME["AES_256_CTR"], made.stored)
    for iv in (b"\xff" * 16, b"\xff" * 15 + b"\xfd", b"\xff" * 15 + b"\xf9", bytes(16), os.urandom(16)):
        context = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
        expected = context.update(data) + context.finalize()
        assert opened.encrypt(data, iv, b"") == expected
        assert opened.decrypt(expected, iv, b"", 0) == data


def test_what_the_token_pads_wrongly_is_not_exported(backend: HsmBackend) -> None:
    """SoftHSM2 fills keys up with zeros before it wraps them, and they would open elsewhere as other keys;
    what needs no filling up is exported."""
    wrapping = new_version()
    wrapper: Any = backend.load(
        wrapping, BY_NAME["AES_256_KWP"], backend.generate(wrapping, BY_NAME["AES_256_KWP"]).stored
    )
    for name in ("HMAC_SHA1", "EC_SIGN_P256_SHA256", "EC_SIGN_ED25519"):
        version = new_version()
        made = backend.generate(version, BY_NAME[name], exportable=True)
        with pytest.raises(NotExportableError, match="cannot be exported"):
            wrapper.wrap(version, BY_NAME[name], made.stored)
    version = new_version()
    made = backend.generate(version, BY_NAME["HMAC_SHA256"], exportable=True)
    assert len(wrapper.wrap(version, BY_NAME["HMAC_SHA256"], made.stored)) == 40


def test_a_method_that_the_token_lacks(backend: HsmBackend, job: Made) -> None:
    """It is refused by name; an algorithm too."""
    with pytest.raises(GenerationFailedError, match="RSA_OAEP_3072_SHA256"):
        backend.generate_import_key(JOB + "2", "RSA_OAEP_3072_SHA256")
    with pytest.raises(GenerationFailedError, match="PQ_SIGN_ML_DSA_65"):
        backend.generate(new_version(), BY_NAME["PQ_SIGN_ML_DSA_65"])
    wrapped = WrappedKey(JOB, "RSA_OAEP_3072_SHA256", job.stored, bytes(384))
    with pytest.raises(ImportFailedError, match="RSA_OAEP_3072_SHA256"):
        backend.import_key(wrapped, new_version(), BY_NAME["AES_256_GCM"])


def test_a_short_ephemeral_key_is_refused(backend: HsmBackend, job: Made) -> None:
    """What comes first must be an AES key the token can unwrap with."""
    data = outside.load_der_public_key(job.public).encrypt(b"short", outside.oaep("sha1"))  # type: ignore[union-attr]
    data += aes_key_wrap_with_padding(os.urandom(32), os.urandom(32))
    with pytest.raises(ImportFailedError, match="couldn't be unwrapped"):
        backend.import_key(WrappedKey(JOB, METHOD, job.stored, data), new_version(), BY_NAME["AES_256_GCM"])


@pytest.mark.parametrize("name", ["AES_256_GCM", "EC_SIGN_P256_SHA256"])
@pytest.mark.parametrize("step", ["unwrapped_whole", "prove", "take_in"])
def test_an_import_does_not_fail_for_good_because_the_token_left(
    soft_token: SoftToken, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    """Taken away between any two steps it is UNAVAILABLE, to be tried again; no wrapped key is to blame."""
    backend = HsmBackend(soft_token.config())
    job = backend.generate_import_key(JOB, METHOD)
    before, away = getattr(importing, step), []

    def leaving(*arguments: Any, **options: Any) -> Any:
        if not away:
            soft_token.take_away()
            away.append(True)
        return before(*arguments, **options)

    monkeypatch.setattr(importing, step, leaving)
    known = outside.known(BY_NAME[name])
    try:
        with pytest.raises(Unavailable):
            imported(backend, job, name, known.private)
    finally:
        soft_token.put_back()
    monkeypatch.undo()
    backend.reset()
    assert imported(backend, job, name, known.private)[1].public == known.public
    backend.close()


# What is stored


def test_a_row_of_another_version_opens_nothing_even_if_forged(backend: HsmBackend) -> None:
    """The checksum can be forged by who writes the store; the name in the token cannot."""
    version, other = new_version(), new_version()
    made = backend.generate(version, BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"])
    forged = ObjectRef(made.stored[1:17], other).encode()
    key: Any = backend.load(other, BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"], forged)
    with pytest.raises(Unavailable, match="is not in the token"):
        key.seal(b"", b"")


@pytest.mark.parametrize("name", SMALL)
def test_a_key_has_one_use(backend: HsmBackend, name: str) -> None:
    """What is stored for one algorithm opens for no other: raw AES-CTR of a GCM key would take its
    authentication away."""
    version = new_version()
    made = backend.generate(version, BY_NAME[name])
    for other in SMALL:
        if other != name:
            with pytest.raises(SealError, match="damaged"):
                backend.load(version, BY_NAME[other], made.stored)


def test_deployments_that_share_a_token_leave_each_other_alone(token: SoftToken) -> None:
    """Two that name their versions alike make and remove their own keys only."""
    algorithm = BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"]
    one, two = HsmBackend(token.config(deployment="one")), HsmBackend(token.config(deployment="two"))
    version = new_version()
    first: Any = one.load(version, algorithm, one.generate(version, algorithm).stored)
    sealed = first.seal(b"text", b"")
    made = two.generate(version, algorithm)
    assert first.open(sealed, b"") == b"text"
    two.remove(version, made.stored)
    assert first.open(sealed, b"") == b"text"
    one.generate(version, algorithm)
    with pytest.raises(Unavailable):
        first.open(sealed, b"")


def test_an_attempt_that_was_cut_short_leaves_nothing(backend: HsmBackend) -> None:
    """Made anew after a crash, there is one key under the name, and public half with it."""
    version, algorithm = new_version(), BY_NAME["EC_SIGN_P256_SHA256"]
    backend.generate(version, algorithm)
    made = backend.generate(version, algorithm)

    def left(session: Session) -> set[ObjectClass]:
        found = session.search({Attribute.LABEL: version})
        assert {each[Attribute.ID] for each in found} == {made.stored[1:17]}
        return {each[Attribute.CLASS] for each in found}

    assert backend._token.use(left) == {ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY}
    backend.remove(version, made.stored)
    assert backend._token.use(lambda session: session.search({Attribute.LABEL: version})) == []


def test_a_damaged_row_does_not_keep_a_key_alive(backend: HsmBackend) -> None:
    """What is to be destroyed is destroyed though what is stored of it is damaged: by its name."""
    version, algorithm = new_version(), BY_NAME["EC_SIGN_P256_SHA256"]
    made = backend.generate(version, algorithm)
    backend.remove(version, made.stored[:-1] + b"?")
    assert backend._token.use(lambda session: session.search({Attribute.LABEL: version})) == []
    backend.remove(version, b"")


def test_the_facts_are_the_token_s(backend: HsmBackend, token: SoftToken, job: Made) -> None:
    """Class, size, whether it was made there and can leave; which token; which library."""
    version = new_version()
    made = backend.generate(version, BY_NAME["RSA_SIGN_PSS_2048_SHA256"])
    facts: Any = backend.facts(version, BY_NAME["RSA_SIGN_PSS_2048_SHA256"], made.stored)
    assert facts["object"] | {"id": ""} == {
        "class": "private key", "id": "", "label": version, "type": "RSA", "bits": 2048,
        "curve_parameters": None, "local": True, "sensitive": True, "always_sensitive": True,
        "extractable": False, "never_extractable": True, "wrap_with_trusted": False, "private": True,
        "modifiable": True,
    }  # fmt: skip
    assert facts["token"]["label"] == token.label
    assert facts["token"]["manufacturer"] == "SoftHSM project"
    assert facts["library"]["manufacturer"] == "SoftHSM"
    facts = backend.facts(JOB, None, job.stored)
    assert (facts["object"]["label"], facts["object"]["bits"], facts["object"]["local"]) == (JOB, 3072, True)
    version, made = imported(backend, job, "AES_256_GCM", os.urandom(32))
    facts = backend.facts(version, BY_NAME["AES_256_GCM"], made.stored)
    told = {
        name: facts["object"][name] for name in ("class", "type", "local", "never_extractable", "sensitive")
    }
    assert told == {
        "class": "secret key", "type": "AES", "local": False, "never_extractable": False, "sensitive": True,
    }  # fmt: skip


def test_it_says_how_it_works(backend: HsmBackend) -> None:
    """Using it waits for something outside, and it takes 8 KiB of plaintext and associated data together."""
    assert (backend.blocking, backend.max_bytes, backend.together) == (True, 8192, True)
    assert len({backend.random(32) for _ in range(20)}) == 20
    assert len(backend.random(1024)) == 1024


def test_the_largest_message(backend: HsmBackend) -> None:
    """8 KiB of plaintext or of associated data come back."""
    version, algorithm = new_version(), BY_NAME["GOOGLE_SYMMETRIC_ENCRYPTION"]
    key: Any = backend.load(version, algorithm, backend.generate(version, algorithm).stored)
    for plaintext, aad in (
        (os.urandom(8192), b""),
        (b"", os.urandom(8192)),
        (os.urandom(4096), os.urandom(4096)),
    ):
        sealed = key.seal(plaintext, aad)
        assert len(sealed) == len(plaintext) + 28
        assert key.open(sealed, aad) == plaintext


# Many threads


class Load:
    """Threads that use keys of all kinds until they are told to stop, and what went wrong meanwhile."""

    def __init__(self, backend: HsmBackend) -> None:
        self._backend = backend
        self._stop = threading.Event()
        self.done = 0
        self.unavailable = 0
        self._keys = {name: self._key(name) for name in SMALL if name != "AES_256_KWP"}
        self._lock = threading.Lock()

    def _key(self, name: str) -> tuple[Any, Made]:
        version = new_version()
        made = self._backend.generate(version, BY_NAME[name])
        return self._backend.load(version, BY_NAME[name], made.stored), made

    def run(self, seed: int) -> None:
        """Until `stop`. Any wrong answer, and any error but UNAVAILABLE, ends it."""
        names = sorted(self._keys)
        turn = seed
        while not self._stop.is_set():
            turn += 1
            try:
                self._once(names[turn % len(names)], turn)
            except Unavailable:
                with self._lock:
                    self.unavailable += 1
                time.sleep(0.01)
            else:
                with self._lock:
                    self.done += 1

    def _once(self, name: str, turn: int) -> None:
        algorithm = BY_NAME[name]
        key, made = self._keys[name]
        data = f"{turn}".encode()
        if algorithm.family is Family.SYMMETRIC:
            sealed = key.seal(data, b"aad")
            assert key.open(sealed, b"aad") == data
            with pytest.raises(DecryptionError):
                key.open(sealed, data)
        elif algorithm.purpose == "RAW_ENCRYPT_DECRYPT":
            iv = hashlib.sha256(data).digest()[: 12 if algorithm.family is Family.AES_GCM else 16]
            tag = 16 if algorithm.family is Family.AES_GCM else 0
            padded = data.ljust(16)
            assert key.decrypt(key.encrypt(padded, iv, b""), iv, b"", tag) == padded
        elif algorithm.family is Family.HMAC:
            assert key.mac(data) == key.mac(data)
        elif algorithm.family is Family.RSA_OAEP:
            assert key.decrypt(outside.encrypt(algorithm, made.public, data)) == data
            with pytest.raises(DecryptionError):
                key.decrypt(bytes(256))
        else:
            outside.verify(algorithm, made.public, key.sign(outside.payload(algorithm, data, b"")), data)
        if turn % 50 == 0:
            version = new_version()
            again = self._backend.generate(version, BY_NAME["EC_SIGN_P256_SHA256"])
            self._backend.remove(version, again.stored)

    def during(self, work: Callable[[Load], None]) -> None:
        """Eight threads, while `work` runs."""
        with ThreadPoolExecutor(8) as threads:
            running = [threads.submit(self.run, 100 * number) for number in range(8)]
            try:
                work(self)
            finally:
                self._stop.set()
            for each in running:
                each.result()

    def wait(self, more: int) -> None:
        """Until that many more pieces of work were done."""
        target = self.done + more
        for _ in range(3000):
            if self.done >= target:
                return
            time.sleep(0.01)
        raise AssertionError(f"the load stands still at {self.done}")


@pytest.mark.slow
def test_eight_threads_mixed(soft_token: SoftToken) -> None:
    """No error and no mixed-up answer, and one session for all of them."""
    backend = HsmBackend(soft_token.config())
    load = Load(backend)
    before = len(soft_token.sessions())
    load.during(lambda load: load.wait(1000))
    assert load.unavailable == 0
    assert len(soft_token.sessions()) == before
    backend.close()


@pytest.mark.slow
def test_a_token_lost_under_load(soft_token: SoftToken) -> None:
    """Threads see UNAVAILABLE while it is away and nothing else, ever; then it goes on, without one session
    left over."""
    backend = HsmBackend(soft_token.config())
    load = Load(backend)
    slot = ctypes.c_ulong

    def lose(load: Load) -> None:
        for _ in range(2):
            load.wait(100)
            soft_token.take_away()
            seen = load.unavailable
            while load.unavailable < seen + 20:
                time.sleep(0.01)
            soft_token.put_back()
            load.wait(100)
            seen = load.unavailable
            assert soft_token.call("C_CloseAllSessions", slot(soft_token.slot())) == 0
            load.wait(100)
            assert load.unavailable == seen

    load.during(lose)
    assert len(soft_token.sessions()) == 1
    backend.close()
    assert len(soft_token.sessions()) == 0
