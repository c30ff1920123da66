"""Who a caller is: from the `Authorization` header, or the gRPC metadata of that name, to a principal.

SECURITY: a principal that comes out of here was proven, or is believed by a setting that only loopback
listeners may have (`DevAuthenticator`). A service agent can never be the result: agents act in process.

It knows nothing of what a principal may do.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from google.rpc import error_details_pb2

from keystead.api.errors import InvalidArgument, Unauthenticated
from keystead.iam.members import email_of, parse_member
from keystead.iam.service_agents import is_agent_address

_MESSAGE = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
    "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


class Authenticator(Protocol):
    """Proves who a caller is."""

    def principal(self, authorization: str | None) -> str | None:
        """The caller as an IAM member (`user:a@example.com`, `serviceAccount:...`), None without credentials.

        Raises Unauthenticated for credentials that prove nothing.
        """


class DevAuthenticator:
    """Believes a bearer token that is a `user:` or `serviceAccount:` member. For loopback only.

    >>> DevAuthenticator().principal("Bearer user:alice@example.com")
    'user:alice@example.com'
    """

    def principal(self, authorization: str | None) -> str | None:
        return _believed(authorization) if authorization else None


@lru_cache(maxsize=4096)
def _believed(authorization: str) -> str:
    scheme, _, token = authorization.strip().partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token.startswith(("user:", "serviceAccount:")):
        raise invalid_credentials("ACCESS_TOKEN_TYPE_UNSUPPORTED")
    try:
        member = parse_member(token)
    except InvalidArgument:
        raise invalid_credentials("ACCESS_TOKEN_INVALID") from None
    if is_agent_address(email_of(member)):
        raise invalid_credentials("ACCESS_TOKEN_INVALID")
    return member


def invalid_credentials(reason: str) -> Unauthenticated:
    """The answer to credentials that prove nothing; `reason` is the ErrorInfo reason."""
    return Unauthenticated(_MESSAGE, error_details_pb2.ErrorInfo(reason=reason, domain="googleapis.com"))
