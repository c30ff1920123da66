"""Lists: page sizes, page tokens, ordering, and making pages out of rows.

It owns what every `List` method does alike (AIP-132, AIP-158; Cloud KMS "Sorting and filtering"). It does
not know where rows live: `collect` is given a function that seeks. Rows come with a sort key, a text whose
order is the default order of the list (a store pads version numbers so that they sort as numbers); the
field `name` orders by it.

A page costs what it shows, however long the list: in the order of `name`, either way, it is sought, and at
most MAX_SCAN rows are looked at for it. A page of a filtered list may so be short, or empty, with a token to
go on (AIP-158: only a page without a token is the last).

A page token says after which row to go on, and which list it belongs to: sent with any other parameters
it is refused. It is not signed: it grants nothing, as the parent it is used with is authorized anew.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from keystead.api import filters
from keystead.api.errors import InvalidArgument, bad_field
from keystead.api.filter_values import nanoseconds, parse_timestamp
from keystead.api.masks import find_field, is_map

M = TypeVar("M", bound=Message | Mapping[str, Any])

#: Rows after a sort key (None: from the first), in a list's order, at most so many; fewer only at the end.
Fetch: TypeAlias = Callable[[str | None, int], Sequence[tuple[str, M]]]

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
#: Rows looked at for one page: some tenths of a second, and between two pages a caller can stop.
MAX_SCAN = 20_000

# Rows asked for at once where a filter lets few of them through.
_BATCH = 500
_MAX_ORDER_TERMS = 10
_TOKEN_VERSION = 1
# Version, binding, offset; the sort key follows.
_HEADER = 1 + 16 + 8
_ORDERED_MESSAGES = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})
_ORDER_TERM = re.compile(
    r"([A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*)(?:\s+(asc|desc))?", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True, slots=True)
class OrderTerm:
    """One field of an `order_by`: its dotted path as the caller spelled it, and the direction."""

    path: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a List request asks for. `after` and `offset` are where the page before ended.

    `binding` is a digest of the request's parameters, page size and token aside.
    """

    parent: str
    page_size: int
    binding: bytes
    after: str | None = None
    offset: int = 0
    filter: filters.Filter | None = None
    order: tuple[OrderTerm, ...] = ()

    def next_token(self, last_sort_key: str, offset: int = 0) -> str:
        """The token of the page that follows the row with this sort key.

        `offset` counts the rows before that page; it serves orders in which a key alone does not tell.
        """
        header = bytes([_TOKEN_VERSION]) + self.binding + offset.to_bytes(8, "big")
        return base64.urlsafe_b64encode(header + last_sort_key.encode()).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """One page. `next_page_token` is "" on the last; `total` is None where a filter hides it."""

    items: list[M]
    next_page_token: str = ""
    total: int | None = None


def parse_order(order_by: str) -> list[OrderTerm]:
    """The terms of an `order_by`: "name", "name desc", "create_time desc, name"; "" has none.

    Raises InvalidArgument for anything else, for a field named twice, and for more than ten terms.
    """
    if not order_by.strip():
        return []
    parts = order_by.split(",")
    if len(parts) > _MAX_ORDER_TERMS:
        raise _bad_order(f"more than {_MAX_ORDER_TERMS} terms")
    terms: list[OrderTerm] = []
    for part in parts:
        found = _ORDER_TERM.fullmatch(part.strip())
        if found is None:
            raise _bad_order(f"'{part.strip()[:100]}' is not a field with an optional 'asc' or 'desc'")
        terms.append(OrderTerm(found[1], (found[2] or "").lower() == "desc"))
    if len({term.path for term in terms}) < len(terms):
        raise _bad_order("a field is named twice")
    return terms


