"""Whether a framework sends the sampling that it was told: asked once, of an endpoint of our own.

Frameworks drop parameters that they do not know, silently, and then a comparison of agents is one
of temperatures.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nanoscout.errors import UserError
from nanoscout.evaluation.agents.terms import Remote, Terms

ANSWER = {
    "id": "check",
    "object": "chat.completion",
    "created": 0,
    "model": "check",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "<answer>1</answer>"},
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What must arrive at the endpoint."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int
    enable_thinking: bool

    @classmethod
    def of(cls, terms: Terms, where: Remote, seed: int) -> "Asked":
        return cls(
            temperature=terms.sampling.temperature,
            top_p=terms.sampling.top_p,
            top_k=terms.sampling.top_k,
            max_tokens=terms.limits.turn_tokens,
            seed=seed,
            enable_thinking=where.thinking,
        )


async def check_sampling(
    name: str, asked: Asked, ask_once: Callable[[str], Awaitable[None]]
) -> None:
    """Raise UserError for what of `asked` does not arrive when `ask_once(url)` asks an endpoint."""
    arrived: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        await ask_once(f"http://127.0.0.1:{server.server_port}/v1")
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
    [request] = arrived
    wrong = [
        f"{field} ({value} asked, {said} sent)"
        for field, value in asdict(asked).items()
        if (said := _sent(request, field)) != value
    ]
    if wrong:
        raise UserError(f"--agent {name}: the framework does not send {', '.join(wrong)}")


def _sent(request: dict[str, Any], field: str) -> Any:
    if field == "enable_thinking":
        return request.get("chat_template_kwargs", {}).get(field)
    if field == "max_tokens":
        return request.get("max_completion_tokens", request.get(field))
    return request.get(field)
