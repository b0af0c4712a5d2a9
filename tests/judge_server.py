"""A real HTTP server that speaks chat completions and says what a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_server import Handler, listening

Case = dict[str, Any]
"""What is to be graded: `question`, `gold`, `answer`."""
Reply = Callable[[Case], "str | int | bytes"]
"""A chat's content, or a status, or a whole body."""


class JudgeServer:
    """`url`, and what was asked there."""

    def __init__(self, reply: Reply):
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.url = ""

    @property
    def cases(self) -> list[Case]:
        return [json.loads(request["messages"][-1]["content"]) for request in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        said = self.reply(json.loads(body["messages"][-1]["content"]))
        with self._lock:
            self._at_once -= 1
        status, content = 200, b""
        if isinstance(said, int):
            status, content = said, b'{"error": {"message": "as told"}}'
        elif isinstance(said, bytes):
            content = said
        else:
            message = {"role": "assistant", "content": said}
            content = json.dumps({"choices": [{"index": 0, "message": message}]}).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def judging(reply: Reply) -> Iterator[JudgeServer]:
    server = JudgeServer(reply)

    class Judging(Handler):
        def do_POST(self) -> None:
            try:
                server.answer(self)
            except ConnectionError:  # the client has given up on us
                self.close_connection = True

    with listening(Judging) as address:
        server.url = f"{address}/v1"
        yield server


def exact(case: Case) -> str:
    """A judge that compares letter by letter."""
    return "CORRECT" if case["answer"] in case["gold"] else "INCORRECT"
