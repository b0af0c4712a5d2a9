"""What `nanoscout eval` refuses: one line, before any work, and nothing is left behind."""

import json
import socket
from pathlib import Path

import pytest
from chat_server import chatting
from rich.console import Console
from serving import PAGES
from typer.testing import CliRunner

from nanoscout.cli import app
from nanoscout.entrants import labels
from nanoscout.errors import UserError
from nanoscout.eval_plan import Wanted
from nanoscout.evaluating import evaluate_suite
from nanoscout.evaluation.agents import PROMPT_ROOM
from nanoscout.search.index import SearchIndex

QUIET = Console(quiet=True)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    SearchIndex.build(PAGES, folder / "index")
    line = {"question": "Where does Alma Voss live?", "answer": "Brell"}
    (folder / "questions.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "simpleqa.csv").write_text("question,answer\nWho?,Me\n")
    return folder


def unused_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


OWN = ["--suite", "jsonl", "--path", "questions.jsonl", "--search", "index"]
REFUSED = {
    "no such suite": (["--suite", "simpelqa"], "no suite is called 'simpelqa'"),
    "no columns": (["--suite", "simpleqa", "--path", "simpleqa.csv", "--closed-book"], "problem"),
    "no such file": (
        ["--suite", "jsonl", "--path", "nowhere.jsonl", "--search", "index"],
        "nowhere",
    ),
    "no such agent": ([*OWN, "--agent", "langgraf"], "--agent langgraf: no such agent"),
    "endpoint down": ([*OWN, "--agent", "langgraph", "--endpoint", "DOWN"], "cannot be reached"),
    "judge down": ([*OWN, "--judge", "DOWN", "--judge-model", "m"], "judge http://127"),
    "judge without a model": ([*OWN, "--judge", "DOWN"], "belong together"),
    "native at an endpoint": ([*OWN, "--endpoint", "DOWN"], "model in this process"),
    "frameworks, closed book": (
        ["--suite", "jsonl", "--path", "questions.jsonl", "--closed-book", "--agent", "langgraph"],
        "--closed-book",
    ),
    "frameworks without MCP": (
        [*OWN[:4], "--search", "serper", "--agent", "langgraph"],
        "reaches tools over MCP alone",
    ),
    "no corpus": (OWN[:4], "brings no corpus of its own"),
    "no run to change": ([*OWN, "--set", "evaluation.turns=3"], "no run among the models"),
    "no such model": (OWN, "no such folder"),
    "own questions of two": (["--greedy"], "name the questions with --suite"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_wrong_input_is_told_and_leaves_nothing(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.chdir(inputs)
    options, words = REFUSED[fault]
    address = unused_address()
    options = [address if word == "DOWN" else word for word in options]
    before = sorted(inputs.iterdir())
    model = "./nowhere" if fault == "no such model" else "tiny:qwen3"
    result = CliRunner().invoke(app, ["eval", "run", model, *options, "--out", "out"])
    assert isinstance(result.exception, UserError), result.output
    assert words in str(result.exception)
    assert "\n" not in str(result.exception)
    left = {path.name for path in inputs.iterdir()} - {path.name for path in before}
    assert left <= ({"out"} if fault == "no such model" else set())


def test_an_endpoint_without_the_model_says_what_it_has(inputs: Path) -> None:
    with chatting(lambda chat: "", models=("one", "two")) as server:
        wanted = Wanted(
            ["three"],
            "jsonl",
            inputs / "questions.jsonl",
            agents=["langgraph"],
            search=str(inputs / "index"),
            endpoint=server.url,
            out=inputs / "out",
        )
        with pytest.raises(UserError, match=r"no model 'three'; it has one, two"):
            evaluate_suite(wanted, QUIET)
    assert not (inputs / "out").exists()


def test_models_get_names_that_can_name_folders(tmp_path: Path) -> None:
    for name in ("a/model", "b/model"):
        (tmp_path / name).mkdir(parents=True)
    first, second = str(tmp_path / "a" / "model"), str(tmp_path / "b" / "model")
    assert labels([first, "org/../big model"]) == ["model", "org-..-big-model"]
    assert len(set(labels([first, second]))) == 2
    with pytest.raises(UserError, match="named twice"):
        labels([first, first])


def test_a_tiny_model_is_evaluated_over_an_mcp_server(inputs: Path) -> None:
    """Closed book and over its index: the native agent in its own process, greedy, to the end."""
    for search, closed in ((str(inputs / "index"), False), ("", True)):
        out = inputs / f"out-{closed}"
        wanted = Wanted(
            ["tiny:qwen3"],
            "jsonl",
            inputs / "questions.jsonl",
            search=search,
            closed_book=closed,
            greedy=True,
            out=out,
        )
        [cell] = evaluate_suite(wanted, QUIET)["cells"]
        assert (cell["n"], cell["unasked"], cell["correct"]) == (1, 0, 0.0)
        assert cell["completion_tokens"] > 0
        assert (out / "mcp.log").exists() is not closed
        before = {path: path.read_bytes() for path in out.glob("*/*.jsonl")}
        assert evaluate_suite(wanted, QUIET)["cells"] == [cell]
        assert before == {path: path.read_bytes() for path in out.glob("*/*.jsonl")}


def test_agents_with_a_long_prompt_of_their_own_have_room_for_it(inputs: Path) -> None:
    """The limit is the same for all; what smolagents itself says comes on top."""
    out = inputs / "out"
    wanted = Wanted(
        ["tiny:qwen3"],
        "jsonl",
        inputs / "questions.jsonl",
        agents=["smolagents-code", "langgraph", "smolagents-tools"],
        search=str(inputs / "index"),
        greedy=True,
        out=out,
    )
    cells = evaluate_suite(wanted, QUIET)["cells"]
    assert [(cell["n"], cell["unasked"]) for cell in cells] == [(1, 0)] * 3
    logs = {path.name for path in out.glob("tiny*.log")}
    assert logs == {"tiny-qwen3-8192.log", f"tiny-qwen3-{8192 + PROMPT_ROOM}.log"}
