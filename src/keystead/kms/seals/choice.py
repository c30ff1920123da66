"""Which seal: made new of what an operator chose, or found again by what is stored with the root key.

Where a seal lies (file, PKCS#11 module, PIN file, endpoint, token file) can be said anew, for a machine on
which it is elsewhere; what it is (token, key) cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from keystead.crypto.secret import SecretBytes
from keystead.kms.seals import Seal, SealError, SealOptionsError, SecretNeededError
from keystead.kms.seals.file import FileSeal
from keystead.kms.seals.kms import KmsSeal
from keystead.kms.seals.passphrase import PassphraseSeal
from keystead.kms.seals.private_files import read_line
from keystead.kms.seals.record import SealedRootKey

if TYPE_CHECKING:
    from keystead.kms.seals.pkcs11 import Pkcs11Seal

KINDS = ("file", "passphrase", "pkcs11", "kms")
DEFAULT_FILE = Path("seal") / "root.key"
DEFAULT_KEY = "keystead-root"

Secret = Callable[[], SecretBytes]


@dataclass(frozen=True)
class SealOptions:
    """What an operator says of a seal; empty: nothing. Paths are absolute.

    kind: one of KINDS; a new seal is a file unless said otherwise. The other names are those of the command
    line's options, and begin with what they belong to.
    """

    kind: str = ""
    seal_file: Path | None = None
    passphrase_file: Path | None = None
    pkcs11_module: Path | None = None
    pkcs11_token: str = ""
    pkcs11_key: str = ""
    pin_file: Path | None = None
    kms_key: str = ""
    kms_endpoint: str = ""
    kms_token_file: Path | None = None

    def check(self, kind: str) -> None:
        """Raises SealOptionsError where an option was given that has no meaning for a seal of this kind."""
        for name in (field.name for field in fields(self)):
            owner = _OWNERS.get(name, kind)
            if getattr(self, name) and owner != kind:
                option = "--" + name.replace("_", "-")
                raise SealOptionsError(
                    f"{option} belongs to a seal of kind {owner}; this one is of kind {kind}."
                )


_OWNERS = {
    "seal_file": "file",
    "passphrase_file": "passphrase",
    "pkcs11_module": "pkcs11",
    "pkcs11_token": "pkcs11",
    "pkcs11_key": "pkcs11",
    "pin_file": "pkcs11",
    "kms_key": "kms",
    "kms_endpoint": "kms",
    "kms_token_file": "kms",
}


def new_seal(options: SealOptions, data_dir: Path, secret: SecretBytes | None = None) -> Seal:
    """The seal that an operator chose for a root key, `secret` being its passphrase or PIN.

    Raises SealError; SealOptionsError where the options name none, SecretNeededError where there is neither
    `secret` nor a file of it.
    """
    kind = options.kind or "file"
    options.check(kind)
    if kind == "file":
        path = options.seal_file or data_dir / DEFAULT_FILE
        return FileSeal(path, create=True, recorded=_recorded(path, data_dir))
    if kind == "passphrase":
        return PassphraseSeal(_secret(secret, options.passphrase_file, "passphrase")())
    if kind == "pkcs11":
        return _new_pkcs11(options, data_dir, secret)
    if kind == "kms":
        return _new_kms(options, data_dir)
    raise SealOptionsError(f"There is no seal of kind {kind!r}. Choose one of: {', '.join(KINDS)}.")


def stored_seal(
    sealed: SealedRootKey,
    data_dir: Path,
    options: SealOptions | None = None,
    secret: SecretBytes | None = None,
) -> Seal:
    """The seal of a root key that is stored; `options` say where its parts lie now.

    Raises SealError; SealOptionsError where `options` name another seal; SecretNeededError as `new_seal`.
    """
    options = options or SealOptions()
    parameters = sealed.parameters
    if options.kind and options.kind != sealed.kind:
        raise SealOptionsError(
            f"This store is sealed by '{sealed.kind}', not by '{options.kind}'. Leave out --seal, or change "
            "the seal with: keystead seal change."
        )
    options.check(sealed.kind)
    if sealed.kind == "file":
        recorded = Path(str(parameters.get("path", DEFAULT_FILE)))
        return FileSeal(options.seal_file or data_dir / recorded, create=False)
    if sealed.kind == "passphrase":
        known = _secret(secret, options.passphrase_file, "passphrase")
        return PassphraseSeal.stored(parameters, known())
    if sealed.kind == "pkcs11":
        _same("--pkcs11-token", options.pkcs11_token, parameters.get("token"))
        _same("--pkcs11-key", options.pkcs11_key, parameters.get("key"))
        pin_file = options.pin_file or _path(parameters.get("pin_file"), data_dir)
        pin = _secret(secret, pin_file, "PIN")
        return _pkcs11().stored(parameters, pin, module=options.pkcs11_module)
    if sealed.kind == "kms":
        _same("--kms-key", options.kms_key, parameters.get("key"))
        token_file = options.kms_token_file or _path(parameters.get("token_file"), data_dir)
        return KmsSeal.stored(parameters, token_file, endpoint=options.kms_endpoint)
    raise SealError(
        f"The store is sealed by '{sealed.kind[:40]}', which this Keystead does not know. Start a newer one."
    )


def secret_file(sealed: SealedRootKey | None, data_dir: Path, options: SealOptions) -> Path | None:
    """The file that holds the passphrase or PIN of a root key, if one is known. Without a root key: of the
    one that these options would seal."""
    kind = (options.kind or "file") if sealed is None else sealed.kind
    if kind == "passphrase":
        return options.passphrase_file
    if kind == "pkcs11":
        stored = None if sealed is None else sealed.parameters.get("pin_file")
        return options.pin_file or _path(stored, data_dir)
    return None


def needed_secret(sealed: SealedRootKey | None, data_dir: Path, options: SealOptions) -> str:
    """What somebody must give for the seal to open: "passphrase", "PIN" or nothing."""
    kind = (options.kind or "file") if sealed is None else sealed.kind
    if kind == "pkcs11" and secret_file(sealed, data_dir, options) is None:
        return "PIN"
    return "passphrase" if kind == "passphrase" else ""


def describe(sealed: SealedRootKey) -> str:
    """A seal in words, without secrets."""
    values = sealed.parameters
    if sealed.kind == "file":
        return f"file {values.get('path', DEFAULT_FILE)}"
    if sealed.kind == "passphrase":
        memory = int(values.get("memory_kib", 0)) // 1024
        return f"passphrase (Argon2id, {values.get('iterations')} passes over {memory} MiB)"
    if sealed.kind == "pkcs11":
        return f"key '{values.get('key')}' in the token '{values.get('token')}' ({values.get('module')})"
    if sealed.kind == "kms":
        return f"key {values.get('key')} of {values.get('endpoint', 'Google Cloud KMS')}"
    return f"'{sealed.kind}'"


def _new_kms(options: SealOptions, data_dir: Path) -> Seal:
    if not options.kms_key:
        raise SealOptionsError("--kms-key is missing: projects/P/locations/L/keyRings/R/cryptoKeys/K.")
    token_file = options.kms_token_file
    recorded = _recorded(token_file, data_dir) if token_file else ""
    try:
        return KmsSeal(options.kms_key, options.kms_endpoint, token_file, recorded=recorded)
    except SealError as error:
        raise SealOptionsError(str(error)) from None


def _new_pkcs11(options: SealOptions, data_dir: Path, secret: SecretBytes | None) -> Seal:
    if options.pkcs11_module is None or not options.pkcs11_token:
        raise SealOptionsError(
            "A seal in a token needs --pkcs11-module (the maker's library) and --pkcs11-token (its label)."
        )
    return _pkcs11()(
        options.pkcs11_module,
        options.pkcs11_token,
        options.pkcs11_key or DEFAULT_KEY,
        _secret(secret, options.pin_file, "PIN"),
        pin_file=_recorded(options.pin_file, data_dir) if options.pin_file else "",
        create=True,
    )


def _pkcs11() -> type[Pkcs11Seal]:
    """The class, which needs a library that is not always installed. Raises SealError."""
    try:
        from keystead.kms.seals.pkcs11 import Pkcs11Seal
    except ImportError:
        raise SealError("A seal in a token needs python-pkcs11. Run: pip install 'keystead[hsm]'") from None
    return Pkcs11Seal


def _secret(given: SecretBytes | None, file: Path | None, name: str) -> Secret:
    """A function that gives the secret (a copy, which its caller wipes). Raises SecretNeededError at once."""
    if given is not None:
        return lambda: SecretBytes(given.expose())
    if file is None:
        raise SecretNeededError(name)
    return lambda: read_line(file, f"The {name} file")


def _recorded(path: Path, data_dir: Path) -> str:
    """A path as it is stored: below the data directory, which may move, relative to it."""
    return str(path.relative_to(data_dir) if path.is_relative_to(data_dir) else path)


def _path(recorded: str | int | None, data_dir: Path) -> Path | None:
    return data_dir / str(recorded) if recorded else None


def _same(option: str, given: str, stored: str | int | None) -> None:
    if given and given != stored:
        raise SealOptionsError(
            f"{option} {given} is not what this store is sealed by: {stored}. Leave it out, or change the "
            "seal with: keystead seal change."
        )
