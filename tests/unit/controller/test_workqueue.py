import gc
import weakref

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentops.controller.delaying_queue import DelayingQueue
from agentops.controller.priority_queue import PriorityQueue
from agentops.controller.rate_limiters import (
    FastSlow,
    ItemExponential,
    MaxOf,
    TokenBucket,
    WithMaxWait,
    default_controller_rate_limiter,
)
from agentops.controller.rate_limiting_queue import RateLimitingQueue
from agentops.controller.workqueue import QueueShutDown, WorkQueue
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def queue(clock):
    return WorkQueue(clock=clock)


@pytest.mark.guarantee("WQ1", "WQ2", "WQ3", "WQ6", "WQ10")
async def test_hands_out_in_order_and_once(queue):
    for item in "abab":
        queue.add(item)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert queue.statistics().processing == 2


@pytest.mark.guarantee("WQ2")
async def test_an_item_wakes_one_of_those_that_wait(queue):
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(queue.get)
        await anyio.wait_all_tasks_blocked()
        queue.add("a")
        assert len(queue._parked) == 2
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("sort", [WorkQueue, PriorityQueue])
@pytest.mark.guarantee("WQ2")
async def test_of_many_items_at_once_each_worker_that_waits_wakes_the_next_one(sort, clock):
    """Sixteen workers woken for what one of them does in passing cost more than the work."""
    queue, working, gate = sort(clock=clock), [], anyio.Event()

    async def worker():
        while True:
            item = await queue.get()
            working.append(item)
            await gate.wait()
            queue.done(item)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(worker)
        await anyio.wait_all_tasks_blocked()
        for item in range(10):
            queue.add(item)
        assert len(queue._parked) == 3
        await anyio.wait_all_tasks_blocked()
        assert working == [0, 1, 2, 3]
        gate.set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(working) == list(range(10))
        assert len(queue._parked) == 4
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("WQ4", "WQ5", "WQ8", "WQ10")
async def test_adds_during_processing_are_one_more_round_at_the_tail(queue):
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("b")
    for _ in range(5):
        queue.add("a")
    assert len(queue) == 1
    queue.done("a")
    assert [await queue.get(), await queue.get()] == ["b", "a"]
    queue.done("a")
    assert len(queue) == 0


@pytest.mark.guarantee("WQ9")
async def test_done_of_what_is_not_processed_is_nothing(queue):
    queue.done("x")
    queue.add("a")
    queue.done("a")
    assert len(queue) == 1


@pytest.mark.guarantee("WQ11", "WQ12", "WQ15")
async def test_shutdown_hands_out_what_is_queued_then_tells_every_waiter(queue):
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "a"
    queue.add("a")
    queue.shutdown()
    queue.shutdown()
    queue.add("c")
    ended = []

    async def worker():
        while True:
            try:
                item = await queue.get()
            except QueueShutDown:
                ended.append("end")
                return
            ended.append(item)
            queue.done(item)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(worker)
        await anyio.sleep(1)
        assert ended[0] == "b"
        queue.done("a")
    assert sorted(ended) == ["a", "b", "end", "end", "end"]


@pytest.mark.guarantee("WQ12", "WQ13", "WQ14")
async def test_drain_waits_for_what_the_last_done_puts_back(queue):
    queue.add("a")
    await queue.get()
    queue.add("a")
    order = []

    async def drain():
        await queue.shutdown_with_drain()
        order.append("drained")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain)
        await anyio.sleep(1)
        queue.done("a")
        await anyio.sleep(1)
        assert order == []
        queue.done(await queue.get())
    assert order == ["drained"]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.guarantee("WQ16")
async def test_cancelling_a_waiter_loses_no_item(anyio_backend, clock):
    """The wake-up and the cancellation arrive together."""
    queue = WorkQueue(clock=clock)
    got = []

    async def worker(scope):
        with scope:
            got.append(await queue.get())

    for cancelled_first in [False, True] * 10:
        first, second = anyio.CancelScope(), anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker, first)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(worker, second)
            await anyio.wait_all_tasks_blocked()
            if cancelled_first:
                first.cancel()
            queue.add("a")
            first.cancel()
            await anyio.wait_all_tasks_blocked()
            second.cancel()
        assert got.pop() == "a"
        assert not got
        queue.done("a")


