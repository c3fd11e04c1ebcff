import gc
import weakref

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentops.controller.metrics import QueueMetrics
from agentops.controller.priority_queue import PriorityQueue
from agentops.controller.workqueue import QueueShutDown
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio


@pytest.fixture
def queue(clock):
    return PriorityQueue(clock=clock, oldest_every=0)


async def take(queue, count):
    return [(await queue.get_with_priority()) for _ in range(count)]


@pytest.mark.guarantee("PQ1")
async def test_higher_priority_first_then_in_order(queue):
    for item, priority in (("low", -100), ("a", 0), ("b", None), ("high", 5)):
        queue.add(item, priority)
    assert await take(queue, 4) == [("high", 5), ("a", 0), ("b", 0), ("low", -100)]


@pytest.mark.guarantee("PQ5")
async def test_duplicate_takes_the_higher_priority_and_its_tail(queue):
    queue.add("a", -100)
    queue.add("b", 0)
    queue.add("a", 0)
    queue.add("b", -100)
    assert len(queue) == 2
    assert await take(queue, 2) == [("b", 0), ("a", 0)]


@pytest.mark.guarantee("PQ3")
async def test_ready_item_stays_ready_whatever_delay_its_duplicate_has(queue):
    queue.add("a")
    queue.add_after("a", 60)
    assert len(queue) == 1
    assert queue.statistics().waiting == 0


@pytest.mark.guarantee("PQ4")
async def test_waiting_item_takes_the_earlier_time_and_none_means_now(queue):
    async with anyio.create_task_group() as tasks:
        await tasks.start(queue.run)
        start = anyio.current_time()
        queue.add_after("a", 60)
        queue.add_after("a", 20, priority=7)
        queue.add_after("a", 40)
        assert queue.statistics().waiting == 1
        assert await queue.get_with_priority() == ("a", 7)
        assert anyio.current_time() - start == pytest.approx(20)
        queue.done("a")
        queue.add_after("b", 60)
        queue.add("b")
        assert len(queue) == 1
        queue.done(await queue.get())
        await anyio.sleep(100)
        assert len(queue) == 0
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("PQ6", "PQ7")
async def test_item_that_becomes_ready_goes_behind_those_that_are(queue):
    async with anyio.create_task_group() as tasks:
        await tasks.start(queue.run)
        queue.add_after("waited", 5)
        queue.add("first")
        await anyio.sleep(10)
        queue.add("last")
        assert [item for item, _ in await take(queue, 3)] == ["first", "waited", "last"]
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("PQ8")
async def test_item_being_processed_is_skipped_until_it_is_done(queue):
    queue.add("a", 10)
    assert await queue.get() == "a"
    queue.add("a", 10)
    queue.add("b", 0)
    assert len(queue) == 2
    assert await queue.get() == "b"
    with anyio.move_on_after(1) as scope:
        await queue.get()
    assert scope.cancelled_caught
    queue.done("a")
    assert await queue.get_with_priority() == ("a", 10)


@pytest.mark.guarantee("PQ2")
async def test_shorter_of_two_delays_counts(queue):
    async with anyio.create_task_group() as tasks:
        await tasks.start(queue.run)
        start = anyio.current_time()
        queue.add_with_opts(["a"], after_s=60, rate_limited=True)
        await queue.get()
        assert anyio.current_time() - start == pytest.approx(0.005)
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("PQ11")
async def test_shutdown_is_abrupt_and_wakes_everybody(queue):
    ended = []

    async def worker():
        with pytest.raises(QueueShutDown):
            await queue.get()
        ended.append(1)

    queue.add("held")
    held = await queue.get()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(worker)
        await anyio.wait_all_tasks_blocked()
        queue.add("ready")
        queue.shutdown()
        queue.add("a")
    assert len(ended) == 3, "also while an item is being processed, and although one was ready"
    assert len(queue) == 0
    with anyio.fail_after(1):
        await queue.shutdown_with_drain()
    queue.done(held)


@pytest.mark.guarantee("PQ13")
async def test_low_priority_item_is_served_within_eight_of_an_endless_stream(clock):
    queue = PriorityQueue(clock=clock)
    queue.add("initial", -100)
    for number in range(1, 9):
        queue.add(f"x{number}")
        queue.add(f"y{number}")
        item = await queue.get()
        queue.done(item)
        if item == "initial":
            break
    assert item == "initial"
    assert number == 8


