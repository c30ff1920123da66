"""Every `gcloud kms` command: none is forgotten, what is left out says so, and what no other test runs."""

from __future__ import annotations

import importlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keystead.kms.algorithms import BY_NAME
from keystead.kms.messages import ImportJob
from tests.clients.gcloud import Gcloud
from tests.clients.gcloud_commands import (
    INVENTORY_ENDPOINT,
    LEFT_OUT,
    NOT_RUN,
    RUN_BY,
    LeftOut,
    commands_of_gcloud,
)
from tests.clients.pyclients import projects_client
from tests.live import LiveServer

pytestmark = pytest.mark.gcloud

WHERE = ("--location=us-central1", "--keyring=kr1")
RING = "projects/p1/locations/us-central1/keyRings/kr1"
_MADE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def ring(gcloud: Gcloud) -> Gcloud:
    """gcloud with the key ring kr1, the key k1 in it, and files that commands read."""
    gcloud.ok("kms", "keyrings", "create", "kr1", "--location=us-central1")
    gcloud.ok("kms", "keys", "create", "k1", *WHERE, "--purpose=encryption")
    files = {
        "pt": "hello", "block": "sixteen bytes ok", "aad": "aad1", "ekm.pem": "a certificate",
        "policy.json": json.dumps({"bindings": [{"role": "roles/owner", "members": ["user:a@x.com"]}]}),
        "autokey.yaml": "name: folders/123/autokeyConfig\nkeyProject: projects/kp\n",
    }  # fmt: skip
    for name, text in files.items():
        (gcloud.directory / name).write_text(text)
    return gcloud


def settled(gcloud: Gcloud, *words: str) -> None:
    """Wait until what `describe` shows is not pending any more."""
    deadline = time.monotonic() + _MADE_S
    while gcloud.ok("kms", *words, *WHERE, "--format=value(state)").out.startswith("PENDING"):
        assert time.monotonic() < deadline, f"{words} stays pending"


def make(gcloud: Gcloud, key: str, purpose: str, algorithm: str) -> tuple[str, ...]:
    """Make a key and wait for its version; the words that name it."""
    options = (f"--purpose={purpose}", f"--default-algorithm={algorithm}")
    gcloud.ok("kms", "keys", "create", key, *WHERE, *options)
    settled(gcloud, "keys", "versions", "describe", "1", "--key", key)
    return "--key", key, "--version", "1", *WHERE


# --- none is forgotten -------------------------------------------------------------------------------


def test_every_command_is_run_by_a_test_or_left_out_with_a_reason() -> None:
    """The lists name exactly the commands of the installed gcloud, and tests that there are."""
    offered = commands_of_gcloud()
    if not offered:
        pytest.skip("NOT TESTED is whether gcloud has other commands than the lists: its files are elsewhere")
    left_out = {
        command for command in offered for each in LEFT_OUT if each.words.startswith(f"kms {command} ")
    }
    assert set(RUN_BY) | left_out | set(NOT_RUN) == offered
    assert not set(NOT_RUN) & set(RUN_BY)
    for test in set(RUN_BY.values()):
        module, function = test.split("::")
        assert callable(getattr(importlib.import_module(f"tests.clients.{module}"), function)), test


@pytest.mark.parametrize(
    "left_out", [each for each in (*LEFT_OUT, INVENTORY_ENDPOINT) if not each.unimplemented]
)
def test_what_gcloud_itself_refuses(ring: Gcloud, left_out: LeftOut) -> None:
    """gcloud says so before, or instead of, asking the server for more."""
    printed = ring.run(*left_out.words.split())
    assert printed.status in {1, 2}
    assert left_out.printed in printed.err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_left_out_is_unimplemented(ring: Gcloud, live: LiveServer) -> None:
    """The server answers UNIMPLEMENTED and says what it lacks. gcloud tries 501 again for half a minute, so
    the commands run side by side."""
    wanted = [each for each in LEFT_OUT if each.unimplemented]
    with ThreadPoolExecutor(10) as pool:
        printed = list(pool.map(lambda each: ring.run(*each.words.split()), wanted))

    for each, found in zip(wanted, printed, strict=True):
        assert found.status == 1, f"{each.words}\n{found.err}"
        assert '"status":"UNIMPLEMENTED"' in found.err, f"{each.words}\n{found.err}"
        assert each.printed.removeprefix("UNIMPLEMENTED ").removesuffix(".") in found.err, each.words
    assert "Traceback" not in live.log.read_text()


