"""A real search server, asked by our client, by raw HTTP, and by those who mean it no good."""

import asyncio
import json
import re
import shlex
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import ScriptedEngine
from serving import FRESH, PAGES, Server, running

from nanoscout.engine.protocol import Sampling
from nanoscout.errors import UserError
from nanoscout.models import load_model
from nanoscout.questions import load_questions
from nanoscout.recipe_file import load_recipe
from nanoscout.records import Passage, Question, TurnKind
from nanoscout.rollout.episode import Limits as ConversationLimits
from nanoscout.rollout.episode import run_episode
from nanoscout.search.http_search import HttpSearch
from nanoscout.search.http_server import serve
from nanoscout.search.index import SearchIndex
from nanoscout.search.local import LocalSearch
from nanoscout.search.protocol import SearchUnavailable
from nanoscout.setting import make_setting, prepare_folder

PATHS = ("/search", "/visit", "/retrieve")
CLI = ("-m", "nanoscout", "index", "serve")
SMOKE = Path(__file__).parents[1] / "recipes" / "smoke.toml"


def limited(folder: Path, limits: str) -> tuple[str, str]:
    """The command of a server with limits of its own."""
    return "-c", (
        "from pathlib import Path\n"
        "from nanoscout.search.http_server import Limits, serve\n"
        f"serve(Path({str(folder)!r}), port=0, limits=Limits({limits}))\n"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server") / "index"
    SearchIndex.build(PAGES, folder)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> SearchIndex:
    return SearchIndex.open(folder)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running(*CLI, str(folder), "--port", "0", "--workers", "2") as server:
        yield server


@pytest.fixture(scope="module")
def narrow(folder: Path) -> Iterator[Server]:
    with running(*limited(folder, "requests=1, seconds=600")) as server:
        yield server


def test_the_ready_line_and_health(server: Server) -> None:
    assert server.ready == f"nanoscout search server on {server.url} (33 documents, 2 workers)"
    assert server.get("/health").json() == {"status": "ok", "documents": 33}


@pytest.mark.parametrize(("preview", "chars"), [("first", 160), ("window", 60)])
def test_hits_and_pages_are_those_of_the_engine_in_process(
    server: Server, index: SearchIndex, preview: Any, chars: int
) -> None:
    local = LocalSearch(index, preview, chars)
    client = HttpSearch(server.url, preview, chars)

    async def check() -> None:
        for query in ("Brell", "mayor paints", "東京", "nothing here", "", "a note on Brell"):
            for page in (1, 2, 10**9):
                assert await client.search(query, 7, page) == await local.search(query, 7, page)
        for url in ("https://w.org/Brell", " https://w.org/東京/ ", "https://w.org/none", ""):
            for offset in (-3, 0, 100, 10**30):
                assert await client.visit(url, 50, offset) == await local.visit(url, 50, offset)

    asyncio.run(check())
    asyncio.run(check())  # a second event loop, as in a training run


@given(st.text(st.characters()), st.sampled_from(["first", "window"]))
@example("\0", "first")
@example("\ud800 Brell \udfff", "window")
@example("Brell " * 170_000, "first")
@example("\0" * 1_000_000, "first")
@settings(max_examples=40, deadline=None)
def test_any_text_is_a_query_and_a_url(
    server: Server, index: SearchIndex, text: str, preview: Any
) -> None:
    local, client = LocalSearch(index, preview), HttpSearch(server.url, preview)

    async def check() -> None:
        assert await client.search(text, 5) == await local.search(text, 5)
        assert await client.visit(text, 100) == await local.visit(text, 100)

    asyncio.run(check())


def test_search_takes_one_query_or_several(server: Server) -> None:
    one = server.post("/search", {"query": "Brell"}).json()["results"]
    assert len(one) == 1
    assert len(one[0]) == 10
    assert set(one[0][0]) == {"id", "title", "url", "preview", "score"}
    several = server.post("/search", {"queries": ["Brell", "zzz"], "k": 2, "page": 1}).json()
    assert several["results"] == [one[0][:2], []]
    assert server.post("/search", {"queries": []}).json() == {"results": []}


def test_visit_goes_on_where_the_last_portion_ended(server: Server, index: SearchIndex) -> None:
    offset, text = 0, ""
    while offset is not None:
        asked = {"url": "https://w.org/Brell", "offset": offset, "max_chars": 50}
        page = server.post("/visit", asked).json()
        assert (page["id"], page["title"], page["url"]) == ("p2", "Brell", asked["url"])
        text, offset = f"{text} {page['text']}".strip(), page["next_offset"]
    assert text == PAGES[1].text
    missing = server.post("/visit", {"url": "https://w.org/none"})
    assert missing.status_code == 404
    assert "visit a url from a search result" in missing.json()["error"]


@pytest.mark.parametrize("sizes", [{"topk": 2}, {"topk_retrieval": 30, "topk_rerank": 2}])
def test_retrieve_has_the_shapes_of_both_existing_clients(
    server: Server, sizes: dict[str, int]
) -> None:
    asked = {"queries": ["Alma Voss of Brell", "東京"], **sizes}
    plain = server.post("/retrieve", asked | {"return_scores": False}).json()["result"]
    scored = server.post("/retrieve", asked | {"return_scores": True}).json()["result"]
    assert [len(documents) for documents in plain] == [2, 1]
    assert plain[0][0] == {
        "id": "p1",
        "doc_id": "p1",
        "contents": '"Alma Voss"\nAlma Voss is a painter. She lives in Brell.',
        "title": "Alma Voss",
        "text": "Alma Voss is a painter. She lives in Brell.",
        "url": "https://w.org/Alma",
    }
    assert [[hit["document"] for hit in hits] for hits in scored] == plain
    assert scored[0][0]["score"] > scored[0][1]["score"] > 0


def test_retrieve_gives_three_documents_unless_asked(server: Server) -> None:
    asked = {"queries": ["Brell"], "topk": None, "some_other_client's": "field"}
    assert len(server.post("/retrieve", asked).json()["result"][0]) == 3


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        ("/search", {}, 'give either "query" or "queries"'),
        ("/search", {"query": "a", "queries": ["b"]}, 'give either "query" or "queries"'),
        ("/search", {"query": 7}, "query: "),
        ("/search", {"query": "a", "k": 51}, "k: "),
        ("/search", {"query": "a", "k": True}, "k: "),
        ("/search", {"query": "a", "page": 0}, "page: "),
        ("/search", {"query": "a", "preview_chars": 19}, "preview_chars: "),
        ("/search", {"query": "a", "preview": "last"}, "preview: "),
        ("/search", {"query": "a", "top_k": 3}, "top_k: "),
        ("/search", {"queries": ["a"] * 257}, "queries: "),
        ("/search", {"queries": ["a", None]}, "queries.1: "),
        ("/visit", {"url": "u", "max_chars": 0}, "max_chars: "),
        ("/visit", {}, "url: "),
        ("/retrieve", {"query": "a"}, "queries: "),
        ("/retrieve", {"queries": ["a"], "topk": 0}, "topk: "),
        ("/retrieve", [], "object"),
    ],
)
def test_a_wrong_request_is_told_what_to_mend(
    server: Server, path: str, body: Any, complaint: str
) -> None:
    response = server.post(path, body)
    assert response.status_code == 400
    assert complaint in response.json()["error"]
    assert response.json()["error"].endswith("mend the request")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
