"""`nanoscout serve`: a model behind the interface that OpenAI's clients speak.

Many chats are written at once by the engine's continuous batching. Whoever hangs up is forgotten
at once; what is beyond the queue is turned away with 429.
"""

import asyncio
import json
import secrets
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nanoscout.search.listening import listen, may_ask
from nanoscout.serving.chat_model import ChatModel, ChatTurn
from nanoscout.serving.chat_request import BadRequest, Chat, ChatRequest, read_request

MAX_BODY_BYTES = 8 * 2**20
QUEUE = 256
"""Requests in work or waiting; one more is answered with 429."""

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Server:
    def __init__(self, model: ChatModel, token: str = ""):
        self._model = model
        self._token = token
        self._started = int(time.time())
        self._requests = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
            ],
            exception_handlers={
                BadRequest: _refused,
                HTTPException: _no_such_route,
                Exception: _fault,
            },
        )

    async def _health(self, request: Request) -> Response:
        return JSONResponse(
            {
                "status": "ok",
                "requests": self._requests,
                "conversations": self._model.open_conversations,
                "slots": self._model.engine.open_slots,
            }
        )

    async def _models(self, request: Request) -> Response:
        if not may_ask(request.headers, self._token):
            return _unauthorised()
        model = {
            "id": self._model.name,
            "object": "model",
            "created": self._started,
            "owned_by": "nanoscout",
            "max_model_len": self._model.engine.context_limit,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def _complete(self, request: Request) -> Response:
        if not may_ask(request.headers, self._token):
            return _unauthorised()
        if self._requests >= QUEUE:
            return _error(429, "too many requests at once; try again later", "rate_limit_exceeded")
        self._requests += 1
        streams = False
        try:
            asked = read_request(await _body(request))
            if asked.model != self._model.name:
                text = f"there is no model {asked.model[:200]!r} here, but {self._model.name!r}"
                return _error(404, text, "model_not_found", "model")
            chat = asked.chat()
            completion = _Completion(self._model, asked, chat)
            if asked.stream:
                # The first event decides whether the answer is a stream or an error.
                events = completion.events()
                first = await anext(events)
                streams = True
                return _Stream(first, events, self._done)
            return await _unless_gone(request, completion)
        except ClientDisconnect:
            return _error(499, "the request broke off", "request_cancelled")
        finally:
            if not streams:
                self._done()

    def _done(self) -> None:
        self._requests -= 1


class _Stream(StreamingResponse):
    """Sends events as they come; however it ends, `events` are closed and `done` is told."""

    def __init__(self, first: str, events: AsyncGenerator[str], done: Callable[[], None]):
        super().__init__(self._all(first), media_type="text/event-stream", headers=STREAM_HEADERS)
        self._events = events
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            self._done()

    async def _all(self, first: str) -> AsyncIterator[str]:
        yield first
        async for event in self._events:
            yield event


class _Completion:
    """One request on its way: its choices are written at the same time."""

    def __init__(self, model: ChatModel, asked: ChatRequest, chat: Chat):
        self._model = model
        self._asked = asked
        self._chat = chat
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time())}

    async def whole(self) -> Response:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._model.write(self._chat, choice))
                for choice in range(self._chat.choices)
            ]
        turns = [task.result() for task in tasks]
        choices = []
        for index, turn in enumerate(turns):
            message: dict[str, Any] = {"role": "assistant", "content": turn.content}
            if turn.calls:
                message |= {"content": turn.content or None, "tool_calls": _calls(turn)}
            if turn.thought:
                message["reasoning_content"] = turn.thought
            choice: dict[str, Any] = {"index": index, "message": message}
            choice |= {"finish_reason": turn.finish, "logprobs": self._logprobs(turn)}
            choices.append(choice)
        answer = self._event("chat.completion", choices) | {"usage": _usage(turns)}
        return JSONResponse(answer)

    async def events(self) -> AsyncGenerator[str]:
        """Server-sent events. Leaving early gives the model's work up."""
        written: asyncio.Queue[tuple[int, dict[str, Any] | ChatTurn | Exception]] = asyncio.Queue()

        async def write(choice: int) -> None:
            def on_text(thought: str, content: str) -> None:
                delta = {"reasoning_content": thought} if thought else {}
                written.put_nowait((choice, delta | ({"content": content} if content else {})))

            try:
                written.put_nowait((choice, await self._model.write(self._chat, choice, on_text)))
            except Exception as error:
                written.put_nowait((choice, error))

        tasks = [asyncio.create_task(write(choice)) for choice in range(self._chat.choices)]
        turns: dict[int, ChatTurn] = {}
        shown = dict.fromkeys(range(len(tasks)), "")
        begun: set[int] = set()
        try:
            while len(turns) < len(tasks):
                choice, what = await written.get()
                if isinstance(what, Exception):
                    raise what
                first = {} if choice in begun else {"role": "assistant"}
                begun.add(choice)
                if isinstance(what, ChatTurn):
                    turns[choice] = what
                    delta = first | _rest(what, shown[choice])
                    if delta:
                        yield self._delta(choice, delta)
                    yield self._delta(choice, {}, what.finish, self._logprobs(what))
                else:
                    shown[choice] += what.get("content", "")
                    yield self._delta(choice, first | what)
            if self._asked.stream_options and self._asked.stream_options.include_usage:
                usage = _usage([turns[choice] for choice in sorted(turns)])
                yield _sse(self._event("chat.completion.chunk", []) | {"usage": usage})
            yield "data: [DONE]\n\n"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _delta(
        self,
        choice: int,
        delta: dict[str, Any],
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> str:
        part = {"index": choice, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return _sse(self._event("chat.completion.chunk", [part]))

    def _event(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "model": self._model.name, "choices": choices}

    def _logprobs(self, turn: ChatTurn) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        tokenizer = self._model.dialogue(self._chat).tokenizer
        content = [
            {"token": tokenizer.decode([token_id]), "logprob": logprob, "top_logprobs": []}
            for token_id, logprob in zip(turn.token_ids, turn.logprobs, strict=True)
        ]
        return {"content": content}


def _calls(turn: ChatTurn) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.args, ensure_ascii=False),
            },
        }
        for call in turn.calls
    ]


