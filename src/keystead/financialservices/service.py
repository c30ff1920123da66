"""What AML AI is called, where it runs, and the shapes of its names."""

from __future__ import annotations

from keystead.api.method import Service
from keystead.api.names import NameTemplate
from keystead.financialservices.messages import Dataset, Instance
from keystead.store.collection import Collection

AML = Service("financialservices.googleapis.com", "Anti Money Laundering AI API")
API = "google.cloud.financialservices.v1.AML"
INSTANCE_TYPE = "financialservices.googleapis.com/Instance"

LOCATION = "projects/*/locations/*"
INSTANCE = f"{LOCATION}/instances/*"
DATASET = f"{INSTANCE}/datasets/*"

DATASET_NAME = NameTemplate(DATASET)

INSTANCES = Collection("Instance", Instance)
DATASETS = Collection("Dataset", Dataset)

# Kinds of rows that only an instance's own modules know; both are sealed, and gone with the instance.
REGISTERED_PARTIES = "RegisteredParties"
OPERATION_RESULT = "OperationResult"

# Kinds of rows that own a generation of sealed files.
FILE_OWNERS = (DATASETS.kind, REGISTERED_PARTIES)

# The supported regions of the documentation ("Creating a key"). A deployment adds its own by setting.
REGIONS = (
    "us-central1", "us-east1", "asia-south1", "europe-west1", "europe-west2", "europe-west4",
    "northamerica-northeast1", "southamerica-east1",
)  # fmt: skip


def instance_of(name: str) -> str:
    """The instance of the name of an instance or of anything below one."""
    return "/".join(name.split("/")[:6])


def location_name_of(name: str) -> str:
    """The location, as a name, of any resource: operations stand under it."""
    return "/".join(name.split("/")[:4])
