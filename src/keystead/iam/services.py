"""The APIs that this room serves. It owns their names; what they do is in the modules that serve them."""

from __future__ import annotations

from keystead.api.method import Service

IAM = Service("iam.googleapis.com", "Identity and Access Management (IAM) API")
RESOURCE_MANAGER = Service("cloudresourcemanager.googleapis.com", "Cloud Resource Manager API")
SERVICE_USAGE = Service("serviceusage.googleapis.com", "Service Usage API")
