"""Callers whose work is done together: none lost, none out of order, none for those who left."""

import asyncio
import threading

import pytest

from flaxyolo.deploy.batching import Batcher

LONG = 60.0
"""Seconds that no test waits for."""


class Worker:
    """Squares numbers; keeps the groups, and waits before each until it may go on."""

    def __init__(self):
        self.groups, self.go_on = [], threading.Event()
        self.entered = threading.Event()
        self.go_on.set()

    def __call__(self, items):
        self.groups.append(items)
        self.entered.set()
        assert self.go_on.wait(LONG)
        if "bad" in items:
            raise RuntimeError("a bad one")
        return [item * item for item in items]

    async def hold(self, batcher):
        """Begin a group of one and stay in it."""
        self.go_on.clear()
        self.entered.clear()
        held = batcher.put(0)
        await asyncio.to_thread(self.entered.wait, LONG)
        return held


def run(body, *, most=4, wait=LONG):
    worker = Worker()

    async def whole():
        batcher = Batcher(worker, most=most, wait=wait)
        try:
            return await body(batcher, worker)
        finally:
            worker.go_on.set()
            await batcher.close()

    return asyncio.run(whole()), worker


def test_what_comes_during_a_group_is_the_next_in_order():
    async def body(batcher, worker):
        held = await worker.hold(batcher)
        answers = [batcher.put(number) for number in range(1, 8)]
        assert len(batcher) == 7
        worker.go_on.set()
        return await asyncio.gather(held, *answers)

    results, worker = run(body)
    assert results == [number * number for number in range(8)]
    assert worker.groups == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_nobody_waits_for_nobody():
    async def body(batcher, worker):
        return await asyncio.wait_for(batcher.put(3), LONG / 2)

    assert run(body)[0] == 9


def test_a_group_waits_for_those_on_their_way():
    async def body(batcher, worker):
        with batcher.coming():
            first = batcher.put(1)
            await asyncio.sleep(0.05)
            assert worker.groups == []
            second = batcher.put(2)
        return await asyncio.gather(first, second)

    results, worker = run(body)
    assert results == [1, 4]
    assert worker.groups == [[1, 2]]


def test_a_group_goes_when_the_one_on_its_way_does_not_come():
    async def body(batcher, worker):
        with batcher.coming():
            first = batcher.put(1)
            await asyncio.sleep(0)
        return await first

    assert run(body)[1].groups == [[1]]


def test_a_group_waits_no_longer_than_it_may():
    async def body(batcher, worker):
        with batcher.coming():
            return await batcher.put(1)

    assert run(body, wait=0.01)[1].groups == [[1]]


def test_a_full_group_waits_for_nobody():
    async def body(batcher, worker):
        with batcher.coming():
            return await asyncio.gather(*(batcher.put(number) for number in (1, 2)))

    assert run(body, most=2)[1].groups == [[1, 2]]


def test_one_that_was_cancelled_is_never_computed():
    async def body(batcher, worker):
        held = await worker.hold(batcher)
        first, second, third = (batcher.put(number) for number in (1, 2, 3))
        second.cancel()
        worker.go_on.set()
        return await asyncio.gather(held, first, third)

    results, worker = run(body)
    assert results == [0, 1, 9]
    assert worker.groups == [[0], [1, 3]]


def test_one_that_is_cancelled_during_its_turn_disturbs_nobody():
    async def body(batcher, worker):
        held = await worker.hold(batcher)
        held.cancel()
        after = batcher.put(5)
        worker.go_on.set()
        return await after

    assert run(body)[0] == 25


def test_a_group_that_fails_tells_all_of_it_and_the_next_is_run():
    async def body(batcher, worker):
        held = await worker.hold(batcher)
        answers = [batcher.put(item) for item in (1, "bad", 2, 3, 4)]
        worker.go_on.set()
        return await asyncio.gather(held, *answers, return_exceptions=True)

    results, _ = run(body)
    assert [repr(one) for one in results] == ["0", *["RuntimeError('a bad one')"] * 4, "16"]


def test_the_end_comes_after_what_was_put():
    async def body(batcher, worker):
        held = await worker.hold(batcher)
        answers = [batcher.put(number) for number in range(10)]
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="closed"):
            batcher.put(1)
        worker.go_on.set()
        await closing
        assert held.done()
        return [one.result() for one in answers]

    assert run(body)[0] == [number * number for number in range(10)]
