"""A language model that grades answers, behind any OpenAI-compatible endpoint.

A grade is asked for once: the cache on disk answers the next time, and those who ask at the same
moment share one request. Faults (time-outs, 429, 5xx, a reply that is no grade) are tried again;
after the last try the answer stays ungraded. It is never graded by guess.
"""

import asyncio
import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from nanoscout.errors import UserError
from nanoscout.judge.cache import GradeCache
from nanoscout.judge.grading import VERSION, grade_unasked, messages, read_grade
from nanoscout.recipe import JudgeSpec
from nanoscout.records import Grade, Question

RETRY_SECONDS = (0.5, 2.0, 8.0)
"""Pauses before the second, third and fourth try."""

TIMEOUT = httpx2.Timeout(60.0, connect=10.0, pool=None)
"""Seconds of one try; a wait for one of the connections has no limit of its own."""

REFUSALS = frozenset({401, 403, 404})
"""What no answer can be graded after: a wrong key, a wrong address, no such model."""

TRIAL = Question("trial", "What is the capital of France?", "Paris")

log = logging.getLogger(__name__)


class JudgeUnavailable(Exception):
    """No grade was to be had, after all tries."""


class Judge:
    """Grades answers while it is open (`async with`); it may be opened again and again.

    `cache`: the file of grades, where the recipe names none.
    """

    def __init__(self, spec: JudgeSpec, cache: Path):
        try:
            self._url = httpx2.URL(f"{spec.url.rstrip('/')}/chat/completions")
        except httpx2.InvalidURL as error:
            raise UserError(f"judge.url {spec.url!r} is no address: {error}") from None
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise UserError(f"judge.url {spec.url!r} is no address; it begins with http://")
        self._spec = spec
        self._headers = _headers(spec.api_key_env)
        self._cache = GradeCache(Path(spec.cache) if spec.cache else cache)

    @property
    def model(self) -> str:
        return self._spec.model

    async def __aenter__(self) -> Self:
        self._cache.__enter__()
        self._client = httpx2.AsyncClient(
            headers=self._headers,
            timeout=TIMEOUT,
            limits=httpx2.Limits(max_connections=self._spec.concurrency),
        )
        self._asked: dict[str, asyncio.Task[Grade]] = {}
        self._failures: list[str] = []
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()
        self._cache.__exit__(kind, error, trace)
        if self._failures:
            log.warning(
                "judge %s left %d answers ungraded; the last time: %s",
                self._spec.url,
                len(self._failures),
                self._failures[-1],
            )

    async def check(self) -> None:
        """Raise UserError unless the judge answers a trial with a grade, and the cache opens.

        For before the work: it opens the judge itself.
        """
        if self._spec.cache:
            with self._cache:
                pass
        async with httpx2.AsyncClient(headers=self._headers, timeout=TIMEOUT) as self._client:
            try:
                await self._ask(messages(TRIAL, TRIAL.answer))
            except JudgeUnavailable as error:
                raise UserError(
                    f"judge {self._spec.url}: {error}; start it, or mend [judge] in the recipe"
                ) from error

    async def grade(self, question: Question, answer: str) -> Grade:
        """The grade of an answer to a question with its gold answer and aliases.

        Raises JudgeUnavailable after the last try, and UserError where the endpoint refuses what
        it is sent (a wrong key, no such model) or the cache fails.
        """
        unasked = grade_unasked(answer)
        if unasked is not None:
            return unasked
        chat = messages(question, answer)
        asked = json.dumps([self._spec.model, VERSION, chat[-1]["content"]])
        if asked not in self._asked:
            self._asked[asked] = asyncio.create_task(self._grade(asked, chat))
        return await self._asked[asked]

    async def _grade(self, asked: str, chat: list[dict[str, str]]) -> Grade:
        grade = self._cache.get(asked)
        if grade is None:
            grade = await self._ask_until_graded(chat)
            self._cache.put(asked, grade)
        return grade

    async def _ask_until_graded(self, chat: list[dict[str, str]]) -> Grade:
        for pause in RETRY_SECONDS:
            try:
                return await self._ask(chat)
            except JudgeUnavailable:
                await asyncio.sleep(pause)
        try:
            return await self._ask(chat)
        except JudgeUnavailable as error:
            self._failures.append(str(error))
            raise

    async def _ask(self, chat: list[dict[str, str]]) -> Grade:
        """One try."""
        asked = {"model": self._spec.model, "messages": chat, "temperature": 0}
        try:
            response = await self._client.post(self._url, content=json.dumps(asked).encode())
        except httpx2.RequestError as error:
            raise JudgeUnavailable(str(error) or type(error).__name__) from error
        if response.status_code in REFUSALS:
            raise UserError(
                f"judge {self._spec.url} refuses (status {response.status_code}): "
                f"{_short(response.text)}; mend [judge] in the recipe"
            )
        if response.status_code != 200:
            raise JudgeUnavailable(f"status {response.status_code}: {_short(response.text)}")
        reply = _reply(response)
        grade = read_grade(reply)
        if grade is None:
            raise JudgeUnavailable(f"it says {_short(reply)!r} where a grade was asked for")
        return grade


def _headers(key_variable: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if key_variable:
        key = os.environ.get(key_variable, "").strip()
        if not key:
            raise UserError(f"the environment variable {key_variable} (judge.api_key_env) is empty")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _reply(response: httpx2.Response) -> str:
    try:
        completion: Any = response.json()
        reply: str = completion["choices"][0]["message"]["content"] + ""
    except (ValueError, LookupError, TypeError, RecursionError):
        raise JudgeUnavailable("its answer is no chat completion") from None
    return reply


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"
