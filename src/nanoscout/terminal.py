"""Showing strangers' text in the terminal: whole lines, and nothing that could steer it."""

from unicodedata import category

from rich.console import Console


def say(console: Console, text: str) -> None:
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """`text` without the control characters by which a document could steer the terminal."""
    return "".join(
        "\ufffd" if category(character) in ("Cc", "Cs") and character not in "\n\t" else character
        for character in text
    )