@pytest.mark.guarantee("WQ7")
async def test_two_workers_never_hold_the_same_item(queue, rng):
    held, worked = set(), []

    async def worker():
        while True:
            item = await queue.get()
            assert item not in held
            held.add(item)
            await anyio.sleep(rng.random())
            held.discard(item)
            worked.append(item)
            queue.done(item)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(worker)
        for _ in range(500):
            queue.add(rng.randrange(6))
            await anyio.sleep(rng.random() / 5)
        await anyio.sleep(100)
        tasks.cancel_scope.cancel()
    assert len(queue) == 0
    assert set(worked) == set(range(6))


@pytest.mark.guarantee("WQ17")
async def test_drained_queue_keeps_no_references(clock):
    class Item:
        pass

    queue = RateLimitingQueue(ItemExponential(), clock=clock)
    item = Item()
    seen = weakref.ref(item)
    queue.add(item)
    queue.done(await queue.get())
    queue.add_rate_limited(item)
    queue.forget(item)
    queue.shutdown()
    del item
    gc.collect()
    assert seen() is None


@pytest.mark.guarantee("PY19")
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("queue_type", [WorkQueue, RateLimitingQueue, PriorityQueue])
async def test_adding_from_another_thread_is_an_error_that_names_the_fix(anyio_backend, queue_type):
    queue = queue_type()
    taken = []

    async def worker():
        taken.append(await queue.get())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker)
        await anyio.wait_all_tasks_blocked()
        adds = [queue.add] if queue_type is WorkQueue else [queue.add, queue.add_rate_limited]
        for add in adds:
            with pytest.raises(RuntimeError, match=r"use anyio\.from_thread\.run_sync"):
                await anyio.to_thread.run_sync(add, "a")
        await anyio.to_thread.run_sync(anyio.from_thread.run_sync, queue.add, "b")
    assert taken == ["b"]


async def run_queue(queue, body):
    async with anyio.create_task_group() as tasks:
        await tasks.start(queue.run)
        await body()
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("DQ1", "DQ8")
async def test_delayed_items_become_ready_in_time_order(clock):
    queue = DelayingQueue(clock=clock)

    async def body():
        start = anyio.current_time()
        queue.add_after("late", 30)
        queue.add_after("soon", 5)
        queue.add_after("now", 0)
        for item, at in (("now", 0), ("soon", 5), ("late", 30)):
            assert await queue.get() == item
            assert anyio.current_time() - start == pytest.approx(at)

    await run_queue(queue, body)


@pytest.mark.guarantee("DQ6")
@pytest.mark.parametrize("queue_type", [DelayingQueue, PriorityQueue])
async def test_what_became_ready_while_the_machine_slept_is_handed_out_within_ten_seconds(queue_type):
    """Timers of the event loop stand still meanwhile; the clock that delays are counted on does not."""

    class Suspended(LoopClock):
        slept_s = 0.0

        def boottime(self):
            return super().boottime() + self.slept_s

    clock = Suspended()
    queue = queue_type(clock=clock)

    async def body():
        queue.add_after("a", 3600)
        await anyio.sleep(1)
        clock.slept_s = 7200
        with anyio.fail_after(10):
            assert await queue.get() == "a"

    await run_queue(queue, body)


@pytest.mark.guarantee("DQ3")
async def test_earliest_of_several_delays_counts(clock):
    queue = DelayingQueue(clock=clock)

    async def body():
        start = anyio.current_time()
        for delay in (30, 10, 20):
            queue.add_after("a", delay)
        assert queue.statistics().waiting == 1
        await queue.get()
        assert anyio.current_time() - start == pytest.approx(10)
        queue.done("a")
        await anyio.sleep(60)
        assert len(queue) == 0

    await run_queue(queue, body)


@pytest.mark.guarantee("DQ4")
async def test_item_added_while_it_waits_comes_now_and_again_later(clock):
    queue = DelayingQueue(clock=clock)

    async def body():
        queue.add_after("a", 10)
        queue.add("a")
        queue.done(await queue.get())
        queue.done(await queue.get())
        assert queue.statistics().waiting == 0

    await run_queue(queue, body)


