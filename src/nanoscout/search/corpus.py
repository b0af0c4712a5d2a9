"""What an index is built from: JSONL, a folder, MuSiQue, HotpotQA or the generated world.

Every reader gives one passage after another and keeps none, so that a corpus may be larger than
memory.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from nanoscout.errors import UserError
from nanoscout.questions.documents import SUFFIXES, document_files, read_documents
from nanoscout.questions.hotpotqa import hotpotqa_passages
from nanoscout.questions.json_records import Json, Text, check_record, read_records
from nanoscout.questions.musique import musique_passages
from nanoscout.questions.urls import DOCUMENTS_SITE, url_path
from nanoscout.questions.world import world_passages
from nanoscout.recipe import WorldSpec
from nanoscout.records import Passage

Kind = Literal["jsonl", "folder", "musique", "hotpotqa", "world"]
NUMBERED: tuple[Kind, ...] = ("musique", "hotpotqa", "world")
"""Kinds whose ids are numbers from 0 on: two corpora of such a kind have the same ids."""

_WORLD = re.compile(r"world:(\d{1,9})(?::(\d{1,18}))?")
_NOT_IN_A_URL = re.compile(r"[\s\x00-\x1f\x7f]")

Record = tuple[str, Json]


@dataclass(frozen=True, slots=True)
class Corpus:
    kind: Kind
    passages: Iterator[Passage]
    total: int | None
    """Documents, the unreadable ones included; None where only reading them all would tell."""


def _url(text: str) -> str:
    text = text.strip()
    if _NOT_IN_A_URL.search(text):
        raise ValueError("a URL holds no white space and no control characters; write them as %20")
    return text


def _present(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


class PassageRecord(BaseModel):
    model_config = ConfigDict(coerce_numbers_to_str=True)

    id: Annotated[Text, AfterValidator(_present)]
    title: Text
    text: Text
    url: Annotated[Text, AfterValidator(_url)] | None = None
    """None or empty: made from the id."""


def open_corpus(
    source: str,
    kind: Kind | None = None,
    unreadable: Callable[[UserError], None] | None = None,
) -> Corpus:
    """The corpus that `source` names: a file, a folder, or `world:PAGES` or `world:PAGES:SEED`.

    Without `kind` it is told by the name, and for a file by its first record. Files of a folder
    that cannot be read are told to `unreadable` and left out; without it they raise. Raises
    UserError for what does not exist or has another format; reading the passages raises it for a
    broken record, naming the line.
    """
    path = Path(source)
    if kind == "world" or (kind is None and _WORLD.fullmatch(source)):
        spec = _world_spec(source)
        return Corpus("world", world_passages(spec), spec.pages)
    if kind == "folder" or (kind is None and path.is_dir()):
        total = sum(1 for _ in document_files(path))
        return Corpus("folder", read_documents(path, unreadable), total)
    if kind is None and path.suffix.lower() in SUFFIXES and path.is_file():
        raise UserError(f"{path}: a single document; name the folder that holds your documents")
    records = read_records(path)
    first = next(records)
    kind = kind or _kind_of(*first)
    return Corpus(kind, _READERS[kind](chain([first], records)), None)


def _world_spec(source: str) -> WorldSpec:
    form = _WORLD.fullmatch(source)
    if not form:
        raise UserError(f"{source}: no generated world; write world:PAGES or world:PAGES:SEED")
    try:
        return WorldSpec(pages=int(form[1]), seed=int(form[2] or 0))
    except ValidationError as error:
        raise UserError(f"{source}: pages: {error.errors()[0]['msg']}") from None


def _kind_of(place: str, record: Json) -> Kind:
    if "paragraphs" in record:
        return "musique"
    if "context" in record:
        return "hotpotqa"
    if "text" in record:
        return "jsonl"
    raise UserError(
        f"{place}: no known format; a passage is {{id, title, text}} with or without url, "
        "MuSiQue has paragraphs, HotpotQA has context"
    )


def _jsonl_passages(records: Iterable[Record]) -> Iterator[Passage]:
    for place, fields in records:
        record = check_record(place, fields, PassageRecord)
        url = record.url or DOCUMENTS_SITE + url_path(record.id)
        yield Passage(record.id, record.title, record.text, url)


_READERS: dict[Kind, Callable[[Iterable[Record]], Iterator[Passage]]] = {
    "jsonl": _jsonl_passages,
    "musique": musique_passages,
    "hotpotqa": hotpotqa_passages,
}
