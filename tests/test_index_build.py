"""Indexes from any corpus, changed in one commit or not at all, and used from the terminal."""

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.figure import Figure

from nanoscout.errors import UserError
from nanoscout.questions import load_questions
from nanoscout.questions.json_records import read_records
from nanoscout.recipe import QuestionsSpec, WorldSpec
from nanoscout.records import Passage
from nanoscout.search.corpus import open_corpus
from nanoscout.search.index import MAX_KEY_BYTES, SearchIndex

DATA = Path(__file__).parents[1] / "../shared/data"
MUSIQUE, HOTPOTQA = DATA / "musique", DATA / "hotpotqa"
SITE = "https://documents.local/"
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)
TOWNS = [
    Passage(
        "zurich", "Zürich", "Zürich is the largest city of Switzerland.", "https://w.org/zurich"
    ),
    Passage("bern", "Bern", "Bern is the seat of the Swiss government.", "https://w.org/bern"),
    Passage("kyoto", "Kyoto", "Kyoto was the capital of Japan.", "https://w.org/kyoto"),
]


def read(source: Path | str, kind: Any = None, warn: Any = None) -> list[Passage]:
    return list(open_corpus(str(source), kind, warn).passages)


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def town(n: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"t{n}", "title": f"Town {n}", "text": f"Town {n} has {n} gates."} | fields


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nanoscout", "index", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def ids(folder: Path, query: str) -> set[str]:
    return {hit.passage.id for hit in SearchIndex.open(folder).search(query, 100)}


# What a corpus is read from