async def test_drained_queue_keeps_no_references(clock):
    class Item:
        pass

    queue = PriorityQueue(clock=clock)
    items = [Item() for _ in range(50)]
    seen = [weakref.ref(item) for item in items]
    for priority, item in enumerate(items):
        queue.add(item, -priority)
        queue.add(item, priority % 3)
        queue.add_after(item, 5)
    for _ in items:
        queue.done(await queue.get())
    del items, item, _
    gc.collect()
    assert [ref() for ref in seen if ref() is not None] == []


async def test_delays_that_changes_overtook_do_not_pile_up(clock):
    """A key that is looked at again every hour and changes all the time, beside one that only waits."""
    queue = PriorityQueue(clock=clock)
    queue.add_after("quiet", 7200)
    for number in range(5000):
        queue.add_after("busy", 3600 - number / 10)
        queue.add("busy")
        queue.done(await queue.get())
    assert len(queue._by_time) < 300
    assert queue.statistics().waiting == 1
    async with anyio.create_task_group() as tasks:
        await tasks.start(queue.run)
        assert await queue.get() == "quiet"
        tasks.cancel_scope.cancel()


async def test_dead_entries_do_not_pile_up(clock):
    queue = PriorityQueue(clock=clock)
    queue.add("stuck", -1000)
    for number in range(5000):
        queue.add(number, -5)
        queue.add(number, 0)
        queue.done(await queue.get())
        queue.add("stuck", -1000)
    assert len(queue._by_priority) < 300
    assert len(queue._by_age) < 300


@pytest.mark.guarantee("PQ12")
async def test_depth_is_counted_per_priority_with_a_limit(clock):
    registry = Registry()
    queue = PriorityQueue(clock=clock, observer=QueueMetrics(registry, "q"))

    def depth(priority):
        labels = {"name": "q", "controller": "q", "priority": str(priority)}
        return registry.collectors.get_sample_value("workqueue_depth", labels)

    queue.add("a", -100)
    queue.add("b")
    assert (depth(-100), depth(0)) == (1, 1)
    await queue.get()
    assert (depth(-100), depth(0)) == (1, 0)
    for priority in range(1, 40):
        queue.add(f"x{priority}", priority)
    assert depth(39) is None
    own_series = sum(depth(priority) is not None for priority in range(-100, 40))
    assert own_series == 25
    assert depth("exceeded_cardinality_limit") == 41 - own_series, "those of all other priorities together"
    while len(queue):
        await queue.get()
    assert depth("exceeded_cardinality_limit") == 0


@pytest.mark.guarantee("MX3")
async def test_item_counts_as_added_when_it_becomes_ready(clock):
    registry = Registry()
    queue = PriorityQueue(clock=clock, observer=QueueMetrics(registry, "q"))

    def count(name):
        return registry.collectors.get_sample_value(name, {"name": "q", "controller": "q"})

    queue.add_after("a", 60)
    assert (count("workqueue_adds_total"), count("workqueue_retries_total")) == (0, 1)
    queue.add("a")
    assert (count("workqueue_adds_total"), count("workqueue_retries_total")) == (1, 1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "get", "done"]), st.integers(0, 4), st.integers(-1, 2)),
        max_size=80,
    )
)
@settings(max_examples=300, deadline=None)
@pytest.mark.guarantee("PQ15")
def test_queue_agrees_with_a_model(operations):
    class Still:
        def boottime(self):
            return 0.0

    queue = PriorityQueue(clock=Still(), oldest_every=0)
    ready, processing, counter = {}, set(), 0
    for operation, item, priority in operations:
        if operation == "add":
            queue.add(item, priority)
            counter += 1
            if item not in ready or priority > ready[item][0]:
                ready[item] = (priority, counter)
        elif operation == "done":
            queue.done(item)
            processing.discard(item)
        else:
            free = [(-p, order, i) for i, (p, order) in ready.items() if i not in processing]
            if not free:
                continue
            expected = min(free)
            with pytest.raises(StopIteration) as stop:
                queue.get_with_priority().send(None)
            assert stop.value.value == (expected[2], -expected[0])
            del ready[expected[2]]
            processing.add(expected[2])
        assert len(queue) == len(ready)
