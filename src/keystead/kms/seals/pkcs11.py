"""The PKCS#11 seal: the root key is encrypted in a token, by an AES-256 key that was made there and never
leaves it.

SECURITY: AES-GCM and not AES key wrap, because GCM binds kind and parameters of the seal as associated data,
and because unwrapping would make the root key an object of the token, which would have to be extractable to
be read again. The nonce is random: there is one message for each sealing. The token is logged out of as soon
as the root key is sealed or opened. The root key itself is then in this process's memory, as with every seal.

The token must offer CKM_AES_GCM with a nonce of the caller's and, to make the key, CKM_AES_KEY_GEN.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.exceptions import PKCS11Error

from keystead.api.errors import Unavailable
from keystead.crypto.secret import SecretBytes, random_bytes
from keystead.kms.backends.hsm.config import HsmConfig
from keystead.kms.backends.hsm.errors import WrongPinError, is_lost
from keystead.kms.backends.hsm.session import Session
from keystead.kms.backends.hsm.token import Token
from keystead.kms.seals import Parameters, SealError, WrongSecretError

_NONCE_BYTES = 12
_TAG_BYTES = 16
_KEY_BYTES = 32
_ID_BYTES = 16

T = TypeVar("T")


class Pkcs11Seal:
    """Seals the root key with the AES-256 key labelled `key` in the token labelled `token`.

    module: the library of the token's maker. pin: asked at each login. pin_file: where the PIN lies, as it is
    stored; empty where somebody gives it. create: make the key when a new root key is wrapped and there is
    none.
    """

    kind = "pkcs11"

    def __init__(
        self,
        module: Path,
        token: str,
        key: str,
        pin: Callable[[], SecretBytes],
        *,
        pin_file: str = "",
        create: bool = False,
    ) -> None:
        self._module = module
        self._token = token
        self._key = key
        self._pin = pin
        self._pin_file = pin_file
        self._may_create = create

    @staticmethod
    def stored(
        parameters: Parameters, pin: Callable[[], SecretBytes], *, module: Path | None = None
    ) -> Pkcs11Seal:
        """The seal that these parameters describe; `module` is where the library lies now, if elsewhere.

        Raises SealError where they describe none.
        """
        values = {name: str(value) for name, value in parameters.items()}
        if values.keys() - {"pin_file"} != {"module", "token", "key"}:
            raise SealError("The stored parameters of the PKCS#11 seal are damaged. Restore the store.")
        return Pkcs11Seal(module or Path(values["module"]), values["token"], values["key"], pin)

    @property
    def parameters(self) -> Parameters:
        found: Parameters = {"module": str(self._module), "token": self._token, "key": self._key}
        if self._pin_file:
            found["pin_file"] = self._pin_file
        return found

    def wrap(self, root_key: SecretBytes, aad: bytes) -> bytes:
        return self._use(lambda session: self._wrap(session, root_key, aad))

    def unwrap(self, wrapped: bytes, aad: bytes) -> SecretBytes:
        return self._use(lambda session: self._unwrap(session, wrapped, aad))

    def _wrap(self, session: Session, root_key: SecretBytes, aad: bytes) -> bytes:
        key = self._found(session) or self._made(session)
        self._check(key)
        nonce = random_bytes(_NONCE_BYTES)
        return nonce + bytes(key.encrypt(bytes(root_key.expose()), **_gcm(nonce, aad)))

    def _unwrap(self, session: Session, wrapped: bytes, aad: bytes) -> SecretBytes:
        key = self._found(session)
        if key is None:
            raise self._missing()
        try:
            return SecretBytes(key.decrypt(wrapped[_NONCE_BYTES:], **_gcm(wrapped[:_NONCE_BYTES], aad)))
        except PKCS11Error as error:
            if is_lost(error) or not session.healthy():
                raise
            raise SealError(
                f"The key '{self._key}' in the token '{self._token}' does not open this store. Restore the "
                "key, or the store, that belongs to the other."
            ) from None

    def _found(self, session: Session) -> Any:
        """The one key of that label, or None. Raises SealError where there is more than one."""
        found = session.search({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: self._key})
        if len(found) > 1:
            raise SealError(
                f"The token '{self._token}' has {len(found)} secret keys labelled '{self._key}'. Give the "
                "one that seals a label of its own with its maker's tools."
            )
        return found[0] if found else None

    def _made(self, session: Session) -> Any:
        if not self._may_create:
            raise self._missing()
        return session.raw.generate_key(
            KeyType.AES,
            _KEY_BYTES * 8,
            id=random_bytes(_ID_BYTES),
            label=self._key,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template={
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
                Attribute.MODIFIABLE: False,
            },
        )

    def _missing(self) -> SealError:
        return SealError(
            f"The token '{self._token}' has no secret key labelled '{self._key}'. Put back the token that "
            "seals this store, or restore it from its backup."
        )

    def _check(self, key: Any) -> None:
        """Refuse to seal with a key that could leave the token, or of another kind."""
        fit = (
            key[Attribute.KEY_TYPE] == KeyType.AES
            and key[Attribute.VALUE_LEN] == _KEY_BYTES
            and key[Attribute.SENSITIVE]
            and not key[Attribute.EXTRACTABLE]
        )
        if not fit:
            raise SealError(
                f"The key '{self._key}' in the token '{self._token}' is not an AES-256 key that cannot leave "
                "the token. Name another with --pkcs11-key; one that is not there yet is made."
            )

    def _use(self, work: Callable[[Session], T]) -> T:
        """`work` in a session of the token, which is logged out of afterwards. Raises SealError."""
        token = Token(HsmConfig(module=self._module, token=self._token, pin=self._pin))
        try:
            return token.use(work)
        except WrongPinError:
            raise WrongSecretError(
                f"The token '{self._token}' refused the PIN. Give the right one: a few wrong ones lock it."
            ) from None
        except Unavailable as error:
            raise SealError(error.message) from None
        finally:
            token.close()


def _gcm(nonce: bytes, aad: bytes) -> dict[str, Any]:
    return {"mechanism": Mechanism.AES_GCM, "mechanism_param": GCMParams(nonce, aad, _TAG_BYTES * 8)}