def _rest(turn: ChatTurn, shown: str) -> dict[str, Any]:
    """What of a turn's content was held back until its end, and its calls."""
    content = turn.content.removeprefix(shown)
    rest: dict[str, Any] = {"content": content} if content or not turn.calls else {}
    if turn.calls:
        rest["tool_calls"] = [{"index": i, **call} for i, call in enumerate(_calls(turn))]
    return rest


def _usage(turns: list[ChatTurn]) -> dict[str, Any]:
    prompt = turns[0].prompt_tokens
    completion = sum(len(turn.token_ids) for turn in turns)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": turns[0].cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": sum(turn.think_tokens for turn in turns),
        },
    }


async def _unless_gone(request: Request, completion: _Completion) -> Response:
    """The completion, or nothing at all once the client has hung up."""
    working = asyncio.create_task(completion.whole())
    watching = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the request is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _sse(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"


def _error(
    status: int, text: str, code: str | None = None, parameter: str | None = None
) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": text, "type": kind, "param": parameter, "code": code}
    return JSONResponse({"error": error}, status)


def _unauthorised() -> Response:
    return _error(401, "this server wants its token as API key", "invalid_api_key")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return _error(400, str(error), error.code, error.parameter)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    routes = "POST /v1/chat/completions, GET /v1/models and /health"
    return _error(error.status_code, f"{error.detail.lower()}; this server has {routes}")


async def _fault(request: Request, error: Exception) -> Response:
    return _error(500, "a fault of the server, written to its log; try again later")


def serve(model: ChatModel, host: str, port: int, token: str) -> None:
    """Answer until SIGINT or SIGTERM; a line on standard output tells when and where."""
    listening, url = listen(host, port, token, "could use the model")
    config = uvicorn.Config(
        Server(model, token).app(),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    ready = f"nanoscout serves {model.name} on {url}/v1 (context {model.engine.context_limit})"
    with listening, suppress(KeyboardInterrupt):
        _Announced(config, ready).run([listening])


class _Announced(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: str):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._ready, flush=True)