def test_every_algorithm_and_import_method_that_gcloud_knows_is_known(ring: Gcloud) -> None:
    """gcloud lists its choices when it is given another: each is one of the service's."""

    def choices(*words: str) -> set[str]:
        error = ring.run("kms", *words, *WHERE).err
        listed = re.search(r"Valid choices are \[([^\]]+)\]", error) or re.search(
            r"must be one of: (.+)", error
        )
        assert listed is not None, error
        return {name.strip(" .\n").upper().replace("-", "_") for name in listed[1].split(",")}

    create = ("keys", "versions", "import", "--key=k1", "--import-job=j", "--wrapped-key-file=pt")
    algorithms = choices(*create, "--algorithm=none")
    methods = choices("import-jobs", "create", "j", "--import-method=none", "--protection-level=software")
    assert len(algorithms) > 20
    assert algorithms <= set(BY_NAME)
    assert len(methods) > 5
    assert methods <= set(ImportJob.ImportMethod.keys())


# --- keys and versions -------------------------------------------------------------------------------


def test_keys_of_every_purpose_are_listed_and_filtered(ring: Gcloud) -> None:
    """The table has a line for each, with a primary version only where the purpose has one."""
    keys = (
        ("lmac", "mac", "hmac-sha256", "MAC"),
        ("lraw", "raw-encryption", "aes-256-gcm", "RAW_ENCRYPT_DECRYPT"),
        ("lsign", "asymmetric-signing", "ec-sign-p256-sha256", "ASYMMETRIC_SIGN"),
        ("ldec", "asymmetric-encryption", "rsa-decrypt-oaep-2048-sha256", "ASYMMETRIC_DECRYPT"),
    )
    for key, purpose, algorithm, _ in keys:
        options = (f"--purpose={purpose}", f"--default-algorithm={algorithm}")
        assert ring.ok("kms", "keys", "create", key, *WHERE, *options).out == ""

    def listed(*options: str) -> list[list[str]]:
        return [line.split() for line in ring.ok("kms", "keys", "list", *WHERE, *options).out.splitlines()]

    rows = listed()
    for key, _, algorithm, purpose in keys:
        name = f"{RING}/cryptoKeys/{key}"
        assert [name, purpose, algorithm.upper().replace("-", "_"), "SOFTWARE"] in rows
    assert listed("--filter=purpose=MAC")[1:] == [
        [f"{RING}/cryptoKeys/lmac", "MAC", "HMAC_SHA256", "SOFTWARE"]
    ]
    names = [row[0] for row in rows[1:]]
    assert names == sorted(names)
    only = "--format=value(name)"
    assert [line for (line,) in listed(only, "--page-size=2")] == names
    assert [line for (line,) in listed(only, "--sort-by=~name")] == names[::-1]
    assert [line for (line,) in listed(only, "--limit=2")] == names[:2]


def test_a_key_is_described_by_all_tracks_and_names(ring: Gcloud, live: LiveServer) -> None:
    """alpha and beta print what GA prints; so does a full name with the number of the project; `--log-http`
    shows the request and not the token."""
    wanted = ring.ok("kms", "keys", "describe", "k1", *WHERE).out
    assert ring.ok("beta", "kms", "keys", "describe", "k1", *WHERE).out == wanted
    assert ring.ok("alpha", "kms", "keys", "describe", "k1", *WHERE, "--verbosity=none").out == wanted
    number = projects_client(live, "rest").get_project(name="projects/p1").name
    full = f"{RING.replace('projects/p1', number)}/cryptoKeys/k1"
    assert ring.ok("kms", "keys", "describe", full).out == wanted
    logged = ring.ok("kms", "keys", "describe", "k1", *WHERE, "--log-http")
    assert logged.out == wanted
    assert f"uri: {live.url}/cloudkms/v1/{RING}/cryptoKeys/k1?alt=json" in logged.err
    assert "user:owner@example.com" not in logged.err


def test_versions_update_changes_the_state(ring: Gcloud) -> None:
    """`versions update --state`, which prints nothing; and the addresses that `--uri` lists."""
    ring.ok("kms", "keys", "create", "kstate", *WHERE, "--purpose=encryption")
    version = ("1", "--key=kstate", *WHERE)
    for state in ("disabled", "enabled"):
        assert ring.ok("kms", "keys", "versions", "update", *version, f"--state={state}").out == ""
        shown = ring.ok("kms", "keys", "versions", "describe", *version, "--format=value(state)").out
        assert shown.strip() == state.upper()
    listed = ring.ok("kms", "keys", "versions", "list", "--key=kstate", *WHERE, "--uri").out
    assert listed.strip().endswith(f"/cloudkms/v1/{RING}/cryptoKeys/kstate/cryptoKeyVersions/1")


