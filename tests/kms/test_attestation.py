"""Attestations: what the token said of a key, signed by the deployment; nothing else passes for one."""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import hashlib
import json
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.api_jws import PyJWS

from keystead.api.clock import ManualClock
from keystead.api.errors import Unavailable
from keystead.crypto import certificates
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import BY_NAME
from keystead.kms.attestation import AttestationError, Attestor, Statement, root_certificate, verify
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.deployment import deployment_id
from keystead.kms.rootkey import RootKey
from keystead.kms.seals import SealError
from keystead.store import Store
from tests.hsm import SoftToken

VERSION = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
P256 = BY_NAME["EC_SIGN_P256_SHA256"]
PUBLIC = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
)  # fmt: skip
FACTS: dict[str, Any] = {
    "object": {"class": "private key", "local": True, "extractable": False},
    "token": {"label": "t", "serial": "1"},
    "library": {"manufacturer": "m"},
}


@pytest.fixture
def root_key() -> RootKey:
    return RootKey(SecretBytes.random())


@pytest.fixture
def attestor(sqlite_store: Store, root_key: RootKey, manual_clock: ManualClock) -> Attestor:
    return Attestor(sqlite_store, root_key, manual_clock)


def content(attestor: Attestor, public: bytes = PUBLIC) -> bytes:
    return bytes(attestor.attest(VERSION, P256.name, "HSM", public, FACTS).content)


def test_a_statement_comes_back(attestor: Attestor, sqlite_store: Store, manual_clock: ManualClock) -> None:
    """What was attested is what is verified, under the deployment's root."""
    attestation = attestor.attest(VERSION, P256.name, "HSM", PUBLIC, FACTS)
    root = root_certificate(sqlite_store)
    verified = verify(attestation.content, root=root, public=PUBLIC)
    assert verified.statement == Statement(
        version=VERSION,
        algorithm="EC_SIGN_P256_SHA256",
        protection_level="HSM",
        public_key_sha256=hashlib.sha256(PUBLIC).hexdigest(),
        facts=FACTS,
        time=manual_clock.now().replace(microsecond=0),
        deployment=deployment_id(sqlite_store),
    )
    assert root is not None
    assert verified.root_sha256 == hashlib.sha256(root).hexdigest()
    assert attestation.format == 0  # unspecified: the others are a maker's own
    assert verify(content(attestor, b"")).statement.public_key_sha256 == ""


def test_an_independent_verifier_agrees(attestor: Attestor, sqlite_store: Store) -> None:
    """gzip, JWS and X.509 alone, by the libraries, verify it as the documentation says."""
    attestation = attestor.attest(VERSION, P256.name, "HSM", PUBLIC, FACTS)
    signed = gzip.decompress(attestation.content).decode()
    header = jwt.get_unverified_header(signed)
    leaf, root = (x509.load_der_x509_certificate(base64.b64decode(each)) for each in header["x5c"])
    leaf.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    payload = json.loads(PyJWS().decode(signed, key, algorithms=["ES256"]))
    assert payload["version"] == VERSION
    assert payload["facts"] == FACTS
    pems = list(attestation.cert_chains.google_partition_certs)
    assert [x509.load_pem_x509_certificate(pem.encode()) for pem in pems] == [leaf, root]
    assert not attestation.cert_chains.cavium_certs
    assert not attestation.cert_chains.google_card_certs
    assert leaf.not_valid_after_utc.year == root.not_valid_after_utc.year == 9999


def test_the_key_is_made_once(
    attestor: Attestor, sqlite_store: Store, root_key: RootKey, manual_clock: ManualClock
) -> None:
    """Restarts and later attestations keep the root that verifiers hold."""
    attestor.prepare()
    root = root_certificate(sqlite_store)
    manual_clock.advance(dt.timedelta(days=4000))
    again = Attestor(sqlite_store, root_key, manual_clock)
    again.prepare()
    assert root_certificate(sqlite_store) == root
    assert verify(content(again), root=root).statement.time.year == manual_clock.now().year


def test_it_is_made_within_a_transaction_that_writes(attestor: Attestor, sqlite_store: Store) -> None:
    """Once prepared, nothing is written to attest a key."""
    attestor.prepare()
    with sqlite_store.write() as tx:
        made = content(attestor)
        tx.meta.put("other", b"x")
    assert verify(made).statement.version == VERSION


