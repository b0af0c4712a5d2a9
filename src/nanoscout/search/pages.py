"""A page in portions: long documents are read piece by piece."""

from nanoscout.records import Page, Passage


def page_portion(passage: Passage, offset: int, length: int) -> Page:
    """At most `length` characters of a page from `offset` on, cut at white space where there is.

    White space around a portion is left out, and so is `offset` moved on to where a word begins.
    """
    text = passage.text.rstrip()
    rest = text[max(0, offset) :].lstrip()
    begin = len(text) - len(rest)
    end = len(rest)
    if end > length:
        cut = max(rest.rfind(" ", 0, length + 1), rest.rfind("\n", 0, length + 1))
        end = cut if cut > 0 else length
    return Page(
        passage_id=passage.id,
        title=passage.title,
        url=passage.url,
        text=rest[:end].rstrip(),
        offset=begin,
        next_offset=begin + end if end < len(rest) else None,
    )