def test_jsonl_with_and_without_urls_plain_and_zipped(tmp_path: Path) -> None:
    lines = [town(1, url=" https://w.org/1 ", views=3), town(2, id=2), town(3, id="a b/ä", url="")]
    path = write_lines(tmp_path / "corpus.jsonl", lines)
    passages = read(path)
    assert [p.id for p in passages] == ["t1", "2", "a b/ä"]
    assert [p.url for p in passages] == ["https://w.org/1", f"{SITE}2", f"{SITE}a%20b/ä"]
    assert passages[0].title == "Town 1"
    assert passages[0].text == "Town 1 has 1 gates."
    (tmp_path / "zipped").write_bytes(gzip.compress(path.read_bytes()))
    assert read(tmp_path / "zipped") == passages
    (tmp_path / "array").write_text(json.dumps(lines, indent=1))
    assert read(tmp_path / "array") == passages


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ('{"id": ', "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"id": "x", "title": "x"}', "text: Field required"),
        (json.dumps(town(2, id="")), "id: must not be empty"),
        (json.dumps(town(2, title=None)), "title: Input should be a valid string"),
        (json.dumps(town(2, text="\ud800")), "text: "),
        (json.dumps(town(2, url="https://w.org/a b")), "url: a URL holds no white space"),
        (json.dumps(town(2, url="u\0")), "url: a URL holds no white space"),
    ],
)
def test_a_broken_line_is_named_by_number(tmp_path: Path, broken: str, complaint: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(f"{json.dumps(town(1))}\n\n{broken}\n{json.dumps(town(4))}\n")
    with pytest.raises(UserError) as error:
        SearchIndex.build(open_corpus(str(path)).passages, tmp_path / "index")
    assert str(error.value).startswith(f"{path}, line 3: {complaint}")
    assert [child.name for child in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_passages_come_before_the_file_has_been_read(tmp_path: Path) -> None:
    for name, text in (("lines", "{}\n{}\n" * 10**6 + "{"), ("array", "[{}" + ",{}" * 2 * 10**6)):
        (tmp_path / name).write_text(text)
        records = read_records(tmp_path / name)
        assert [fields for _, (_, fields) in zip(range(1000), records, strict=False)] == [{}] * 1000


@given(st.lists(st.dictionaries(ANY_TEXT, ANY_TEXT | st.lists(st.floats(allow_nan=False)))))
@settings(deadline=None)
def test_an_array_is_read_piece_by_piece_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, items: list[Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "array.json"
    for indent in (None, 1):
        text = json.dumps(items, indent=indent)
        path.write_text(f" \n{text}\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nanoscout.questions.json_records._PIECE", 3)
            if items:
                assert [fields for _, fields in read_records(path)] == items
                path.write_text(f"{text}\n x")
                with pytest.raises(UserError, match="text after the array"):
                    list(read_records(path))
                path.write_text(text[:-1])
                with pytest.raises(UserError, match="not valid JSON"):
                    list(read_records(path))
            else:
                with pytest.raises(UserError, match="holds no record"):
                    list(read_records(path))


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "guide.md").write_text("# The guide\nHow to find the quokka.")
    (folder / "a.txt").write_text("A note about the axolotl.")
    paragraph = "<p>The otter lives by the river, and eats fish, crabs and frogs all year long.</p>"
    (folder / "otter.HTML").write_text(
        "<!doctype html><html><head><title>Otters</title><script>alert('boo')</script>"
        "</head><body><nav><a href='/'>Home</a> <a href='/shop'>Shop</a></nav><article>"
        f"<h1>Otters &amp; rivers</h1>{paragraph * 4}</article></body></html>"
    )
    (folder / "bare.htm").write_text("<p>Only a wombat.<p>And a numbat.")
    with rc_context({"pdf.use14corefonts": True}):
        page = Figure()
        page.text(0.1, 0.5, "A pangolin rolls up when it is afraid.")
        page.savefig(folder / "p.pdf", metadata={"Title": "Pangolins", "CreationDate": None})
    (folder / "empty.md").write_text("\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


def test_a_folder_of_documents(documents: Path) -> None:
    passages = {passage.id: passage for passage in read(documents)}
    assert list(passages) == ["a.txt", "b/guide.md", "bare.htm", "otter.HTML", "p.pdf"]
    titles = [passage.title for passage in passages.values()]
    assert titles == ["a", "The guide", "bare", "Otters & rivers", "Pangolins"]
    assert passages["b/guide.md"].url == f"{SITE}b/guide.md"
    assert passages["bare.htm"].text == "Only a wombat.\nAnd a numbat."
    assert "pangolin rolls up when it is afraid" in passages["p.pdf"].text
    otter = passages["otter.HTML"].text
    assert "The otter lives by the river" in otter
    assert "boo" not in otter
    assert "Shop" not in otter
    assert "<" not in otter


def test_files_that_cannot_be_read_are_told_and_left_out(documents: Path) -> None:
    (documents / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (documents / "broken.pdf").write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 9)
    (documents / "nothing.html").write_text("<html><body></body></html>")
    (documents / "cut.pdf").write_bytes((documents / "p.pdf").read_bytes()[:300])
    told: list[UserError] = []
    assert len(read(documents, warn=told.append)) == 5
    names = ["broken.pdf", "cut.pdf", "latin.txt", "nothing.html"]
    assert [str(error).split(":")[0] for error in told] == [str(documents / name) for name in names]
    assert all("\n" not in str(error) for error in told)
    assert open_corpus(str(documents)).total == 10
    with pytest.raises(UserError, match=r"broken\.pdf"):
        read(documents)
    for path in documents.rglob("*"):
        if path.is_file() and path.name not in names:
            path.unlink()
    with pytest.raises(UserError, match="the corpus is empty"):
        read(documents, warn=told.append)


@pytest.mark.skipif(not MUSIQUE.is_dir(), reason="no ../shared/data/musique here")
def test_musique_is_the_corpus_that_training_has() -> None:
    path = MUSIQUE / "train_100_hipporag.json.gz"
    spec = QuestionsSpec(source="musique", path=str(path), hops={"2hop": 1.0}, held_out=5)
    assert read(path) == load_questions(spec, seed=0).passages


@pytest.mark.skipif(not HOTPOTQA.is_dir(), reason="no ../shared/data/hotpotqa here")
@pytest.mark.parametrize("name", ["train_100_hipporag.json.gz", "dev_200_migres.jsonl.gz"])
def test_hotpotqa_holds_every_paragraph_once(name: str) -> None:
    passages = read(HOTPOTQA / name)
    with gzip.open(HOTPOTQA / name, "rt", encoding="utf-8") as file:
        text = file.read()
    records = json.loads(text) if text[0] == "[" else map(json.loads, text.splitlines())
    expected = {(t, "".join(s).strip()) for record in records for t, s in record["context"]}
    assert {(passage.title, passage.text) for passage in passages} == expected
    for unique in ({p.id for p in passages}, {p.url for p in passages}, expected):
        assert len(unique) == len(passages) > 900


def test_the_generated_world() -> None:
    spec = QuestionsSpec(world=WorldSpec(pages=150, seed=3))
    assert read("world:150:3") == load_questions(spec, seed=0).passages
    assert open_corpus("world:150").total == 150
    assert read("world:150") != read("world:150:3")


@pytest.mark.parametrize(
    ("source", "kind", "complaint"),
    [
        ("world:9", None, "world:9: pages: "),
        ("world:many", "world", "write world:PAGES or world:PAGES:SEED"),
        ("missing", None, "missing: no such file"),
        ("missing", "folder", "no such folder"),
        ("note.md", None, "name the folder that holds"),
        ("note.md", "jsonl", "line 1: not valid JSON"),
        ("other.jsonl", None, "line 1: no known format"),
        ("other.jsonl", "musique", "line 1: paragraphs: Field required"),
        ("other.jsonl", "hotpotqa", "line 1: context: Field required"),
    ],
)
def test_a_corpus_of_no_known_form_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, kind: Any, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("note.md").write_text("Note.")
    write_lines(Path("other.jsonl"), [{"contents": "x"}])
    with pytest.raises(UserError, match=complaint):
        read(source, kind)


# Changes are whole or none


def test_replacing_an_index_leaves_its_readers_at_the_old_one_until_they_reload(
    tmp_path: Path,
) -> None:
    reader = SearchIndex.build(TOWNS, tmp_path / "index")

    def new() -> Iterator[Passage]:
        for n in range(5):
            assert ids(tmp_path / "index", "Bern") == {"bern"}
            yield Passage(f"n{n}", "New", "Something new", f"u:{n}")

    rebuilt = SearchIndex.build(new(), tmp_path / "index", replace=True)
    assert len(rebuilt) == len(SearchIndex.open(tmp_path / "index")) == 5
    assert [hit.passage for hit in reader.search("Bern", 5)] == [TOWNS[1]]
    reader.reload()
    assert len(reader) == 5
    assert reader.search("Bern", 5) == []
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_replacement_that_fails_changes_nothing(tmp_path: Path) -> None:
    SearchIndex.build(TOWNS, tmp_path / "index")
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    for bad in ([], [TOWNS[0], TOWNS[0]], [replace(TOWNS[0], url="")]):
        with pytest.raises(UserError):
            SearchIndex.build(bad, tmp_path / "index", replace=True)
        assert ids(tmp_path / "index", "Bern") == {"bern"}
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before


def test_only_an_index_is_replaced(tmp_path: Path, documents: Path) -> None:
    with pytest.raises(UserError, match="no search index here"):
        SearchIndex.build(TOWNS, documents, replace=True)
    assert (documents / "a.txt").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    for folder, existing in (("new", False), ("old", True)):
        if existing:
            SearchIndex.build(TOWNS, tmp_path / folder)

        def passages(out: Path = tmp_path / folder) -> Iterator[Passage]:
            yield TOWNS[0]
            with pytest.raises(UserError, match="being written to by another"):
                SearchIndex.build(TOWNS, out, replace=True)
            yield TOWNS[1]

        assert len(SearchIndex.build(passages(), tmp_path / folder, replace=True)) == 2


def test_passages_are_added_replaced_and_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    reader = SearchIndex.build(TOWNS, folder)
    newer = replace(TOWNS[1], text="Bern has bears.")
    lima = Passage("lima", "Lima", "Lima is by the sea.", "https://w.org/lima")
    assert SearchIndex.update(folder, [newer, lima], ["kyoto"]) == (1, 1, 1)
    assert reader.passage_by_id("kyoto") == TOWNS[2]
    reader.reload()
    assert len(reader) == 3
    assert reader.passage_by_id("kyoto") is None
    assert reader.passage(TOWNS[2].url) is None
    assert reader.passage_by_id("bern") == newer
    assert ids(folder, "bears sea") == {"bern", "lima"}
    assert ids(folder, "government Japan") == set()
    assert SearchIndex.update(folder, iter([lima])) == (0, 1, 0)
    assert SearchIndex.update(folder, [TOWNS[2]], ["lima", "lima", "bern"]) == (1, 0, 2)
    assert ids(folder, "Zürich Bern Kyoto Lima") == {"zurich", "kyoto"}


def test_urls_may_move_from_one_passage_to_another(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    SearchIndex.build(TOWNS, folder)
    zurich, bern, kyoto = TOWNS
    swapped = [replace(zurich, url=bern.url), replace(bern, url=zurich.url)]
    assert SearchIndex.update(folder, swapped) == (0, 2, 0)
    heir = Passage("heir", "Heir", "", kyoto.url)
    assert SearchIndex.update(folder, [heir], ["kyoto"]) == (1, 0, 1)
    index = SearchIndex.open(folder)
    assert [index.passage(town.url) for town in TOWNS] == [swapped[1], swapped[0], heir]


@pytest.mark.parametrize(
    ("passages", "delete", "complaint"),
    [
        ([Passage("new", "", "", "https://w.org/bern")], ["kyoto"], "has the url https://w.org/b"),
        ([Passage("a", "", "", "u"), Passage("b", "", "", "u")], [], "two passages with the url u"),
        ([Passage("a", "", "", "u"), Passage("a", "", "", "v")], [], "two passages with the id a"),
        ([], ["bern", "basel"], "no passage with the id basel; nothing is changed"),
        ([Passage("x" * (MAX_KEY_BYTES + 1), "", "", "u")], ["bern"], "longer than"),
    ],
)
def test_an_update_that_cannot_be_is_refused_as_a_whole(
    tmp_path: Path, passages: list[Passage], delete: list[str], complaint: str
) -> None:
    SearchIndex.build(TOWNS, tmp_path / "index")
    with pytest.raises(UserError, match=complaint):
        SearchIndex.update(tmp_path / "index", [replace(TOWNS[0], text="New"), *passages], delete)
    index = SearchIndex.open(tmp_path / "index")
    assert [index.passage_by_id(town.id) for town in TOWNS] == TOWNS
    assert len(index) == 3


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(Passage, *[ANY_TEXT] * 4).filter(lambda passage: passage.id and passage.url),
        unique_by=(
            lambda p: p.id.encode(errors="replace"),
            lambda p: p.url.encode(errors="replace"),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_any_texts_are_kept_replaced_and_deleted(passages: list[Passage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = SearchIndex.build(passages, Path(folder))
        for passage in passages:
            assert index.passage_by_id(passage.id) == encodable(passage)
            assert index.passage(passage.url) == encodable(passage)
        first, *others = passages
        newer = replace(first, title=first.text, text=first.title)
        gone = [passage.id for passage in others]
        assert SearchIndex.update(Path(folder), [newer], gone) == (0, 1, len(others))
        index.reload()
        assert len(index) == 1
        assert index.passage(first.url) == encodable(newer)
        assert all(index.passage_by_id(passage_id) is None for passage_id in gone)


def encodable(passage: Passage) -> Passage:
    texts = (passage.id, passage.title, passage.text, passage.url)
    return Passage(*(text.encode(errors="replace").decode() for text in texts))


# From the terminal


def kill_amid(pipe: Path, *args: str | Path) -> None:
    """Start a verb that reads the corpus from `pipe`, and kill it before the corpus has ended."""
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "nanoscout", "index", *map(str, args)]
    verb = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    with pipe.open("w", encoding="utf-8") as feed:
        for n in range(5_000):  # far more than a pipe holds: once written, most has been read
            feed.write(json.dumps(town(n, text="gate " * 50)) + "\n")
        feed.flush()
        assert verb.poll() is None
        verb.kill()
        verb.wait()
    assert verb.returncode == -signal.SIGKILL


@needs_pipes
@pytest.mark.parametrize("existing", [True, False])
def test_a_killed_build_leaves_the_old_index_and_the_next_one_works(
    tmp_path: Path, existing: bool
) -> None:
    folder, pipe = tmp_path / "index", tmp_path / "pipe"
    if existing:
        SearchIndex.build(TOWNS, folder)
    kill_amid(pipe, "build", pipe, "--out", folder, "--replace")
    if existing:
        assert ids(folder, "Bern") == {"bern"}
        (folder / ".tmpAbCdEf").write_text("what a kill left of a file half written")
    else:
        assert not folder.exists()
    corpus = write_lines(tmp_path / "corpus.jsonl", [town(n) for n in range(3)])
    done = run("build", corpus, "--out", folder, "--replace")
    assert done.returncode == 0, done.stderr
    assert ids(folder, "gates") == {"t0", "t1", "t2"}
    assert {path.name for path in tmp_path.iterdir()} == {"index", "pipe", "corpus.jsonl"}
    SearchIndex.build(TOWNS, tmp_path / "fresh")
    assert len(list(folder.iterdir())) == len(list((tmp_path / "fresh").iterdir()))


@needs_pipes
def test_a_killed_update_changes_nothing_and_the_next_one_works(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "index", tmp_path / "pipe"
    SearchIndex.build([*TOWNS, Passage("t1", "Old", "Old town", "u:old")], folder)
    kill_amid(pipe, "add", folder, pipe)
    assert len(SearchIndex.open(folder)) == 4
    assert ids(folder, "old") == {"t1"}
    corpus = write_lines(tmp_path / "corpus.jsonl", [town(1), town(2)])
    done = run("add", folder, corpus)
    assert "1 added, 1 replaced" in done.stdout
    assert ids(folder, "gates old") == {"t1", "t2"}


def test_the_verbs(tmp_path: Path, documents: Path) -> None:
    folder = tmp_path / "index"
    (documents / "bad.txt").write_bytes(b"\xff")
    built = run("build", documents, "--out", folder)
    assert (built.returncode, built.stderr) == (0, "")
    assert f"warning: {documents / 'bad.txt'}: not UTF-8 text" in built.stdout
    assert "5 documents" in built.stdout
    assert "1 file could not be read" in built.stdout
    again = run("build", documents, "--out", folder)
    assert again.returncode == 2
    assert "--replace" in again.stderr
    info = json.loads(run("info", folder, "--json").stdout)
    assert info["documents"] == 5
    assert info["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    (hit,) = json.loads(run("search", folder, "quokka", "-k", "1", "--json").stdout)
    assert (hit["passage_id"], hit["url"]) == ("b/guide.md", f"{SITE}b/guide.md")
    page = run("visit", folder, hit["url"], "--offset", "12")
    assert page.stdout == "The guide\nHow to find the quokka.\n"
    lines = write_lines(
        tmp_path / "more.jsonl", [town(1, title="\x1b[2J [red]Town"), town(2, id="a.txt")]
    )
    assert "1 added, 1 replaced" in run("add", folder, lines).stdout
    shown = run("search", folder, "gates").stdout
    assert "�[2J [red]Town" in shown
    assert "\x1b" not in shown
    assert "1 deleted" in run("delete", folder, "t1").stdout
    assert "No results" in run("search", folder, "1 axolotl").stdout


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("info", "."), "no search index here"),
        (("search", "missing", "x"), "no search index here"),
        (("visit", "index", "https://w.org"), "no document with this URL"),
        (("visit", "index", "https://w.org/bern", "--offset", "9999"), "not that long"),
        (("delete", "index", "bern", "basel"), "no passage with the id basel"),
        (("add", "index", "world:100"), "numbered from 0 on"),
        (("add", "index", "missing.jsonl"), "no such file"),
        (("build", "world:100", "--out", "index"), "not empty"),
        (("search", "index", "bern", "-k", "0"), "Invalid value"),
        (("build", "world:100", "--out", "x", "--kind", "csv"), "Invalid value"),
    ],
)
def test_a_wrong_command_ends_with_code_2_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    SearchIndex.build(TOWNS, tmp_path / "index")
    done = run(*args)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert len(SearchIndex.open(tmp_path / "index")) == 3