def test_a_sealed_root_key_attests_nothing(attestor: Attestor, root_key: RootKey) -> None:
    """The signing key is wrapped by it: UNAVAILABLE, which opening the seal ends."""
    attestor.prepare()
    root_key.close()
    with pytest.raises(Unavailable):
        content(attestor)


def test_a_damaged_key_is_named(attestor: Attestor, sqlite_store: Store) -> None:
    """Neither another attestation key nor none is made instead."""
    attestor.prepare()
    for damaged in (b"", b"{}", b"[]", b'{"wrapped":"AA=="}', b"\xff"):
        with sqlite_store.write() as tx:
            tx.meta.put("attestation-key", damaged)
        with pytest.raises(SealError):
            content(attestor)


# What does not pass


def test_nothing_altered_passes(attestor: Attestor) -> None:
    """A byte of the signed text altered anywhere, a cut, an addition: all refused."""
    signed = gzip.decompress(content(attestor))
    # The end of the signature has bits that decode to nothing: each of its values is tried.
    last = string.ascii_letters + string.digits + "-_"
    places = {*range(0, len(signed), 5), *range(len(signed) - 90, len(signed))}
    for at in places:
        for other in b"AQ" if at < len(signed) - 1 else last.encode():
            if other != signed[at]:
                with pytest.raises(AttestationError):
                    verify(gzip.compress(signed[:at] + bytes((other,)) + signed[at + 1 :], 1))
    packed = content(attestor)
    for wrong in (packed[:-1], packed[:20], packed + b"x", packed + packed, b"", signed):
        with pytest.raises(AttestationError):
            verify(wrong)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_verifier(data: bytes) -> None:
    """Whatever is given instead of an attestation is refused with a reason."""
    for wrong in (data, gzip.compress(data), gzip.compress(base64.b64encode(data))):
        with pytest.raises(AttestationError):
            verify(wrong)


def test_a_bomb_is_refused() -> None:
    """Content that unpacks to more than a megabyte is not unpacked."""
    with pytest.raises(AttestationError, match="too large"):
        verify(gzip.compress(bytes(50_000_000)))


def test_another_deployments_root_is_refused(
    attestor: Attestor, tmp_path: Path, manual_clock: ManualClock
) -> None:
    """Two deployments attest under two roots."""
    other = certificates.issue("other", manual_clock.now())
    with pytest.raises(AttestationError, match="another root"):
        verify(content(attestor), root=other.root)


def test_another_public_key_is_refused(attestor: Attestor) -> None:
    """The statement is about one key."""
    with pytest.raises(AttestationError, match="another public key"):
        verify(content(attestor), public=PUBLIC[:-1] + b"x")
    with pytest.raises(AttestationError, match="another public key"):
        verify(content(attestor, b""), public=PUBLIC)


@pytest.fixture
def issued(manual_clock: ManualClock) -> Iterator[certificates.Issued]:
    """A key and certificates of the test's own, to forge with."""
    made = certificates.issue("forger", manual_clock.now())
    yield made
    made.private.wipe()


def forged(issued: certificates.Issued, payload: bytes, **headers: Any) -> bytes:
    chain = [base64.b64encode(each).decode() for each in (issued.leaf, issued.root)]
    key = certificates.signing_key(issued.private)
    header = {"typ": "keystead-attestation+jws", "x5c": chain} | headers
    return gzip.compress(PyJWS().encode(payload, key, algorithm="ES256", headers=header).encode())


def statement(**changes: Any) -> Statement:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = Statement(VERSION, "EC_SIGN_P256_SHA256", "HSM", "", FACTS, now, "forger")
    return replace(made, **changes)


def test_what_is_signed_must_be_an_attestation(issued: certificates.Issued) -> None:
    """Other signed texts, other types of token, and statements of another form are not taken for one."""
    assert verify(forged(issued, statement().encode())).statement == statement()
    good = json.loads(statement().encode())
    for payload in (
        b"", b"{}", b"[]", b"null", b"\xff", b'{"format":1}', json.dumps(good | {"more": 1}).encode(),
        json.dumps(good | {"format": 2}).encode(), json.dumps(good | {"time": "yesterday"}).encode(),
        json.dumps(good | {"facts": []}).encode(), b"[" * 5000,
    ):  # fmt: skip
        with pytest.raises(AttestationError):
            verify(forged(issued, payload))
    for typ in ("JWT", "at+jwt"):
        with pytest.raises(AttestationError, match="not an attestation"):
            verify(forged(issued, statement().encode(), typ=typ))


