"""One resource for each event loop that comes and goes, such as a pool of connections.

A resource that belongs to an event loop cannot be used in another, and nobody tells when a loop
ends; but a loop that ends finishes the asynchronous generators begun in it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

T = TypeVar("T")


class LoopBound(Generic[T]):
    """Opens the resource at its first use in an event loop, and closes it when the loop ends."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[T]]):
        self._opened = opened
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[T] | None = None
        self._lifetime: AsyncGenerator[T] | None = None

    async def get(self) -> T:
        loop = asyncio.get_running_loop()
        if self._opening is None or self._loop is not loop:
            self._loop = loop
            self._lifetime = _lifetime(self._opened())
            self._opening = loop.create_task(_first(self._lifetime))
        return await self._opening


async def _lifetime(opened: AbstractAsyncContextManager[T]) -> AsyncGenerator[T]:
    async with opened as resource:
        yield resource


async def _first(generator: AsyncGenerator[T]) -> T:
    return await anext(generator)
