"""What a run leaves in its status."""

from __future__ import annotations

import hashlib

from agentops.api.codec import dumps
from agentops.api.runs import Artifact, Outcome, RunRecord, TaskResult, Usage
from agentops.operator.results import (
    failure,
    from_record,
    from_task,
    needs_config_map,
    out_of_time,
    parse_task_line,
    parse_termination_message,
    status_fields,
    truncate,
    whole_output,
)


def test_a_long_answer_is_cut_and_says_where_the_rest_is() -> None:
    output = "ä" * 10_000
    result = from_task(TaskResult(success=True, output=output))
    fields = status_fields(result, "r")
    assert needs_config_map(result)
    assert len(fields["output"].encode()) <= 16 * 1024
    assert output.startswith(fields["output"])
    assert fields["outputTruncated"] is True
    assert fields["outputRef"] == {"name": "r-output", "key": "output.txt"}
    assert fields["outputDigest"] == "sha256:" + hashlib.sha256(output.encode()).hexdigest()


def test_a_short_answer_needs_no_config_map() -> None:
    fields = status_fields(from_task(TaskResult(success=True, output="hi")), "r")
    assert fields["output"] == "hi"
    assert "outputRef" not in fields


def test_an_error_without_output_is_kept() -> None:
    result = from_task(TaskResult(success=False, error="401 from the model"))
    assert (result.succeeded, result.reason) == (False, "Failed")
    assert status_fields(result, "r")["output"] == "401 from the model"


def test_tokens_are_counted_together() -> None:
    record = RunRecord(
        name="r", state="succeeded", output="x", usage=Usage(input_tokens=3, output_tokens=4), tool_calls=2
    )
    fields = status_fields(from_record(record), "r")
    assert fields["tokensUsed"] == 7
    assert fields["usage"]["inputTokens"] == 3
    assert fields["toolCalls"] == 2


def test_reasons_of_the_runtime_become_reasons_of_the_run() -> None:
    reasons = {
        "Aborted": "Cancelled",
        "Interrupted": "Interrupted",
        "Error": "Failed",
        "BudgetExceeded": "BudgetExceeded",
    }
    for said, expected in reasons.items():
        assert from_record(RunRecord(name="r", state="failed", reason=said, error="x")).reason == expected


def test_the_result_line_is_found_among_log_lines() -> None:
    line = dumps(TaskResult(success=True, output="done")).decode()
    text = f'{{"level":"info"}}\n{line}\n{{"level":"info","event":"exit"}}\n'
    found = parse_task_line(text)
    assert found is not None
    assert found.output == "done"


def test_a_broken_result_line_is_no_result() -> None:
    assert parse_task_line('{"agentops.result":1,"output":"cut') is None


def test_another_termination_message_is_the_output_of_a_task_that_succeeded() -> None:
    assert parse_termination_message("", True) is None
    assert parse_termination_message("no such file", False) is None, "how the container ended says more"
    fine = parse_termination_message("plain answer", True)
    assert fine is not None
    assert (fine.success, fine.output) == (True, "plain answer")


def test_a_summary_from_the_termination_log_says_that_it_was_cut() -> None:
    fields = status_fields(from_task(TaskResult(success=True, output="begin", truncated=True)), "r")
    assert fields["outputTruncated"] is True
    assert "outputRef" not in fields


def test_truncation_never_splits_a_character() -> None:
    assert truncate("aä", 2) == "a"


def test_a_task_out_of_time_says_so_in_words_and_keeps_what_it_had() -> None:
    told = TaskResult(success=False, output="Half of", reason="Interrupted", usage=Usage(input_tokens=7))
    found = out_of_time(told, "Job was active longer than specified deadline")
    assert (found.succeeded, found.reason, found.output) == (False, "Timeout", "Half of")
    assert found.message == "timed out: Job was active longer than specified deadline"
    assert found.usage == told.usage


BAD = "a\x7f\x00\x1b[2J\x80\x9b\ufffe\uffffb"
CLEAN = "a\ufffd\ufffd\ufffd[2J\ufffd\ufffd\ufffd\ufffdb"


def test_no_character_of_a_result_breaks_yaml() -> None:
    outcome = Outcome(intent="change", artifacts=(Artifact(kind="pr", title=BAD),), summary=BAD)
    record = RunRecord(name="r", state="succeeded", output=f"tab\t\n{BAD}", outcome=outcome)
    fields = status_fields(from_record(record), "r")
    assert fields["output"] == f"tab\t\n{CLEAN}"
    assert fields["outputDigest"] == "sha256:" + hashlib.sha256(fields["output"].encode()).hexdigest()
    assert fields["outcome"] == {
        "intent": "change",
        "summary": CLEAN,
        "artifacts": [{"kind": "pr", "title": CLEAN}],
    }


def test_no_character_of_a_failure_or_its_message_breaks_yaml() -> None:
    assert failure("Failed", BAD).message == CLEAN
    failed = from_task(TaskResult(success=False, error=BAD, output=BAD * 9000))
    assert failed.message == CLEAN
    assert whole_output(failed).startswith(CLEAN)
    late = out_of_time(TaskResult(success=False, output=BAD), BAD)
    assert (late.message, late.output) == (f"timed out: {CLEAN}", CLEAN)
