import itertools
from datetime import timedelta

import anyio
import pytest

from agentops.controller import Controller, ControllerOptions, Request, Result, RetryAfter, StaleCache, TerminalError
from agentops.controller.controller import is_terminal, reconcile_id
from agentops.telemetry.logging import get_logger
from agentops.telemetry.metrics import Registry

pytestmark = pytest.mark.anyio

A, B = Request("ns", "a"), Request("ns", "b")


@pytest.fixture
def registry():
    return Registry()


async def run(reconcile, clock, registry, requests=(A,), seconds=1.0, **options):
    controller = Controller("test", reconcile, options=ControllerOptions(**options), registry=registry, clock=clock)
    async with anyio.create_task_group() as tasks:
        await tasks.start(controller.run)
        for request in requests:
            controller.enqueue(request)
        await anyio.sleep(seconds)
        controller.stop()
    return controller


def count(registry, name, **labels):
    return registry.value(f"controller_runtime_{name}", controller="test", **labels)


@pytest.mark.guarantee("MX3")
async def test_results_are_there_at_zero_before_the_first_reconcile(clock, registry):
    async def reconcile(request):
        pass

    await run(reconcile, clock, registry, requests=())
    for result in ("success", "error", "requeue", "requeue_after"):
        assert count(registry, "reconcile_total", result=result) == 0


@pytest.mark.guarantee("CT2")
async def test_terminal_error_is_counted_and_not_tried_again(clock, registry):
    calls = []

    async def reconcile(request):
        calls.append(request)
        try:
            raise TerminalError("no such image")
        except TerminalError as error:
            raise RuntimeError("wrapped") from error

    controller = await run(reconcile, clock, registry, seconds=100)
    assert calls == [A]
    assert count(registry, "reconcile_errors_total") == 1
    assert count(registry, "terminal_reconcile_errors_total") == 1
    assert controller.statistics().queue.failing == 0


@pytest.mark.guarantee("CT4")
def test_group_is_terminal_only_when_all_of_it_is():
    assert is_terminal(ExceptionGroup("g", [TerminalError("a"), TerminalError("b")]))
    assert not is_terminal(ExceptionGroup("g", [TerminalError("a"), ValueError("b")]))


@pytest.mark.guarantee("CT1", "CT2")
@pytest.mark.parametrize("answer", [30, True, "later", {"requeue_after": 5}])
async def test_answer_that_is_no_result_is_a_failed_reconcile_and_the_controller_lives(clock, registry, caplog, answer):
    async def reconcile(request):
        return answer if request == A else None

    await run(reconcile, clock, registry, requests=(A, B), seconds=0.001)
    assert count(registry, "reconcile_total", result="error") == 1
    assert count(registry, "reconcile_total", result="success") == 1
    assert f"reconcile returned {answer!r}; return None, or Result(requeue_after=seconds)" in caplog.text


@pytest.mark.guarantee("CT1")
@pytest.mark.parametrize("timeout_s", [None, 5.0])
async def test_reconciler_that_is_not_async_is_told_so(clock, registry, caplog, timeout_s):
    await run(lambda request: None, clock, registry, seconds=0.001, reconcile_timeout_s=timeout_s)
    assert count(registry, "reconcile_total", result="error") == 1
    assert "must be an async function" in caplog.text


@pytest.mark.guarantee("CT1")
def test_delay_of_a_result_is_a_number_of_seconds():
    with pytest.raises(TypeError, match="requeue_after"):
        Result(requeue_after=timedelta(seconds=30))


@pytest.mark.guarantee("CT3")
async def test_retry_after_comes_back_then_and_is_an_error(clock, registry):
    times = []

    async def reconcile(request):
        times.append(anyio.current_time())
        if len(times) == 1:
            raise RetryAfter(30)

    await run(reconcile, clock, registry, seconds=60)
    assert times[1] - times[0] == pytest.approx(30)
    assert count(registry, "reconcile_errors_total") == 1


