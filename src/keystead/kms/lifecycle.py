"""The states of key versions and import jobs, and the rules of a key's schedule: pure, `now` is passed in.

States and transitions: Cloud KMS "Key version states" (cloud.google.com/kms/docs/key-states) and "Import job
state" (cloud.google.com/kms/docs/importing-a-key). A function takes the message as it is and changes it to
what it becomes, or raises and changes nothing.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from keystead.api.clock import moment
from keystead.api.errors import FailedPrecondition, bad_field, precondition
from keystead.kms.messages import CryptoKeyVersion, ImportJob

State = CryptoKeyVersion.CryptoKeyVersionState
PENDING_GENERATION = State.Value("PENDING_GENERATION")
ENABLED = State.Value("ENABLED")
DISABLED = State.Value("DISABLED")
DESTROYED = State.Value("DESTROYED")
DESTROY_SCHEDULED = State.Value("DESTROY_SCHEDULED")
PENDING_IMPORT = State.Value("PENDING_IMPORT")
IMPORT_FAILED = State.Value("IMPORT_FAILED")
GENERATION_FAILED = State.Value("GENERATION_FAILED")

PENDING = frozenset({PENDING_GENERATION, PENDING_IMPORT})

JobState = ImportJob.ImportJobState
JOB_PENDING = JobState.Value("PENDING_GENERATION")
JOB_ACTIVE = JobState.Value("ACTIVE")
JOB_EXPIRED = JobState.Value("EXPIRED")
JOB_LIFE = dt.timedelta(days=3)

MIN_ROTATION = dt.timedelta(days=1)
MAX_ROTATION = dt.timedelta(hours=876_000)
MIN_DESTROY = dt.timedelta(days=1)
MAX_DESTROY = dt.timedelta(days=120)
DEFAULT_DESTROY = dt.timedelta(days=30)

_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
MAX_LABELS = 64


def require_enabled(version: Any) -> None:
    """FAILED_PRECONDITION unless the version may be used, with the violation type clients match on."""
    if version.state != ENABLED:
        state = State.Name(version.state)
        raise precondition(
            f"{version.name} is not enabled, current state is: {state}.", f"KEY_{state}", version.name
        )


def wrong_state(version: Any) -> FailedPrecondition:
    """The refusal of a transition that the current state does not allow."""
    return FailedPrecondition(
        f"The request cannot be fulfilled. Resource {version.name} has value {State.Name(version.state)} "
        "in field crypto_key_version.state."
    )


def created(version: Any, now: dt.datetime) -> None:
    """A version whose key is made in the same transaction comes into being ENABLED."""
    announced(version, now)
    finished(version, now)


def announced(version: Any, now: dt.datetime) -> None:
    """A version whose key is made afterwards comes into being PENDING_GENERATION."""
    version.state = PENDING_GENERATION
    version.create_time.FromDatetime(now)


def import_announced(version: Any, now: dt.datetime, job: str = "") -> None:
    """A version that is new, or DESTROYED or IMPORT_FAILED before, gets its key by import: PENDING_IMPORT.
    `job` is the import job; none where the key was wrapped by another key."""
    version.state = PENDING_IMPORT
    version.import_job = job
    if not version.HasField("create_time"):
        version.create_time.FromDatetime(now)
    for field in ("destroy_time", "destroy_event_time", "import_failure_reason", "reimport_eligible"):
        version.ClearField(field)


def check_reimport(version: Any, algorithm: int, *, by_job: bool) -> None:
    """A version can be imported into again when it is DESTROYED or IMPORT_FAILED, was made by an import of
    the same way, and with the same algorithm if it ever held a key (Cloud KMS ImportCryptoKeyVersion)."""
    if version.state not in {DESTROYED, IMPORT_FAILED}:
        raise wrong_state(version)
    if not version.reimport_eligible:
        raise FailedPrecondition(
            f"The request cannot be fulfilled. CryptoKeyVersion {version.name} was not imported; only "
            "imported versions can be imported into again."
        )
    if bool(version.import_job) != by_job:
        way = "ImportCryptoKeyVersion" if version.import_job else "ImportTrustedKeyWrappedCryptoKeyVersion"
        raise FailedPrecondition(
            f"The request cannot be fulfilled. CryptoKeyVersion {version.name} was created via {way}; it can "
            "be imported into again in that way only."
        )
    if version.HasField("import_time") and version.algorithm != algorithm:
        name = CryptoKeyVersion.CryptoKeyVersionAlgorithm.Name(version.algorithm)
        raise bad_field("algorithm", f"CryptoKeyVersion {version.name} held a key of {name}; it must match.")


def finished(version: Any, now: dt.datetime, failure: str = "") -> None:
    """PENDING_GENERATION or PENDING_IMPORT to ENABLED, or with a reason to their failed state."""
    importing = version.state == PENDING_IMPORT
    if failure and importing:
        version.state = IMPORT_FAILED
        version.import_failure_reason = failure
        version.reimport_eligible = True
    elif failure:
        version.state = GENERATION_FAILED
        version.generation_failure_reason = failure
    else:
        version.state = ENABLED
        (version.import_time if importing else version.generate_time).FromDatetime(now)


def enable_or_disable(version: Any, target: int) -> None:
    """The only use of `state` in an update mask: ENABLED and DISABLED into each other."""
    if target not in {ENABLED, DISABLED}:
        raise bad_field(
            "crypto_key_version.state",
            "Only ENABLED and DISABLED can be set.",
            "The field crypto_key_version.state can only be set to ENABLED or DISABLED.",
        )
    if version.state not in {ENABLED, DISABLED}:
        raise wrong_state(version)
    version.state = target


def schedule_destruction(version: Any, key: Any, now: dt.datetime) -> None:
    """ENABLED or DISABLED to DESTROY_SCHEDULED; `destroy_time` follows the key's duration."""
    if version.state not in {ENABLED, DISABLED}:
        raise wrong_state(version)
    version.state = DESTROY_SCHEDULED
    version.destroy_time.FromDatetime(now + key.destroy_scheduled_duration.ToTimedelta())


