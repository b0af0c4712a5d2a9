"""Hits and pages as JSON: what the servers send (HTTP and MCP) and their clients read.

Reading raises KeyError or TypeError for what is no such thing.
"""

from typing import Any

from nanoscout.records import Hit, Page


def hit_to_json(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.passage_id,
        "title": hit.title,
        "url": hit.url,
        "preview": hit.preview,
        "score": hit.score,
    }


def hit_from_json(fields: Any) -> Hit:
    return Hit(
        passage_id=fields["id"],
        title=fields["title"],
        url=fields["url"],
        preview=fields["preview"],
        score=fields["score"],
    )


def page_to_json(page: Page) -> dict[str, Any]:
    return {
        "id": page.passage_id,
        "title": page.title,
        "url": page.url,
        "text": page.text,
        "offset": page.offset,
        "next_offset": page.next_offset,
    }


def page_from_json(fields: Any) -> Page:
    return Page(
        passage_id=fields["id"],
        title=fields["title"],
        url=fields["url"],
        text=fields["text"],
        offset=fields["offset"],
        next_offset=fields["next_offset"],
    )
