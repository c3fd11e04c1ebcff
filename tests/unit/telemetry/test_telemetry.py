import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agentops.telemetry import tracing
from agentops.telemetry.logging import bind, configure, get_logger
from agentops.telemetry.metrics import Registry, render
from agentops.telemetry.tracing import extract


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    configure("json", "info", out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_log_line_is_an_event_with_fields(stream: io.StringIO) -> None:
    with bind(run="r1"):
        get_logger("runtime.turn").info("turn.start", model="m", path=object)
    line = json.loads(stream.getvalue())
    assert line["event"] == "turn.start" and line["logger"] == "runtime.turn"
    assert line["run"] == "r1" and line["model"] == "m" and line["level"] == "info"


@pytest.mark.parametrize("value", ["caf\udce9.txt", 2**70, {(1, 2): 3}])
def test_a_value_that_json_has_no_form_for_costs_no_log_line(stream: io.StringIO, value: object) -> None:
    get_logger("x").info("file.read", value=value)
    assert json.loads(stream.getvalue())["event"] == "file.read"


def test_bound_fields_are_in_the_lines_of_other_loggers_too(stream: io.StringIO) -> None:
    with bind(reconcileID="r1"):
        logging.getLogger("some.library").warning("it %s", "failed")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["logger"], line["reconcileID"]) == ("it failed", "some.library", "r1")


def test_bound_fields_end_with_their_block(stream: io.StringIO) -> None:
    with bind(run="r1"):
        pass
    get_logger("x").info("after")
    assert "run" not in json.loads(stream.getvalue())


def test_an_exception_keeps_its_traceback(stream: io.StringIO) -> None:
    try:
        raise KeyError("k")
    except KeyError:
        get_logger("x").exception("it.broke")
    assert "KeyError" in json.loads(stream.getvalue())["traceback"]


def test_debug_is_silent_by_default(stream: io.StringIO) -> None:
    get_logger("x").debug("quiet")
    assert stream.getvalue() == ""


def test_two_registries_do_not_know_each_other() -> None:
    one, two = Registry(), Registry()
    one.counter("agentops_turns_total", "Turns.", ["outcome"]).labels("ok").inc()
    two.counter("agentops_turns_total", "Turns.", ["outcome"])
    assert one.value("agentops_turns_total", outcome="ok") == 1
    assert two.value("agentops_turns_total", outcome="ok") is None
    assert b'agentops_turns_total{outcome="ok"} 1.0' in render(one)[0]


def test_asking_twice_gives_the_same_metric_and_another_type_is_an_error() -> None:
    registry = Registry()
    assert registry.gauge("g", "G.") is registry.gauge("g", "G.")
    with pytest.raises(TypeError, match="Gauge"):
        registry.counter("g", "G.")


def test_a_malformed_traceparent_is_no_parent() -> None:
    assert extract(None) is None
    assert extract("garbage") is None
    assert extract("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01") is not None


@pytest.mark.parametrize("endpoint", ["tempo:4318", "http://", "grpc://tempo:4317"])
def test_an_endpoint_that_is_no_http_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="http://tempo:4318"):
        tracing.configure("x", endpoint)


def test_without_an_endpoint_there_is_no_sdk_and_no_thread() -> None:
    code = (
        "import sys, threading\n"
        "from agentops.telemetry import tracing\n"
        "assert tracing.configure('x', None) is None\n"
        "with tracing.tracer('x').start_as_current_span('s') as span:\n"
        "    assert not span.is_recording()\n"
        "print('opentelemetry.sdk' in sys.modules, threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
