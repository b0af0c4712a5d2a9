"""Load on an HTTP server from one process: closed loop (so many clients) or open loop (a rate).

Requests are prepared bytes over kept connections, and answers are read only as far as their length
and status, so that the client takes as little as it can of the cores it shares with the server.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

CONNECTIONS = 800
"""Of open loop, at most."""
DRAIN_SECONDS = 30
"""How long open loop waits for the last answers."""


@dataclass
class Load:
    """What came back: latencies (seconds) of the answers with status 200, and all statuses."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers with status 200, a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """In milliseconds."""
        ranked = sorted(self.latencies)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))] * 1000


def post(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Each client sends its next request when it has its answer."""

    async def run() -> Load:
        load = Load()
        started = time.perf_counter()

        async def client(first: int) -> None:
            connection = _Connection(port)
            number = first
            while time.perf_counter() < started + seconds:
                await connection.ask(requests[number % len(requests)], time.perf_counter(), load)
                number += clients
            connection.close()

        await asyncio.gather(*(client(number) for number in range(clients)))
        load.seconds = time.perf_counter() - started
        return load

    return asyncio.run(run())


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Requests leave at `rate` a second, whatever comes back; latencies count from then.

    One that finds all CONNECTIONS in use does not leave: status "not sent".
    """

    async def run() -> Load:
        load = Load()
        idle: list[_Connection] = []
        tasks: set[asyncio.Task[None]] = set()
        started = time.perf_counter()

        opened = 0

        async def one(connection: _Connection, number: int, due: float) -> None:
            await connection.ask(requests[number % len(requests)], due, load)
            idle.append(connection)

        sent = 0
        while (now := time.perf_counter()) < started + seconds:
            while sent < (now - started) * rate:
                sent += 1
                if not idle and opened == CONNECTIONS:
                    load.statuses["not sent"] += 1
                    continue
                if not idle:
                    idle.append(_Connection(port))
                    opened += 1
                task = asyncio.create_task(one(idle.pop(), sent, started + sent / rate))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.002)
        load.seconds = time.perf_counter() - started
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
            load.statuses["no answer"] += len(late)
            for task in late:
                task.cancel()
        for connection in idle:
            connection.close()
        return load

    return asyncio.run(run())


class _Connection:
    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes, since: float, load: Load) -> None:
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        except OSError as error:
            load.statuses[type(error).__name__] += 1
            self.close()
            return
        except asyncio.IncompleteReadError:
            load.statuses["broken off"] += 1
            self.close()
            return
        status = head[9:12].decode()
        load.statuses[status] += 1
        if status == "200":
            load.latencies.append(time.perf_counter() - since)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
