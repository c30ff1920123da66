"""What the errors of a token mean: is it gone, is the input wrong, can the key never be made.

Tokens word the same thing differently; SoftHSM2 2.6.1 answers CKR_GENERAL_ERROR to a wrong GCM tag and to a
token whose files are gone. What an error means is therefore decided by the operation, and where it can mean
both, by asking the token whether it is well.
"""

from __future__ import annotations

from typing import Protocol

import pkcs11
from pkcs11.exceptions import PKCS11Error

from keystead.api.errors import Unavailable


class WrongPinError(Unavailable):
    """The token refused the PIN, or did before: somebody must give another."""


class Health(Protocol):
    """What is asked of a session to understand an error (`session.Session`)."""

    fresh: bool

    def healthy(self) -> bool: ...


class LostError(Exception):
    """The session cannot be trusted any more: open another and try again."""


class MissingError(Exception):
    """A key that should be in the token is not; the text says which."""


_LOST = (
    pkcs11.DeviceError,
    pkcs11.DeviceRemoved,
    pkcs11.FunctionCancelled,
    pkcs11.KeyHandleInvalid,
    pkcs11.ObjectHandleInvalid,
    pkcs11.OperationActive,
    pkcs11.OperationNotInitialized,
    pkcs11.SessionClosed,
    pkcs11.SessionHandleInvalid,
    pkcs11.SessionReadOnly,
    pkcs11.SlotIDInvalid,
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
    pkcs11.UnwrappingKeyHandleInvalid,
    pkcs11.UserNotLoggedIn,
    pkcs11.WrappingKeyHandleInvalid,
)
_BAD_INPUT = (
    pkcs11.DataInvalid,
    pkcs11.DataLenRange,
    pkcs11.EncryptedDataInvalid,
    pkcs11.EncryptedDataLenRange,
    pkcs11.WrappedKeyInvalid,
    pkcs11.WrappedKeyLenRange,
)
_NEVER = (
    pkcs11.ArgumentsBad,
    pkcs11.AttributeReadOnly,
    pkcs11.AttributeTypeInvalid,
    pkcs11.AttributeValueInvalid,
    pkcs11.DomainParamsInvalid,
    pkcs11.FunctionNotSupported,
    pkcs11.KeySizeRange,
    pkcs11.KeyTypeInconsistent,
    pkcs11.MechanismInvalid,
    pkcs11.MechanismParamInvalid,
    pkcs11.TemplateIncomplete,
    pkcs11.TemplateInconsistent,
)
_ADVICE: dict[type[PKCS11Error], str] = {
    pkcs11.PinLocked: "Its PIN is locked. Have its security officer set a new one.",
    pkcs11.PinExpired: "Its PIN has expired. Set a new one with its maker's tools.",
    pkcs11.UserPinNotInitialized: "It has no PIN yet. Set one with its maker's tools.",
    pkcs11.TokenNotPresent: "It is not in its slot. Put it back.",
    pkcs11.TokenNotRecognised: "It is not recognised. Check it with its maker's tools.",
    pkcs11.TokenWriteProtected: "It is write-protected. Lift that with its maker's tools.",
    pkcs11.DeviceMemory: "It is full. Destroy key versions that are not needed.",
    pkcs11.DeviceRemoved: "It was removed. Put it back.",
    pkcs11.SessionCount: "It has no session left. End other programs that use it.",
    pkcs11.HostMemory: "This host is out of memory.",
}


def is_lost(error: PKCS11Error) -> bool:
    """Whether the session is gone for certain, whatever was asked."""
    return isinstance(error, _LOST)


def blames_input(error: PKCS11Error, session: Health) -> bool:
    """Whether the data given to the operation is to blame: ciphertexts, wrapped keys.

    Beside the codes meant for it tokens use general ones, and codes that python-pkcs11 has no name for
    (CKR_AEAD_DECRYPT_FAILED); those blame the data if the token is well. CKR_DEVICE_ERROR does so only when
    it comes again in a session that was just opened.
    """
    if isinstance(error, _BAD_INPUT):
        return True
    if isinstance(error, pkcs11.DeviceError):
        return session.fresh and session.healthy()
    return not is_lost(error) and session.healthy()


def is_never(error: PKCS11Error) -> bool:
    """Whether the token can never do what was asked of it."""
    return isinstance(error, _NEVER)


def unavailable(token: str, error: Exception) -> Unavailable:
    """What callers read when the token failed; `token` is how it is named to them."""
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "")
    if not advice:
        detail = f": {error}" if str(error) else ""
        advice = f"It failed ({type(error).__name__}{detail}). Check it with its maker's tools."
    return Unavailable(f"The {token} cannot be used. {advice} The server tries again by itself.")
