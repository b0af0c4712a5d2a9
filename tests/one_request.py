"""`nanoscout` with an agent that needs one request an answer, in place of a framework's.

A program, so that a test can kill it: `python one_request.py eval run ... --agent langgraph`.
Everything else is real: the command line, the folder, the MCP server's process, endpoint and judge.
"""

import sys
from typing import Self

import httpx2

from nanoscout import cli, evaluating
from nanoscout.evaluation.agents.terms import InProcess, Remote, Terms
from nanoscout.evaluation.attempt import Agent, AgentFailed, Attempt
from nanoscout.records import Question


class OneRequest:
    name = "langgraph"

    def __init__(self, where: Remote):
        self._where = where

    async def __aenter__(self) -> Self:
        self._client = httpx2.AsyncClient(timeout=30)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.aclose()

    async def attempt(self, question: Question, seed: int) -> Attempt:
        chat = [{"role": "user", "content": question.text}]
        asked = {"model": self._where.model, "messages": chat, "seed": seed}
        try:
            response = await self._client.post(f"{self._where.url}/chat/completions", json=asked)
            answer = response.raise_for_status().json()["choices"][0]["message"]
        except httpx2.HTTPError as error:
            raise AgentFailed(f"no answer: {type(error).__name__}") from error
        return Attempt(
            question_id=question.id,
            answer=answer["content"] or None,
            stop="answered" if answer["content"] else "malformed",
            messages=[*chat, answer],
            searches=1,
            prompt_tokens=7,
            completion_tokens=3,
        )


def open_agent(name: str, terms: Terms, where: InProcess | Remote) -> Agent:
    assert isinstance(where, Remote)
    return OneRequest(where)


if __name__ == "__main__":
    evaluating.open_agent = open_agent
    sys.exit(cli.main())
