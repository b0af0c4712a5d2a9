"""Grades on disk: what was graded once is never asked for again, not even after a kill."""

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

from nanoscout.errors import UserError
from nanoscout.records import Grade

BUSY_SECONDS = 30.0
"""How long to wait for another process that writes to the same file."""


class GradeCache:
    """A SQLite file of what was asked (any text) and how it was graded.

    A context manager. Several processes may share a file. Raises UserError where it cannot be
    opened, read or written.
    """

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS)
        except (OSError, sqlite3.Error) as error:
            raise self._fault(error) from error
        try:
            self._run("CREATE TABLE IF NOT EXISTS grades (asked TEXT PRIMARY KEY, grade TEXT)")
            self._run("SELECT asked, grade FROM grades LIMIT 0")
        except UserError:
            self._connection.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def get(self, asked: str) -> Grade | None:
        row = self._run("SELECT grade FROM grades WHERE asked = ?", asked)
        return Grade(row[0]) if row else None

    def put(self, asked: str, grade: Grade) -> None:
        """Keep a grade; it is on disk when this returns. The first one given stays."""
        self._run("INSERT OR IGNORE INTO grades VALUES (?, ?)", asked, str(grade))

    def _run(self, statement: str, *values: str) -> tuple[str, ...] | None:
        """The first row, if any."""
        try:
            with self._connection:
                row: tuple[str, ...] | None = self._connection.execute(statement, values).fetchone()
            return row
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> UserError:
        return UserError(
            f"{self._path}: no usable file of grades ({error}); name another one with judge.cache"
        )
