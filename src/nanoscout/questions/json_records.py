"""Reading JSON records from a file: one object a line or one array, plain or gzip, UTF-8.

Records are read one by one, so a file may be larger than memory. Each comes with the place it
stands at, ready for an error message, and is checked against a pydantic model.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError

from nanoscout.errors import UserError
from nanoscout.questions.text_file import open_text


def _encodable(text: str) -> str:
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""A string that UTF-8 can encode; JSON's escapes can also make others."""

Model = TypeVar("Model", bound=BaseModel)
Json = dict[str, Any]

_PIECE = 2**20
"""Characters of an array that are read at a time, at least."""
_SPACE = re.compile(r"[ \t\r\n]*")


def read_records(path: Path) -> Iterator[tuple[str, Json]]:
    """Yield (place, object) for each record; empty lines do not count.

    Raises UserError naming file and line (in an array: item) for whatever cannot be read, and
    for a file without a record.
    """
    found = False
    with open_text(path) as text:
        for place, record in _records(path, text):
            if not isinstance(record, dict):
                raise UserError(f"{place}: expected a JSON object, as {{...}}")
            found = True
            yield place, record
    if not found:
        raise UserError(f"{path}: holds no record")


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
    first, begin = 1, text.readline(_PIECE)
    while begin and not begin.strip():
        first, begin = first + begin.endswith("\n"), text.readline(_PIECE)
    if begin.lstrip().startswith("["):
        for number, item in enumerate(_items(path, first, begin, text), start=1):
            yield f"{path}, item {number}", item
        return
    if not begin.endswith("\n"):
        begin += text.readline()
    for number, line in enumerate(chain([begin], text), start=first):
        if line.strip():
            yield f"{path}, line {number}", _parse(path, number, line.rstrip())


def _items(path: Path, line: int, buffer: str, text: TextIO) -> Iterator[Any]:
    """The items of the array that begins in `buffer`, on `line`, and goes on in `text`."""
    decode = json.JSONDecoder().raw_decode
    place = buffer.index("[") + 1
    empty = True
    while True:
        try:
            begin = _after_space(buffer, place)
            if empty and buffer.startswith("]", begin):
                end = begin
                break
            item, end = decode(buffer, begin)
            end = _after_space(buffer, end)
            if not buffer.startswith((",", "]"), end):
                raise json.JSONDecodeError("Expecting ',' delimiter", buffer, end)
        except json.JSONDecodeError as error:
            piece = text.read(max(_PIECE, len(buffer) - place))
            if not piece:
                raise _invalid(path, line, error) from None
            line += buffer.count("\n", 0, place)
            buffer, place = buffer[place:] + piece, 0
            continue
        except (ValueError, RecursionError) as error:
            raise _unusable(path, line + buffer.count("\n", 0, place), error) from None
        yield item
        empty = False
        if buffer[end] == "]":
            break
        place = end + 1
    if (buffer[end + 1 :] + text.read(_PIECE)).strip():
        where = line + buffer.count("\n", 0, end)
        raise UserError(f"{path}, line {where}: not valid JSON: text after the array's end")


def _after_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _parse(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _invalid(path, line, error) from None
    except (ValueError, RecursionError) as error:
        raise _unusable(path, line, error) from None


def _invalid(path: Path, first_line: int, error: json.JSONDecodeError) -> UserError:
    return UserError(f"{path}, line {first_line + error.lineno - 1}: not valid JSON: {error.msg}")


def _unusable(path: Path, line: int, error: Exception) -> UserError:
    return UserError(f"{path}, line {line}: not usable JSON: {error}")
