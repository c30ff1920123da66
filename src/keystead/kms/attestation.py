"""Attestations of keys in a token: what the token said of a key when it was made, signed by the deployment.

SECURITY: an attestation says what this server read from the token. It proves that nobody has altered that
since, and which deployment said it; it is no word of the token's maker, whose formats (CAVIUM_*) only the
maker's devices can sign. The signing key (ES256) is made once, stored wrapped by the root key and unwrapped
for each signature; its certificate hangs under a root that signed nothing else (`crypto.certificates`).

Content: gzip (RFC 1952) of a JWS in compact form (RFC 7515) with header `alg` ES256, `typ`
keystead-attestation+jws and `x5c`, the leaf and the root; its payload is the statement in JSON.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.api_jws import PyJWS

from keystead.api.call import Transactions
from keystead.api.clock import Clock
from keystead.crypto import certificates
from keystead.crypto.errors import MalformedError
from keystead.kms.deployment import deployment_id
from keystead.kms.messages import KeyOperationAttestation
from keystead.kms.rootkey import RootKey
from keystead.kms.seals import SealError

FORMAT = 1
_KEY = "attestation-key"
_TYPE = "keystead-attestation+jws"
_ALGORITHM = "ES256"
_MAX_SIZE = 1 << 20
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class AttestationError(Exception):
    """It is not an attestation, or proves nothing; the text says why."""


@dataclass(frozen=True)
class Statement:
    """What an attestation says. public_key_sha256 (hexadecimal) is empty for secret keys; facts are those of
    `HsmBackend.facts`."""

    version: str
    algorithm: str
    protection_level: str
    public_key_sha256: str
    facts: Mapping[str, Any]
    time: dt.datetime
    deployment: str

    def encode(self) -> bytes:
        """The payload: JSON, keys sorted."""
        fields = vars(self) | {"format": FORMAT, "time": self.time.strftime(_TIME), "facts": dict(self.facts)}
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    @staticmethod
    def decode(payload: bytes) -> Statement:
        """What `encode` gave. Raises AttestationError for anything else."""
        try:
            fields = json.loads(payload)
            if fields.pop("format") != FORMAT:
                raise AttestationError("A newer Keystead made this attestation. Verify it with that one.")
            fields["time"] = dt.datetime.strptime(fields["time"], _TIME).replace(tzinfo=dt.UTC)
            statement = Statement(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise AttestationError("The attestation's statement is not one of Keystead.") from None
        if not isinstance(statement.facts, dict):
            raise AttestationError("The attestation's statement is not one of Keystead.")
        return statement


@dataclass(frozen=True)
class Verified:
    """A statement that holds, under which root (SHA-256 of its certificate), and whose key signed it."""

    statement: Statement
    root_sha256: str
    signer: str


@dataclass(frozen=True)
class _Signer:
    """As stored: the wrapped key, and the certificates in DER."""

    wrapped: bytes
    leaf: bytes
    root: bytes

    def encode(self) -> bytes:
        return json.dumps({name: _base64(value) for name, value in vars(self).items()}).encode()

    @staticmethod
    def decode(stored: bytes) -> _Signer:
        try:
            fields = json.loads(stored)
            return _Signer(**{name: base64.b64decode(value, validate=True) for name, value in fields.items()})
        except (ValueError, TypeError, AttributeError):
            raise SealError("The attestation key in the store is damaged. Restore the store.") from None


class Attestor:
    """Makes the attestations of a deployment."""

    def __init__(self, store: Transactions, root_key: RootKey, clock: Clock) -> None:
        self._store = store
        self._root_key = root_key
        self._clock = clock

    def prepare(self) -> None:
        """Make the attestation key unless there is one. Raises Unavailable while the root key is sealed."""
        self._signer()

    def attest(
        self, version: str, algorithm: str, level: str, public: bytes, facts: Mapping[str, Any]
    ) -> Any:
        """The KeyOperationAttestation of a key that was just made or imported. `version` is the name of the
        version or import job, `algorithm` that of its algorithm or import method; `public` as `Made` has it.

        Makes the attestation key if there is none, so the first call must not be inside a transaction that
        writes (`prepare`). Raises Unavailable while the root key is sealed, SealError.
        """
        signer = self._signer()
        statement = Statement(
            version=version,
            algorithm=algorithm,
            protection_level=level,
            public_key_sha256=hashlib.sha256(public).hexdigest() if public else "",
            facts=facts,
            time=self._clock.now(),
            deployment=deployment_id(self._store),
        )
        headers = {"typ": _TYPE, "x5c": [_base64(each) for each in (signer.leaf, signer.root)]}
        with self._root_key.unwrap(_KEY, signer.wrapped) as private:
            key = certificates.signing_key(private)
        signed = PyJWS().encode(statement.encode(), key, algorithm=_ALGORITHM, headers=headers)
        # The format stays unspecified: the others are a maker's own (see the module's text).
        attestation = KeyOperationAttestation(content=gzip.compress(signed.encode(), mtime=0))
        chain = [certificates.to_pem(each) for each in (signer.leaf, signer.root)]
        attestation.cert_chains.google_partition_certs.extend(chain)
        return attestation

    def _signer(self) -> _Signer:
        with self._store.read() as tx:
            stored = tx.meta.get(_KEY)
        return _Signer.decode(stored) if stored is not None else self._make()

    def _make(self) -> _Signer:
        issued = certificates.issue(deployment_id(self._store), self._clock.now())
        with issued.private as private:
            made = _Signer(self._root_key.wrap(_KEY, private), issued.leaf, issued.root)
        with self._store.write() as tx:
            present = tx.meta.get(_KEY)
            if present is not None:
                return _Signer.decode(present)
            tx.meta.put(_KEY, made.encode())
        return made


def root_certificate(store: Transactions) -> bytes | None:
    """The deployment's root in DER, if it has attested anything yet. Raises SealError."""
    with store.read() as tx:
        stored = tx.meta.get(_KEY)
    return None if stored is None else _Signer.decode(stored).root


