"""Jobs and CronJobs are refused, or not, for what a cluster refuses."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import Api

pytestmark = pytest.mark.anyio

JOBS = "/apis/batch/v1/namespaces/default/jobs"
CRON_JOBS = "/apis/batch/v1/namespaces/default/cronjobs"


def job(**spec: Any) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "agentops:1"}]}
    return {"metadata": {"name": "j"}, "spec": {"template": {"spec": pod}, **spec}}


def cron_job(inner: Any = None, **spec: Any) -> dict[str, Any]:
    template = {"spec": job(**(inner or {}))["spec"]}
    return {"metadata": {"name": "c"}, "spec": {"schedule": "*/5 * * * *", "jobTemplate": template, **spec}}


def restarting(policy: str, **spec: Any) -> dict[str, Any]:
    body = job(**spec)["spec"]
    body["template"]["spec"]["restartPolicy"] = policy
    return body


def on_exit(**codes: Any) -> dict[str, Any]:
    return {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1], **codes}}


def failing(*rules: Any, **spec: Any) -> dict[str, Any]:
    return {"podFailurePolicy": {"rules": list(rules)}, **spec}


INDEXED = {"completionMode": "Indexed", "completions": 3}
RULE = "spec.podFailurePolicy.rules[0]"
RESTART = "spec.template.spec.restartPolicy"


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (
            {"completionMode": "Indexed", "parallelism": 2},
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            {"completionMode": "Foo"},
            'spec.completionMode: Unsupported value: "Foo": supported values: "NonIndexed", "Indexed"',
        ),
        ({"completionMode": "Foo", "backoffLimitPerIndex": 1}, 'spec.completionMode: Unsupported value: "Foo"'),
        ({"backoffLimitPerIndex": 1}, "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"),
        ({"maxFailedIndexes": 1}, "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode"),
        (
            {**INDEXED, "maxFailedIndexes": 1},
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        ),
        (
            {**INDEXED, "backoffLimitPerIndex": 1, "maxFailedIndexes": 4},
            "spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions",
        ),
        (
            {**INDEXED, "parallelism": 100_001},
            "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is",
        ),
        ({"backoffLimit": -1}, "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"),
        ({**INDEXED, "backoffLimitPerIndex": -1}, "spec.backoffLimitPerIndex: Invalid value: -1"),
        ({"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished: Invalid value: -1"),
        ({"podReplacementPolicy": "Soon"}, 'spec.podReplacementPolicy: Unsupported value: "Soon"'),
        (
            failing(on_exit(), podReplacementPolicy="TerminatingOrFailed"),
            'spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"',
        ),
        (
            failing({**on_exit(), "action": "Retry"}),
            f'{RULE}.action: Unsupported value: "Retry": supported values: "Count", "FailIndex", "FailJob", "Ignore"',
        ),
        (
            failing({**on_exit(), "action": "FailIndex"}),
            f'{RULE}.action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set',
        ),
        (
            failing(on_exit(operator="Is")),
            f'{RULE}.onExitCodes.operator: Unsupported value: "Is": supported values: "In", "NotIn"',
        ),
        (failing(on_exit(values=[1, 1])), f"{RULE}.onExitCodes.values[1]: Duplicate value: 1"),
        (failing(on_exit(values=[2, 1])), f"{RULE}.onExitCodes.values: Invalid value: [2,1]: must be ordered"),
        (
            failing(on_exit(values=[0])),
            f"{RULE}.onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
        ),
        (failing(on_exit(values=[])), f"{RULE}.onExitCodes.values: Invalid value: []: at least one value is required"),
        (failing(on_exit(containerName="x")), f'{RULE}.onExitCodes.containerName: Invalid value: "x": must be one of'),
        (
            failing({"action": "Count", "onPodConditions": [{"type": "A", "status": "Maybe"}]}),
            f'{RULE}.onPodConditions[0].status: Unsupported value: "Maybe"',
        ),
        (
            failing({"action": "Count"}),
            f"{RULE}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            failing({**on_exit(), "onPodConditions": [{"type": "A"}]}),
            f"{RULE}: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported",
        ),
        (
            restarting("OnFailure", **failing(on_exit())),
            f'{RESTART}: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified',
        ),
        (restarting("Always"), f'{RESTART}: Required value: valid values: "OnFailure", "Never"'),
        (restarting("Soon"), f'{RESTART}: Unsupported value: "Soon": supported values: "OnFailure", "Never"'),
        ({"successPolicy": {"rules": [{"succeededCount": 1}]}}, "requires indexed completion mode"),
        ({**INDEXED, "successPolicy": {"rules": []}}, "spec.successPolicy.rules: Required value: at least one rules"),
        (
            {"selector": {"matchLabels": {"app": "a"}}},
            'spec.selector: Invalid value: {"matchLabels":{"batch.kubernetes.io/controller-uid":',
        ),
        ({"selector": {"matchLabels": {"app": "a"}}}, "`selector` not auto-generated"),
        ({"manualSelector": True}, "spec.selector: Required value"),
        (
            {"manualSelector": True, "selector": {"matchLabels": {"app": "a"}}},
            "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`",
        ),
    ],
)  # fmt: skip
async def test_a_job_can_be_run(api: Api, spec: dict[str, Any], refusal: str) -> None:
    reply = await api.post(JOBS, job(**spec))
    assert (reply.status, refusal in reply.message) == (422, True), reply.body


@pytest.mark.parametrize(
    "spec",
    [
        {"completionMode": "Indexed"},
        {**INDEXED, "backoffLimitPerIndex": 1, "maxFailedIndexes": 3},
        {**INDEXED, "successPolicy": {"rules": [{"succeededCount": 1}]}},
        failing(on_exit(operator="NotIn", values=[0, 1]), {"action": "Ignore", "onPodConditions": [{"type": "A"}]}),
        restarting("OnFailure"),
        {"completions": 0, "parallelism": 0, "backoffLimit": 0, "ttlSecondsAfterFinished": 0},
    ],
)  # fmt: skip
async def test_what_a_cluster_takes_is_taken(api: Api, spec: dict[str, Any]) -> None:
    reply = await api.post(JOBS, job(**spec))
    assert reply.status == 201, reply.message
    reply = await api.post(CRON_JOBS, cron_job(spec | {"completions": 3}))
    assert reply.status == 201, reply.message


async def test_a_condition_without_a_status_is_meant_to_be_true(api: Api) -> None:
    made = await api.post(JOBS, job(**failing({"action": "Ignore", "onPodConditions": [{"type": "A"}]})))
    assert made.body["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"] == [{"type": "A", "status": "True"}]


async def test_an_exported_job_cannot_be_made_again_with_the_marks_of_the_old_one(api: Api) -> None:
    made = (await api.post(JOBS, job())).body
    body = {"metadata": {"name": "k"}, "spec": made["spec"]}
    message = (await api.post(JOBS, body)).message
    assert "spec.template.metadata.labels[job-name]: Invalid value" in message
    assert "must be 'k'" in message
    assert "`selector` not auto-generated" in message


async def test_a_job_with_a_selector_of_its_own_says_so(api: Api) -> None:
    body = job(manualSelector=True, selector={"matchLabels": {"app": "a"}})
    body["spec"]["template"]["metadata"] = {"labels": {"app": "a"}}
    made = await api.post(JOBS, body)
    assert made.body["spec"]["selector"] == {"matchLabels": {"app": "a"}}


async def test_an_indexed_jobs_pods_can_have_their_names(api: Api) -> None:
    body = job(**INDEXED)
    body["metadata"]["name"] = "j" * 62
    assert "will not able to create pod with invalid DNS label" in (await api.post(JOBS, body)).message


TEMPLATE = "spec.template: Invalid value"


def in_pod(**pod: Any) -> dict[str, Any]:
    return {"spec": {"template": {"spec": pod}}}


IMAGE = in_pod(containers=[{"name": "main", "image": "agentops:2"}])


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (IMAGE, True),
        (in_pod(containers=[{"name": "main", "command": ["true"]}]), True),
        (in_pod(priorityClassName="system-node-critical"), True),
        (in_pod(affinity={"podAffinity": {}}), True),
        (in_pod(nodeSelector={"zone": "a"}), False),
        (in_pod(tolerations=[{"operator": "Exists"}]), False),
        (in_pod(schedulingGates=[{"name": "a"}]), False),
        (in_pod(affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}), False),
        (in_pod(containers=[{"name": "main", "resources": {"requests": {"cpu": "1"}}}]), False),
        ({"spec": {"template": {"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}}}}}, False),
    ],
)
async def test_of_a_suspended_job_only_the_place_can_change(api: Api, change: dict[str, Any], refused: bool) -> None:
    await api.post(JOBS, job(suspend=True))
    reply = await api.patch(f"{JOBS}/j", change, "strategic")
    assert reply.status == (422 if refused else 200), reply.body
    assert not refused or (TEMPLATE in reply.message and "field is immutable" in reply.message)


async def test_suspending_a_job_opens_no_door_to_its_template(api: Api) -> None:
    await api.post(JOBS, job())
    await api.patch(f"{JOBS}/j/status", {"status": {"startTime": "2026-01-01T00:00:00Z", "active": 1}})
    await api.patch(f"{JOBS}/j", {"spec": {"suspend": True}})
    assert TEMPLATE in (await api.patch(f"{JOBS}/j", IMAGE, "strategic")).message
    assert TEMPLATE in (await api.patch(f"{JOBS}/j", in_pod(nodeSelector={"zone": "a"}), "strategic")).message


@pytest.mark.parametrize(
    "change", [{"podFailurePolicy": {"rules": [on_exit()]}}, {"completions": 4}, {"completionMode": "Indexed"}]
)
async def test_a_job_ends_as_it_was_made_to_end(api: Api, change: dict[str, Any]) -> None:
    await api.post(JOBS, job())
    reply = await api.patch(f"{JOBS}/j", {"spec": change})
    assert (reply.status, "field is immutable" in reply.message) == (422, True), reply.body


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        ({"timeZone": "Mars/X"}, 'spec.timeZone: Invalid value: "Mars/X": unknown time zone Mars/X'),
        ({"timeZone": ""}, 'spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string'),
        ({"timeZone": "../etc/passwd"}, "unknown time zone ../etc/passwd"),
        ({"timeZone": "local"}, "timeZone must be an explicit time zone"),
        (
            {"concurrencyPolicy": "Foo"},
            'spec.concurrencyPolicy: Unsupported value: "Foo": supported values: "Allow", "Forbid", "Replace"',
        ),
        (
            {"startingDeadlineSeconds": -1},
            "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        ({"failedJobsHistoryLimit": -1}, "spec.failedJobsHistoryLimit: Invalid value: -1"),
        (
            {"inner": restarting("Always")},
            'spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"',
        ),
        ({"inner": {"completionMode": "Foo"}}, 'spec.jobTemplate.spec.completionMode: Unsupported value: "Foo"'),
        ({"inner": {"selector": {}}}, "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-gen"),
        ({"inner": {"manualSelector": True}}, "spec.jobTemplate.spec.manualSelector: Unsupported value: true"),
        ({"schedule": ""}, "spec.schedule: Required value"),
        (
            {"schedule": "TZ=UTC 0 * * * *"},
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
    ],
)  # fmt: skip
async def test_a_cron_job_can_be_run(api: Api, spec: dict[str, Any], refusal: str) -> None:
    reply = await api.post(CRON_JOBS, cron_job(**spec))
    assert (reply.status, refusal in reply.message) == (422, True), reply.body


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("30-20 * * * *", "beginning of range (30) beyond end of range (20): 30-20"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("x * * * *", 'failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
        ("* * L * *", "failed to parse int from L"),
        ("@noon", "unrecognized descriptor: @noon"),
        ("@every soon", 'failed to parse duration @every soon: time: invalid duration "soon"'),
    ],
)
async def test_a_schedule_that_cannot_be_read_is_refused(api: Api, schedule: str, problem: str) -> None:
    reply = await api.post(CRON_JOBS, cron_job(schedule=schedule))
    assert (reply.status, problem in reply.message) == (422, True), reply.body


@pytest.mark.parametrize(
    "schedule",
    ["0 3 * * MON-fri", "*/5,7 1-5/2 ? JAN,dec 0", "3/10 * 1,15 * *", "@daily", "@every 1h30m", " 0 0 * * * "],
)
async def test_a_schedule_that_a_cluster_reads_is_taken(api: Api, schedule: str) -> None:
    reply = await api.post(CRON_JOBS, cron_job(schedule=schedule, timeZone="Europe/Berlin", concurrencyPolicy="Forbid"))
    assert reply.status == 201, reply.message


async def test_a_long_name_is_refused_for_a_new_cron_job_only(api: Api) -> None:
    body = cron_job()
    body["metadata"]["name"] = "c" * 53
    assert "metadata.name: Invalid value" in (await api.post(CRON_JOBS, body)).message


async def test_what_was_stored_before_a_check_came_stays_writable(api: Api) -> None:
    """Or nothing could take the finalizers of such an object away."""
    await api.post(CRON_JOBS, cron_job())
    store = api.server.store
    entry = store.get("cronjobs.batch", "default", "c")
    assert entry is not None
    store.write("cronjobs.batch", "default", "c", lambda _: entry.value.replace(b'"Allow"', b'"Foo"'), entry)
    assert (await api.patch(f"{CRON_JOBS}/c", {"metadata": {"labels": {"a": "b"}}})).status == 200
    assert (await api.patch(f"{CRON_JOBS}/c", {"spec": {"concurrencyPolicy": "Bar"}})).status == 422