def page_request(
    request: Message,
    *,
    default: int = DEFAULT_PAGE_SIZE,
    maximum: int = MAX_PAGE_SIZE,
    of: Descriptor | None = None,
    parse_filter: Callable[[str], filters.Filter] = filters.parse,
) -> PageRequest:
    """What a raw List request asks for, from those of its fields page_size, page_token, filter (if text)
    and order_by that its type has, and from `parent` (else `name`, else "").

    No page size means `default`; one above `maximum` means `maximum`. Raises InvalidArgument for a negative
    page size, a bad filter or order, and a page token that is not one issued for the same parameters. With
    `of`, the type of the rows, that includes fields the type does not have, even where there are no rows.
    """
    size = int(getattr(request, "page_size", 0))
    if size < 0:
        raise bad_field("page_size", "must not be negative", "The page size must not be negative.")
    binding = _binding(request)
    after, offset = _read_token(_text(request, "page_token"), binding)
    text = _text(request, "filter")
    chosen = parse_filter(text) if text.strip() else None
    order = tuple(parse_order(_text(request, "order_by")))
    if of is not None:
        if chosen is not None:
            chosen.check(of)
        for term in order:
            _order_fields(of, term.path)
    return PageRequest(
        parent=_text(request, "parent") or _text(request, "name"),
        page_size=min(size or default, maximum),
        binding=binding,
        after=after,
        offset=offset,
        filter=chosen,
        order=order,
    )


def collect(
    page: PageRequest,
    fetch: Fetch[M],
    *,
    backward: Fetch[M] | None = None,
    total: Callable[[], int] | None = None,
) -> Page[M]:
    """The page asked for, out of a store's rows: raw messages or documents.

    `fetch` goes up the sort keys, `backward` down. In these orders it reads on from the last page, in
    batches, until the page is full or MAX_SCAN rows were looked at. For any other order all rows of the
    parent are read and sorted here, if they are no more than that. `total` counts all rows; it is asked only
    where there is no filter. Raises InvalidArgument for a filter or order that names a field the rows do not
    have, and for a list that is too long for its order.
    """
    count = total() if total is not None and page.filter is None else None
    first = page.order[0] if page.order else OrderTerm("name")
    walk = backward if first.descending else fetch
    items, token = _seek(page, walk) if first.path == "name" and walk is not None else _sorted(page, fetch)
    return Page(items, token, count)


def paginate(rows: Iterable[M], page: PageRequest, *, key: Callable[[M], str]) -> Page[M]:
    """`collect` over rows that are in memory; `key` gives their sort keys, which must differ."""
    keyed = sorted(((key(row), row) for row in rows), key=lambda entry: entry[0])
    keys = [sort_key for sort_key, _ in keyed]

    def fetch(after: str | None, limit: int) -> Sequence[tuple[str, M]]:
        start = 0 if after is None else bisect.bisect_right(keys, after)
        return keyed[start : start + limit]

    return collect(page, fetch, total=lambda: len(keyed))


def _seek(page: PageRequest, walk: Fetch[M]) -> tuple[list[M], str]:
    items: list[M] = []
    after, seen = page.after, 0
    # One row more than the page holds tells whether there is a next one. No more at first, with a filter too:
    # where it matches often, what is read beyond the page is read for nothing.
    batch = page.page_size + 1
    while True:
        rows = walk(after, batch)
        for key, row in rows:
            if page.filter is None or page.filter.matches(row):
                if len(items) == page.page_size:
                    return items, page.next_token(after or "")
                items.append(row)
            after = key
        seen += len(rows)
        if len(rows) < batch:
            return items, ""
        # A full page does not look for the next match, which may be far away.
        if len(items) == page.page_size or seen >= MAX_SCAN:
            return items, page.next_token(after or "")
        batch = min(batch * 2, max(page.page_size + 1, _BATCH), MAX_SCAN - seen)


def _sorted(page: PageRequest, fetch: Fetch[M]) -> tuple[list[M], str]:
    rows = [(key, row) for key, row in _all(fetch) if page.filter is None or page.filter.matches(row)]
    # Later terms first: sorting is stable, and the order they were fetched in breaks the last ties.
    for term in reversed(page.order):
        ranked = [(_rank(key, row, term.path), (key, row)) for key, row in rows]
        ranked.sort(key=lambda entry: entry[0], reverse=term.descending)
        rows = [row for _, row in ranked]
    start = _resume(page, [key for key, _ in rows])
    chosen = rows[start : start + page.page_size]
    end = start + len(chosen)
    token = page.next_token(chosen[-1][0], end) if chosen and end < len(rows) else ""
    return [row for _, row in chosen], token


def _resume(page: PageRequest, keys: list[str]) -> int:
    """Where to go on in an order that is not that of the keys."""
    after = page.after
    if after is None:
        return 0
    # Behind the last row of the page before, wherever it is now; if it is gone, where it was.
    return next((at + 1 for at, key in enumerate(keys) if key == after), page.offset)


