"""What is served, held against the official packages: every RPC, every HTTP binding."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from keystead.api.method import HttpRule
from keystead.api.registry import Registry
from keystead.server.settings import Settings
from keystead.server.wiring import build

ROOT = Path(__file__).parents[2]
UNIMPLEMENTED = Path(__file__).parent / "unimplemented.txt"

# Mixin RPCs are bound by every API that mixes them in: which client package says how.
CLIENTS = {
    "cloudkms": ("kms_v1", ("key_management_service",)),
    "financialservices": ("financialservices_v1", ("aml",)),
    "cloudresourcemanager": ("resourcemanager_v3", ("projects", "organizations")),
}
MIXINS = ("google.cloud.location.", "google.iam.v1.", "google.longrunning.")
# Resource Manager v1 is spoken by gcloud, whose own commands are its test.
NOT_IN_PACKAGES = ("keystead.", "google.cloudresourcemanager.v1.")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The table of a whole server."""
    platform = build(Settings(data_dir=tmp_path_factory.mktemp("rpcs") / "data", dev=True))
    yield platform.registry
    platform.close()


@pytest.fixture(scope="module")
def rpc_tables() -> ModuleType:
    """The tool that writes the tables of known RPCs."""
    spec = importlib.util.spec_from_file_location("rpc_tables", ROOT / "tools" / "rpc_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_list_of_unimplemented_rpcs_is_kept(registry: Registry) -> None:
    """unimplemented.txt names exactly the RPCs of the served APIs that answer UNIMPLEMENTED."""
    assert sorted(registry.unimplemented()) == UNIMPLEMENTED.read_text().split()


def test_the_tables_of_known_rpcs_are_those_of_the_official_packages(
    rpc_tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running the tool again on the installed packages writes the committed tables, byte for byte."""
    for room in rpc_tables.TABLES:
        (tmp_path / room).mkdir()
    monkeypatch.setattr(rpc_tables, "SOURCE", tmp_path)
    rpc_tables.main()

    for room in rpc_tables.TABLES:
        committed = (ROOT / "src" / "keystead" / room / "rpcs.json").read_bytes()
        assert (tmp_path / room / "rpcs.json").read_bytes() == committed, room


def official_rules(package: str, module: str) -> dict[str, set[HttpRule]]:
    """Short method name to its HTTP bindings in a client package, mixins included."""
    base = importlib.import_module(f"google.cloud.{package}.services.{module}.transports.rest_base")
    transport = next(
        found for name, found in vars(base).items() if name.startswith("_Base") and name.endswith("Transport")
    )
    rules: dict[str, set[HttpRule]] = {}
    for name, nested in vars(transport).items():
        options = getattr(nested, "_get_http_options", None)
        if inspect.isclass(nested) and options is not None:
            rules[name.removeprefix("_Base")] = {
                HttpRule(option["method"].upper(), option["uri"], option.get("body")) for option in options()
            }
    return rules


def official(rpc: str, prefix: str) -> set[HttpRule]:
    """The bindings of an RPC in the client packages of the API with that path prefix."""
    name, short = rpc.rsplit("/", 1)
    package, modules = CLIENTS[prefix]
    own = [module for module in modules if name.lower().endswith(f".{module}")]
    return set().union(*(official_rules(package, module).get(short, set()) for module in own or modules))


def test_http_bindings_are_the_official_ones(registry: Registry) -> None:
    """An RPC has exactly the bindings of its client package; a mixin has none that no API gives it."""
    checked = 0
    for rpc, method in registry.methods.items():
        prefixes = [service.prefix for service in method.services if service.prefix in CLIENTS]
        if not prefixes or rpc.startswith(NOT_IN_PACKAGES):
            continue
        served = set(method.spec.http)
        rules = set().union(*(official(rpc, prefix) for prefix in prefixes))
        assert served, rpc
        if rpc.startswith(MIXINS):
            assert served <= rules, rpc
        else:
            assert served == rules, rpc
        checked += 1
    assert checked > 40
