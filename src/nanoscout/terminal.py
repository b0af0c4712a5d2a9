"""What the terminal shows: strangers' text that cannot steer it, and bars of progress."""

from unicodedata import category

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


def say(console: Console, text: str) -> None:
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """`text` without the control characters by which a document could steer the terminal."""
    return "".join(
        "\ufffd" if category(character) in ("Cc", "Cs") and character not in "\n\t" else character
        for character in text
    )


def progress_bar(console: Console, *more: ProgressColumn) -> Progress:
    """A bar that leaves nothing behind; none where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *more,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
