"""The official messages of Cloud KMS, raw (see `api.messages`)."""

from __future__ import annotations

from typing import Any

from google.cloud.kms_v1 import types

from keystead.api.messages import raw

_find = raw(types)


def __getattr__(name: str) -> Any:
    return _find(name)