def test_the_chain_must_hold(issued: certificates.Issued, manual_clock: ManualClock) -> None:
    """A leaf of another root, a leaf that is an authority, a missing certificate, a statement from before the
    key: all refused."""
    other = certificates.issue("other", manual_clock.now())
    text = statement().encode()

    def refused(*chain: bytes) -> str:
        with pytest.raises(AttestationError) as error:
            verify(forged(issued, text, x5c=[base64.b64encode(each).decode() for each in chain]))
        return str(error.value)

    assert "not issued by the root" in refused(issued.leaf, other.root)
    assert "signature does not fit" in refused(other.leaf, other.root)
    assert "not an attestation" in refused(issued.leaf)
    assert "not an attestation" in refused(issued.leaf, issued.root, issued.root)
    assert "signature does not fit" in refused(issued.root, issued.root)
    assert "prove nothing" in refused(b"junk", issued.root)
    early = statement(time=dt.datetime(2025, 12, 31, tzinfo=dt.UTC)).encode()
    with pytest.raises(AttestationError, match="not valid at that time"):
        verify(forged(issued, early))


FORGER = certificates.issue("forger", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=300, deadline=None)
@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7), st.booleans())
def test_no_certificate_crashes_the_verifier(place: int, bit: int, of_leaf: bool) -> None:
    """Certificates with any bit altered are refused with a reason; a forger signs whatever he likes."""
    chain = [FORGER.leaf, FORGER.root]
    altered = bytearray(chain[not of_leaf])
    altered[place % len(altered)] ^= 1 << bit
    chain[not of_leaf] = bytes(altered)
    x5c = [base64.b64encode(each).decode() for each in chain]
    with pytest.raises(AttestationError):
        verify(forged(FORGER, statement().encode(), x5c=x5c))


def test_a_signature_has_one_form() -> None:
    """A certificate whose signature claims unused bits is another certificate, and none that is taken."""
    chain = [FORGER.leaf, FORGER.root]
    for number, each in enumerate(chain):
        at = len(each) - len(x509.load_der_x509_certificate(each).signature) - 1
        for bits in range(1, 8):
            altered = [*chain]
            altered[number] = each[:at] + bytes((bits,)) + each[at + 1 :]
            with pytest.raises(AttestationError):
                x5c = [base64.b64encode(der).decode() for der in altered]
                verify(forged(FORGER, statement().encode(), x5c=x5c))


def test_symmetric_signatures_are_not_taken(issued: certificates.Issued) -> None:
    """A header cannot choose the algorithm: neither none, nor HMAC under the public key."""
    chain = [base64.b64encode(each).decode() for each in (issued.leaf, issued.root)]
    text = statement().encode()
    for algorithm, key in (("none", None), ("HS256", b"k" * 32)):
        header = {"typ": "keystead-attestation+jws", "x5c": chain}
        signed = PyJWS().encode(text, key, algorithm=algorithm, headers=header)  # type: ignore[arg-type]
        with pytest.raises(AttestationError):
            verify(gzip.compress(signed.encode()))


def test_the_signing_key_is_wrapped(attestor: Attestor, sqlite_store: Store, root_key: RootKey) -> None:
    """What the store keeps opens only under the root key, and holds the private key nowhere in clear."""
    attestor.prepare()
    with sqlite_store.read() as tx:
        stored = bytes(tx.meta.get("attestation-key") or b"")
    with root_key.unwrap("attestation-key", base64.b64decode(json.loads(stored)["wrapped"])) as private:
        key = certificates.signing_key(private)
        scalar = key.private_numbers().private_value.to_bytes(32, "big")
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert scalar not in stored
    for part in json.loads(stored).values():
        assert scalar not in base64.b64decode(part)
        assert der not in base64.b64decode(part)


def test_the_facts_of_a_real_key(attestor: Attestor, soft_token: SoftToken) -> None:
    """A key made in SoftHSM2, attested with what it says, needs no token to be verified later."""
    backend = HsmBackend(soft_token.config())
    made = backend.generate(VERSION, P256)
    attestation = attestor.attest(
        VERSION, P256.name, backend.level, made.public, backend.facts(VERSION, P256, made.stored)
    )
    backend.close()
    facts: Any = verify(attestation.content, public=made.public).statement.facts
    assert facts["object"]["label"] == VERSION
    assert facts["object"]["never_extractable"] is True
    assert facts["token"]["label"] == soft_token.label