@pytest.mark.guarantee("RY7")
async def test_stale_cache_is_put_off_without_an_error(clock, registry):
    times = []

    async def reconcile(request):
        times.append(anyio.current_time())
        if len(times) == 1:
            raise StaleCache("lagging")

    await run(reconcile, clock, registry)
    assert len(times) == 2
    assert count(registry, "reconcile_errors_total") == 0
    assert count(registry, "reconcile_total", result="requeue") == 1
    assert registry.value("stale_sync_skips_total", controller="test") == 1


@pytest.mark.guarantee("CT12", "RL9")
async def test_success_forgets_failures(clock, registry):
    times = []

    async def reconcile(request):
        times.append(anyio.current_time())
        if len(times) in (1, 2, 4):
            raise ValueError("again")
        return Result(requeue_after=5) if len(times) == 3 else None

    await run(reconcile, clock, registry, seconds=10)
    waits = [round(b - a, 4) for a, b in itertools.pairwise(times)]
    assert waits == pytest.approx([0.005, 0.01, 5, 0.005])


@pytest.mark.guarantee("CT10")
async def test_reconcile_that_overruns_is_cancelled_and_tried_again(clock, registry):
    times = []

    async def reconcile(request):
        times.append(anyio.current_time())
        if len(times) == 1:
            await anyio.sleep(1000)

    await run(reconcile, clock, registry, seconds=60, reconcile_timeout_s=10)
    assert times[1] - times[0] == pytest.approx(10.005)
    assert count(registry, "reconcile_timeouts_total") == 1
    assert count(registry, "reconcile_errors_total") == 1


@pytest.mark.guarantee("CT10")
async def test_overrun_is_counted_also_when_the_reconciler_makes_another_error_of_it(clock, registry):
    calls = []

    async def reconcile(request):
        calls.append(request)
        if len(calls) == 1:
            try:
                await anyio.sleep(1000)
            except BaseException as error:
                raise RuntimeError("the disk was slow") from error

    await run(reconcile, clock, registry, seconds=60, reconcile_timeout_s=10)
    assert count(registry, "reconcile_timeouts_total") == 1
    assert count(registry, "reconcile_errors_total") == 1
    assert len(calls) == 2


@pytest.mark.guarantee("CT10")
async def test_own_timeouts_of_a_reconcile_are_plain_errors(clock, registry):
    async def reconcile(request):
        with anyio.fail_after(1):
            await anyio.sleep(2)

    await run(reconcile, clock, registry, seconds=1.5, reconcile_timeout_s=10)
    assert count(registry, "reconcile_timeouts_total") == 0
    assert count(registry, "reconcile_errors_total") >= 1


@pytest.mark.guarantee("CT4")
def test_terminal_error_is_found_wherever_it_is():
    def caused_by(cause):
        error = RuntimeError("outer")
        error.__cause__ = cause
        return error

    assert is_terminal(caused_by(TerminalError("no")))
    assert is_terminal(caused_by(ExceptionGroup("both", [TerminalError("no"), caused_by(TerminalError("no"))])))
    assert not is_terminal(caused_by(ExceptionGroup("one", [TerminalError("no"), RuntimeError("yes")])))
    assert not is_terminal(caused_by(RuntimeError("yes")))


@pytest.mark.guarantee("CT3", "CT5")
async def test_failure_that_names_its_delay_can_name_a_priority_too(clock, registry):
    order = []

    async def reconcile(request):
        order.append(request)
        if len(order) <= 2:
            raise RetryAfter(10, priority=5 if request == B else None)
        await anyio.sleep(1)

    await run(reconcile, clock, registry, [A, B], seconds=30)
    assert order == [A, B, B, A]
    with pytest.raises(ValueError, match="must be positive"):
        RetryAfter(0)


