from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.api.codec import dumps, loads
from agentops.api.runs import RunRecord, TaskResult
from agentops.operator.joblog import LINE_LIMIT_BYTES
from agentops.operator.results import from_task, needs_config_map, parse_task_line, whole_output
from agentops.runtime.task import task_result, termination_message


@given(st.text(max_size=9000), st.text(max_size=6000))
def test_the_termination_message_is_valid_json_of_at_most_4096_bytes(output: str, error: str) -> None:
    result = TaskResult(success=False, output=output, error=error or None, model="local/m")
    message = termination_message(result)
    assert len(message) <= 4096
    raw = orjson.loads(message)
    assert output.startswith(raw["output"])
    assert raw["model"] == "local/m"
    assert loads(TaskResult, message).success is False
    assert raw.get("truncated", False) == (raw["output"] != output or (raw.get("error") or "") != error)


def test_as_much_of_the_output_as_fits_is_kept() -> None:
    assert len(termination_message(TaskResult(output="é" * 5000))) > 4090


def test_a_tasks_result_holds_no_character_that_yaml_cannot() -> None:
    record = RunRecord(name="r", state="failed", output="tab\t \x7f\x1b[0m", error="\x9b\uffff")
    result = task_result(record)
    assert (result.output, result.error) == ("tab\t \ufffd\ufffd[0m", "\ufffd\ufffd")


@pytest.mark.parametrize("state", ["succeeded", "failed"])
@pytest.mark.parametrize("text", ["word ", "\n", '"', "ä", "🙂"])
def test_of_an_endless_answer_the_operator_gets_as_much_as_it_keeps(state: str, text: str) -> None:
    line = dumps(task_result(RunRecord(name="r", state=state, output=text * (5 << 20), error="stopped")))
    assert len(line) < LINE_LIMIT_BYTES
    told = parse_task_line(line.decode())
    assert told is not None
    assert told.truncated
    result = from_task(told)
    assert needs_config_map(result)
    assert len(whole_output(result).encode()) > 900 * 1024 - 4
