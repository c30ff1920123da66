"""The API that this room serves."""

from __future__ import annotations

from keystead.api.method import Service

LOGGING = Service("logging.googleapis.com", "Cloud Logging API")
