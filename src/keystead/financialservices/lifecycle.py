"""The state machine of AML AI resources: pure, `now` is passed in.

    CREATING -> ACTIVE -> DELETING

Instances, datasets and what else an instance holds have the same states with the same numbers (AML API
reference, `Instance.State`). A create that fails leaves no resource, so there is no failed state; updates
are immediate, so UPDATING is never seen. A function takes the message as it is and changes it to what it
becomes, or raises and changes nothing.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from keystead.api.errors import FailedPrecondition
from keystead.financialservices.messages import Instance

State = Instance.State
CREATING = State.Value("CREATING")
ACTIVE = State.Value("ACTIVE")
DELETING = State.Value("DELETING")


def created(message: Any, now: dt.datetime) -> None:
    """Announced; usable once it is ACTIVE."""
    message.state = CREATING
    message.create_time.FromDatetime(now)
    message.update_time.FromDatetime(now)


def activated(message: Any, now: dt.datetime) -> None:
    """Ready for use: after its creation, or because its deletion could not be done."""
    message.state = ACTIVE
    message.update_time.FromDatetime(now)


def deleting(message: Any, now: dt.datetime) -> None:
    """Refused from now on, and soon gone. Raises FailedPrecondition unless ACTIVE."""
    require_active(message)
    message.state = DELETING
    message.update_time.FromDatetime(now)


def require_active(message: Any) -> None:
    """FAILED_PRECONDITION while the resource is being created or deleted."""
    if message.state != ACTIVE:
        raise FailedPrecondition(
            f"{message.name} is in state {State.Name(message.state)}; it must be ACTIVE for this request."
        )
