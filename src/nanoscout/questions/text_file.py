"""Opening a text file that people hand in: UTF-8, plain or gzip, whatever its name says."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from nanoscout.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    """The file's bytes, unzipped. What fails while they are read is raised as UserError."""
    try:
        with path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == _GZIP_MAGIC
            yield gzip.GzipFile(fileobj=raw) if zipped else raw
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The file's text. What fails while it is read, such as bytes that are not UTF-8, is raised as
    UserError. `newline` as in `open`."""
    with (
        open_bytes(path) as binary,
        io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline) as text,
    ):
        yield text
