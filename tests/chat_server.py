"""A real OpenAI-compatible endpoint for tests, whose model says what a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from local_server import Handler, listening

Reply = Callable[[list[dict[str, Any]]], str]
"""The chat so far -> what the model says next."""


class ChatServer:
    """`url`, and the chats that came in."""

    def __init__(self, reply: Reply, models: tuple[str, ...]):
        self.reply = reply
        self.models = models
        self.chats: list[list[dict[str, Any]]] = []
        self.url = ""
        self._lock = threading.Lock()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.chats.append(request["messages"])
        message = {"role": "assistant", "content": self.reply(request["messages"])}
        return {
            "id": "chat",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }

    def asked(self) -> list[str]:
        """The text of each chat's last message."""
        return [chat[-1]["content"] for chat in self.chats]


@contextmanager
def chatting(reply: Reply, models: tuple[str, ...] = ("told",)) -> Iterator[ChatServer]:
    server = ChatServer(reply, models)

    class Answering(Handler):
        def do_GET(self) -> None:
            listed = [{"id": name, "object": "model"} for name in server.models]
            self._send({"object": "list", "data": listed})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                answer = server.answer(json.loads(body))
            except ConnectionError:  # the test's way to hang up
                self.close_connection = True
                return
            self._send(answer)

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client was killed
                super().handle()

        def _send(self, data: dict[str, Any]) -> None:
            content = json.dumps(data).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with listening(Answering) as address:
        server.url = f"{address}/v1"
        yield server
