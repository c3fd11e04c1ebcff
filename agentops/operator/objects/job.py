"""The Job `<run>` of a task run, and the ConfigMap of a prompt too long for a variable."""

from __future__ import annotations

import math
from typing import Any

from attrs import frozen

from agentops.api import labels
from agentops.kube.kinds import CONFIG_MAP, JOB
from agentops.operator.objects import names
from agentops.operator.objects.env import Variable, plain
from agentops.operator.objects.meta import child_labels, manifest
from agentops.operator.objects.pod import PodInputs, task_template

TTL_AFTER_HARVEST_S = 120
INLINE_PROMPT_BYTES = 8192


@frozen(slots=True, kw_only=True)
class TaskRun:
    """What a Job needs to know of its run."""

    name: str
    prompt: str
    timeout_s: float
    traceparent: str | None = None
    parent_agent: str | None = None


def job(inputs: PodInputs, run: TaskRun) -> dict[str, Any]:
    """Never retried, stopped at the timeout, and without a TTL until its result has been read."""
    labelled = _run_labels(inputs.agent, run.name)
    template = task_template(
        inputs,
        run_labels={labels.RUN: labelled[labels.RUN]},
        variables=_variables(run),
        prompt_config_map=None if fits_inline(run.prompt) else names.prompt_config_map(run.name),
    )
    spec = {
        "backoffLimit": 0,
        "activeDeadlineSeconds": max(1, math.ceil(run.timeout_s)),
        "template": template,
    }
    return manifest(JOB, inputs.namespace, names.job(run.name), labelled, spec=spec)


def prompt_config_map(agent: str, namespace: str, run: str, prompt: str) -> dict[str, Any]:
    return manifest(
        CONFIG_MAP,
        namespace,
        names.prompt_config_map(run),
        {**_run_labels(agent, run), labels.COMPONENT: labels.COMPONENT_CONFIG},
        data={names.PROMPT_KEY: prompt},
    )


def fits_inline(prompt: str) -> bool:
    """Whether the prompt may travel as a variable: short, and free of `$`, which the kubelet would expand."""
    return len(prompt.encode()) <= INLINE_PROMPT_BYTES and "$" not in prompt


def _run_labels(agent: str, run: str) -> dict[str, str]:
    return child_labels(agent, labels.COMPONENT_TASK_RUN, **{labels.RUN: names.label_value(run)})


def _variables(run: TaskRun) -> list[Variable]:
    if fits_inline(run.prompt):
        variables = [plain("AGENT_PROMPT", run.prompt)]
    else:
        variables = [plain("AGENT_PROMPT_FILE", f"{names.PROMPT_DIR}/{names.PROMPT_KEY}")]
    variables.append(plain("AGENT_RUN_NAME", run.name))
    if run.traceparent:
        variables.append(plain("TRACEPARENT", run.traceparent))
    if run.parent_agent:
        variables.append(plain("AGENT_RUN_SOURCE_AGENT", run.parent_agent))
    return variables
