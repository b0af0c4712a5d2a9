"""Reading records from a CSV or TSV file with a line of column names, plain or gzip, UTF-8.

Quotes are read strictly: a field that goes on after its closing quote, or one that never ends, is
an error and not a guess.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanoscout.errors import UserError
from nanoscout.questions.text_file import open_text

Row = dict[str, str]


def read_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[str, Row]]:
    """Yield (place, fields by column name) for each record; empty lines do not count.

    Raises UserError naming file and line for whatever cannot be read, and for a file without a
    record.
    """
    found = False
    with open_text(path, newline="") as text:
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            columns = next(rows, [])
            if len(set(columns)) < len(columns):
                raise UserError(f"{path}: two columns have the same name")
            line = rows.line_num + 1
            for row in rows:
                place, line = f"{path}, line {line}", rows.line_num + 1
                if not row:
                    continue
                if len(row) != len(columns):
                    raise UserError(f"{place}: {len(row)} fields, but {len(columns)} columns")
                found = True
                yield place, dict(zip(columns, row, strict=True))
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: not valid CSV: {error}") from None
    if not found:
        raise UserError(f"{path}: holds no record")


def require(path: Path, row: Row, columns: Sequence[str]) -> None:
    """Raise UserError where a column is missing, naming those that are there."""
    missing = [column for column in columns if column not in row]
    if missing:
        there = ", ".join(row)
        shown = there if len(there) <= 200 else f"{there[:200]}…"
        raise UserError(f"{path}: no column {' or '.join(missing)}; it has {shown!r}")
