"""Many callers, one worker: what comes within a moment is computed together, in another thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[T, R]):
    item: T
    answer: asyncio.Future[R]
    since: float
    """Seconds of the event loop's clock."""


class Batcher(Generic[T, R]):
    """Groups of at most `most` items in the order of their arrival, one group after the other.

    A group waits for others that are on their way, at most `wait` seconds after its first item
    arrived, and not at all where nobody is. Made and used inside one event loop, which never
    blocks: `run` takes a list, gives one result for each in order, and has a thread of its own.
    """

    def __init__(self, run: Callable[[list[T]], Sequence[R]], *, most: int, wait: float):
        self._run, self._most, self._wait = run, most, wait
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._coming, self._ending = 0, False
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detect")
        self._loop = asyncio.get_running_loop()
        self._worker = self._loop.create_task(self._work())
        self.groups = 0
        """That have been run."""

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Around whatever ends in `put`: a group may wait for it."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._changed.set()

    def put(self, item: T) -> asyncio.Future[R]:
        """The result to wait for; one that is cancelled before its turn is never computed."""
        if self._ending:
            raise RuntimeError("the batcher has been closed")
        answer: asyncio.Future[R] = self._loop.create_future()
        self._waiting.append(_Waiting(item, answer, self._loop.time()))
        self._changed.set()
        return answer

    async def close(self) -> None:
        """Finish what was put, and end the thread."""
        self._ending = True
        self._changed.set()
        await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        while group := await self._group():
            self.groups += 1
            items = [one.item for one in group]
            try:
                results = await self._loop.run_in_executor(self._thread, self._run, items)
                pairs = list(zip(group, results, strict=True))
            except Exception as error:  # is that of every caller, and the next group is run
                for one in group:
                    _settle(one.answer, error)
            else:
                for one, result in pairs:
                    _settle(one.answer, result)

    async def _group(self) -> list[_Waiting[T, R]]:
        """The next to run; empty only at the end."""
        while True:
            while not self._waiting and not self._ending:
                await self._next_change(None)
            while self._waiting and len(self._waiting) < self._most and self._coming:
                if not await self._next_change(self._waiting[0].since + self._wait):
                    break
            group: list[_Waiting[T, R]] = []
            while self._waiting and len(group) < self._most:
                one = self._waiting.popleft()
                if not one.answer.done():
                    group.append(one)
            if group or (self._ending and not self._waiting):
                return group

    async def _next_change(self, until: float | None) -> bool:
        """False where nothing has come until then."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        return self._changed.is_set()


def _settle(answer: asyncio.Future[Any], outcome: Any) -> None:
    if answer.done():  # its caller has gone
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