@pytest.mark.guarantee("CT11")
async def test_swallowed_cancellation_is_no_success(clock, registry):
    calls = []

    async def reconcile(request):
        calls.append(request)
        if len(calls) == 1:
            try:
                await anyio.sleep(1000)
            except BaseException:
                return  # what nobody should do

    await run(reconcile, clock, registry, seconds=60, reconcile_timeout_s=10)
    assert count(registry, "reconcile_timeouts_total") == 1
    assert len(calls) == 2


@pytest.mark.guarantee("CT9")
async def test_exception_that_is_no_exception_is_a_panic_and_the_worker_lives(clock, registry):
    class Weird(BaseException):
        pass

    calls = []

    async def reconcile(request):
        calls.append(request)
        if len(calls) == 1:
            raise Weird

    await run(reconcile, clock, registry)
    assert count(registry, "reconcile_panics_total") == 1
    assert len(calls) == 2


@pytest.mark.guarantee("CT6")
async def test_same_key_never_runs_twice_at_once_and_others_do(clock, registry, rng):
    running, most = set(), 0

    async def reconcile(request):
        nonlocal most
        assert request not in running
        running.add(request)
        most = max(most, len(running))
        await anyio.sleep(rng.random())
        running.discard(request)
        return Result(requeue_after=rng.random())

    requests = [Request("ns", str(i)) for i in range(8)]
    await run(reconcile, clock, registry, requests * 3, seconds=60, max_concurrent=4)
    assert most == 4
    assert count(registry, "max_concurrent_reconciles") == 4
    assert count(registry, "active_workers") == 0


@pytest.mark.guarantee("CT13")
async def test_stop_lets_running_reconciles_finish_and_hands_out_no_more(clock, registry):
    done = []

    async def reconcile(request):
        await anyio.sleep(10)
        done.append(request)

    await run(reconcile, clock, registry, [A, B], seconds=1)
    assert done == [A]


@pytest.mark.guarantee("CT16")
async def test_what_a_reconcile_logs_says_whose_it_is(clock, registry, caplog):
    async def reconcile(request):
        get_logger("test").warning("look.here", name="mine")
        ids.append(reconcile_id())

    ids = []
    await run(reconcile, clock, registry, [A])
    (record,) = (record for record in caplog.records if record.message == "look.here")
    fields = {"controller": "test", "namespace": "ns", "name": "mine", "reconcileID": ids[0]}
    assert record.agentops_fields == fields


@pytest.mark.guarantee("CT16", "PY17")
async def test_each_reconcile_has_its_own_id_also_in_tasks_it_starts(clock, registry):
    ids = []

    async def note():
        ids.append(reconcile_id())

    async def reconcile(request):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note)
        await note()

    await run(reconcile, clock, registry, [A, B])
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert len(ids[0]) == 32
    assert reconcile_id() == ""


@pytest.mark.guarantee("MX3")
async def test_queue_metrics_are_there(clock, registry):
    async def reconcile(request):
        await anyio.sleep(10)

    controller = Controller("test", reconcile, registry=registry, clock=clock)
    async with anyio.create_task_group() as tasks:
        await tasks.start(controller.run)
        controller.enqueue(A)
        controller.enqueue(B)
        await anyio.sleep(4)
        value = registry.collectors.get_sample_value
        labels = {"name": "test", "controller": "test"}
        assert value("workqueue_depth", {**labels, "priority": "0"}) == 1
        assert value("workqueue_adds_total", labels) == 2
        assert value("workqueue_longest_running_processor_seconds", labels) == pytest.approx(4)
        assert value("workqueue_unfinished_work_seconds", labels) == pytest.approx(4)
        assert value("workqueue_queue_duration_seconds_count", labels) == 1
        tasks.cancel_scope.cancel()


@pytest.mark.guarantee("MX1")
async def test_two_controllers_of_one_registry_do_not_collide(clock, registry):
    async def reconcile(request):
        pass

    for name in ("one", "two"):
        Controller(name, reconcile, registry=registry, clock=clock)
    assert registry.value("controller_runtime_reconcile_total", controller="two", result="success") == 0