def verify(content: bytes, *, root: bytes | None = None, public: bytes | None = None) -> Verified:
    """What an attestation's content proves. Raises AttestationError unless all of it holds.

    root: the certificate (DER) it must hang under; without one, whichever it brings. public: the public key
    (SubjectPublicKeyInfo, DER) it must be about.
    """
    signed = _unpacked(content)
    leaf, own_root = _chain(signed)
    if root is not None and root != own_root:
        raise AttestationError("The attestation hangs under another root than the one given.")
    try:
        key = certificates.verifying_key(leaf)
        payload = PyJWS().decode(signed, key, algorithms=[_ALGORITHM])
        statement = Statement.decode(payload)
        certificates.verify_chain(leaf, own_root, statement.time)
    except jwt.InvalidTokenError:
        raise AttestationError("The signature does not fit: the attestation was altered.") from None
    except MalformedError as error:
        raise AttestationError(f"The certificates prove nothing: {error}.") from None
    if public is not None and hashlib.sha256(public).hexdigest() != statement.public_key_sha256:
        raise AttestationError("The attestation is about another public key than the one given.")
    return Verified(statement, certificates.fingerprint(own_root), certificates.subject(leaf))


def _unpacked(content: bytes) -> str:
    unzipping = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        signed = unzipping.decompress(content, _MAX_SIZE)
        if not unzipping.eof or unzipping.unused_data:
            raise AttestationError("It is cut off, too large, or followed by something else.")
        text = signed.decode("ascii")
        if not all(map(_is_canonical, text.split("."))):
            raise AttestationError("It is not an attestation of Keystead.")
    except (zlib.error, ValueError):
        raise AttestationError("It is not an attestation of Keystead.") from None
    return text


def _chain(signed: str) -> tuple[bytes, bytes]:
    """The leaf and the root that an attestation brings."""
    try:
        header = PyJWS().get_unverified_header(signed)
        if (header["typ"], header["alg"]) != (_TYPE, _ALGORITHM):
            raise AttestationError("It is signed, but not an attestation of Keystead.")
        leaf, root = (base64.b64decode(each, validate=True) for each in header["x5c"])
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, binascii.Error):
        raise AttestationError("It is not an attestation of Keystead.") from None
    return leaf, root


def _is_canonical(part: str) -> bool:
    """Whether base64url (RFC 7515) has one reading only: what is signed cannot be written differently."""
    decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == part


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
