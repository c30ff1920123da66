"""The official messages of Cloud Logging, raw (see `api.messages`)."""

from __future__ import annotations

from typing import Any

from google.cloud.logging_v2 import types

from keystead.api.messages import raw

_find = raw(types)


def __getattr__(name: str) -> Any:
    return _find(name)
