"""Settings: what is refused, in words that say what to do, and what the defaults are."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystead.server.settings import Settings, SettingsError


def test_defaults(tmp_path: Path) -> None:
    """Left alone, everything lies under the data directory and only this machine can reach the server."""
    settings = Settings(data_dir=tmp_path)
    assert settings.loopback
    assert (settings.port, settings.grpc_port) == (8080, 8081)
    assert settings.database_url == f"sqlite:///{tmp_path}/store.db"
    assert settings.tables_dir is None
    assert settings.tls is None
    assert not settings.dev
    assert not list(tmp_path.iterdir())


def test_data_dir_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative data directory stays where it was meant to be when the process changes its own directory."""
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("data")).data_dir == tmp_path / "data"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "192.168.1.1", "2001:db8::1"])
def test_dev_is_refused_where_others_can_reach_it(tmp_path: Path, host: str) -> None:
    """Development mode on an address that is not loopback is refused, and the text names both ways out."""
    with pytest.raises(SettingsError, match=r"loopback only.*Leave out --host, or leave out --dev"):
        Settings(data_dir=tmp_path, dev=True, host=host)


@given(st.ip_addresses())
def test_dev_listens_on_loopback_addresses_only(address: Any) -> None:
    """Of all addresses exactly the loopback ones may be combined with development mode."""
    try:
        Settings(data_dir=Path("x"), dev=True, host=str(address))
    except SettingsError:
        assert not address.is_loopback
    else:
        assert address.is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_dev_on_loopback(tmp_path: Path, host: str) -> None:
    """Every spelling of loopback is let through."""
    Settings(data_dir=tmp_path, dev=True, host=host).check_servable()


def test_serving_without_proof_is_refused(tmp_path: Path) -> None:
    """Without development mode nobody could prove who they are, so serving is refused and says so."""
    with pytest.raises(SettingsError, match=r"no way yet to prove who a caller is.*Start with --dev"):
        Settings(data_dir=tmp_path).check_servable()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"port": 70000}, "--port 70000 is not a port"),
        ({"grpc_port": -1}, "--grpc-port -1 is not a port"),
        ({"port": 9000, "grpc_port": 9000}, "cannot share port 9000"),
        ({"host": "example.com"}, "not an IP address"),
        ({"host": ""}, "not an IP address"),
        ({"universe": "Not A Domain"}, "not a domain name"),
        ({"universe": "x..y"}, "not a domain name"),
        ({"universe": "example.com\n"}, "not a domain name"),
        ({"aml_regions": ("Mars",)}, "does not look like one"),
        ({"key_poll_interval": dt.timedelta(0)}, "poll interval"),
        ({"max_body": 1000}, "between 256 KiB"),
        ({"max_body": 1 << 40}, "64 MiB"),
        ({"drain": -1}, "cannot be negative"),
        ({"store_url": "mysql://x"}, "sqlite:/// or postgresql://"),
        ({"tls_cert": Path("/nowhere/cert.pem")}, "belong together"),
        (
            {"tls_cert": Path("/nowhere/c"), "tls_key": Path("/nowhere/k")},
            "--tls-cert /nowhere/c is not a file",
        ),
        ({"tables_dir": Path("/nowhere/tables")}, "is not a directory. Create it"),
        ({"data_dir": Path(__file__)}, "is not a directory. Name a directory"),
    ],
)
def test_what_is_refused_says_what_to_do(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """A setting that cannot work is refused before anything is opened, by name."""
    with pytest.raises(SettingsError, match=words.replace(".", r"\.")):
        Settings(**{"data_dir": tmp_path, **changes})


def test_free_ports_may_be_asked_for_twice(tmp_path: Path) -> None:
    """Port 0 takes any free port, for both listeners."""
    assert Settings(data_dir=tmp_path, port=0, grpc_port=0).grpc_port == 0


def test_store_password_is_not_shown(tmp_path: Path) -> None:
    """The store's URL may hold a password: it is in no repr and in no refusal."""
    settings = Settings(data_dir=tmp_path, store_url="postgresql://u:pass-canary@h/db")
    assert "pass-canary" not in repr(settings)
    with pytest.raises(SettingsError) as refused:
        Settings(data_dir=tmp_path, store_url="mysql://u:pass-canary@h/db")
    assert "pass-canary" not in str(refused.value)


def test_settings_do_not_change(tmp_path: Path) -> None:
    """What was checked stays as it was checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.__setattr__(Settings(data_dir=tmp_path), "dev", True)


def test_tls_files(tmp_path: Path) -> None:
    """A certificate and its key are given together, for both listeners."""
    cert, key = tmp_path / "c", tmp_path / "k"
    cert.touch()
    key.touch()
    assert Settings(data_dir=tmp_path, tls_cert=cert, tls_key=key).tls == (cert, key)


def test_input_tables_do_not_lie_in_the_data_directory(tmp_path: Path) -> None:
    """Plaintext tables inside the data directory would break the promise made of that directory."""
    inside = tmp_path / "data" / "tables"
    inside.mkdir(parents=True)
    with pytest.raises(SettingsError, match="inside the data directory"):
        Settings(data_dir=tmp_path / "data", tables_dir=inside)
