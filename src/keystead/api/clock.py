"""Where time comes from: injected everywhere, so that schedules can be tested without waiting."""

from __future__ import annotations

import datetime as dt
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp


class Clock(Protocol):
    """The present, as an aware UTC datetime."""

    def now(self) -> dt.datetime: ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)


class ManualClock:
    """A clock that moves only when told to (tests, and what-if runs of schedules)."""

    def __init__(self, start: dt.datetime | None = None) -> None:
        self._now = start or dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def now(self) -> dt.datetime:
        return self._now

    def advance(self, delta: dt.timedelta) -> None:
        self._now += delta


def timestamp(moment: dt.datetime) -> Timestamp:
    """A protobuf Timestamp in whole microseconds, the precision Cloud KMS keeps."""
    result = Timestamp()
    result.FromDatetime(moment)
    return result


def moment(stamp: Timestamp) -> dt.datetime:
    """The aware UTC datetime of a protobuf Timestamp."""
    return stamp.ToDatetime(tzinfo=dt.UTC)
