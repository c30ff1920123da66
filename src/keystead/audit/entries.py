"""A call that ended, as a Cloud Logging entry: google.logging.v2.LogEntry around google.cloud.audit.AuditLog.

Owns which log and parent an entry belongs to, the monitored resource, and every field of the AuditLog.
Deliberately does not choose what of a request is fit to be recorded (`redaction`), nor when to record
(`trail`). Sources: Cloud KMS "Audit logging information", Cloud Logging "Understanding audit logs".
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from urllib.parse import quote

from google.api import monitored_resource_pb2
from google.cloud.audit import audit_log_pb2
from google.logging.type import log_severity_pb2

from keystead.api import names
from keystead.api.call import Call
from keystead.api.clock import timestamp
from keystead.api.dispatch import AuditEvent
from keystead.api.errors import ApiError
from keystead.api.method import LogKind
from keystead.api.status import to_status
from keystead.audit import messages, redaction

ACTIVITY = "cloudaudit.googleapis.com/activity"
DATA_ACCESS = "cloudaudit.googleapis.com/data_access"
#: Every log that is written, by its id.
LOG_IDS = (ACTIVITY, DATA_ACCESS)
#: Where the entries of calls stand that name neither a project nor an organization.
NOWHERE = "projects/-"

_KMS = "cloudkms.googleapis.com"
_KMS_LABELS = (
    ("cloudkms_keyring", "key_ring_id", "keyRings"),
    ("cloudkms_cryptokey", "crypto_key_id", "cryptoKeys"),
    ("cloudkms_cryptokeyversion", "crypto_key_version_id", "cryptoKeyVersions"),
)
# Service accounts are mostly named under the project `-`; their address holds the real one.
_ACCOUNT = re.compile(r"projects/-/serviceAccounts/[^/@]+@([^/@]+)\.iam\.gserviceaccount\.com(?:/.*)?")
_HOLDER = re.compile(r"(?:projects|organizations|folders|billingAccounts)/[a-zA-Z0-9:._-]+")
_PERMISSION_TYPES = {
    LogKind.ADMIN_READ: "ADMIN_READ",
    LogKind.ADMIN_WRITE: "ADMIN_WRITE",
    LogKind.DATA_READ: "DATA_READ",
    LogKind.DATA_WRITE: "DATA_WRITE",
}
_OPERATION = "google.longrunning.Operation"
_MAX_TEXT = 4096


def log_name(parent: str, log_id: str) -> str:
    """`projects/p/logs/cloudaudit.googleapis.com%2Factivity`."""
    return f"{parent}/logs/{quote(log_id, safe='')}"


def parent_of(resource: str) -> str:
    """The project, organization, folder or billing account whose log a resource's entries stand in."""
    account = _ACCOUNT.fullmatch(resource)
    holder = f"projects/{account[1]}" if account else "/".join(resource.split("/", 2)[:2])
    return holder if _HOLDER.fullmatch(holder) else NOWHERE


def log_id_of(event: AuditEvent) -> str:
    """Admin Activity for administrative writes; Data Access for all else, denials included."""
    return ACTIVITY if event.method.spec.log is LogKind.ADMIN_WRITE else DATA_ACCESS


def entry_of(event: AuditEvent, *, insert_id: str, recorded: dt.datetime) -> Any:
    """The LogEntry of a call.

    Its `timestamp` is when it was recorded, that is, with the mutation it tells of; when the call came in is
    `requestMetadata.requestAttributes.time`.
    """
    resource = _resource_name(event)
    entry = messages.LogEntry(
        log_name=log_name(parent_of(resource), log_id_of(event)),
        resource=_monitored_resource(event, resource),
        timestamp=timestamp(recorded),
        receive_timestamp=timestamp(recorded),
        severity=_severity(event),
        insert_id=insert_id,
    )
    entry.proto_payload.Pack(_audit_log(event, resource))
    response = event.response
    if response is not None and response.DESCRIPTOR.full_name == _OPERATION:
        entry.operation.id = response.name
        entry.operation.producer = event.method.service.name
        entry.operation.first = True
        entry.operation.last = response.done
    return entry


