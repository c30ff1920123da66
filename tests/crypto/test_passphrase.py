"""Keys from passphrases are Argon2id, at the cost that was asked for."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keystead.crypto.errors import SecretWipedError
from keystead.crypto.passphrase import MAX_ITERATIONS, MAX_LANES, MAX_MEMORY_KIB, derive
from keystead.crypto.secret import SecretBytes

from .published import records, unhex

CHEAP = {"iterations": 1, "memory_kib": 32, "lanes": 4}


OURS = [v for _, v in records("KDF/argon2id.txt") if v["length"] == "32" and "secret" not in v]


@pytest.mark.parametrize("v", OURS, ids=lambda v: v["output"][:8])
def test_the_published_values_come_out(v: dict[str, str]) -> None:
    """Vectors of 32 bytes without the secret and associated data that `derive` does not offer."""
    with SecretBytes(unhex(v["pass"])) as passphrase:
        key = derive(
            passphrase,
            unhex(v["salt"]),
            iterations=int(v["iter"]),
            memory_kib=int(v["memcost"]),
            lanes=int(v["lanes"]),
        )
    assert key.expose().hex() == v["output"]


def test_the_vectors_were_there_and_the_function_is_that_of_the_rfc() -> None:
    """Two vectors are ours to run; the RFC's own (section 5.3, with secret and data) holds in the library."""
    assert len(OURS) == 2
    rfc = Argon2id(
        salt=b"\2" * 16, length=32, iterations=3, lanes=4, memory_cost=32, secret=b"\3" * 8, ad=b"\4" * 12
    )
    expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    assert rfc.derive(b"\1" * 32).hex() == expected


def test_every_parameter_counts() -> None:
    """Another passphrase, salt or cost gives another key."""
    salt = bytes(range(16))
    base = derive(SecretBytes(b"correct horse"), salt, **CHEAP)
    others = [
        derive(SecretBytes(b"correct horsf"), salt, **CHEAP),
        derive(SecretBytes(b"correct horse"), salt[::-1], **CHEAP),
        *(
            derive(SecretBytes(b"correct horse"), salt, **{**CHEAP, **cost})
            for cost in ({"iterations": 2}, {"memory_kib": 40}, {"lanes": 2})
        ),
    ]
    assert derive(SecretBytes(b"correct horse"), salt, **CHEAP) == base
    assert len({bytes(key.expose()) for key in (base, *others)}) == 6
    assert len(base) == 32


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"iterations": -1},
        {"iterations": MAX_ITERATIONS + 1},
        {"lanes": 0},
        {"lanes": MAX_LANES + 1, "memory_kib": 8 * (MAX_LANES + 1)},
        {"memory_kib": 31},
        {"memory_kib": MAX_MEMORY_KIB + 1},
        {"salt": b"1234567"},
    ],
    ids=str,
)
def test_impossible_costs_are_refused_before_any_work(wrong: dict[str, object]) -> None:
    """Costs out of range are an error, not a machine without memory."""
    arguments = {"salt": bytes(16), **CHEAP, **wrong}
    with pytest.raises(ValueError, match="must be from"):
        derive(SecretBytes(b"x"), **arguments)  # type: ignore[arg-type]


def test_a_wiped_passphrase_gives_no_key() -> None:
    """Not the key of zeros."""
    passphrase = SecretBytes(b"correct horse")
    passphrase.wipe()
    with pytest.raises(SecretWipedError):
        derive(passphrase, bytes(16), **CHEAP)
