"""What a failed check of an input table is called, and how it is reported.

SECURITY: a failure names a table, a column and a count, never a value: it ends in operations, logs and on
screens that outlive the customer's key. Exceptions of the reading libraries quote values, so they are never
kept, not even as the context of ours.

Reasons, descriptions and tests are worded as "Data validation errors" of the AML AI reference has them
(`UNREADABLE_INPUT` is Keystead's own: a BigQuery table cannot be a damaged file). It checks nothing itself:
`validation` and `digests` do.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.rpc import error_details_pb2

from keystead.api.errors import FailedPrecondition

DOMAIN: Final = "financialservices.googleapis.com"


class Reason(enum.StrEnum):
    """Why an input table is refused: the stable `ErrorInfo.reason`."""

    NOT_NULL_COLUMN_WITH_NULLS = "NOT_NULL_COLUMN_WITH_NULLS"
    DUPLICATE_PRIMARY_KEY = "DUPLICATE_PRIMARY_KEY"
    NAN_VALUE_IN_FLOAT_COLUMN = "NAN_VALUE_IN_FLOAT_COLUMN"
    EMPTY_TABLE = "EMPTY_TABLE"
    UNSUPPORTED_VALUE = "UNSUPPORTED_VALUE"
    UNSUPPORTED_DATA_TYPE = "UNSUPPORTED_DATA_TYPE"
    UNNORMALIZED_BOOKED_AMOUNT_CURRENCY = "UNNORMALIZED_BOOKED_AMOUNT_CURRENCY"
    NEGATIVE_TRANSACTION_NORMALIZED_BOOKED_AMOUNT = "NEGATIVE_TRANSACTION_NORMALIZED_BOOKED_AMOUNT"
    COLUMN_EXISTENCE = "COLUMN_EXISTENCE"
    TABLE_EXISTENCE = "TABLE_EXISTENCE"
    SUPPLEMENTARY_DATA_COLUMN_NAMES = "SUPPLEMENTARY_DATA_COLUMN_NAMES"
    EXCESSIVE_PARTY_SUPPLEMENTARY_DATA_IDS = "EXCESSIVE_PARTY_SUPPLEMENTARY_DATA_IDS"
    JOINABILITY_ISSUE_ACCOUNT_ID = "JOINABILITY_ISSUE_ACCOUNT_ID"
    JOINABILITY_ISSUE_PARTY_ID = "JOINABILITY_ISSUE_PARTY_ID"
    UNREADABLE_INPUT = "UNREADABLE_INPUT"


# reason: (description, test); {field} and {table} are filled in, {detail} by the check.
_WORDING: Final[Mapping[Reason, tuple[str, str]]] = {
    Reason.NOT_NULL_COLUMN_WITH_NULLS: (
        "One or more NOT NULL columns contain one or more null values.",
        "{field} IS NULL",
    ),
    Reason.DUPLICATE_PRIMARY_KEY: (
        "There is a duplicate primary key value in the database resulting in a unique key violation. Note "
        "that for tables with validity_start_time, the primary key includes validity_start_time.",
        "GROUP BY {field} HAVING count(1) > 1",
    ),
    Reason.NAN_VALUE_IN_FLOAT_COLUMN: (
        "One or more columns contains a NaN (Not a Number) floating point value.",
        "{field} is NAN",
    ),
    Reason.EMPTY_TABLE: (
        "One or more required tables in the database is empty.",
        "COUNT(*) FROM {table} < 1",
    ),
    Reason.UNSUPPORTED_VALUE: (
        "One or more columns include values that are not in the set of allowed values.",
        "{field} NOT IN ({detail})",
    ),
    Reason.UNSUPPORTED_DATA_TYPE: (
        "Column present with incorrect data type. See AML AI Input Data model documentation for correct "
        "types.",
        '{field} DATA_TYPE IS NOT "{detail}"',
    ),
    Reason.UNNORMALIZED_BOOKED_AMOUNT_CURRENCY: (
        "Normalized booked amount includes multiple currencies in the Transaction table. All normalized "
        "amounts need to be in the same currency.",
        "COUNT(DISTINCT {field}) != 1",
    ),
    Reason.NEGATIVE_TRANSACTION_NORMALIZED_BOOKED_AMOUNT: (
        "Normalized booked amount value for one or more transactions is negative. Data schema prohibits "
        "negative values for this field.",
        "{field}.units < 0 OR {field}.nanos < 0",
    ),
    Reason.COLUMN_EXISTENCE: (
        "One or more required columns don't exist in the database.",
        "{field} DOES NOT EXIST IN {table}",
    ),
    Reason.TABLE_EXISTENCE: (
        "One or more required tables don't exist in the database.",
        "TABLE {table} DOES NOT EXIST",
    ),
    Reason.SUPPLEMENTARY_DATA_COLUMN_NAMES: (
        "One or more party_supplementary_data_id values is not in the range of allowed values. IDs may use "
        "alphanumeric characters as well as underscores, and should start with an alphanumeric character.",
        'NOT EXISTS REGEXP_CONTAINS({field}, "^[a-zA-Z0-9][a-zA-Z0-9_]*$") '
        "AND supplementary_data_payload.value IS NOT NULL",
    ),
    Reason.EXCESSIVE_PARTY_SUPPLEMENTARY_DATA_IDS: (
        "Number of distinct party_supplementary_data_id values exceeds the maximum of 100.",
        "COUNT(DISTINCT {field}) > 100",
    ),
    Reason.JOINABILITY_ISSUE_ACCOUNT_ID: (
        "The account_id in the table cannot be found in the AccountPartyLink table. The account_id must "
        "exist in the AccountPartyLink table.",
        "account_id NOT IN (SELECT account_id FROM account_party_link)",
    ),
    Reason.JOINABILITY_ISSUE_PARTY_ID: (
        "The party_id in the table cannot be found in the Party table. The party_id must exist in the Party "
        "table.",
        "party_id NOT IN (SELECT party_id FROM party)",
    ),
    Reason.UNREADABLE_INPUT: (
        "The input of the table cannot be read: {detail}.",
        "TABLE {table} IS NOT READABLE",
    ),
}


@dataclass(frozen=True, slots=True)
class ValidationFailure:
    """One failed check. `count` is how often it failed; `field` is a dotted column path or empty."""

    reason: Reason
    table: str
    field: str
    count: int
    description: str
    test: str

    def error_info(self) -> error_details_pb2.ErrorInfo:
        """The detail of the operation's error Status, with the metadata keys of the AML AI reference."""
        return error_details_pb2.ErrorInfo(
            reason=self.reason.value,
            domain=DOMAIN,
            metadata={
                "count": str(self.count),
                "data_table": self.table,
                "data_field": self.field,
                "description": self.description,
                "test": self.test,
            },
        )


class DatasetValidationError(FailedPrecondition):
    """The input of a dataset failed its checks: `failures` has at least one, each also a detail."""

    def __init__(self, failures: Sequence[ValidationFailure]) -> None:
        named = ", ".join(sorted({f"{f.reason.value} in {f.table}" for f in failures}))
        super().__init__(f"Dataset validation failed: {named}.", *(f.error_info() for f in failures))
        self.failures = tuple(failures)


def failure(
    reason: Reason, table: str, field: str = "", count: int = 1, detail: str = ""
) -> ValidationFailure:
    """A failure in the reference's words; `detail` is what the reason's own text leaves open."""
    description, test = _WORDING[reason]
    filled = {"table": table, "field": field, "detail": detail}
    return ValidationFailure(reason, table, field, count, description.format(**filled), test.format(**filled))


def unreadable(table: str, detail: str) -> DatasetValidationError:
    """The input cannot be read at all; `detail` must not quote it."""
    return DatasetValidationError([failure(Reason.UNREADABLE_INPUT, table, detail=detail)])
