"""Frames between server and child arrive as they were sent, and nothing else is taken for one."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.cmek.channel import (
    MAX_ANSWER,
    Channel,
    ChannelClosedError,
    Kind,
    ProtocolError,
    decode_number,
    encode_number,
)
from tests.cmek.children import descriptors


@given(st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=300)), max_size=10))
def test_frames_arrive_in_order_and_whole(frames: list[tuple[Kind, bytes]]) -> None:
    """Any sequence of frames is received as it was sent; then the end is noticed."""
    one, other = socket.socketpair()
    with other:
        with one:
            for kind, payload in frames:
                Channel(one).send(kind, payload)
        receiver = Channel(other)
        for kind, payload in frames:
            frame = receiver.receive(MAX_ANSWER)
            assert (frame.kind, bytes(frame.payload), frame.descriptor) == (kind, payload, None)
        with pytest.raises(ChannelClosedError):
            receiver.receive(MAX_ANSWER)


@given(st.binary(max_size=200))
def test_other_bytes_are_a_broken_protocol_or_an_end(data: bytes) -> None:
    """Whatever is sent, receiving gives frames until one of the two errors."""
    one, other = socket.socketpair()
    with other:
        with one:
            one.sendall(data)
        receiver = Channel(other)
        with pytest.raises((ProtocolError, ChannelClosedError)):
            while True:
                receiver.receive(1000)


def test_a_frame_larger_than_the_socket_takes_at_once_arrives() -> None:
    """A long job is sent in pieces, and who waits to send it is asked meanwhile whether it should."""
    one, other = socket.socketpair()
    ticks: list[int] = []
    payload = os.urandom(5 << 20)
    with one, other:
        one.settimeout(0.01)
        received: list[bytes] = []

        def receive() -> None:
            received.append(bytes(Channel(other).receive(len(payload)).payload))

        thread = threading.Thread(target=receive)

        def tick() -> None:
            ticks.append(1)
            if len(ticks) == 3:
                thread.start()

        Channel(one, tick).send(Kind.JOB, payload)
        thread.join(10)
    assert received == [payload]
    assert len(ticks) >= 3


def test_a_waiting_end_can_be_called_off() -> None:
    """What `tick` raises ends a wait in the middle of a frame."""
    one, other = socket.socketpair()

    def tick() -> None:
        raise InterruptedError

    with one, other:
        one.sendall(b"\x01\x00")
        other.settimeout(0.01)
        with pytest.raises(InterruptedError):
            Channel(other, tick).receive(MAX_ANSWER)


def test_a_file_is_handed_over_only_to_who_takes_files(tmp_path: Path) -> None:
    """A descriptor arrives where it is awaited; elsewhere the kernel closes it."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    one, other = socket.socketpair()
    with one, other, path.open("rb") as file:
        Channel(one).send(Kind.FILE, b"", file.fileno())
        descriptor = Channel(other).receive(MAX_ANSWER, descriptors=True).descriptor
        assert descriptor is not None
        assert not os.get_inheritable(descriptor)
        with os.fdopen(descriptor, "rb") as same:
            assert same.read() == b"content"
        before = descriptors()
        Channel(one).send(Kind.FILE, b"", file.fileno())
        assert Channel(other).receive(MAX_ANSWER).descriptor is None
        assert descriptors() == before


@given(st.integers(0, 2**32 - 1))
def test_numbers_are_read_as_they_were_written(value: int) -> None:
    """Encoding keeps the value; other lengths are refused."""
    assert decode_number(encode_number(value)) == value
    with pytest.raises(ProtocolError):
        decode_number(encode_number(value)[:-1])
