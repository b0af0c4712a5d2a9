"""The suites as Inspect's tasks, offline: its mock model, an endpoint of OpenAI's, our agent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import chatting
from serving import PAGES, running
from test_episode import turns
from test_serve import scripted, served

from nanoscout.evaluation.suites.catalogue import NAMES
from nanoscout.search.index import SearchIndex

inspect_ai = pytest.importorskip("inspect_ai", reason="needs the extra inspect")

from inspect_ai.log import EvalLog, read_eval_log  # noqa: E402
from inspect_ai.model import ModelOutput, get_model  # noqa: E402
from inspect_ai.model._providers.mockllm import MockLLM  # noqa: E402

from nanoscout.inspect_tasks import suite  # noqa: E402


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    SearchIndex.build(PAGES, tmp_path / "index")
    questions = [
        {"id": "voss", "question": "Where does Alma Voss live?", "answer": "Brell"},
        {"id": "japan", "question": "What is Japan's capital?", "answer": "Tokyo", "topic": "Asia"},
    ]
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    (tmp_path / "questions.jsonl").write_text(lines)
    return tmp_path


def evaluated(task: object, model: object, folder: Path) -> EvalLog:
    [log] = inspect_ai.eval(
        task, model=model, log_dir=str(folder / "logs"), display="none", max_samples=1
    )
    assert log.status == "success", log.error
    return read_eval_log(log.location)  # what the viewer shows


def scores(log: EvalLog) -> dict[str, str]:
    assert log.samples
    return {str(s.id): str(s.scores["graded"].value) for s in log.samples if s.scores}


def accuracy(log: EvalLog) -> float:
    assert log.results
    return log.results.scores[0].metrics["accuracy"].value


def test_a_model_of_inspects_searches_over_mcp_and_is_graded(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def length(self: MockLLM, text: str) -> int:
        return len(text)

    # Inspect's mock model would fetch an encoding to count its tokens with.
    monkeypatch.setattr(MockLLM, "count_text_tokens", length)
    path = str(inputs / "questions.jsonl")
    said = [
        ModelOutput.for_tool_call("mockllm/model", "web_search", {"query": "Alma Voss"}),
        ModelOutput.from_content("mockllm/model", "She lives there. <answer>Brell</answer>"),
        ModelOutput.from_content("mockllm/model", "<answer>Kyoto</answer>"),
    ]
    with running("-m", "nanoscout", "mcp", str(inputs / "index"), "--http", "--port", "0") as mcp:
        task = suite("jsonl", path, tools=mcp.url)
        asked = [sample.id for sample in task.dataset]
        order = said if asked[0] == "voss" else [said[2], *said[:2]]
        log = evaluated(task, get_model("mockllm/model", custom_outputs=order), inputs)
    assert scores(log) == {"voss": "C", "japan": "I"}
    assert accuracy(log) == 0.5
    assert log.samples
    [voss] = [sample for sample in log.samples if sample.id == "voss"]
    [result] = [message for message in voss.messages if message.role == "tool"]
    assert "She lives in Brell." in result.text
    assert voss.metadata["hops"] == 1


def test_an_endpoint_of_openais_kind_is_asked_closed_book(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with chatting(lambda chat: "Tokyo" if "Japan" in chat[-1]["content"] else "") as server:
        monkeypatch.setenv("OURS_BASE_URL", server.url)
        monkeypatch.setenv("OURS_API_KEY", "none")
        log = evaluated(
            suite("jsonl", str(inputs / "questions.jsonl")), "openai-api/ours/told", inputs
        )
    assert scores(log) == {"voss": "I", "japan": "C"}
    assert len(server.chats) == 2


def test_our_agent_runs_in_its_own_episode(inputs: Path) -> None:
    command = f"{sys.executable} -m nanoscout mcp {inputs / 'index'}"
    task = suite("jsonl", str(inputs / "questions.jsonl"), agent="tiny:qwen3", tools=command)
    log = evaluated(task, "none", inputs)
    assert scores(log) == {"voss": "I", "japan": "I"}
    assert log.samples
    for sample in log.samples:
        assert [message.role for message in sample.messages[:3]] == ["system", "user", "assistant"]
        assert sample.store["attempt"]["completion_tokens"] > 0


def test_the_command_line_runs_our_agent_and_an_endpoint_with_tools(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`inspect eval` as documented, in a process of its own."""
    tools = f"tools={sys.executable} -m nanoscout mcp {inputs / 'index'}"
    words = ["-T", "name=jsonl", "-T", f"path={inputs / 'questions.jsonl'}", "-T", tools]
    log = on_the_command_line(inputs / "ours", *words, "-T", "agent=tiny:qwen3", "--model", "none")
    assert scores(log) == {"voss": "I", "japan": "I"}
    reply = turns('<tool>{"name": "web_search", "args": {"query": "Alma Voss"}}</tool>', "Brell")
    with served(scripted(reply)) as url:
        monkeypatch.setenv("OURS_BASE_URL", url)
        monkeypatch.setenv("OURS_API_KEY", "none")
        log = on_the_command_line(inputs / "told", *words, "--model", "openai-api/ours/told")
    assert scores(log) == {"voss": "C", "japan": "I"}
    assert log.samples
    for sample in log.samples:
        [result] = [message for message in sample.messages if message.role == "tool"]
        assert "She lives in Brell." in result.text


def test_the_command_line_tells_what_is_wrong(inputs: Path) -> None:
    done = inspect("-T", "name=jsnol", "--model", "none", "--log-dir", str(inputs / "logs"))
    assert done.returncode != 0
    assert done.stderr.rstrip().endswith(
        "no suite is called 'jsnol'; there are " + ", ".join(NAMES)
    )


def on_the_command_line(folder: Path, *words: str) -> EvalLog:
    done = inspect(*words, "--log-dir", str(folder), "--log-format", "json")
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.json")
    log = read_eval_log(str(path))
    assert log.status == "success", log.error
    return log


def inspect(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "inspect_ai", "eval", "nanoscout/suite", "--display", "plain"]
    return subprocess.run([*command, *words], capture_output=True, text=True)