def _resource_name(event: AuditEvent) -> str:
    """What the call was about: what it made, if it was authorized on the parent of that."""
    authorized = event.call.resource
    made = getattr(event.response, "name", "")
    is_operation = event.response is not None and event.response.DESCRIPTOR.full_name == _OPERATION
    if event.method.spec.on == "parent" and not is_operation and made.startswith(f"{authorized}/"):
        return str(made)
    return authorized


def _severity(event: AuditEvent) -> int:
    name = "NOTICE" if event.method.spec.log is LogKind.ADMIN_WRITE else "INFO"
    return int(log_severity_pb2.LogSeverity.Value("ERROR" if event.error is not None else name))


def _monitored_resource(event: AuditEvent, resource: str) -> Any:
    service, project = event.method.service.name, names.project_of(resource)
    labels = {"project_id": project} if project else {}
    kind = "audited_resource"
    if service == _KMS and names.segment(resource, "keyRings"):
        labels["location"] = names.location_of(resource)
        for candidate, label, collection in _KMS_LABELS:
            value = names.segment(resource, collection)
            if value:
                kind, labels[label] = candidate, value
    else:
        labels |= {"service": service, "method": event.method.audit_name}
    return monitored_resource_pb2.MonitoredResource(type=kind, labels=labels)


def _audit_log(event: AuditEvent, resource: str) -> audit_log_pb2.AuditLog:
    spec, call = event.method.spec, event.call
    log = audit_log_pb2.AuditLog(
        service_name=event.method.service.name,
        method_name=event.method.audit_name,
        resource_name=resource,
        request=redaction.payload(event.request, spec.redact),
    )
    _identify(log, call)
    for permission, name, granted in _asked(event):
        info = log.authorization_info.add(resource=name, permission=permission, granted=granted)
        info.resource_attributes.name = name
        info.resource_attributes.service = event.method.service.name
        if spec.log in _PERMISSION_TYPES:
            info.permission_type = info.PermissionType.Value(_PERMISSION_TYPES[spec.log])
    if location := names.location_of(resource):
        log.resource_location.current_locations.append(location)
    if event.error is not None:
        _fail(log, event.error)
    elif event.response is not None:
        log.response.CopyFrom(redaction.payload(event.response, spec.redact))
        log.num_response_items = _items(spec.short_name, event.response)
    if call.audit:
        log.metadata.CopyFrom(redaction.facts(call.audit))
    return log


def _asked(event: AuditEvent) -> list[tuple[str, str, bool]]:
    """Permission, resource and whether it was granted, of all that was asked of the caller's grants."""
    needs = event.call.needs
    # What is needed besides is asked only once the method's own permission was granted.
    own = event.granted or any(not granted for _, _, granted in needs)
    first = [(event.permission, event.call.resource, own)] if event.permission else []
    return [*first, *needs]


def _identify(log: audit_log_pb2.AuditLog, call: Call) -> None:
    """Who called: an IAM member is an address with a kind before it, or a `principal://` identifier."""
    kind, _, address = (call.principal or "").partition(":")
    if kind in {"user", "serviceAccount"}:
        log.authentication_info.principal_email = address
    if kind != "user":
        log.authentication_info.principal_subject = call.principal or ""
    log.request_metadata.caller_ip = _text(call.caller_ip)
    log.request_metadata.caller_supplied_user_agent = _text(call.user_agent)
    log.request_metadata.request_attributes.time.CopyFrom(timestamp(call.now))
    log.request_metadata.destination_attributes.SetInParent()


def _fail(log: audit_log_pb2.AuditLog, error: ApiError) -> None:
    status = to_status(error)
    log.status.code = status.code
    log.status.message = _text(status.message)
    for detail in status.details:
        if redaction.known(detail) and log.status.ByteSize() + len(detail.value) < redaction.MAX_BYTES:
            log.status.details.append(detail)


def _items(rpc: str, response: Any) -> int:
    """How many resources a List call answered."""
    if not rpc.startswith("List"):
        return 0
    for field, value in response.ListFields():
        if field.is_repeated and field.message_type is not None:
            return len(value)
    return 0


def _text(text: str) -> str:
    """Text of a caller, bounded and fit for a protobuf string (headers may hold what UTF-8 cannot)."""
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode("utf-8")
