"""What a token says of a key it holds, and of itself."""

from __future__ import annotations

from typing import Any

from pkcs11 import Attribute, ObjectClass

from keystead.crypto import token_formats
from keystead.kms.algorithms import Algorithm
from keystead.kms.backends.hsm.keys import IMPORT_KEY, KINDS, told
from keystead.kms.backends.hsm.objects import ObjectRef
from keystead.kms.backends.hsm.session import Session

_TRUTHS = {
    "local": Attribute.LOCAL,
    "sensitive": Attribute.SENSITIVE,
    "always_sensitive": Attribute.ALWAYS_SENSITIVE,
    "extractable": Attribute.EXTRACTABLE,
    "never_extractable": Attribute.NEVER_EXTRACTABLE,
    "wrap_with_trusted": Attribute.WRAP_WITH_TRUSTED,
    "private": Attribute.PRIVATE,
    "modifiable": Attribute.MODIFIABLE,
}


def facts_of(session: Session, ref: ObjectRef, algorithm: Algorithm | None) -> dict[str, object]:
    """Attributes of the key as the token answers them (PKCS#11 2.40, 4.4 and 4.8), then token and library.

    What the token does not tell of a key is None.
    """
    kind = KINDS[algorithm.family] if algorithm is not None else IMPORT_KEY
    key = session.key(ref, kind.held)
    there = session.token.slot.get_token()
    key_type = told(key, Attribute.KEY_TYPE)
    return {
        "object": {
            "class": "private key" if key[Attribute.CLASS] is ObjectClass.PRIVATE_KEY else "secret key",
            "id": ref.id.hex(),
            "label": told(key, Attribute.LABEL),
            "type": getattr(key_type, "name", key_type),
            "bits": _bits(key),
            "curve_parameters": _hex(told(key, Attribute.EC_PARAMS)),
            **{name: told(key, attribute) for name, attribute in _TRUTHS.items()},
        },
        "token": {
            "label": there.label,
            "serial": there.serial.decode(errors="replace"),
            "manufacturer": there.manufacturer_id,
            "model": there.model,
            "hardware_version": _dotted(there.hardware_version),
            "firmware_version": _dotted(there.firmware_version),
        },
        "library": session.library,
    }


def _bits(key: Any) -> int | None:
    modulus = told(key, Attribute.MODULUS)
    if modulus:
        return token_formats.rsa_bits(modulus)
    size = told(key, Attribute.VALUE_LEN)
    return size * 8 if size else None


def _hex(value: bytes | None) -> str | None:
    return value.hex() if value else None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
