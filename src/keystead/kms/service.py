"""What Cloud KMS is called, where it runs, and the shapes of its names."""

from __future__ import annotations

from keystead.api.method import Service
from keystead.api.names import NameTemplate
from keystead.kms.messages import CryptoKey, CryptoKeyVersion, ImportJob, KeyRing, RetiredResource
from keystead.store.collection import Collection

KMS = Service("cloudkms.googleapis.com", "Cloud Key Management Service (KMS) API", short_method_names=True)

LOCATION = "projects/*/locations/*"
RING = f"{LOCATION}/keyRings/*"
KEY = f"{RING}/cryptoKeys/*"
VERSION = f"{KEY}/cryptoKeyVersions/*"
JOB = f"{RING}/importJobs/*"
RETIRED = f"{LOCATION}/retiredResources/*"

KEY_NAME = NameTemplate(KEY)
VERSION_NAME = NameTemplate(VERSION)
JOB_NAME = NameTemplate(JOB)

RINGS = Collection("KeyRing", KeyRing)
KEYS = Collection("CryptoKey", CryptoKey)
VERSIONS = Collection("CryptoKeyVersion", CryptoKeyVersion)
JOBS = Collection("ImportJob", ImportJob)
RETIREMENTS = Collection("RetiredResource", RetiredResource)

# Cloud KMS locations (cloud.google.com/kms/docs/locations). A deployment adds its own by setting.
LOCATIONS = (
    "global", "us", "europe", "asia", "eur3", "eur4", "nam3", "nam4",
    "africa-south1", "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3",
    "asia-south1", "asia-south2", "asia-southeast1", "asia-southeast2", "australia-southeast1",
    "australia-southeast2", "europe-central2", "europe-north1", "europe-southwest1", "europe-west1",
    "europe-west2", "europe-west3", "europe-west4", "europe-west6", "europe-west8", "europe-west9",
    "europe-west10", "europe-west12", "me-central1", "me-central2", "me-west1", "northamerica-northeast1",
    "northamerica-northeast2", "southamerica-east1", "southamerica-west1", "us-central1", "us-east1",
    "us-east4", "us-east5", "us-south1", "us-west1", "us-west2", "us-west3", "us-west4",
)  # fmt: skip


def version_sort(number: int) -> str:
    """The sort key of a version: numbers list as numbers, not as texts."""
    return f"{number:010d}"


def version_name(key: str, number: int) -> str:
    return f"{key}/cryptoKeyVersions/{number}"


def key_of(name: str) -> str:
    """The key of a key or version name."""
    return "/".join(name.split("/")[:8])


def version_number(name: str) -> int:
    return int(name.rsplit("/", 1)[-1])
