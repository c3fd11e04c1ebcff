"""In which isolation tiers of the local plane the tests run.

E2E_TIERS=b,c runs all of them in each tier named; without it all run in tier B, and SUBSET in tier C. A tier that
does not work on this machine fails the run, unless E2E_TIERS names only others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

TIERS = {"b": "ns-user", "c": "prefix"}
"""Name to what `agentops local up --isolation` takes."""

SUBSET_IN_C = frozenset(
    {
        "test_a_tool_call_runs_the_tool_and_the_next_turn_knows_the_first",
        "test_the_memory_service_holds_what_the_model_saved",
        "test_a_task_agent_answers_in_a_job",
        "test_agentops_run_prints_the_whole_answer_and_exits_with_how_it_ended",
        "test_tools_see_the_variables_of_the_spec_and_no_secret",
        "test_deleting_everything_ends_while_a_run_is_running",
    }
)
"""What shows that tier C carries the whole chain, when tier B has run everything."""

EXEMPT_IN_C = {
    "test_a_pod_sees_neither_the_state_dir_nor_what_other_pods_mount": "pods share the host's file system",
    "test_the_root_of_a_pod_is_read_only_and_its_volumes_are_not": "read-only mounts are not enforced",
    "test_a_pod_sees_its_own_processes_only": "pods share the host's process table",
    "test_a_program_has_the_user_of_its_spec_and_no_capability": "pods run as the user of the plane",
}
"""Tests of what tier C does not have, with the reason; nothing else may be left out there."""


def asked() -> list[str]:
    """Names of the tiers to run in. Raises ValueError for one that does not exist."""
    names = [name.strip() for name in os.environ.get("E2E_TIERS", "b,c").split(",")]
    unknown = [name for name in names if name not in TIERS]
    if unknown:
        raise ValueError(f"E2E_TIERS: there is no tier {unknown[0]!r}; take some of {','.join(TIERS)}")
    return names


def runs_of(test: Callable[..., Any]) -> list[tuple[str, list[pytest.MarkDecorator]]]:
    """The tiers of a test, with the mark that says why it is exempt there."""
    found: list[tuple[str, list[pytest.MarkDecorator]]] = []
    for tier in asked():
        exempt = EXEMPT_IN_C.get(test.__name__) if tier == "c" else None
        if exempt:
            found.append((tier, [pytest.mark.skip(reason=f"exempt in tier C: {exempt}")]))
        elif tier != "c" or "E2E_TIERS" in os.environ or test.__name__ in SUBSET_IN_C:
            found.append((tier, []))
    return found
