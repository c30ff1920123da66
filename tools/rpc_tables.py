"""Write the tables of known RPCs, `rpcs.json`, that the served APIs are held against.

    python tools/rpc_tables.py

Reads names and HTTP bindings from the official client packages, so that an RPC which no function declares
answers UNIMPLEMENTED, and a new one in a newer package shows up as a difference.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "keystead"

# room -> [(client package, module of its REST base transport, proto service)]
TABLES = {
    "kms": [
        ("kms_v1", "key_management_service", "google.cloud.kms.v1.KeyManagementService"),
        ("kms_v1", "ekm_service", "google.cloud.kms.v1.EkmService"),
        ("kms_v1", "autokey", "google.cloud.kms.v1.Autokey"),
        ("kms_v1", "autokey_admin", "google.cloud.kms.v1.AutokeyAdmin"),
        ("kms_v1", "hsm_management", "google.cloud.kms.v1.HsmManagement"),
    ],
    "financialservices": [("financialservices_v1", "aml", "google.cloud.financialservices.v1.AML")],
}
MIXINS = {
    "GetLocation": "google.cloud.location.Locations",
    "ListLocations": "google.cloud.location.Locations",
    "GetIamPolicy": "google.iam.v1.IAMPolicy",
    "SetIamPolicy": "google.iam.v1.IAMPolicy",
    "TestIamPermissions": "google.iam.v1.IAMPolicy",
    "GetOperation": "google.longrunning.Operations",
    "ListOperations": "google.longrunning.Operations",
    "CancelOperation": "google.longrunning.Operations",
    "DeleteOperation": "google.longrunning.Operations",
    "WaitOperation": "google.longrunning.Operations",
}


def rules_of(package: str, module: str, service: str) -> dict[str, list[list[str | None]]]:
    """`{rpc: [["POST /v1/...", body], ...]}` of one client."""
    transports = importlib.import_module(f"google.cloud.{package}.services.{module}.transports.rest_base")
    bases = {name: kind for name, kind in vars(transports).items() if name.endswith("RestTransport")}
    base = next(kind for name, kind in bases.items() if name.startswith("_Base"))
    table: dict[str, list[list[str | None]]] = {}
    for name, nested in vars(base).items():
        if not inspect.isclass(nested) or not name.startswith("_Base"):
            continue
        options = getattr(nested, "_get_http_options", None)
        if options is None:
            continue
        rpc = name.removeprefix("_Base")
        if rpc in MIXINS:
            continue
        table[f"{service}/{rpc}"] = [[f"{o['method'].upper()} {o['uri']}", o.get("body")] for o in options()]
    return table


def main() -> None:
    for room, clients in TABLES.items():
        table: dict[str, list[list[str | None]]] = {}
        for client in clients:
            table.update(rules_of(*client))
        path = SOURCE / room / "rpcs.json"
        path.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")
        print(f"{path.name}: {room}: {len(table)} RPCs")


if __name__ == "__main__":
    main()
