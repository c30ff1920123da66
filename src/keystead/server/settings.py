"""What an operator may choose, checked once, before anything is opened.

SECURITY: refuses the combinations that would let a caller be somebody without proof: development mode on
an address that others can reach, and serving at all where no way to prove a caller's identity is set up.

It opens, creates and connects to nothing; the command line says where values come from.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from keystead.kms.seals.choice import SealOptions

_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_REGION = re.compile(r"[a-z]+(-[a-z]+)+[0-9]{1,2}")
_STORES = ("sqlite:", "postgresql:", "postgresql+psycopg:")
MAX_BODY = 1 << 20
MAX_WORKERS = 256


class SettingsError(ValueError):
    """A setting, or a combination of settings, that is refused; the text says what to do instead."""


@dataclass(frozen=True)
class Settings:
    """How one server runs. Raises SettingsError.

    data_dir: everything the server keeps lies under it; made absolute here, created when serving starts.
    host, port, grpc_port: where REST and gRPC listen; port 0 takes a free one.
    dev: believe a bearer token that is an IAM member.
    store_url: SQLAlchemy URL; empty means `store.db` in the data directory. Kept out of `repr`, as it may
    hold a password.
    universe: domain of the service host names, `cloudkms.<universe>`.
    tables_dir: directory that `bq://project.dataset.table` is read from; without one there are no tables.
    It is the customer's own, so not inside data_dir, of which nothing is to be readable without the key.
    aml_regions: locations offered by AML AI beyond Google's own.
    key_poll_interval: how often keys of other key services are asked after.
    max_body: bytes a request may have on either listener. The largest Cloud KMS request is a 64 KiB
    plaintext with 64 KiB of AAD, in base64.
    tls_cert, tls_key: PEM files, both or neither; they serve both listeners.
    drain: seconds that running calls get to end when the server stops.
    workers: processes that answer calls, this one included; those beyond it answer Encrypt, Decrypt and their
    like from memory of their own.
    seal: what is said of the seal of the root key; nothing needs to be said once there is one.
    hsm_module, hsm_token, hsm_pin_file: PKCS#11 library, label of the token, and the file with its PIN, for
    keys of protection level HSM; all or none.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = 8081
    dev: bool = False
    store_url: str = field(default="", repr=False)
    universe: str = "googleapis.com"
    tables_dir: Path | None = None
    aml_regions: tuple[str, ...] = ()
    key_poll_interval: dt.timedelta = dt.timedelta(minutes=5)
    max_body: int = MAX_BODY
    tls_cert: Path | None = None
    tls_key: Path | None = None
    drain: float = 10.0
    workers: int = 1
    seal: SealOptions = field(default_factory=SealOptions)
    hsm_module: Path | None = None
    hsm_token: str = ""
    hsm_pin_file: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_dir", Path(self.data_dir).expanduser().absolute())
        self._check_paths()
        self._check_listeners()
        self._check_names()
        self._check_token()
        self._check_limits()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listeners."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def database_url(self) -> str:
        """The store's URL, the default filled in."""
        return self.store_url or f"sqlite:///{self.data_dir / 'store.db'}"

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """Certificate chain and private key, or None for plain listeners."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return self.tls_cert, self.tls_key

    def check_servable(self) -> None:
        """Refuse to serve where callers could not be told apart.

        Raises SettingsError without `dev`: no other way to prove who a caller is exists yet.
        """
        if not self.dev:
            raise SettingsError(
                "Without --dev there is no way yet to prove who a caller is, so nothing would be allowed. "
                "Start with --dev to try Keystead on this machine: it listens on loopback only and believes "
                "a bearer token that is an IAM member, such as user:alice@example.com."
            )

    def _check_paths(self) -> None:
        if self.data_dir.exists() and not self.data_dir.is_dir():
            raise SettingsError(f"--data-dir {self.data_dir} is not a directory. Name a directory.")
        if self.tables_dir is not None and self.tables_dir.absolute().is_relative_to(self.data_dir):
            raise SettingsError(
                f"--tables-dir {self.tables_dir} is inside the data directory, where nothing may be readable "
                "without its key. Name a directory elsewhere."
            )
        if self.tables_dir is not None and not self.tables_dir.is_dir():
            raise SettingsError(
                f"--tables-dir {self.tables_dir} is not a directory. Create it, or name another."
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("--tls-cert and --tls-key belong together: give both, or neither.")
        for option, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path is not None and not path.is_file():
                raise SettingsError(f"{option} {path} is not a file. Name a PEM file.")
        if self.store_url and not self.store_url.startswith(_STORES):
            raise SettingsError(
                "The store URL must begin with sqlite:/// or postgresql://. Leave it out to keep rows in "
                "store.db under the data directory."
            )

    def _check_listeners(self) -> None:
        if self.host != "localhost":
            try:
                ipaddress.ip_address(self.host)
            except ValueError:
                raise SettingsError(
                    f"--host {self.host} is not an IP address. Give the address to listen on, such as "
                    "127.0.0.1, or 0.0.0.0 for all."
                ) from None
        if self.dev and not self.loopback:
            raise SettingsError(
                f"--dev believes whatever name a caller gives, so it listens on loopback only; --host "
                f"{self.host} could be reached by others. Leave out --host, or leave out --dev."
            )
        for option, port in (("--port", self.port), ("--grpc-port", self.grpc_port)):
            if not 0 <= port <= 65535:
                raise SettingsError(f"{option} {port} is not a port. Give 1 to 65535, or 0 for any free one.")
        if self.port == self.grpc_port != 0:
            raise SettingsError(
                f"REST and gRPC cannot share port {self.port}. Give --port and --grpc-port different values."
            )

    def _check_token(self) -> None:
        given = (self.hsm_module is not None, bool(self.hsm_token), self.hsm_pin_file is not None)
        if any(given) and not all(given):
            raise SettingsError(
                "Keys in a token need --hsm-module (its PKCS#11 library), --hsm-token (its label) and "
                "--hsm-pin-file (a file with its PIN, readable by this user only), all three."
            )

    def _check_names(self) -> None:
        if not _DOMAIN.fullmatch(self.universe):
            raise SettingsError(
                f"The universe domain {self.universe!r} is not a domain name in lower case, such as "
                "kms.example.com."
            )
        for region in self.aml_regions:
            if not _REGION.fullmatch(region):
                raise SettingsError(f"The region {region!r} does not look like one, such as europe-west4.")

    def _check_limits(self) -> None:
        if self.key_poll_interval < dt.timedelta(seconds=1):
            raise SettingsError("The key poll interval must be one second or more.")
        if not 256 * 1024 <= self.max_body <= 64 * MAX_BODY:
            raise SettingsError(
                "The largest request must be between 256 KiB, which the largest Cloud KMS call needs, "
                "and 64 MiB."
            )
        if not 1 <= self.workers <= MAX_WORKERS:
            raise SettingsError(
                f"--workers {self.workers} is out of range. Give 1 to {MAX_WORKERS}; one per processor core "
                "that API calls may use is a good number."
            )
        if self.drain < 0:
            raise SettingsError("The time that running calls get to end cannot be negative.")