def restore(version: Any, now: dt.datetime) -> None:
    """DESTROY_SCHEDULED to DISABLED; enabling is a separate act. Not once `destroy_time` is reached: its
    destruction may have begun."""
    if version.state != DESTROY_SCHEDULED or moment(version.destroy_time) <= now:
        raise wrong_state(version)
    version.state = DISABLED
    version.ClearField("destroy_time")


def destroyed(version: Any, now: dt.datetime) -> bool:
    """DESTROY_SCHEDULED to DESTROYED once `destroy_time` is reached; whether it was."""
    if version.state != DESTROY_SCHEDULED or moment(version.destroy_time) > now:
        return False
    version.state = DESTROYED
    version.destroy_event_time.FromDatetime(now)
    version.reimport_eligible = version.HasField("import_time")
    return True


def check_deletable(version: Any) -> None:
    """Only what holds no key and never held an imported one can be deleted (Cloud KMS
    DeleteCryptoKeyVersion)."""
    if version.state not in {DESTROYED, IMPORT_FAILED, GENERATION_FAILED}:
        raise wrong_state(version)
    if version.HasField("import_time"):
        raise FailedPrecondition(
            f"The request cannot be fulfilled. CryptoKeyVersion {version.name} was imported and cannot be "
            "deleted."
        )


def job_announced(job: Any, now: dt.datetime) -> None:
    """An import job comes into being without its wrapping key, PENDING_GENERATION; its 3 days begin."""
    job.state = JOB_PENDING
    job.create_time.FromDatetime(now)
    job.expire_time.FromDatetime(now + JOB_LIFE)


def job_generated(job: Any, now: dt.datetime) -> None:
    """PENDING_GENERATION to ACTIVE: the wrapping key is there."""
    job.state = JOB_ACTIVE
    job.generate_time.FromDatetime(now)


