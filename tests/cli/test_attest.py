"""`keystead attest`: what an attestation proves is printed; whatever proves nothing ends with status 1."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from keystead.api.clock import ManualClock
from keystead.crypto.secret import SecretBytes
from keystead.kms.algorithms import BY_NAME
from keystead.kms.attestation import Attestor
from keystead.kms.backends.hsm.backend import HsmBackend
from keystead.kms.deployment import deployment_id
from keystead.kms.rootkey import RootKey
from keystead.store import open_store
from tests.cli.commands import Keystead
from tests.hsm import SoftToken

VERSION = "projects/p1/locations/europe-west4/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
P256 = BY_NAME["EC_SIGN_P256_SHA256"]


@dataclass(frozen=True)
class Attested:
    """A deployment that made a key in a token: its data directory, the attestation as gcloud writes it, the
    public key, the certificates as gcloud prints them, the deployment's id, the token."""

    data_dir: Path
    file: Path
    public_key: Path
    chain: Path
    deployment: str
    token: SoftToken


@pytest.fixture
def attested(tmp_path: Path, soft_token: SoftToken, manual_clock: ManualClock) -> Iterator[Attested]:
    """A key in SoftHSM2, attested."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    store = open_store(f"sqlite:///{data_dir / 'store.db'}")
    backend = HsmBackend(soft_token.config())
    made = backend.generate(VERSION, P256)
    attestation = Attestor(store, RootKey(SecretBytes.random()), manual_clock).attest(
        VERSION, P256.name, "HSM", made.public, backend.facts(VERSION, P256, made.stored)
    )
    backend.close()
    attested = Attested(
        data_dir,
        tmp_path / "att.dat",
        tmp_path / "key.pem",
        tmp_path / "chain.pem",
        deployment_id(store),
        soft_token,
    )
    store.close()
    attested.file.write_bytes(attestation.content)
    attested.chain.write_text("".join(attestation.cert_chains.google_partition_certs))
    key: Any = load_der_public_key(made.public)
    attested.public_key.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    yield attested


def rows(out: str) -> dict[str, str]:
    """The printed table."""
    return {line[:22].strip(): line[23:] for line in out.splitlines()}


def test_what_is_proved_is_printed(keystead: Keystead, attested: Attested, tmp_path: Path) -> None:
    """With the deployment's root and the public key at hand, everything is compared and said."""
    root = tmp_path / "root.pem"
    printed = keystead("attest", "root", "--data-dir", attested.data_dir)
    assert (printed.status, printed.err) == (0, "")
    root.write_text(printed.out)

    ran = keystead("attest", "verify", attested.file, "--root", root, "--public-key", attested.public_key)

    assert (ran.status, ran.err) == (0, "")
    table = rows(ran.out)
    assert table["key version"] == VERSION
    assert table["algorithm"] == "EC_SIGN_P256_SHA256"
    assert table["protection level"] == "HSM"
    assert table["deployment"] == attested.deployment
    assert table["stated at"] == "2026-01-01 00:00:00 UTC"
    assert table["made in the token"] == "yes"
    assert table["can leave the token"] == table["could ever leave it"] == "no"
    assert table["value can be read"] == table["could ever be read"] == "no"
    assert table["token"].startswith(f"{attested.token.label}, serial number ")
    assert table["root (SHA-256)"].endswith(" (as given)")
    assert table["public key (SHA-256)"].endswith(" (of the key given)")


def test_what_was_not_compared_is_said(keystead: Keystead, attested: Attested) -> None:
    """Without a root it is a statement of whoever signed it, and the table says so."""
    table = rows(keystead("attest", "verify", attested.file).out)
    assert "NOT COMPARED" in table["root (SHA-256)"]
    assert "not compared" in table["public key (SHA-256)"]


def test_the_root_may_come_with_its_chain(keystead: Keystead, attested: Attested, tmp_path: Path) -> None:
    """A file of `get-certificate-chain` ends with the root and serves as one. Public keys may be DER."""
    der = tmp_path / "key.der"
    key = load_pem_public_key(attested.public_key.read_bytes())
    der.write_bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    ran = keystead("attest", "verify", attested.file, "--root", attested.chain, "--public-key", der)
    assert ran.status == 0
    assert rows(ran.out)["root (SHA-256)"].endswith(" (as given)")


def test_what_proves_nothing_ends_with_1(keystead: Keystead, attested: Attested, tmp_path: Path) -> None:
    """Altered, no attestation, another root, another key, or files that are neither: the reason, and no
    table."""
    signed = gzip.decompress(attested.file.read_bytes())
    altered, other = tmp_path / "altered.dat", tmp_path / "other.pem"
    altered.write_bytes(gzip.compress(signed.replace(signed[-20:-16], b"AAAA")))
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    other.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    another = tmp_path / "another"
    another.mkdir()
    store = open_store(f"sqlite:///{another / 'store.db'}")
    Attestor(store, RootKey(SecretBytes.random()), ManualClock()).prepare()
    store.close()
    root = tmp_path / "other-root.pem"
    root.write_text(keystead("attest", "root", "--data-dir", another).out)
    for words, part in (
        ((altered,), "The signature does not fit"),
        ((attested.public_key,), "It is not an attestation"),
        ((attested.file, "--root", root), "another root"),
        ((attested.file, "--public-key", other), "another public key"),
        ((attested.file, "--root", other), "no certificate"),
        ((attested.file, "--public-key", attested.chain), "no public key"),
    ):
        ran = keystead("attest", "verify", *words)
        assert (ran.status, ran.out) == (1, "")
        assert "proves nothing" in ran.text
        assert part in ran.text


def test_a_deployment_without_attestations(keystead: Keystead, tmp_path: Path) -> None:
    """It has no root yet, and asking for it makes none; a mistyped directory stays absent."""
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    store.close()
    ran = keystead("attest", "root", "--data-dir", tmp_path)
    assert ran.status == 1
    assert "has attested no key yet" in ran.text
    assert keystead("attest", "root", "--data-dir", tmp_path / "none").status == 1
    assert not (tmp_path / "none").exists()
