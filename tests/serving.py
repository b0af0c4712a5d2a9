"""Real servers for tests: a process that is asked over HTTP, and the pages that it serves."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil

from nanoscout.records import Passage

FILLER = "Nothing of note happened there for a long time. " * 8
PAGES = [
    Passage("p1", "Alma Voss", "Alma Voss is a painter. She lives in Brell.", "https://w.org/Alma"),
    Passage("p2", "Brell", f"Brell is a town. {FILLER}Its mayor paints.", "https://w.org/Brell"),
    Passage("p3", "東京", "東京 (Tokyo) is the capital of Japan.", "https://w.org/東京"),
    *(Passage(f"n{n}", f"Note {n}", f"A note on Brell, {n}", f"u:{n}") for n in range(30)),
]
FRESH = httpx2.Client(
    timeout=60, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0)
)
"""Makes a connection of its own for each request, so that any worker may answer it."""


@dataclass(frozen=True)
class Server:
    url: str
    ready: str
    process: subprocess.Popen[str]

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]

    def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        if body is not None:
            more["content"] = json.dumps(body)
        return FRESH.post(self.url + path, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return FRESH.get(self.url + path, **more)


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        found = re.search(r"http://\S+", ready)
        assert found, f"the server said {ready!r}"
        yield Server(found.group(), ready.strip(), process)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
