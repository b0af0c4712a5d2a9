"""A folder of documents as passages, one file after another: Markdown, text, HTML and PDF.

The main text of an HTML page is found by trafilatura, a PDF's text by pypdf. The path below the
folder is a document's id, and its address is made from it, so both stay when others come or go.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from nanoscout.errors import UserError
from nanoscout.extraction import NoText, html_text, pdf_text
from nanoscout.questions.urls import DOCUMENTS_SITE, url_path
from nanoscout.records import Passage

_HEADING = re.compile(r"^#{1,6}[ \t](.*)", re.MULTILINE)
log = logging.getLogger(__name__)


def read_documents(
    folder: Path, unreadable: Callable[[UserError], None] | None = None
) -> Iterator[Passage]:
    """The documents below `folder`, ordered by path; empty ones are left out.

    The title is the first heading of a .md file, the title that a .html or .pdf file gives itself,
    or else the file's name. A file that cannot be read is raised as UserError or, where there is
    an `unreadable`, told to it and left out. Raises UserError for a missing folder and where
    nothing is left.
    """
    found = False
    for path in document_files(folder):
        try:
            title, text = _READERS[path.suffix.lower()](path)
        except UserError as error:
            if unreadable is None:
                raise
            unreadable(error)
            continue
        if not text:
            log.info("%s: empty, left out", path)
            continue
        found = True
        name = path.relative_to(folder).as_posix()
        yield Passage(name, title or path.stem, text, DOCUMENTS_SITE + url_path(name))
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise UserError(f"{folder}: no file ({kinds}) with text in it; the corpus is empty")


def document_files(folder: Path) -> Iterator[Path]:
    """The files that `read_documents` reads, in its order; links to folders are not followed."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of documents")
    for path in _files(folder):
        if path.suffix.lower() in SUFFIXES:
            yield path


def _files(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            # With its slash, a folder stands where the paths of its files belong.
            below = sorted((entry.name + "/" * _is_folder(entry), entry) for entry in entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    for name, entry in below:
        if name.endswith("/"):
            yield from _files(Path(entry.path))
        elif entry.is_file():
            yield Path(entry.path)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    return entry.is_dir(follow_symlinks=False)


def _plain(path: Path) -> tuple[str, str]:
    return "", _read_text(path)


def _markdown(path: Path) -> tuple[str, str]:
    """The title is the first heading, without the `#`s that may close it."""
    text = _read_text(path)
    heading = _HEADING.search(text)
    title = f" {heading[1].strip()}" if heading else ""
    words, _, last = title.rpartition(" ")
    return (words if last.strip("#") == "" else title).strip(), text


def _html(path: Path) -> tuple[str, str]:
    return _extracted(path, html_text)


def _pdf(path: Path) -> tuple[str, str]:
    return _extracted(path, pdf_text)


def _extracted(path: Path, extract: Callable[[bytes], tuple[str, str]]) -> tuple[str, str]:
    try:
        return extract(_read_bytes(path))
    except NoText as error:
        raise UserError(f"{path}: {error}; left out") from error


_READERS: dict[str, Callable[[Path], tuple[str, str]]] = {
    ".md": _markdown,
    ".txt": _plain,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
"""By suffix: what gives the title, empty where there is none, and the text of a file."""

SUFFIXES = tuple(_READERS)


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