def _all(fetch: Fetch[M]) -> Iterator[tuple[str, M]]:
    after: str | None = None
    seen = 0
    while True:
        rows = fetch(after, MAX_PAGE_SIZE)
        seen += len(rows)
        if seen > MAX_SCAN:
            raise _bad_order(f"a list of more than {MAX_SCAN} can be ordered by 'name' only")
        yield from rows
        if len(rows) < MAX_PAGE_SIZE:
            return
        after = rows[-1][0]


# Values of different kinds are ordered by kind, so that mixed documents sort too; absent ones come first.
_Rank: TypeAlias = tuple[int, Any]


def _rank(key: str, row: Message | Mapping[str, Any], path: str) -> _Rank:
    if path == "name":
        return (0, key)
    value = _message_value(row, path) if isinstance(row, Message) else _document_value(row, path)
    if value is None:
        return (0, "")
    if isinstance(value, Message):
        return (1, nanoseconds(value))
    if isinstance(value, bool | int | float):
        return (1, value)
    if isinstance(value, bytes):
        return (4, value)
    moment = None if isinstance(row, Message) else parse_timestamp(str(value))
    return (3, str(value)) if moment is None else (2, moment)


def _document_value(document: Mapping[str, Any], path: str) -> Any:
    found = list(filters.lookup(document, tuple(path.split("."))))
    return found[0] if len(found) == 1 and isinstance(found[0], str | int | float) else None


def _message_value(message: Message, path: str) -> Any:
    value: Any = message
    fields, key = _order_fields(cast(Descriptor, message.DESCRIPTOR), path)
    for field in fields:
        if field.has_presence and not value.HasField(field.name):
            return None
        value = getattr(value, field.name)
    return value if key is None else value.get(key)


def _order_fields(descriptor: Descriptor, path: str) -> tuple[list[FieldDescriptor], str | None]:
    """The fields along a path to order by, and the key if it ends in an entry of a map of text."""
    fields: list[FieldDescriptor] = []
    segments = path.split(".")
    current: Descriptor | None = descriptor
    for depth, segment in enumerate(segments):
        field = find_field(current, segment) if current is not None else None
        if field is None:
            raise _bad_order(f"there is no field '{path[:100]}'")
        fields.append(field)
        current = field.message_type
        rest = ".".join(segments[depth + 1 :])
        if is_map(field) and rest and _is_text(field.message_type, "key") and _is_text(current, "value"):
            return fields, rest
        if field.is_repeated:
            raise _bad_order(f"field '{path[:100]}' has many values")
    if current is not None and current.full_name not in _ORDERED_MESSAGES:
        raise _bad_order(f"field '{path[:100]}' is a message")
    return fields, None


def _is_text(entry: Descriptor | None, part: str) -> bool:
    return entry is not None and entry.fields_by_name[part].type == FieldDescriptor.TYPE_STRING


def _binding(request: Message) -> bytes:
    """A digest of the kind of request and of all its parameters but the page's."""
    parameters = type(request)()
    parameters.CopyFrom(request)
    for name in ("page_size", "page_token"):
        if name in parameters.DESCRIPTOR.fields_by_name:
            parameters.ClearField(name)
    kind = parameters.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(kind + b"\0" + parameters.SerializeToString(deterministic=True)).digest()[:16]


def _read_token(token: str, binding: bytes) -> tuple[str | None, int]:
    if not token:
        return None, 0
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        after = raw[_HEADER:].decode()
    except (binascii.Error, ValueError):
        raise _bad_token() from None
    # One spelling per token: nothing but what next_token wrote gets through.
    spelled = base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
    if len(raw) < _HEADER or raw[0] != _TOKEN_VERSION or raw[1:17] != binding or spelled != token:
        raise _bad_token()
    return after, int.from_bytes(raw[17:_HEADER], "big")


def _text(request: Message, name: str) -> str:
    field = request.DESCRIPTOR.fields_by_name.get(name)
    # Dataflow's `filter` is an enum: not a text to be parsed.
    if field is None or field.type != FieldDescriptor.TYPE_STRING or field.is_repeated:
        return ""
    return str(getattr(request, name))


def _bad_order(why: str) -> InvalidArgument:
    return bad_field("order_by", why, f"The order is invalid: {why}.")


def _bad_token() -> InvalidArgument:
    return bad_field("page_token", "not a token of this list", "The page token is invalid.")
