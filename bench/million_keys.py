"""What a store of a million keys costs a call, beside a store of ten.

Encrypt under ten keys that are used again and again, and pages of ListCryptoKeys, each through the dispatcher
of a whole platform on SQLite, in turns. Wall-clock time per call is compared, for pages with the same number
of keys; of many short samples the tenth percentile, as the median tells more of what else runs on a busy
machine. Printed besides, without a limit: Encrypt under keys drawn at random from the million, which no cache
holds, and a page whose filter nothing matches. Exit status 1 if a target is missed.

The million is loaded by inserting rows, not by a million calls. They are rows as CreateCryptoKey writes them:
copies of a key that was made by a call, under other names, each with material of its own, which the software
back end made and wrapped. They lie in the store in another order than that of their names. Needs 2 GB of disk
while it runs.

Run: `python bench/million_keys.py [--keys 1000000] [--rounds 201]`
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _measure import verdict
from rich.progress import Progress
from sqlalchemy import Table
from sqlalchemy.dialects import sqlite

from keystead.api.call import Call
from keystead.api.lists import page_request
from keystead.kms.algorithms import ALGORITHMS
from keystead.kms.backends.software import SoftwareBackend
from keystead.kms.messages import (
    CreateCryptoKeyRequest,
    CreateKeyRingRequest,
    CryptoKey,
    CryptoKeyVersion,
    EncryptRequest,
    ListCryptoKeysRequest,
)
from keystead.server.settings import Settings
from keystead.server.wiring import Platform, build
from keystead.store.schema import children, key_material, resources

ENCRYPT_TARGET = 1.3
LIST_TARGET = 2.0
FEW = 10
OWNER = "user:owner@example.com"
KMS = "google.cloud.kms.v1.KeyManagementService"
RING = "projects/bench1/locations/global/keyRings/r"
PLAINTEXT = bytes(32)
BATCH = 5_000
ENCRYPTS = 50  # calls of one sample: together shorter than a page of a list


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=201)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        platform_of(Path(scratch) / "few", FEW) as few,
        platform_of(Path(scratch) / "many", options.keys) as many,
    ):
        good = [compare_encrypt(few, many, options.rounds), compare_lists(few, many, options.rounds)]
        show_the_rest(many)
    return 0 if all(good) else 1


# --- stores -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """A platform and how many keys its ring has."""

    platform: Platform
    count: int

    def ask(self, rpc: str, request: Any) -> Any:
        return self.platform.dispatcher.call(f"{KMS}/{rpc}", request, Call(principal=OWNER))


@contextmanager
def platform_of(data: Path, count: int) -> Iterator[Keys]:
    """A platform whose one ring has that many keys."""
    platform = build(Settings(data_dir=data, dev=True))
    try:
        keys = Keys(platform, count)
        parent, _, ring = RING.partition("/keyRings/")
        keys.ask("CreateKeyRing", CreateKeyRingRequest(parent=parent, key_ring_id=ring))
        first = label(CryptoKey(purpose=1), 0)
        keys.ask(
            "CreateCryptoKey", CreateCryptoKeyRequest(parent=RING, crypto_key_id=key_id(0), crypto_key=first)
        )
        load(keys, data / "store.db")
        found = keys.ask("ListCryptoKeys", ListCryptoKeysRequest(parent=RING, page_size=1)).total_size
        if found != count:
            raise RuntimeError(f"{found} keys instead of {count}")
        yield keys
    finally:
        platform.close()


def key_id(number: int) -> str:
    return f"k{number:06d}"


def label(key: Any, number: int) -> Any:
    key.labels["half"] = "even" if number % 2 == 0 else "odd"
    return key


def load(keys: Keys, path: Path) -> None:
    """Add the keys after the first, in no order."""
    rows = Rows(keys.platform)
    numbers = random.Random(1).sample(range(1, keys.count), keys.count - 1)
    keys.platform.store.close()  # the engine lets go of the file
    began = time.perf_counter()
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task(f"{keys.count} keys", total=len(numbers))
        with quickly(connection):
            for start in range(0, len(numbers), BATCH):
                some = numbers[start : start + BATCH]
                for table, values in rows.of(some).items():
                    connection.executemany(insert(table), values)
                progress.advance(task, len(some))
            connection.execute(
                "UPDATE children SET count = ?, last = ? WHERE kind = 'CryptoKey' AND parent = ?",
                (keys.count, keys.count, RING),
            )
    keys.platform.store.move_epoch()
    took, size = time.perf_counter() - began, path.stat().st_size
    print(f"{keys.count} keys: {size / 1e9:.2f} GB, loaded in {took:.0f} s")


@contextmanager
def quickly(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that no crash may disturb; the indices of the schema are dropped, and made at its end."""
    fast = ("journal_mode=DELETE", "journal_mode=OFF", "synchronous=OFF", "cache_size=-1500000")
    for pragma in (*fast, "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    indices = dict(found.fetchall())
    connection.execute("BEGIN")
    for name in indices:
        connection.execute(f"DROP INDEX {name}")
    yield
    for statement in indices.values():
        connection.execute(statement)
    connection.execute("COMMIT")


def insert(table: Table) -> str:
    """The INSERT of a whole row, given by the names of its columns."""
    return str(table.insert().compile(dialect=sqlite.dialect(paramstyle="named")))


Row = dict[str, Any]


class Rows:
    """The rows of further keys, made from those that the call for the first key wrote."""

    def __init__(self, platform: Platform) -> None:
        first = f"{RING}/cryptoKeys/{key_id(0)}"
        with platform.store.read() as tx:
            self._key, self._version = (
                asdict(tx.resources.get(name)) for name in (first, f"{first}/cryptoKeyVersions/1")
            )
        self._backend = SoftwareBackend(platform.root_key)

    def of(self, numbers: list[int]) -> dict[Table, list[Row]]:
        """The rows of the keys of these numbers, by table."""
        found: dict[Table, list[Row]] = {each: [] for each in (resources, children, key_material)}
        for number in numbers:
            key = label(CryptoKey.FromString(self._key["body"]), number)
            version = CryptoKeyVersion.FromString(self._version["body"])
            key.name = f"{RING}/cryptoKeys/{key_id(number)}"
            version.name = key.primary.name = f"{key.name}/cryptoKeyVersions/1"
            made = self._backend.generate(version.name, ALGORITHMS[version.algorithm])
            found[resources] += [
                {**self._key, "name": key.name, "sort": key_id(number), "body": key.SerializeToString()},
                {
                    **self._version,
                    "name": version.name,
                    "parent": key.name,
                    "body": version.SerializeToString(),
                },
            ]
            kind = self._version["kind"]
            found[children].append({"kind": kind, "parent": key.name, "count": 1, "last": 1})
            found[key_material].append({"name": version.name, "wrapped": made.stored, "public": None})
        return found


# --- measuring ----------------------------------------------------------------------------------------


def in_turns(few: Callable[[], None], many: Callable[[], None], calls: int, rounds: int) -> list[list[float]]:
    """Microseconds per call of both, a sample of each in every round."""
    samples: list[list[float]] = [[], []]
    for turn in range(rounds + 2):
        for at in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            for _ in range(calls):
                (few, many)[at]()
            if turn > 1:  # the first rounds warm up
                samples[at].append((time.perf_counter() - began) / calls * 1e6)
    return samples


def ratio(what: str, samples: list[list[float]], keys: int) -> float:
    """Print both contestants, and give the ratio of their tenth percentiles."""
    tenths = []
    for count, each in zip((FEW, keys), samples, strict=True):
        tenths.append(statistics.quantiles(each, n=10)[0])
        print(
            f"  {f'{what}, {count} keys':<50} {tenths[-1]:8.1f} us"
            f" ({min(each):.1f} to {max(each):.1f}, median {statistics.median(each):.1f})"
        )
    return tenths[1] / tenths[0]


def encrypting(keys: Keys, numbers: list[int]) -> Callable[[], None]:
    """One Encrypt under each of these keys in turn, and over again."""
    requests = [
        EncryptRequest(name=f"{RING}/cryptoKeys/{key_id(number)}", plaintext=PLAINTEXT) for number in numbers
    ]
    turn = iter(range(sys.maxsize))
    return lambda: keys.ask("Encrypt", requests[next(turn) % len(requests)])


def compare_encrypt(few: Keys, many: Keys, rounds: int) -> bool:
    spread = [number * (many.count // FEW) for number in range(FEW)]
    samples = in_turns(encrypting(few, list(range(FEW))), encrypting(many, spread), ENCRYPTS, rounds)
    return verdict("million_keys_encrypt_ratio", ratio("Encrypt", samples, many.count), ENCRYPT_TARGET)


def listing(keys: Keys, size: int, after: int | None = None, **asked: str) -> Callable[[], None]:
    """A page of so many keys, from the one after a number."""
    request = ListCryptoKeysRequest(parent=RING, page_size=size, **asked)
    if after is not None:
        request.page_token = page_request(request).next_token(key_id(after))

    def ask() -> None:
        if len(keys.ask("ListCryptoKeys", request).crypto_keys) != size:
            raise RuntimeError("a page has not as many keys as were asked for")

    return ask


def compare_lists(few: Keys, many: Keys, rounds: int) -> bool:
    """Pages of as many keys from both stores; the worst ratio counts."""
    middle = many.count // 2
    all_of, half = {"filter": "purpose=ENCRYPT_DECRYPT"}, {"filter": "labels.half=odd"}
    pages: dict[str, tuple[int, int | None, dict[str, str]]] = {
        "first page": (FEW, None, {}),
        "middle page": (FEW, middle, {}),
        "first page, filter all match": (FEW, None, all_of),
        "middle page, filter all match": (FEW, middle, all_of),
        "first page, filter half match": (FEW // 2, None, half),
        "middle page, filter half match": (FEW // 2, middle, half),
        "middle page, name desc": (FEW, middle, {"order_by": "name desc"}),
    }
    worst = 0.0
    for what, (size, after, asked) in pages.items():
        samples = in_turns(listing(few, size, None, **asked), listing(many, size, after, **asked), 1, rounds)
        worst = max(worst, ratio(f"{what} of {size}", samples, many.count))
    return verdict("million_keys_list_ratio", worst, LIST_TARGET)


def show_the_rest(many: Keys) -> None:
    """What nothing is promised of."""
    chance = random.Random(2)
    cold = encrypting(many, chance.sample(range(many.count), 2_000))
    show("Encrypt, keys at random", cold, 2_000)
    for after in (None, many.count // 2):
        where = "first" if after is None else "middle"
        show(f"{where} page of 100", listing(many, 100, after), 20)
    show("page with a filter that nothing matches", listing(many, 0, filter="purpose=MAC"), 3)


def show(what: str, act: Callable[[], None], calls: int) -> None:
    samples = []
    for _ in range(calls):
        began = time.perf_counter()
        act()
        samples.append((time.perf_counter() - began) * 1e6)
    print(f"  {what:<50} {statistics.median(samples):8.1f} us ({min(samples):.1f} to {max(samples):.1f})")


if __name__ == "__main__":
    sys.exit(main())
