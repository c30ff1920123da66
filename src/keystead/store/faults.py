"""SECURITY: what a caller may learn of a failing database.

Owns: turning what the drivers raise into the one error tree. Recognised by SQLite's error codes and by
SQLSTATE, never by text. Deliberately carries none of the driver's own message along: it may quote values, and
bodies and wrapped keys are values.
"""

from __future__ import annotations

from sqlalchemy import exc

from keystead.api.errors import (
    Aborted,
    ApiError,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)

BUSY = "The store is busy; retry the call."
FULL = "The disk that holds the store is full; nothing was changed. Free space and retry."
REFUSED = (
    "The disk that holds the store refused a write (it is full, over its quota, or failing);"
    " nothing was changed. Check it and retry."
)
UNREACHABLE = "The store cannot be reached; retry the call."
COLLISION = "The change collides with a concurrent one; read the resource again and retry."
UNKNOWN_OUTCOME = (
    "The connection to the store was lost while it committed, and whether the change was kept is not known."
    " Read the resource again before you retry."
)

Fault = exc.DBAPIError | exc.TimeoutError | UnicodeEncodeError
FAULTS = (exc.DBAPIError, exc.TimeoutError, UnicodeEncodeError)

# Class 08 and 57P0x: the connection or the server is gone. 53300: too many connections. 55P03, 40001, 40P01,
# 57014: the statement waited for another's lock, or was broken off. (PostgreSQL manual, appendix A)
_POSTGRESQL_BUSY = {"55P03", "40001", "40P01", "57014"}
_POSTGRESQL_GONE = {"57P01", "57P02", "57P03", "53300"}
_POSTGRESQL_DAMAGED = {"XX001", "XX002"}


def translate(error: Fault, where: str) -> ApiError:
    """The API error for what a driver raised; `where` names the store (no password) for an operator."""
    if isinstance(error, exc.TimeoutError):  # no connection of the pool came free
        return Unavailable(BUSY)
    if isinstance(error, UnicodeEncodeError | exc.DataError):
        return InvalidArgument("A value holds characters, or is of a size, that the store cannot keep.")
    if isinstance(error, exc.IntegrityError):
        return Aborted(COLLISION)
    sqlite_code = getattr(error.orig, "sqlite_errorname", None)
    if isinstance(sqlite_code, str):
        return _sqlite(sqlite_code, where)
    state = getattr(error.orig, "sqlstate", None)
    if isinstance(state, str):
        return _postgresql(state, where)
    if error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError):
        return Unavailable(UNREACHABLE)
    return Internal(f"The store {where} failed ({type(error.orig).__name__}).")


def _sqlite(code: str, where: str) -> ApiError:
    """By SQLite's extended result code (sqlite.org/rescode.html)."""
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return Unavailable(BUSY)
    if code == "SQLITE_FULL":
        return ResourceExhausted(FULL)
    if code in ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"):  # a quota, a file size limit, a bad disk
        return ResourceExhausted(REFUSED)
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")):
        return _damaged(where, code)
    return Internal(f"The store {where} failed ({code}).")


def _postgresql(state: str, where: str) -> ApiError:
    """By SQLSTATE (PostgreSQL manual, appendix A)."""
    if state in _POSTGRESQL_BUSY:
        return Unavailable(BUSY)
    if state in _POSTGRESQL_GONE or state.startswith("08"):
        return Unavailable(UNREACHABLE)
    if state == "53100":
        return ResourceExhausted(FULL)
    if state in _POSTGRESQL_DAMAGED:
        return _damaged(where, state)
    return Internal(f"The store {where} failed (SQLSTATE {state}).")


def _damaged(where: str, code: str) -> Internal:
    return Internal(f"The store {where} is damaged ({code}). Stop the server and restore it from a backup.")
