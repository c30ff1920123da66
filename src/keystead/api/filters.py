"""List filters: which resources, or log entries, a caller asked for.

It owns the binding of a parsed filter (`filter_grammar`) to what it is asked of: raw protobuf messages,
where every path and literal is checked against the type, and documents (nested mappings, the JSON of a
message), where a path that is not there is no match. Sources: Cloud KMS "Sorting and filtering", AIP-160,
Logging query language.

What is absent equals nothing, so `!=` (the same as NOT `=`) holds for it. A field that tracks no presence
has its default value. A repeated field matches if any element does. `field:*` asks for presence.
It does not run queries: stores hand rows in, and `lists` makes pages of those that match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from keystead.api import filter_values as values
from keystead.api.errors import InvalidArgument, bad_field
from keystead.api.filter_grammar import And, Call, Comparison, Node, Not, Operator, Or, Search, parse_tree
from keystead.api.masks import find_field, is_map

Document: TypeAlias = Mapping[str, Any]
Function: TypeAlias = Callable[[Any, tuple[str, ...]], bool]
_Predicate: TypeAlias = Callable[[Any], bool]
_Step: TypeAlias = Callable[[Any], Iterable[Any]]

_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_JSON = frozenset(f"google.protobuf.{kind}" for kind in ("Struct", "Value", "ListValue", "Any"))


def parse(
    text: str,
    *,
    enums: Mapping[str, EnumDescriptor] | None = None,
    functions: Mapping[str, Function] | None = None,
) -> Filter:
    """The filter that `text` spells; the empty text matches everything.

    `enums` names the paths of documents that hold enum names, so that `severity>=ERROR` is by rank;
    `functions` are predicates a filter may call, `log_id("x")`, given the item and the arguments.
    Raises InvalidArgument, saying where, for text that is not a filter (see `filter_grammar` for bounds).
    """
    tree = parse_tree(text, frozenset(functions or {}))
    return Filter(text, tree, enums or {}, functions or {})


class Filter:
    """A parsed filter. Immutable to its users, and safe to share between threads."""

    def __init__(
        self, text: str, tree: Node, enums: Mapping[str, EnumDescriptor], functions: Mapping[str, Function]
    ) -> None:
        self.text = text
        self._tree = tree
        self._enums = enums
        self._functions = functions
        self._bound: dict[Descriptor, _Predicate] = {}
        # Bound at once, so that a bad expression is refused whether or not anything is there to match.
        self._on_documents = self._compile(tree, self._document_comparison, _document_search)

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"

    def check(self, descriptor: Descriptor) -> None:
        """Raise InvalidArgument unless the filter can be asked of messages of this type.

        It names the field that does not exist or whose type the literal cannot have.
        """
        if descriptor not in self._bound:
            self._bound[descriptor] = self._compile(
                self._tree,
                lambda comparison: _bind(descriptor, comparison),
                lambda search: _message_search(search.value),
            )

    def matches(self, item: Message | Document) -> bool:
        """Whether a message or document is asked for. On a message it raises as `check` does."""
        if isinstance(item, Message):
            descriptor = cast(Descriptor, item.DESCRIPTOR)
            self.check(descriptor)
            return self._bound[descriptor](item)
        return self._on_documents(item)

    def _compile(
        self,
        node: Node,
        comparison: Callable[[Comparison], _Predicate],
        search: Callable[[Search], _Predicate],
    ) -> _Predicate:
        match node:
            case And(terms):
                every = [self._compile(term, comparison, search) for term in terms]
                return lambda item: all(term(item) for term in every)
            case Or(terms):
                some = [self._compile(term, comparison, search) for term in terms]
                return lambda item: any(term(item) for term in some)
            case Not(term):
                negated = self._compile(term, comparison, search)
                return lambda item: not negated(item)
            case Call(name, arguments):
                function = self._functions[name]
                return lambda item: function(item, arguments)
            case Comparison():
                return comparison(node)
            case Search():
                return search(node)

    def _document_comparison(self, comparison: Comparison) -> _Predicate:
        path = comparison.path
        if _is_presence(comparison):
            return lambda document: any(value is not None for value in lookup(document, path))
        enum = self._enums.get(".".join(path))
        test = values.document_test(comparison.operator, comparison.value, enum)
        return lambda document: any(test(value) for value in lookup(document, path))


def _is_presence(comparison: Comparison) -> bool:
    return comparison.operator is Operator.HAS and comparison.value == "*"


# --- documents ---------------------------------------------------------------------------------------


def lookup(document: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """The values at a path of a document, however its names are spelled; through lists, of all elements."""
    pending: list[tuple[Any, int]] = [(document, 0)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, list | tuple):
            pending.extend((element, depth) for element in value)
        elif depth == len(path):
            yield value
        elif isinstance(value, Mapping):
            key = _key(value, path[depth])
            rest = ".".join(path[depth:])
            if key is not None:
                pending.append((value[key], depth + 1))
            elif rest in value:
                # Labels such as `compute.googleapis.com/resource_name` are often not quoted.
                pending.append((value[rest], len(path)))


def _key(mapping: Document, segment: str) -> str | None:
    for spelling in (segment, _camel(segment), _snake(segment)):
        if spelling in mapping:
            return spelling
    return None


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _document_search(search: Search) -> _Predicate:
    contains = values.text_test(Operator.HAS, search.value)
    return lambda document: values.holds(document, contains)


# --- messages ----------------------------------------------------------------------------------------


def _bind(descriptor: Descriptor, comparison: Comparison) -> _Predicate:
    """A comparison as a predicate on messages of a type."""
    steps: list[_Step] = []
    current, path = descriptor, comparison.path
    for depth, segment in enumerate(path):
        field, rest = _field(current, segment), path[depth + 1 :]
        if is_map(field):
            return _bind_map(field, rest, steps, comparison)
        if not rest:
            return _any(steps, _leaf(field, comparison))
        steps.append(_reader(field))
        if field.message_type is None:
            raise _invalid(f"field '{field.name}' has no fields of its own")
        if field.message_type.full_name in _JSON:
            return _any(steps, _json_test(rest, comparison))
        current = field.message_type
    raise AssertionError("a path has at least one segment")


def _bind_map(
    field: FieldDescriptor, rest: tuple[str, ...], steps: list[_Step], comparison: Comparison
) -> _Predicate:
    """A comparison of a map (whether it has a key) or of one of its entries."""
    name = field.name
    entry = cast(Descriptor, field.message_type)
    if not rest:
        if _is_presence(comparison):
            return _any(steps, lambda message: bool(getattr(message, name)))
        if comparison.operator is not Operator.HAS:
            raise _invalid(f"field '{name}' is a map: compare one of its entries, as in '{name}.key'")
        present = _map_key(entry, comparison.value)
        return _any(steps, lambda message: present in getattr(message, name))
    value = entry.fields_by_name["value"]
    nested = value.message_type
    # No entry of a map of scalars has fields, so dots after it can only belong to the key.
    key = _map_key(entry, rest[0] if nested is not None else ".".join(rest))
    steps = [*steps, lambda message: [getattr(message, name)[key]] if key in getattr(message, name) else []]
    if nested is None or len(rest) == 1:
        return _any(steps, (lambda _: True) if _is_presence(comparison) else _value_test(value, comparison))
    if nested.full_name in _JSON:
        return _any(steps, _json_test(rest[1:], comparison))
    return _any(steps, _bind(nested, Comparison(rest[1:], comparison.operator, comparison.value)))


def _leaf(field: FieldDescriptor, comparison: Comparison) -> _Predicate:
    """A predicate on the message that holds the last field of the path."""
    read = _reader(field)
    if _is_presence(comparison):
        if field.is_repeated or field.has_presence:
            return lambda message: any(True for _ in read(message))
        return lambda message: bool(getattr(message, field.name))
    test = _value_test(field, comparison)
    return lambda message: any(test(value) for value in read(message))


def _value_test(field: FieldDescriptor, comparison: Comparison) -> values.Test:
    how, text = comparison.operator, comparison.value
    if field.message_type is None:
        return values.scalar_test(how, text, field)
    match field.message_type.full_name:
        case "google.protobuf.Timestamp":
            return values.instant_test(how, text, field)
        case "google.protobuf.Duration":
            return values.span_test(how, text, field)
        case kind if kind in _WRAPPERS:
            wrapped = values.scalar_test(how, text, field.message_type.fields_by_name["value"])
            return lambda message: wrapped(message.value)
        case kind if kind in _JSON:
            return _json_test((), comparison)
        case _:
            raise _invalid(f"field '{field.name}' is a message: compare one of its fields")


def _json_test(path: tuple[str, ...], comparison: Comparison) -> values.Test:
    """Structs and Anys hold what their sender put there: from them on, a message is a document."""
    if _is_presence(comparison):
        return lambda message: any(value is not None for value in lookup(_document(message), path))
    test = values.document_test(comparison.operator, comparison.value)
    return lambda message: any(test(value) for value in lookup(_document(message), path))


def _message_search(text: str) -> _Predicate:
    """In any text of the message as its JSON spells it: enums by name, times in RFC 3339."""
    contains = values.text_test(Operator.HAS, text)
    return lambda message: values.holds(_document(message), contains)


def _document(message: Message) -> Any:
    try:
        return json_format.MessageToDict(message)
    except TypeError:
        # It holds an Any of a type this program does not know: opaque, like an absent field.
        return None


def _any(steps: list[_Step], test: _Predicate) -> _Predicate:
    if not steps:
        return test

    def matches(message: Any) -> bool:
        found: Iterable[Any] = (message,)
        for step in steps:
            found = [value for holder in found for value in step(holder)]
        return any(test(value) for value in found)

    return matches


def _reader(field: FieldDescriptor) -> _Step:
    """The values of a field: none where it is unset and that can be told, else one, or the elements."""
    name = field.name
    if field.is_repeated:
        return lambda message: getattr(message, name)
    if field.has_presence:
        return lambda message: (getattr(message, name),) if message.HasField(name) else ()
    return lambda message: (getattr(message, name),)


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor:
    field = find_field(descriptor, name)
    if field is None:
        raise _invalid(f"{descriptor.name} has no field '{name[:100]}'")
    return field


def _map_key(entry: Descriptor, text: str) -> Any:
    kind = entry.fields_by_name["key"]
    if kind.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    if kind.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return text == "true"
    number = values.parse_number(text)
    if not isinstance(number, int):
        raise _invalid(f"'{text[:100]}' is not a key of that map")
    return number


def _invalid(why: str) -> InvalidArgument:
    return bad_field("filter", why, f"The filter is invalid: {why}.")
