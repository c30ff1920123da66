"""The official message types of Resource Manager v3, as raw classes."""

from __future__ import annotations

from google.cloud import resourcemanager_v3

from keystead.api.messages import raw

__getattr__ = raw(resourcemanager_v3)
