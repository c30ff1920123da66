"""The version that a call names, found and checked to be usable: how every operation on a version begins."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from keystead.api.call import WouldBlock
from keystead.api.errors import Internal
from keystead.api.names import malformed
from keystead.kms import lifecycle
from keystead.kms.algorithms import Family
from keystead.kms.checks import require_purpose
from keystead.kms.keycache import KeyCache, UsableVersion
from keystead.kms.service import VERSION_NAME, key_of

# One spelling per version: the name that was authorized is the name of what is used.
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")

# What takes so long that it would hold up the event loop: a third of a millisecond and more.
_SLOW = frozenset({Family.RSA_PSS, Family.RSA_PKCS1, Family.RSA_RAW_PKCS1, Family.RSA_OAEP, Family.ML_DSA})


def version_number_in(name: str) -> int:
    """The number in a version name. Raises InvalidArgument where it is not spelt as Cloud KMS does."""
    number = name.rsplit("/", 1)[-1]
    if VERSION_NAME.match(name) is None or not _NUMBER.fullmatch(number):
        raise malformed("name", name, (VERSION_NAME,))
    return int(number)


def enabled_version(keys: KeyCache, name: str, *purposes: str, inline: bool) -> UsableVersion:
    """The version of that name, ENABLED and of a key with one of the purposes.

    Raises InvalidArgument, NotFound, FailedPrecondition, and WouldBlock when `inline` and not in memory.
    """
    number = version_number_in(name)
    key = keys.key(key_of(name), inline=inline)
    require_purpose(key.message, *purposes)
    version = keys.version(key, number, inline=inline)
    lifecycle.require_enabled(version.message)
    return version


def version_in_use(keys: KeyCache, name: str, *purposes: str, inline: bool) -> UsableVersion:
    """`enabled_version` for a call that uses the key itself: raises WouldBlock, when `inline`, also where
    that takes long."""
    version = enabled_version(keys, name, *purposes, inline=inline)
    if inline and (version.backend.blocking or version.algorithm.family in _SLOW):
        raise WouldBlock
    return version


def key_in(version: UsableVersion, *, inline: bool) -> Any:
    """The opened key of a version. A key in a token is not asked on the event loop."""
    if inline and version.backend.blocking:
        raise WouldBlock
    if version.key is None:
        _missing(version)
    return version.key


def _missing(version: UsableVersion) -> NoReturn:
    """The version is ENABLED and its material is not there."""
    raise Internal(f"The material of {version.name} is missing. Restore the store from a backup.")