def job_expired(job: Any, now: dt.datetime) -> bool:
    """To EXPIRED once `expire_time` is reached, from whichever state; whether it is. The public key goes: it
    is there only while the job is ACTIVE."""
    if job.state == JOB_EXPIRED:
        return True
    if moment(job.expire_time) > now:
        return False
    job.state = JOB_EXPIRED
    job.expire_event_time.CopyFrom(job.expire_time)
    job.ClearField("public_key")
    return True


def require_active(job: Any, now: dt.datetime) -> None:
    """FAILED_PRECONDITION unless the job may be used for an import at this moment."""
    expired = moment(job.expire_time) <= now
    if job.state != JOB_ACTIVE or expired:
        state = "EXPIRED" if expired else JobState.Name(job.state)
        raise FailedPrecondition(
            f"The request cannot be fulfilled. Resource {job.name} has value {state} in field "
            "import_job.state."
        )


def check_rotation(key: Any, now: dt.datetime, before: Any = None) -> None:
    """The rules of `rotation_period` and `next_rotation_time`.

    A period without a next time starts now: the first rotation is due one period from `now`. `before` is the
    key as it was: a next time that was not changed may be past, its rotation is then about to happen.
    """
    if key.HasField("rotation_period"):
        if not _within(key.rotation_period, MIN_ROTATION, MAX_ROTATION):
            raise bad_field(
                "crypto_key.rotation_period", "It must be at least 86400s and at most 876000 hours."
            )
        if not key.HasField("next_rotation_time"):
            key.next_rotation_time.FromDatetime(now + key.rotation_period.ToTimedelta())
    if not key.HasField("next_rotation_time"):
        return
    if before is not None and key.next_rotation_time == before.next_rotation_time:
        return
    try:
        past = moment(key.next_rotation_time) < now
    except (OverflowError, ValueError):
        raise bad_field("crypto_key.next_rotation_time", "It is not a time.") from None
    if past:
        raise bad_field("crypto_key.next_rotation_time", "It must be in the future.")


def _within(duration: Any, shortest: dt.timedelta, longest: dt.timedelta) -> bool:
    """In whole numbers, since a Duration can be longer than any timedelta."""
    nanoseconds = int(duration.seconds) * 10**9 + int(duration.nanos)
    return int(shortest.total_seconds()) * 10**9 <= nanoseconds <= int(longest.total_seconds()) * 10**9


def check_destroy_duration(key: Any) -> None:
    """Default 30 days, at most 120 days, at least 24 hours, or nothing for import-only keys."""
    if not key.HasField("destroy_scheduled_duration"):
        key.destroy_scheduled_duration.FromTimedelta(DEFAULT_DESTROY)
    shortest = dt.timedelta(0) if key.import_only else MIN_DESTROY
    if not _within(key.destroy_scheduled_duration, shortest, MAX_DESTROY):
        least = "0s" if key.import_only else "24 hours"
        raise bad_field(
            "crypto_key.destroy_scheduled_duration", f"It must be at least {least} and at most 120 days."
        )


def check_labels(labels: Any) -> None:
    """At most 64; keys and values as Google Cloud labels are."""
    if len(labels) > MAX_LABELS:
        raise bad_field("labels", f"A resource can have at most {MAX_LABELS} labels.")
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise bad_field("labels", f"Label '{key[:63]}' or its value is not valid.")


def advance_rotation(key: Any, now: dt.datetime) -> bool:
    """Whether a scheduled rotation is due; if so `next_rotation_time` moves to the next time after `now`
    (or is cleared where there is no period)."""
    if not key.HasField("next_rotation_time") or moment(key.next_rotation_time) > now:
        return False
    if key.HasField("rotation_period"):
        period = key.rotation_period.ToTimedelta()
        following = moment(key.next_rotation_time)
        missed = (now - following) // period + 1
        key.next_rotation_time.FromDatetime(following + missed * period)
    else:
        key.ClearField("next_rotation_time")
    return True
