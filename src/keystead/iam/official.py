"""Official messages that no package of ours carries, under their official names and field numbers.

Service Usage v1 and v1beta1 and IAM admin v1 are declared as in googleapis (the fields we fill or read;
what a client sends beyond them is an unknown name). Cloud Resource Manager v1 is published only as a REST
discovery document: its JSON is what is kept here; package and field numbers are ours, and its requests
carry the full resource name, so that they are authorized like all others.

It owns declarations only. They are registered in the default descriptor pool, because a
`google.protobuf.Any` in an operation is turned into JSON through it; a process that also loads a package
that declares the same names uses that package's declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

_F = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _F.TYPE_STRING,
    "int32": _F.TYPE_INT32,
    "int64": _F.TYPE_INT64,
    "bool": _F.TYPE_BOOL,
    "bytes": _F.TYPE_BYTES,
}

# Message to {field: (number, type)}. A type is a scalar, the name of a message or enum of the same package
# (enums are in _ENUMS), or a full name with a leading dot; "[]" after it makes the field repeated, and
# "map" is a map of strings.
_Fields = Mapping[str, tuple[int, str]]

_SERVICE_USAGE: dict[str, _Fields] = {
    "Service": {
        "name": (1, "string"),
        "config": (2, "ServiceConfig"),
        "state": (4, "State"),
        "parent": (5, "string"),
    },
    "ServiceConfig": {"name": (1, "string"), "title": (2, "string")},
    "GetServiceRequest": {"name": (1, "string")},
    "ListServicesRequest": {
        "parent": (1, "string"),
        "page_size": (2, "int32"),
        "page_token": (3, "string"),
        "filter": (4, "string"),
    },
    "ListServicesResponse": {"services": (1, "Service[]"), "next_page_token": (2, "string")},
    "EnableServiceRequest": {"name": (1, "string")},
    "EnableServiceResponse": {"service": (1, "Service")},
}
_SERVICE_USAGE_BETA: dict[str, _Fields] = {
    "GenerateServiceIdentityRequest": {"parent": (1, "string")},
    "ServiceIdentity": {"email": (1, "string"), "unique_id": (2, "string")},
}
_IAM_ADMIN: dict[str, _Fields] = {
    "GetRoleRequest": {"name": (1, "string")},
    "Role": {
        "name": (1, "string"),
        "title": (2, "string"),
        "description": (3, "string"),
        "included_permissions": (7, "string[]"),
        "stage": (8, "RoleLaunchStage"),
        "etag": (9, "bytes"),
        "deleted": (11, "bool"),
    },
}
_RESOURCE_MANAGER_V1: dict[str, _Fields] = {
    "ResourceId": {"type": (1, "string"), "id": (2, "string")},
    "Project": {
        "project_number": (1, "int64"),
        "project_id": (2, "string"),
        "lifecycle_state": (3, "LifecycleState"),
        "name": (4, "string"),
        "create_time": (5, ".google.protobuf.Timestamp"),
        "labels": (6, "map"),
        "parent": (7, "ResourceId"),
    },
    "GetProjectRequest": {"name": (1, "string")},
    "ListProjectsRequest": {"page_token": (1, "string"), "page_size": (2, "int32"), "filter": (3, "string")},
    "ListProjectsResponse": {"projects": (1, "Project[]"), "next_page_token": (2, "string")},
    "GetAncestryRequest": {"name": (1, "string")},
    "Ancestor": {"resource_id": (1, "ResourceId")},
    "GetAncestryResponse": {"ancestor": (1, "Ancestor[]")},
    "GetOrganizationRequest": {"name": (1, "string")},
    "Organization": {
        "name": (1, "string"),
        "display_name": (2, "string"),
        "lifecycle_state": (3, "LifecycleState"),
        "creation_time": (4, ".google.protobuf.Timestamp"),
    },
}
_PACKAGES: dict[str, dict[str, _Fields]] = {
    "google.api.serviceusage.v1": _SERVICE_USAGE,
    "google.api.serviceusage.v1beta1": _SERVICE_USAGE_BETA,
    "google.iam.admin.v1": _IAM_ADMIN,
    "google.cloudresourcemanager.v1": _RESOURCE_MANAGER_V1,
}
# Package to (enum, the message it stands in or "", its values). Enum values share the scope that their
# enum stands in, so two enums of one package with a value of the same name need different scopes.
_ENUMS: dict[str, tuple[str, str, Mapping[str, int]]] = {
    "google.api.serviceusage.v1": ("State", "", {"STATE_UNSPECIFIED": 0, "DISABLED": 1, "ENABLED": 2}),
    "google.iam.admin.v1": (
        "RoleLaunchStage",
        "Role",
        {"ALPHA": 0, "BETA": 1, "GA": 2, "DEPRECATED": 4, "DISABLED": 5, "EAP": 6},
    ),
    "google.cloudresourcemanager.v1": (
        "LifecycleState",
        "",
        {"LIFECYCLE_STATE_UNSPECIFIED": 0, "ACTIVE": 1, "DELETE_REQUESTED": 2, "DELETE_IN_PROGRESS": 3},
    ),
}


def _enum_name(package: str) -> str:
    name, scope, _ = _ENUMS[package]
    return f".{package}.{scope}.{name}" if scope else f".{package}.{name}"


def _add_field(
    message: descriptor_pb2.DescriptorProto, package: str, name: str, number: int, kind: str
) -> None:
    field = message.field.add(name=name, number=number, label=_F.LABEL_OPTIONAL)
    if kind.endswith("[]"):
        field.label, kind = _F.LABEL_REPEATED, kind[:-2]
    if kind == "map":
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        for number_, part in enumerate(("key", "value"), start=1):
            entry.field.add(name=part, number=number_, label=_F.LABEL_OPTIONAL, type=_F.TYPE_STRING)
        field.label, field.type = _F.LABEL_REPEATED, _F.TYPE_MESSAGE
        field.type_name = f".{package}.{message.name}.{entry.name}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    elif package in _ENUMS and kind == _ENUMS[package][0]:
        field.type, field.type_name = _F.TYPE_ENUM, _enum_name(package)
    else:
        field.type = _F.TYPE_MESSAGE
        field.type_name = kind if kind.startswith(".") else f".{package}.{kind}"


def _file(package: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"keystead/official/{package}.proto", package=package, syntax="proto3"
    )
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    for name, fields in _PACKAGES[package].items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add_field(message, package, field, number, kind)
    if package in _ENUMS:
        name, scope, values = _ENUMS[package]
        holder = next((m for m in file.message_type if m.name == scope), None)
        enum = (file.enum_type if holder is None else holder.enum_type).add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    return file


def _load() -> None:
    pool = descriptor_pool.Default()
    for package, messages in _PACKAGES.items():
        try:
            pool.FindMessageTypeByName(f"{package}.{next(iter(messages))}")
        except KeyError:
            pool.Add(_file(package))


def _type(full_name: str) -> Any:
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(full_name))


_load()

Service: Any = _type("google.api.serviceusage.v1.Service")
GetServiceRequest: Any = _type("google.api.serviceusage.v1.GetServiceRequest")
ListServicesRequest: Any = _type("google.api.serviceusage.v1.ListServicesRequest")
ListServicesResponse: Any = _type("google.api.serviceusage.v1.ListServicesResponse")
EnableServiceRequest: Any = _type("google.api.serviceusage.v1.EnableServiceRequest")
EnableServiceResponse: Any = _type("google.api.serviceusage.v1.EnableServiceResponse")
GenerateServiceIdentityRequest: Any = _type("google.api.serviceusage.v1beta1.GenerateServiceIdentityRequest")
ServiceIdentity: Any = _type("google.api.serviceusage.v1beta1.ServiceIdentity")
GetRoleRequest: Any = _type("google.iam.admin.v1.GetRoleRequest")
Role: Any = _type("google.iam.admin.v1.Role")
V1Project: Any = _type("google.cloudresourcemanager.v1.Project")
V1GetProjectRequest: Any = _type("google.cloudresourcemanager.v1.GetProjectRequest")
V1ListProjectsRequest: Any = _type("google.cloudresourcemanager.v1.ListProjectsRequest")
V1ListProjectsResponse: Any = _type("google.cloudresourcemanager.v1.ListProjectsResponse")
V1GetAncestryRequest: Any = _type("google.cloudresourcemanager.v1.GetAncestryRequest")
V1GetAncestryResponse: Any = _type("google.cloudresourcemanager.v1.GetAncestryResponse")
V1GetOrganizationRequest: Any = _type("google.cloudresourcemanager.v1.GetOrganizationRequest")
V1Organization: Any = _type("google.cloudresourcemanager.v1.Organization")
