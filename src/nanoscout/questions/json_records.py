"""Reading JSON records from a file: one object a line or one array, plain or gzip, UTF-8.

Each record comes with the place it stands at, ready for an error message, and is checked
against a pydantic model.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

from nanoscout.errors import UserError


def _encodable(text: str) -> str:
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""A string that UTF-8 can encode; JSON's escapes can also make others."""

Model = TypeVar("Model", bound=BaseModel)
Json = dict[str, Any]

_GZIP_MAGIC = b"\x1f\x8b"


def read_records(path: Path) -> Iterator[tuple[str, Json]]:
    """Yield (place, object) for each record; empty lines do not count.

    Raises UserError naming file and line (in an array: item) for whatever cannot be read, and
    for a file without a record.
    """
    found = False
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            binary = gzip.GzipFile(fileobj=raw) if zipped else raw
            with io.TextIOWrapper(binary, encoding="utf-8-sig") as text:
                for place, record in _records(path, text):
                    if not isinstance(record, dict):
                        raise UserError(f"{place}: expected a JSON object, as {{...}}")
                    found = True
                    yield place, record
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not found:
        raise UserError(f"{path}: holds no question")


def check_record(place: str, record: Json, model: type[Model]) -> Model:
    """The record as a `model`; raises UserError naming the place and the field that is wrong."""
    try:
        return model.model_validate(record)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        raise UserError(f"{place}: {field + ': ' if field else ''}{message}") from None


def _records(path: Path, text: TextIO) -> Iterator[tuple[str, Any]]:
    lines = ((number, line) for number, line in enumerate(text, start=1) if line.strip())
    for nth, (number, line) in enumerate(lines):
        if nth == 0 and line.lstrip().startswith("["):
            items = _parse(path, number, line + text.read())
            for item_number, item in enumerate(items, start=1):
                yield f"{path}, item {item_number}", item
            return
        yield f"{path}, line {number}", _parse(path, number, line.rstrip())


def _parse(path: Path, first_line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{path}, line {line}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}, line {first_line}: not usable JSON: {error}") from None
