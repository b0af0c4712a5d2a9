"""`nanoscout eval report`: folders of results as Markdown, or as one HTML file that needs no other.

What models, pages and questions say is shown as text and can be nothing else: HTML is escaped by
its template and allowed no script and no address by its own policy, and in Markdown it stands in
fences that it can't close, or is escaped.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from nanoscout import __version__
from nanoscout.errors import UserError
from nanoscout.evaluation.report import Conversation, Section, Table, section
from nanoscout.files import write_bytes, write_text
from nanoscout.terminal import printable

TITLE = "Evaluation"
_MARKS = re.compile(r"([\\`*_\[\]<>|~$&])")


def write_report(folders: Sequence[Path], out: Path, examples: int, console: Console) -> None:
    """Write `out`, and beside a Markdown file its pictures (NAME-1.png, ...).

    Raises UserError for a folder without results, and for a name that ends in neither .md nor
    .html.
    """
    if out.suffix not in (".md", ".html"):
        raise UserError(f"--out {out}: name a file that ends in .md or .html")
    sections = [section(folder, examples) for folder in folders]
    if out.suffix == ".html":
        text = _html(sections)
    else:
        pictures = [out.with_name(f"{out.stem}-{n}.png") for n in range(1, len(sections) + 1)]
        for path, of in zip(pictures, sections, strict=True):
            write_bytes(path, of.picture)
        text = "\n".join(_markdown(sections, [path.name for path in pictures]))
    write_text(out, text)
    console.print(f"Report: {out}", highlight=False)


def _html(sections: Sequence[Section]) -> str:
    from jinja2 import Environment

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_without_controls
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    template = environment.from_string(
        files("nanoscout").joinpath("evaluation/report.html").read_text(encoding="utf-8")
    )
    return template.render(title=TITLE, sections=sections, version=__version__)


def _without_controls(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _markdown(sections: Sequence[Section], pictures: Sequence[str]) -> Iterator[str]:
    yield f"# {TITLE}"
    for of, picture in zip(sections, pictures, strict=True):
        yield f"\n## {_plain(of.title)}\n"
        yield f"![right answers]({picture})\n"
        for key, value in of.facts:
            yield f"- {_plain(key)}: {_plain(value)}"
        for table in of.tables:
            yield from _table(table)
        for conversation in of.conversations:
            yield from _conversation(conversation)
    yield f"\nWritten by nanoscout {__version__}."


def _table(table: Table) -> Iterator[str]:
    yield f"\n### {_plain(table.title)}\n"
    yield f"| {' | '.join(map(_plain, table.columns))} |"
    yield "|" + "---|" * len(table.columns)
    for cells in table.rows:
        yield f"| {' | '.join(map(_plain, cells))} |"


def _conversation(conversation: Conversation) -> Iterator[str]:
    yield f"\n### {_plain(conversation.title)}\n"
    yield f"Gold: {_plain(conversation.gold)}. Answer: {_plain(conversation.answer)}."
    for role, text in conversation.messages:
        fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 3)
        yield f"\n**{_plain(role)}**\n\n{fence}text\n{printable(text)}\n{fence}"


def _plain(text: str) -> str:
    """One line in which nothing is markup."""
    return _MARKS.sub(r"\\\1", " ".join(printable(text).split()))
