"""What a fetched page says: title and text out of HTML, PDF or plain text in whatever charset.

A stranger's document may keep a parser busy for hours or eat all memory, so each is read in a
process of its own, with limits on both; this module is that process's program too.
"""

import codecs
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Literal

from nanoscout.extraction import NoText, html_text, pdf_text

Kind = Literal["html", "pdf", "text"]

SECONDS = 20
"""What reading one page may take."""

MAX_MEMORY = 2 * 2**30
"""Bytes of address space of the process that reads (Linux)."""

MAX_CHARS = 2_000_000
"""Of a page's text; the rest is left out."""

_TEXT_TYPES = re.compile(r"text/.*|application/(.*\+)?(json|xml|yaml)|application/(x-)?javascript")
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w:.-]{1,40})", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9_:.-]{1,40}")
_CHARSETS = re.compile(
    r"utf_?(8|16|32)|iso8859|iso2022|cp\d|koi8|mac|shift_jis|euc_|gb|big5|hz|tis_620|ascii|johab"
)
"""Python's names of charsets of text; it knows others (punycode) that hostile text makes slow."""


def kind_of(content_type: str, content: bytes) -> Kind | None:
    """How to read a page, by what the site calls it or, failing that, by how it begins."""
    mime = content_type.partition(";")[0].strip().lower()
    if mime in ("text/html", "application/xhtml+xml"):
        return "html"
    if mime == "application/pdf":
        return "pdf"
    if _TEXT_TYPES.fullmatch(mime):
        return "text"
    if mime not in ("", "application/octet-stream", "binary/octet-stream"):
        return None
    if content.startswith(b"%PDF-"):
        return "pdf"
    if content.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    return None if b"\0" in content else "text"


def read_page(content: bytes, kind: Kind, content_type: str) -> tuple[str, str]:
    """Title (empty where it has none) and text, at most MAX_CHARS of it.

    Blocks for at most SECONDS. Raises NoText where nothing can be read.
    """
    declared = re.search(r"charset\s*=\s*[\"']?([^\s\"';]+)", content_type, re.IGNORECASE)
    order = json.dumps({"kind": kind, "charset": declared[1] if declared else ""})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nanoscout.search.web.reader"],
            input=order.encode() + b"\n" + content,
            capture_output=True,
            timeout=SECONDS,
            # Python looks for modules there first: in nanoscout's own folder, not in the user's.
            cwd=Path(__file__).parents[3],
        )
    except subprocess.TimeoutExpired:
        raise NoText(f"it takes longer than {SECONDS} s to read") from None
    if done.returncode != 0:
        raise NoText("it is too large or too broken to read")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise NoText(answer["error"])
    return answer["title"], answer["text"]


def decode(content: bytes, declared: str) -> str:
    """Text in the charset that it seems to be in: a wrong declaration does no harm.

    What is valid UTF-8 is hardly ever anything else, unless it is all ASCII: then it may be one of
    the charsets that write their characters with ASCII's bytes.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            return content.decode(name, errors="replace")
    meta = _META_CHARSET.search(content, 0, 2_048)
    names = [_known(declared), _known(meta[1].decode("ascii", "replace") if meta else "")]
    names = [*names, "utf-8"] if content.isascii() else ["utf-8", *names]
    for name in filter(None, names):
        try:
            return content.decode(name)
        except UnicodeError:
            continue
    from charset_normalizer import from_bytes

    guess = from_bytes(content[:20_000]).best()
    return content.decode(guess.encoding if guess else "utf-8", errors="replace")


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _known(charset: str) -> str:
    """Python's name of a charset of text; empty for anything else."""
    if not _NAME.fullmatch(charset):
        return ""
    try:
        name = codecs.lookup(charset).name.replace("-", "_")
    except LookupError:
        return ""
    return name if _CHARSETS.match(name) else ""


def _read(kind: Kind, charset: str, content: bytes) -> tuple[str, str]:
    if kind == "pdf":
        return pdf_text(content)
    text = decode(content, charset)
    if kind == "html":
        return html_text(text)
    return "", text.strip()


def _utf8(text: str) -> str:
    """`text` without what UTF-8 cannot write; broken PDFs hold such characters."""
    return text.encode(errors="replace").decode()


def main() -> None:
    """Read a page from standard input, after a line that says how; write JSON."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    order = json.loads(sys.stdin.buffer.readline())
    try:
        title, text = _read(order["kind"], order["charset"], sys.stdin.buffer.read())
        answer = {"title": _utf8(title[:500]), "text": _utf8(text[:MAX_CHARS])}
    except NoText as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
