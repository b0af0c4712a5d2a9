"""Addresses made from titles and file names: short, readable, and safe to copy from a text."""

from urllib.parse import quote

DOCUMENTS_SITE = "https://documents.local/"
"""Where documents without an address of their own seem to lie."""
PLAIN = "-._~,()'!:&+*/"


def url_path(name: str) -> str:
    """`name` as a URL's path; letters and digits of any script stay. Different names stay so."""
    return "".join(
        character
        if character.isalnum() or character in PLAIN
        else quote(character, errors="surrogateescape")
        for character in name
    )
