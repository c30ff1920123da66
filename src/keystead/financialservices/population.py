"""The made-up bank behind generated data: its parties, accounts, money launderers and what they did.

Owns every draw behind `generator`, in numbers; names, texts and files are `generator`. Everything is drawn
from the seed alone. Instants are int64 microseconds since 1970 UTC; parties, accounts and launderers are
named by their index.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

DAY: Final = 86_400_000_000
HOUR: Final = 3_600_000_000
MONTHS: Final = 24
START: Final = int(dt.datetime(2024, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
END: Final = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp()) * 1_000_000
NEVER: Final = np.iinfo(np.int64).max

TYPES: Final = ("CARD", "WIRE", "CASH", "CHECK", "OTHER", "CRYPTO")
CARD, WIRE, CASH = 0, 1, 2
DIRECTIONS: Final = ("DEBIT", "CREDIT")
DEBIT, CREDIT = 0, 1
REGIONS: Final = ("DE", "FR", "NL", "GB", "US", "CH", "PL", "TR", "AE", "KP", "IR", "MM")
HIGH_RISK_REGIONS: Final = (9, 10, 11)
COUNTERPARTIES: Final = 4_000

# Per type: share of all, share of debits, and ln(amount) as mean and deviation.
_KIND_SHARE: Final = (0.55, 0.22, 0.12, 0.04, 0.05, 0.02)
_DEBIT_SHARE: Final = np.array((0.97, 0.5, 0.6, 0.5, 0.6, 0.5))
_LOG_MEAN: Final = np.array((3.4, 6.3, 4.6, 5.5, 4.0, 5.2))
_LOG_DEVIATION: Final = np.array((1.0, 1.3, 0.8, 1.0, 1.0, 1.2))
_TRANSFER_SHARE = 0.04

_LAUNDERER_SHARE = 0.012
_LAUNDERING_SHARE = 0.05
_LAUNDERING_ROWS = 60


@dataclass(frozen=True)
class Transactions:
    """Columns of transactions. `counterparty` indexes names and `other_account` accounts; -1 is NULL."""

    time: Ints
    account: Ints
    kind: Ints
    direction: Ints
    cents: Ints
    region: Ints
    counterparty: Ints
    other_account: Ints

    def taken(self, rows: Ints) -> Transactions:
        return Transactions(*(column[rows] for column in self._columns()))

    def joined(self, *others: Transactions) -> Transactions:
        columns = [self._columns(), *(other._columns() for other in others)]
        return Transactions(*(np.concatenate(same) for same in zip(*columns, strict=True)))

    def sorted(self) -> Transactions:
        return self.taken(np.argsort(self.time, kind="stable"))

    def _columns(self) -> tuple[Ints, ...]:
        return (
            self.time, self.account, self.kind, self.direction,
            self.cents, self.region, self.counterparty, self.other_account,
        )  # fmt: skip


@dataclass(frozen=True)
class Launderers:
    """Parties that launder money, from `begin` to `finish`; every other one structures cash deposits, the
    rest passes wires through. `rows`: transactions of each (even)."""

    party: Ints
    begin: Ints
    finish: Ints
    rows: int


@dataclass(frozen=True)
class Cases:
    """Risk cases, one per index. `guilty` indexes Launderers (-1: the investigation found nothing); instants
    past END have not happened yet, NEVER will not."""

    party: Ints
    guilty: Ints
    alert: Ints
    start: Ints
    sar: Ints
    exit: Ints
    finish: Ints


@dataclass(frozen=True)
class Bank:
    """The population. `weight` is the share of an account in ordinary activity, `steady` the accounts whose
    owner was there from START to END."""

    company: Bools
    join: Ints
    exit: Ints
    owner: Ints
    weight: Floats
    steady: Ints
    launderers: Launderers
    cases: Cases


def populate(rng: np.random.Generator, parties: int, transactions: int) -> Bank:
    """A bank of `parties` (at least 20) whose launderers will make at most a twentieth of `transactions`."""
    company = rng.random(parties) < 0.18
    join = START - rng.integers(365, 15 * 365, parties) * DAY
    newcomer = rng.random(parties) < 0.15
    join[newcomer] = START + rng.integers(0, (END - START) // DAY - 60, int(newcomer.sum())) * DAY
    # There must be customers from the beginning, also in the smallest bank.
    join[: parties // 4] = np.minimum(join[: parties // 4], START - DAY)
    launderers = _launderers(rng, join, transactions)
    cases = _cases(rng, parties, launderers)
    exit_time = np.full(parties, NEVER)
    exit_time[cases.party[cases.exit < END]] = cases.exit[cases.exit < END]
    owner = np.repeat(np.arange(parties), 1 + np.minimum(rng.poisson(0.5, parties), 4))
    activity = rng.lognormal(0.0, 1.0, parties) * np.where(company, 4.0, 1.0)
    weight = activity[owner] / np.bincount(owner)[owner]
    steady = np.flatnonzero((join[owner] < START) & (exit_time[owner] == NEVER))
    return Bank(company, join, exit_time, owner, weight, steady, launderers, cases)


def _launderers(rng: np.random.Generator, join: Ints, transactions: int) -> Launderers:
    old = np.flatnonzero(join < START)
    count = min(max(2, round(len(join) * _LAUNDERER_SHARE)), len(old) // 2)
    rows = min(_LAUNDERING_ROWS, int(transactions * _LAUNDERING_SHARE) // count) // 2 * 2
    party = rng.choice(old, count, replace=False).astype(np.int64)
    # Most have time to be caught before END; every fourth is at it when the data ends.
    begin = START + rng.integers(30 * DAY, (END - START) - 245 * DAY, count)
    late = np.arange(count) % 4 == 3
    begin[late] = END - rng.integers(125 * DAY, 150 * DAY, int(late.sum()))
    return Launderers(party, begin, begin + rng.integers(60 * DAY, 120 * DAY, count), rows)


def _cases(rng: np.random.Generator, parties: int, launderers: Launderers) -> Cases:
    """Four of five launderers are found, some after END; four times as many investigations find nothing."""
    caught = np.flatnonzero(np.arange(len(launderers.party)) % 5 != 4)
    innocent = np.setdiff1d(np.arange(parties), launderers.party)
    cleared = rng.choice(innocent, min(4 * len(caught), len(innocent)), replace=False)
    party = np.concatenate([launderers.party[caught], cleared])
    guilty = np.concatenate([caught, np.full(len(cleared), -1)])

    def later(since: Ints, least: int, most: int) -> Ints:
        return since + rng.integers(least * DAY, most * DAY, len(since))

    start = np.concatenate(
        [
            later(launderers.finish[caught], 20, 60),
            rng.integers(START + 30 * DAY, END, len(cleared)),
        ]
    )
    sar = later(start, 20, 40)
    leave = later(sar, 1, 15)
    sar[guilty < 0] = leave[guilty < 0] = NEVER
    finish = np.where(guilty < 0, later(start, 20, 60), later(np.where(guilty < 0, start, leave), 1, 5))
    return Cases(party, guilty, start - rng.integers(DAY, 5 * DAY, len(start)), start, sar, leave, finish)


def laundering(rng: np.random.Generator, bank: Bank) -> Transactions:
    """What the launderers do, `rows` transactions each, in the order of time.

    Structuring: cash deposits just below 10,000. Pass-through: a wire comes in, and within 48 hours nearly
    all of it goes on to a high-risk country.
    """
    who = bank.launderers
    first_account = np.searchsorted(bank.owner, who.party)
    structuring = np.arange(len(who.party)) % 2 == 0
    deposits = np.repeat(np.flatnonzero(structuring), who.rows)
    passes = np.repeat(np.flatnonzero(~structuring), who.rows // 2)

    def moments(rows: Ints) -> Ints:
        span = who.finish[rows] - who.begin[rows]
        return who.begin[rows] + (rng.random(len(rows)) * span).astype(np.int64)

    cash = _uniform(
        moments(deposits),
        first_account[deposits],
        CASH,
        CREDIT,
        rng.integers(800_000, 995_001, len(deposits)),
    )
    cents = np.rint(rng.lognormal(9.0, 0.5, len(passes)) * 100).astype(np.int64)
    inward = _uniform(moments(passes), first_account[passes], WIRE, CREDIT, cents)
    inward.counterparty[:] = rng.integers(0, COUNTERPARTIES, len(passes))
    inward.region[:] = rng.integers(0, len(REGIONS), len(passes))
    delay = rng.integers(HOUR, 48 * HOUR, len(passes))
    onward = np.rint(cents * rng.uniform(0.93, 0.99, len(passes))).astype(np.int64)
    outward = _uniform(inward.time + delay, first_account[passes], WIRE, DEBIT, onward)
    outward.counterparty[:] = rng.integers(0, COUNTERPARTIES, len(passes))
    outward.region[:] = rng.choice(HIGH_RISK_REGIONS, len(passes))
    return cash.joined(inward, outward).sorted()


def _uniform(time: Ints, account: Ints, kind: int, direction: int, cents: Ints) -> Transactions:
    """Transactions of one kind at home, without a counterparty."""
    count = len(time)
    absent = np.full(count, -1)
    return Transactions(
        time, account, np.full(count, kind), np.full(count, direction), cents,
        np.zeros(count, dtype=np.int64), absent, absent.copy(),
    )  # fmt: skip


def ordinary(rng: np.random.Generator, bank: Bank, count: int, begin: int, end: int) -> Transactions:
    """`count` everyday transactions; transfers inside the bank are two of them, one for each side."""
    pairs = int(count * _TRANSFER_SHARE)
    single = count - 2 * pairs
    kind = rng.choice(len(TYPES), single, p=_KIND_SHARE).astype(np.int64)
    direction = (rng.random(single) >= _DEBIT_SHARE[kind]).astype(np.int64)
    time = rng.integers(begin, end, single)
    account = _active(rng, bank, time)
    named = np.where(kind == CASH, -1, rng.integers(0, COUNTERPARTIES, single))
    region, nobody = regions(rng, single, 0.06), np.full(single, -1)
    alone = Transactions(time, account, kind, direction, _cents(rng, kind), region, named, nobody)
    wire, home, nobody = np.full(pairs, WIRE), np.zeros(pairs, dtype=np.int64), np.full(pairs, -1)
    time = rng.integers(begin, end, pairs)
    payer, payee = _active(rng, bank, time), rng.choice(bank.steady, pairs)
    cents = _cents(rng, wire)
    paid = Transactions(time, payer, wire, home + DEBIT, cents, home, nobody, payee)
    received = Transactions(time, payee, wire, home + CREDIT, cents, home, nobody, payer)
    return alone.joined(paid, received)


def regions(rng: np.random.Generator, count: int, foreign: float) -> Ints:
    """Indexes of REGIONS: at home (0), but for a share of `foreign`."""
    abroad = rng.random(count) < foreign
    return np.where(abroad, rng.integers(1, len(REGIONS), count), 0)


def _cents(rng: np.random.Generator, kind: Ints) -> Ints:
    logs = _LOG_MEAN[kind] + rng.standard_normal(len(kind)) * _LOG_DEVIATION[kind]
    cents: Ints = np.maximum(np.rint(np.exp(logs) * 100), 1).astype(np.int64)
    return cents


def _active(rng: np.random.Generator, bank: Bank, time: Ints) -> Ints:
    """Accounts by their weight, each with an owner who is a customer at that time."""
    chances = np.cumsum(bank.weight)
    drawn = np.searchsorted(chances, rng.random(len(time)) * chances[-1], side="right")
    account: Ints = np.minimum(drawn, len(chances) - 1).astype(np.int64)
    owner = bank.owner[account]
    gone = np.flatnonzero((bank.join[owner] > time) | (bank.exit[owner] <= time))
    account[gone] = rng.choice(bank.steady, len(gone))
    return account
