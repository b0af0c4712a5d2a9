"""Records kept one a line, in a file that only grows, so that a kill costs at most the last line.

A line is on disk before the work that follows from it begins. What a kill left of a line, without
its end, is dropped by the next one who writes, and not seen by who only reads.
"""

import json
import os
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from nanoscout.errors import UserError

T = TypeVar("T")


class RecordLog(Generic[T]):
    """The records of a JSONL file, and the way to add to them.

    Raises UserError for a line that is no such record, and where the file can't be written.
    """

    def __init__(self, path: Path, kind: type[T]):
        self._path = path
        self._adapter = TypeAdapter(kind)
        self._size, self.records = self._read()

    def append(self, record: T) -> None:
        """Add a record; it is on disk when this returns."""
        data = self._adapter.dump_python(record, mode="json")
        # A model may send half a character (a lone surrogate), which no file holds.
        line = json.dumps(data, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            with open(self._path, "ab") as file:
                file.truncate(self._size)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self._path} can't be written: {error.strerror}") from error
        self._size += len(line)
        self.records.append(record)

    def _read(self) -> tuple[int, list[T]]:
        """The bytes of whole lines, and what they say."""
        try:
            found = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise UserError(f"{self._path} can't be read: {error.strerror}") from error
        whole = found[: found.rfind(b"\n") + 1]
        records = []
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                records.append(self._adapter.validate_json(line))
            except ValidationError:
                raise UserError(
                    f"{self._path}: line {number} is damaged; take it out and go on"
                ) from None
        return len(whole), records
