"""The types of a condition's expression: CEL checked as IAM restricts it, before it is ever run.

Only what is listed here gets through: the attributes `request.time`, `resource.name`, `resource.type` and
`resource.service`, literals, comparison, logic, `in`, arithmetic of times, and the methods of the tables
below. No macros, no `matches` (a regular expression could hold up the decision), no tags (there are none
here, and a condition on them must not seem to work).

Sources: IAM "Attribute reference for IAM Conditions"; the Common Expression Language definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

STRING, INT, DOUBLE, BOOL, NULL = "string", "int", "double", "bool", "null"
TIMESTAMP, DURATION, EMPTY = "timestamp", "duration", "empty list"

ATTRIBUTES = {
    ("request", "time"): TIMESTAMP,
    ("resource", "name"): STRING,
    ("resource", "type"): STRING,
    ("resource", "service"): STRING,
}

_PARTS_OF_TIME = (
    "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours",
    "getMinutes", "getSeconds", "getMilliseconds",
)  # fmt: skip
# (type of the object, method) to (types of the arguments, how many of them must be given, result).
_METHODS: dict[tuple[str, str], tuple[tuple[str, ...], int, str]] = {
    (STRING, "startsWith"): ((STRING,), 1, BOOL),
    (STRING, "endsWith"): ((STRING,), 1, BOOL),
    (STRING, "contains"): ((STRING,), 1, BOOL),
    (STRING, "extract"): ((STRING,), 1, STRING),
    **{(TIMESTAMP, name): ((STRING,), 0, INT) for name in _PARTS_OF_TIME},
}
_FUNCTIONS = {"timestamp": (STRING, TIMESTAMP), "duration": (STRING, DURATION)}
_LITERALS = {
    "INT_LIT": INT, "FLOAT_LIT": DOUBLE, "STRING_LIT": STRING, "MLSTRING_LIT": STRING, "BOOL_LIT": BOOL,
    "NULL_LIT": NULL,
}  # fmt: skip
_ORDERED = frozenset({STRING, INT, DOUBLE, TIMESTAMP, DURATION})
_ARITHMETIC = {
    ("addition_add", TIMESTAMP, DURATION): TIMESTAMP,
    ("addition_add", DURATION, TIMESTAMP): TIMESTAMP,
    ("addition_add", DURATION, DURATION): DURATION,
    ("addition_add", INT, INT): INT,
    ("addition_add", STRING, STRING): STRING,
    ("addition_sub", TIMESTAMP, TIMESTAMP): DURATION,
    ("addition_sub", TIMESTAMP, DURATION): TIMESTAMP,
    ("addition_sub", DURATION, DURATION): DURATION,
    ("addition_sub", INT, INT): INT,
}

#: IAM's limit of logical operators in one condition.
MAX_LOGICAL = 12


class TypeMismatch(Exception):
    """The expression is not one that IAM takes; the text says why."""


def type_of(tree: Any) -> str:
    """The type of a parsed expression (a lark tree of celpy's grammar). Raises TypeMismatch."""
    check = _CHECKS.get(tree.data)
    if check is None:
        raise TypeMismatch(f"'{tree.data}' is not supported")
    return check(tree)


def count_logical(tree: Any) -> int:
    """How many logical operators (`&&`, `||`, `!`) an expression has."""
    binary = sum(len(node.children) == 2 for node in _nodes(tree, {"conditionalor", "conditionaland"}))
    return binary + sum(1 for _ in _nodes(tree, {"unary_not"}))


def _nodes(tree: Any, kinds: set[str]) -> list[Any]:
    return list(tree.find_pred(lambda node: node.data in kinds))


def _expr(tree: Any) -> str:
    first = type_of(tree.children[0])
    if len(tree.children) == 1:
        return first
    yes, no = type_of(tree.children[1]), type_of(tree.children[2])
    if first != BOOL or yes != no:
        raise TypeMismatch("found no matching overload for '_?_:_'")
    return yes


def _logic(tree: Any) -> str:
    kinds = [type_of(child) for child in tree.children]
    if len(kinds) > 1 and set(kinds) != {BOOL}:
        raise _no_overload("_||_" if tree.data == "conditionalor" else "_&&_", *kinds)
    return kinds[0]


def _relation(tree: Any) -> str:
    if len(tree.children) == 1:
        return type_of(tree.children[0])
    operator, right_tree = tree.children
    left, right = type_of(operator.children[0]), type_of(right_tree)
    how = operator.data
    if how == "relation_in":
        fits = right in {_list_of(left), EMPTY}
    elif how in {"relation_eq", "relation_ne"}:
        fits = left == right
    else:
        fits = left == right and left in _ORDERED
    if not fits:
        raise _no_overload(str(how).replace("relation_", "_"), left, right)
    return BOOL


def _arithmetic(tree: Any) -> str:
    if len(tree.children) == 1:
        return type_of(tree.children[0])
    operator, right_tree = tree.children
    left, right = type_of(operator.children[0]), type_of(right_tree)
    result = _ARITHMETIC.get((str(operator.data), left, right))
    if result is None:
        raise _no_overload(str(operator.data), left, right)
    return result


def _unary(tree: Any) -> str:
    kind = type_of(tree.children[-1])
    if len(tree.children) == 1:
        return kind
    operator = tree.children[0].data
    if (operator == "unary_not" and kind == BOOL) or (operator == "unary_neg" and kind in {INT, DOUBLE}):
        return kind
    raise _no_overload(str(operator), kind)


def _only(tree: Any) -> str:
    return type_of(tree.children[0])


def _attribute(tree: Any) -> str:
    holder, name = tree.children
    root = _name_of(holder)
    kind = ATTRIBUTES.get((root, str(name)))
    if kind is None:
        raise TypeMismatch(f"undeclared reference to '{root}.{name}'")
    return kind


def _name_of(tree: Any) -> str:
    while tree.data in {"member", "primary"}:
        tree = tree.children[0]
    if tree.data != "ident":
        raise TypeMismatch("only request and resource have attributes")
    return str(tree.children[0])


def _method(tree: Any) -> str:
    kind, name = type_of(tree.children[0]), str(tree.children[1])
    arguments = [type_of(each) for each in tree.children[2].children] if len(tree.children) > 2 else []
    signature = _METHODS.get((kind, name))
    if signature is None:
        raise TypeMismatch(f"undeclared reference to '{name}'")
    takes, needed, result = signature
    if not needed <= len(arguments) <= len(takes) or tuple(arguments) != takes[: len(arguments)]:
        raise _no_overload(name, kind, *arguments)
    return result


def _literal(tree: Any) -> str:
    token = tree.children[0]
    kind = _LITERALS.get(token.type)
    if kind is None:
        raise TypeMismatch(f"'{token}' is not supported")
    return kind


def _ident(tree: Any) -> str:
    raise TypeMismatch(f"undeclared reference to '{tree.children[0]}'")


def _function(tree: Any) -> str:
    name = str(tree.children[0])
    signature = _FUNCTIONS.get(name)
    if signature is None:
        raise TypeMismatch(f"undeclared reference to '{name}'")
    arguments = [type_of(each) for each in tree.children[1].children] if len(tree.children) > 1 else []
    if arguments != [signature[0]]:
        raise _no_overload(name, *arguments)
    return signature[1]


def _list(tree: Any) -> str:
    kinds = {type_of(each) for each in tree.children[0].children} if tree.children else set()
    if len(kinds) > 1:
        raise TypeMismatch("a list has elements of one type")
    return _list_of(kinds.pop()) if kinds else EMPTY


def _list_of(kind: str) -> str:
    return f"list({kind})"


def _no_overload(function: str, *kinds: str) -> TypeMismatch:
    return TypeMismatch(f"found no matching overload for '{function}' applied to '({', '.join(kinds)})'")


_CHECKS: dict[str, Callable[[Any], str]] = {
    "expr": _expr,
    "conditionalor": _logic,
    "conditionaland": _logic,
    "relation": _relation,
    "addition": _arithmetic,
    "multiplication": _arithmetic,
    "unary": _unary,
    "member": _only,
    "primary": _only,
    "paren_expr": _only,
    "member_dot": _attribute,
    "member_dot_arg": _method,
    "literal": _literal,
    "ident": _ident,
    "ident_arg": _function,
    "list_lit": _list,
}