FIELDS = st.dictionaries(
    st.sampled_from(["query", "queries", "k", "page", "url", "offset", "max_chars", "topk"]), JSON
)


@given(st.sampled_from(PATHS), st.binary() | (JSON | FIELDS).map(lambda v: json.dumps(v).encode()))
@example("/search", b'{"query": "\\ud800"}')
@example("/search", b"[" * 100_000)
@example("/visit", b'{"url": "u", "offset": ' + b"9" * 5_000 + b"}")
@settings(max_examples=80, deadline=None)
def test_no_body_brings_the_server_down(server: Server, path: str, body: bytes) -> None:
    response = server.post(path, content=body)
    assert response.status_code in (200, 400, 404)
    assert ("error" in response.json()) == (response.status_code != 200)


def test_a_body_over_the_limit_is_refused(server: Server) -> None:
    assert server.post("/search", {"query": "a" * (2**20 - 100)}).status_code == 200
    whole = json.dumps({"query": "a" * 2**20}).encode()
    chunks = (whole[at : at + 50_000] for at in range(0, len(whole), 50_000))
    for content in (whole, chunks):  # with its length given, and without
        response = server.post("/search", content=content)
        assert response.status_code == 413
        assert "send less at once" in response.json()["error"]


@pytest.mark.parametrize(
    "url", ["../../etc/passwd", "file:///etc/passwd", "/etc/passwd", "meta.json", "u:1/../u:2"]
)
def test_no_url_leads_out_of_the_index(server: Server, folder: Path, url: str) -> None:
    for tried in (url, f"{folder}/{url}", f"file://{folder}/{url}"):
        assert server.post("/visit", {"url": tried}).status_code == 404


