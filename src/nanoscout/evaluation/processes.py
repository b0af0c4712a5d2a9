"""The servers that an evaluation starts for its agents, and stops when it ends, however it ends.

Each runs on a leash (leash.py). What it says goes to a file, in which it tells where it serves.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoscout.errors import UserError
from nanoscout.search.http_search import TOKEN_VARIABLE

LEASH = Path(__file__).with_name("leash.py")
SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_END = 15.0

_READY = re.compile(r"^nanoscout .*?(http://\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Serving:
    """A server that is up."""

    what: str
    url: str
    process: asyncio.subprocess.Process
    log: Path

    async def ended(self) -> None:
        """Raises UserError when the server ends."""
        await self.process.wait()
        raise _ended(self.what, self.process, self.log)


@asynccontextmanager
async def serving(what: str, arguments: Sequence[str], log: Path) -> AsyncGenerator[Serving]:
    """`nanoscout ARGUMENTS...` as a process of its own, up from here to the end of the block.

    `log`: where its output goes. Raises UserError where it ends before it serves.
    """
    with open(log, "wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(LEASH), sys.executable, "-m", "nanoscout", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            # Only this machine reaches it: it asks for no token.
            env={key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE},
            start_new_session=True,  # Ctrl-C is for us; the leash ends it
        )
    try:
        while not (ready := _READY.search(log.read_text(encoding="utf-8", errors="replace"))):
            if process.returncode is not None:
                raise _ended(what, process, log)
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        yield Serving(what, ready[1], process, log)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(SECONDS_TO_END):
            await process.wait()


async def while_up(servers: Sequence[Serving], work: Coroutine[Any, Any, None]) -> None:
    """Do the work; raises UserError as soon as one of the servers ends."""
    working = asyncio.ensure_future(work)
    watches = [asyncio.ensure_future(server.ended()) for server in servers]
    try:
        await asyncio.wait([working, *watches], return_when=asyncio.FIRST_COMPLETED)
        # A server's end explains what went wrong in the work.
        for task in [*watches, working]:
            if task.done():
                await task
    finally:
        for task in [working, *watches]:
            task.cancel()
        await asyncio.gather(working, *watches, return_exceptions=True)


def _ended(what: str, process: asyncio.subprocess.Process, log: Path) -> UserError:
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = said[-1].removeprefix("nanoscout: ") if said else "it said nothing"
    return UserError(f"{what} ended (status {process.returncode}): {last} (see {log})")
