"""What seals the root key: one small protocol, one module per way.

    file         a random key in a file of its own
    passphrase   a key derived from what somebody knows (Argon2id)
    pkcs11       an AES key that never leaves a token
    kms          a key of another key service that speaks Cloud KMS

`record` is the stored form of a sealed root key, `choice` makes a seal of what an operator chose or of what
is stored.
"""

from __future__ import annotations

from typing import Protocol

from keystead.crypto.secret import SecretBytes

Parameters = dict[str, str | int]


class Seal(Protocol):
    """Wraps and unwraps the root key.

    kind: which way; stored with the wrapped root key. parameters: what it takes to find this seal again,
    beside secrets; stored with it too. `aad` binds both to the wrapped key: it does not open under another.
    """

    kind: str

    @property
    def parameters(self) -> Parameters: ...

    def wrap(self, root_key: SecretBytes, aad: bytes) -> bytes:
        """The root key, sealed. Raises SealError."""

    def unwrap(self, wrapped: bytes, aad: bytes) -> SecretBytes:
        """The root key. Raises SealError."""


class SealError(Exception):
    """The seal cannot be opened; the text says what to do."""


class SecretNeededError(SealError):
    """The seal waits for somebody who knows its secret. `secret` is what it is called."""

    def __init__(self, secret: str) -> None:
        super().__init__(f"It waits for its {secret}.")
        self.secret = secret


class SealOptionsError(SealError):
    """What the operator said of the seal cannot be, or is not how the store is sealed: say something else."""


class WrongSecretError(SealError):
    """Somebody gave a secret that does not open the seal."""