@pytest.mark.parametrize("path", ["/", "/../meta.json", "/%2e%2e/meta.json", "/search/", "//"])
def test_an_unknown_path_is_told_which_there_are(server: Server, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert "POST /search, /visit and /retrieve" in json.loads(body)["error"]


def test_a_wrong_method_is_told_so(server: Server) -> None:
    response = server.get("/search")
    assert response.status_code == 405
    assert response.json()["error"].startswith("method not allowed")


def hold(server: Server, body: bytes) -> socket.socket:
    """A connection with a request that the server has begun to read, still without its body."""
    held = socket.create_connection(("127.0.0.1", server.port))
    held.sendall(
        b"POST /search HTTP/1.1\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    assert held.recv(1_000).startswith(b"HTTP/1.1 100")
    return held


def test_a_request_over_the_bound_is_sent_away_and_the_others_are_answered(narrow: Server) -> None:
    body = b'{"query": "Brell"}'
    with hold(narrow, body) as held:
        for path in PATHS:
            refused = narrow.post(path, {"query": "Brell"})
            assert refused.status_code == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert "try again" in refused.json()["error"]
        with pytest.raises(SearchUnavailable, match="429"):
            asyncio.run(HttpSearch(narrow.url).search("Brell", 3))
        assert narrow.get("/health").status_code == 200
        held.sendall(body)
        assert held.makefile("rb").read().startswith(b"HTTP/1.1 200")
    assert narrow.post("/search", {"query": "Brell"}).status_code == 200


def test_a_client_that_leaves_gives_its_place_back(narrow: Server) -> None:
    hold(narrow, b"{}").close()
    while (response := narrow.post("/search", {"query": "Brell"})).status_code == 429:
        pass
    assert response.status_code == 200


def test_a_request_that_takes_too_long_is_ended(folder: Path) -> None:
    with running(*limited(folder, "seconds=0.05")) as server, hold(server, b"{}") as held:
        answer = held.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in answer
    assert b"no answer within 0.05 s" in answer


def test_the_token_is_asked_for(folder: Path) -> None:
    command = (*CLI, str(folder), "--host", "0.0.0.0", "--port", "0", "--token-env", "MY_TOKEN")
    with running(*command, MY_TOKEN="sésame") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        asked = {"query": "Brell"}
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": b"s\xc3\xa9same"}):
            for response in (
                FRESH.post(f"{url}/search", json=asked, headers=headers),
                FRESH.get(f"{url}/metrics", headers=headers),
            ):
                assert response.status_code == 401
                assert "Bearer TOKEN" in response.json()["error"]
        assert FRESH.get(f"{url}/health").status_code == 200
        assert len(asyncio.run(HttpSearch(url, token="sésame").search("Brell", 3))) == 3
        with pytest.raises(UserError, match="wants its token"):
            asyncio.run(HttpSearch(url, token="other").search("Brell", 3))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_only_loopback_goes_without_a_token(folder: Path, host: str) -> None:
    with pytest.raises(UserError, match="set a token"):
        serve(folder, host, 0)


def test_what_cannot_be_served_is_refused_in_a_line(folder: Path, server: Server) -> None:
    with pytest.raises(UserError, match="no search index here"):
        serve(folder / "none", port=0)
    with pytest.raises(UserError, match="cannot listen there"):
        serve(folder, port=server.port)


def test_an_engine_that_is_not_there_is_unavailable(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SearchUnavailable):
        asyncio.run(HttpSearch(f"http://127.0.0.1:{port}").search("Brell", 3))
    with pytest.raises(UserError, match="k: "):
        asyncio.run(HttpSearch(server.url).search("Brell", 51))
    with pytest.raises(UserError, match="begins with http"):
        HttpSearch("ftp://w.org")


@pytest.mark.parametrize("body", [b"hello", b"[]", b'{"results": {}}', b'{"results": [[{}]]}'])
def test_an_answer_from_another_kind_of_server_is_told_so(body: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                answered = False
                while connection.recv(10_000):  # to its end, lest the close become a reset
                    if not answered:
                        connection.sendall(head.encode() + body)
                        answered = True

        thread = threading.Thread(target=answer)
        thread.start()
        engine = HttpSearch(f"http://127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(UserError, match="no nanoscout search server there"):
            asyncio.run(engine.search("Brell", 3))
        thread.join()


def searches(server: Server) -> set[float]:
    """What several scrapes, each over its own connection, say was searched for."""
    return {
        float(re.search(r"^nanoscout_queries_total (\S+)", server.get("/metrics").text, re.M)[1])
        for _ in range(8)
    }


def test_the_service_and_its_counts_outlive_a_worker(server: Server) -> None:
    server.post("/search", {"query": "Brell"})
    [before] = searches(server)
    for _ in range(10):
        server.post("/search", {"queries": ["Brell", "town"]})
    assert searches(server) == {before + 20}
    workers = server.workers()
    assert len(workers) == 2
    workers[0].kill()
    psutil.wait_procs(workers[:1])
    for _ in range(20):
        assert server.post("/search", {"query": "Brell"}).status_code == 200
    assert searches(server) == {before + 40}
    workers[1].kill()
    psutil.wait_procs(workers[1:])
    assert server.post("/search", {"query": "Brell"}).status_code == 200
    assert searches(server) == {before + 41}
    text = server.get("/metrics").text
    assert 'nanoscout_requests_total{path="/search",status="200"}' in text
    assert 'nanoscout_request_seconds_count{path="/search"}' in text


def test_an_index_that_changes_is_searched_as_it_is_now(tmp_path: Path) -> None:
    SearchIndex.build(PAGES, tmp_path / "index")
    with running(*CLI, str(tmp_path / "index"), "--port", "0", "--workers", "2") as server:
        asked = {"query": "quokka"}
        assert server.post("/search", asked).json() == {"results": [[]]}
        SearchIndex.update(
            tmp_path / "index", [Passage("q", "Quokka", "It smiles.", "u:q")], ["p1"]
        )
        for _ in range(8):  # whichever worker answers
            [[hit]] = server.post("/search", asked).json()["results"]
            assert hit["id"] == "q"
            assert server.post("/visit", {"url": "https://w.org/Alma"}).status_code == 404
        assert server.get("/health").json()["documents"] == 33


def test_an_episode_over_http_and_over_mcp_is_the_one_in_process(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    turns = [
        '<tool>{"name": "web_search", "args": {"query": "Brell"}}</tool>',
        '<tool>{"name": "web_search", "args": {"query": "Brell", "page": 2}}</tool>',
        '<tool>{"name": "web_search", "args": {"query": "zzz"}}</tool>',
        '<tool>{"name": "visit", "args": {"url": "https://w.org/Brell"}}</tool>',
        '<tool>{"name": "visit", "args": {"url": "https://w.org/Brell", "offset": 100}}</tool>',
        '<tool>{"name": "visit", "args": {"url": "https://w.org/Brell", "offset": 9999}}</tool>',
        '<tool>{"name": "visit", "args": {"url": "https://w.org/none"}}</tool>',
        "<answer>paints</answer>",
    ]
    overrides = [
        "search.results=4",
        "search.preview=window",
        "search.preview_chars=60",
        "search.page_chars=100",
        "dialogue.examples=[]",
    ]
    mcp = ("-m", "nanoscout", "mcp", str(folder))
    with running(*mcp, "--http", "--port", "0") as mcp_server:
        engines = {
            "local": "local",
            "http": server.url,
            "mcp-http": f"mcp+{mcp_server.url}",
            "mcp-stdio": f"mcp:{shlex.join([sys.executable, *mcp])}",
        }
        conversations = {}
        for name, engine_name in engines.items():
            recipe = load_recipe(SMOKE, [*overrides, f"search.engine={json.dumps(engine_name)}"])
            run = tmp_path / name
            prepare_folder(recipe, run, load_questions(recipe.questions, recipe.seed))
            shutil.rmtree(run / "index")
            shutil.copytree(folder, run / "index")
            setting = make_setting(recipe, run, *load_model(recipe.model))
            assert setting.search.name == name.partition("-")[0]
            engine = ScriptedEngine(
                setting.environment.dialogue.tokenizer,
                lambda so_far, seed: turns[so_far.count("<|im_start|>assistant") - 1],
            )
            question = Question("q", "Who paints?", "Its mayor")
            limits = ConversationLimits(context=20_000, turns=9, turn_tokens=200, malformed_turns=0)
            conversations[name] = asyncio.run(
                run_episode(question, setting.environment, engine, limits, Sampling(), seed=1)
            )
    local = conversations.pop("local")
    assert "p2" in local.shown
    assert len(local.shown) >= 8  # two pages of four hits
    assert [turn.kind for turn in local.turns] == [TurnKind.CALL] * 7 + [TurnKind.ANSWER]
    for name, remote in conversations.items():
        assert remote.token_ids == local.token_ids, name
        assert [result.shown for result in remote.results] == [
            result.shown for result in local.results
        ], name


@pytest.mark.parametrize(
    ("engine", "advice"),
    [
        ("http://127.0.0.1:1", "start it with nanoscout index serve"),
        ("mcp+http://127.0.0.1:1/mcp", "start it with nanoscout mcp"),
        ("mcp:no-such-command", "start it with nanoscout mcp"),
        ("ftp://127.0.0.1", "no engine's name"),
    ],
)
def test_a_recipe_whose_server_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path, engine: str, advice: str
) -> None:
    recipe = load_recipe(SMOKE, [f"search.engine={engine}"])
    with pytest.raises(UserError, match=rf"search\.engine: .*{advice}"):
        prepare_folder(recipe, tmp_path / "run", load_questions(recipe.questions, recipe.seed))
    assert list(tmp_path.iterdir()) == []