def test_an_import_job_has_a_policy(ring: Gcloud) -> None:
    """The four policy commands on import jobs print what they print on keys."""
    job = ("job", *WHERE)
    options = ("--import-method=rsa-oaep-3072-sha256-aes-256", "--protection-level=software")
    ring.ok("kms", "import-jobs", "create", *job, *options)
    who = ("--member=user:b@x.com", "--role=roles/cloudkms.importer")
    bound = "bindings:\n- members:\n  - user:{}@x.com\n  role: roles/{}\netag: ETAG\nversion: 1\n"

    assert ring.ok("kms", "import-jobs", "get-iam-policy", *job).out == "etag: ACAB\n"
    added = ring.ok("kms", "import-jobs", "add-iam-policy-binding", *job, *who)
    assert added.err == "Updated IAM policy for import job [job].\n"
    assert added.shape == bound.format("b", "cloudkms.importer")
    assert ring.ok("kms", "import-jobs", "get-iam-policy", *job).out == added.out
    assert ring.ok("kms", "import-jobs", "describe", *job, token="user:b@x.com").out
    removed = ring.ok("kms", "import-jobs", "remove-iam-policy-binding", *job, *who)
    assert removed.shape == "etag: ETAG\nversion: 1\n"
    replaced = ring.ok("kms", "import-jobs", "set-iam-policy", *job, "policy.json")
    assert replaced.shape == bound.format("a", "owner")


# --- use ---------------------------------------------------------------------------------------------


def test_public_keys_print_as_pem_in_every_format_but_the_raw_one(ring: Gcloud) -> None:
    """For `der` gcloud asks for no format and prints PEM, as against Google's service."""
    make(ring, "kpub", "asymmetric-signing", "ec-sign-p384-sha384")
    get = ("kms", "keys", "versions", "get-public-key", "1", "--key=kpub", *WHERE)
    default = ring.ok(*get).out
    key: Any = load_pem_public_key(default.encode())
    assert key.key_size == 384
    for words in (("--public-key-format=der",), ("--public-key-format=pem",)):
        assert ring.ok(*get, *words).out == default
    assert "INVALID_ARGUMENT" in ring.refused(*get, "--public-key-format=nist-pqc")


def test_raw_vectors_that_the_service_made_open_again(ring: Gcloud) -> None:
    """With CBC, whose vector has the 16 bytes that gcloud reads; an empty `--initialization-vector-file=`
    asks for one too, and integrity checks may be left out."""
    named = make(ring, "kcbc", "raw-encryption", "aes-256-cbc")
    for option in ("--initialization-vector-file=", "--skip-integrity-verification"):
        for stale in ring.directory.glob("inialization_vector_*"):
            stale.unlink()
        sealed = ("--plaintext-file=block", "--ciphertext-file=sealed", option)
        ring.ok("kms", "raw-encrypt", *named, *sealed)
        (vector,) = ring.directory.glob("inialization_vector_*")
        assert len(vector.read_bytes()) == 16
        opened = ("--ciphertext-file=sealed", "--plaintext-file=-", f"--initialization-vector-file={vector}")
        assert ring.ok("kms", "raw-decrypt", *named, *opened).out == "sixteen bytes ok"


def test_integrity_checks_may_be_left_out_of_signing_and_macs(ring: Gcloud) -> None:
    """`--skip-integrity-verification` sends no checksum; what comes back is as good."""
    sign = make(ring, "ksig", "asymmetric-signing", "ec-sign-ed25519")
    skip = "--skip-integrity-verification"
    ring.ok("kms", "asymmetric-sign", *sign, "--input-file=pt", "--signature-file=signature", skip)
    pem = ring.ok("kms", "keys", "versions", "get-public-key", "1", "--key=ksig", *WHERE).out
    key: Any = load_pem_public_key(pem.encode())
    key.verify((ring.directory / "signature").read_bytes(), b"hello")
    mac = make(ring, "kmac", "mac", "hmac-sha512")
    files = ("--input-file=pt", "--signature-file=tag", skip)
    ring.ok("kms", "mac-sign", *mac, *files)
    assert ring.ok("kms", "mac-verify", *mac, *files).out.strip() == "True"
