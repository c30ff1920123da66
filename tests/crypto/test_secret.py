"""Secrets are hard to show by accident and gone when wiped."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.crypto.errors import CryptoError, DecryptionError, SecretWipedError
from keystead.crypto.secret import SecretBytes, random_bytes

CANARY = b"canary-of-key-material-32-bytes!"


def test_it_gives_back_what_was_put_in() -> None:
    """A secret holds a copy of its data, readable through a view."""
    source = bytearray(CANARY)
    secret = SecretBytes(source)
    source[:] = bytes(len(source))
    assert bytes(secret.expose()) == CANARY
    assert len(secret) == 32
    assert bytes(SecretBytes(memoryview(CANARY)).expose()) == CANARY


@pytest.mark.parametrize(
    "show", [repr, str, format, lambda s: f"{s!r}{s}{s:>99}", lambda s: f"{[s]} {(s, {1: s})}"]
)
def test_no_text_form_shows_the_bytes(show: object) -> None:
    """Every way to turn a secret into text gives its length and nothing else."""
    text = show(SecretBytes(CANARY))  # type: ignore[operator]
    assert "SecretBytes(<32 bytes>)" in text
    assert "canary" not in text
    assert CANARY.hex() not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_cannot_be_pickled(protocol: int) -> None:
    """No pickle protocol, and no pickle of something that contains it, takes a secret along."""
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps({"inner": SecretBytes(CANARY)}, protocol)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, bytes, list, hash, set])
def test_it_cannot_be_copied_hashed_or_iterated(duplicate: object) -> None:
    """Nothing but `expose` and `use` reads the bytes out."""
    secret = SecretBytes(CANARY)
    with pytest.raises(TypeError):
        duplicate([secret] if duplicate is set else secret)  # type: ignore[operator]


def test_a_traceback_does_not_show_it() -> None:
    """A traceback with captured locals shows a secret's length only."""

    def fails(secret: SecretBytes) -> None:
        raise DecryptionError

    try:
        fails(SecretBytes(CANARY))
    except DecryptionError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "SecretBytes(<32 bytes>)" in shown
    assert "canary" not in shown


def test_the_view_is_read_only() -> None:
    """Nobody changes key material through an exposed view."""
    with pytest.raises(TypeError):
        SecretBytes(CANARY).expose()[0] = 1


def test_wiping_zeroes_the_memory_even_under_an_open_view() -> None:
    """After `wipe` the old bytes are nowhere, not even behind a view that was taken before."""
    secret = SecretBytes(CANARY)
    view = secret.expose()
    secret.wipe()
    secret.wipe()
    assert secret.wiped
    assert bytes(view) == bytes(32)
    assert len(secret) == 32
    with pytest.raises(SecretWipedError):
        secret.expose()


def test_leaving_a_context_or_dropping_the_last_reference_wipes() -> None:
    """A secret does not outlive its block or its last reference."""
    with SecretBytes(CANARY) as scoped:
        assert not scoped.wiped
    assert scoped.wiped
    dropped = SecretBytes(CANARY)
    view = dropped.expose()
    del dropped
    assert bytes(view) == bytes(32)


def test_a_secret_wiped_while_it_is_used_yields_no_result() -> None:
    """A wipe from elsewhere cannot make anyone work with a key of zeros."""
    secret = SecretBytes(CANARY)

    def interrupted(view: memoryview) -> bytes:
        secret.wipe()
        return bytes(view)

    with pytest.raises(SecretWipedError):
        secret.use(interrupted)
    assert SecretBytes(CANARY).use(bytes) == CANARY


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_equality_is_of_content(left: bytes, right: bytes) -> None:
    """Two secrets are equal exactly when their bytes are; plain bytes never equal a secret."""
    assert (SecretBytes(left) == SecretBytes(right)) == (left == right)
    assert SecretBytes(left) != left


def test_a_wiped_secret_equals_nothing() -> None:
    """Two wiped secrets of the same length are not taken for the same key."""
    left, right = SecretBytes(b"a" * 32), SecretBytes(b"b" * 32)
    left.wipe()
    right.wipe()
    assert left != right


def test_randomness_has_the_asked_length_and_differs() -> None:
    """Random secrets and nonces are as long as asked, and two draws differ."""
    assert len(SecretBytes.random()) == 32
    assert len(SecretBytes.random(64)) == 64
    assert SecretBytes.random() != SecretBytes.random()
    assert random_bytes(24) != random_bytes(24)


def test_adopting_takes_the_very_buffer() -> None:
    """`adopt` makes no second copy: wiping the secret zeroes the buffer it was given."""
    buffer = bytearray(CANARY)
    secret = SecretBytes.adopt(buffer)
    assert bytes(secret.expose()) == CANARY
    secret.wipe()
    assert buffer == bytes(32)


def test_failures_are_indistinguishable_and_survive_a_process_boundary() -> None:
    """Every DecryptionError reads the same, takes no detail, and can be handed on by a worker process."""
    with pytest.raises(TypeError):
        DecryptionError("the tag was wrong")  # type: ignore[call-arg]
    for error in (DecryptionError(), SecretWipedError()):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert isinstance(again, CryptoError)
    assert str(DecryptionError()) == "decryption failed"
