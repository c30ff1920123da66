"""SECURITY: no log level makes the database library log the rows that it reads.

Owns: what the store asks of a database engine, the seam between `engine` and SQLite or PostgreSQL, and the
little that both share. Deliberately opens nothing itself.
"""

from __future__ import annotations

import logging
from typing import Protocol

from sqlalchemy import Connection, Engine

# The keys of PostgreSQL's advisory locks are 64 bits shared by all that use a database: "keystead" in ASCII,
# and the number after it.
WRITER_LOCK = 0x6B65797374656164
SERVER_LOCK = WRITER_LOCK + 1


class Backend(Protocol):
    """One opened database.

    `reading` and `writing` are two ways to begin a transaction on the same `engine` and its pool.
    """

    where: str
    """The database as an operator knows it: the file, or the URL without its password."""

    @property
    def engine(self) -> Engine: ...

    @property
    def reading(self) -> Engine: ...

    @property
    def writing(self) -> Engine: ...

    def exists(self) -> bool:
        """Whether there is anything to open. Raises ApiError if the database cannot be reached."""
        ...

    def prepare(self) -> None:
        """Creates what the first connection needs, and refuses a database that cannot keep the contract."""
        ...

    def lock_writers(self, connection: Connection) -> None:
        """First statement of a writing transaction: waits until no other is open, in any process."""
        ...

    def scrub(self) -> None:
        """Takes deleted key material from the disk, as far as the engine can."""
        ...

    def check(self) -> list[str]:
        """What is wrong with the database, one finding a line; empty if nothing is."""
        ...


def quiet_logger() -> str:
    """The name of a logger for an engine, which stays at WARNING unless it is itself set lower.

    Below that SQLAlchemy logs every row it fetches, which `hide_parameters` does not prevent, and it decides
    by the level of the root logger.
    """
    name = "keystead"
    logger = logging.getLogger(f"sqlalchemy.engine.Engine.{name}")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    return name