@pytest.mark.guarantee("DQ2")
async def test_waiting_items_are_dropped_at_shutdown(clock):
    queue = DelayingQueue(clock=clock)

    async def body():
        queue.add_after("a", 10)
        queue.shutdown()
        queue.add_after("b", 1)
        assert queue.statistics().waiting == 0
        with pytest.raises(QueueShutDown):
            await queue.get()

    await run_queue(queue, body)


@pytest.mark.guarantee("RL1", "RL2", "RL3")
def test_exponential_limiter_doubles_to_its_cap_per_item():
    limiter = ItemExponential()
    waits = [limiter.when("a") for _ in range(20)]
    assert waits[:4] == [0.005, 0.01, 0.02, 0.04]
    assert waits[17] < 1000
    assert waits[18:] == [1000, 1000]
    assert limiter.when("b") == 0.005
    assert limiter.num_requeues("a") == 20
    limiter.forget("a")
    assert limiter.num_requeues("b") == 1
    assert limiter.when("a") == 0.005
    for _ in range(10_000):
        last = limiter.when("c")
    assert last == 1000
    limiter.forget("a")
    limiter.forget("b")
    limiter.forget("c")
    assert len(limiter) == 0


@pytest.mark.guarantee("RL4")
async def test_token_bucket_lets_a_burst_through_then_ten_a_second(clock):
    bucket = TokenBucket(clock)
    assert [bucket.when(i) for i in range(100)] == [0] * 100
    assert bucket.when("x") == pytest.approx(0.1)
    assert bucket.when("y") == pytest.approx(0.2)
    await anyio.sleep(100)
    assert bucket.when("z") == 0


@pytest.mark.guarantee("RL5", "RL6")
async def test_default_limiter_is_the_longer_of_item_and_bucket(clock):
    limiter = default_controller_rate_limiter(clock)
    assert limiter.when("a") == 0.005
    for i in range(99):
        limiter.when(i)
    assert limiter.when("fresh") == pytest.approx(0.1)
    assert limiter.num_requeues("a") == 1


@pytest.mark.guarantee("RL7")
def test_fast_slow_and_max_wait():
    limiter = FastSlow(1, 60, 2)
    assert [limiter.when("a") for _ in range(4)] == [1, 1, 60, 60]
    limiter.forget("a")
    assert limiter.when("a") == 1
    clamped = WithMaxWait(MaxOf(ItemExponential(5, 1000), FastSlow(1, 2, 3)), 8)
    assert [clamped.when("a") for _ in range(3)] == [5, 8, 8]
    assert clamped.num_requeues("a") == 3


@given(st.lists(st.tuples(st.sampled_from(["add", "get", "done"]), st.integers(0, 3)), max_size=60))
@settings(max_examples=200, deadline=None)
@pytest.mark.guarantee("WQ1", "K3")
def test_queue_agrees_with_a_model(operations):
    """Against the definition: dirty, processing and an ordered queue."""

    class Still:
        def boottime(self):
            return 0.0

    queue = WorkQueue(clock=Still())
    order, dirty, processing = [], set(), set()
    for operation, item in operations:
        if operation == "add":
            queue.add(item)
            if item not in dirty:
                dirty.add(item)
                if item not in processing:
                    order.append(item)
        elif operation == "get" and order:
            coroutine = queue.get()
            with pytest.raises(StopIteration) as stop:
                coroutine.send(None)
            expected = order.pop(0)
            dirty.discard(expected)
            processing.add(expected)
            assert stop.value.value == expected
        elif operation == "done":
            queue.done(item)
            if item in processing:
                processing.discard(item)
                if item in dirty:
                    order.append(item)
        assert len(queue) == len(order)
        assert queue.statistics().processing == len(processing)


def test_idle_queue_has_worked_for_no_time_at_all():
    times = iter(range(1000))

    class Ticking:
        def boottime(self):
            return float(next(times))

    queue = WorkQueue(clock=Ticking())
    assert queue.longest_running_s() == queue.unfinished_s() == 0
