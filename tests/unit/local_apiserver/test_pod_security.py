"""Pod Security admission: what the labels of a namespace let in, in a cluster's words."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import Api, deployment, pod

pytestmark = pytest.mark.anyio

PREFIX = "pod-security.kubernetes.io/"
PODS = "/api/v1/namespaces/guarded/pods"
SAFE = {
    "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip


async def guarded(api: Api, **labels: str) -> None:
    marks = {PREFIX + mode.replace("_", "-"): level for mode, level in labels.items()}
    meta = {"name": "guarded", "labels": marks}
    assert (await api.post("/api/v1/namespaces", {"metadata": meta})).status == 201


def safe_pod(name: str = "p", **changes: Any) -> dict[str, Any]:
    made = pod(name)
    made["spec"]["containers"][0]["securityContext"] = {**SAFE, **changes}
    return made


async def test_a_restricted_namespace_refuses_an_ordinary_pod_and_says_all_it_lacks(api: Api) -> None:
    await guarded(api, enforce="restricted")
    reply = await api.post(PODS, pod("p"))
    assert (reply.status, reply.reason) == (403, "Forbidden")
    assert reply.message == (
        'pods "p" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false '
        '(container "main" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities '
        '(container "main" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or '
        'container "main" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "main" must '
        'set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    )
    assert (await api.post(PODS, safe_pod())).status == 201


@pytest.mark.parametrize("level", ["baseline", "restricted"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hostNetwork": True}, "host namespaces (hostNetwork=true)"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, 'hostPath volumes (volume "v")'),
        (
            {"privileged": True, "allowPrivilegeEscalation": True},
            'privileged (container "main" must not set securityContext.privileged=true)',
        ),
        (
            {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}},
            'container "main" must not include "SYS_ADMIN" in securityContext.capabilities.add)',
        ),
        (
            {"seccompProfile": {"type": "Unconfined"}},
            'must not set securityContext.seccompProfile.type to "Unconfined"',
        ),
        ({"ports": [{"containerPort": 80, "hostPort": 80}]}, 'hostPort (container "main" uses hostPort 80)'),
    ],
)
async def test_what_reaches_for_the_host_is_refused_by_both_levels(
    api: Api, level: str, change: dict[str, Any], told: str
) -> None:
    await guarded(api, enforce=level)
    key = next(iter(change))
    if key in ("hostNetwork", "volumes"):
        made = safe_pod()
        made["spec"].update(change)
    elif key == "ports":
        made = safe_pod()
        made["spec"]["containers"][0].update(change)
    else:
        made = safe_pod(**change)
    reply = await api.post(PODS, made)
    assert (reply.status, told in reply.message) == (403, True), reply.message


@pytest.mark.parametrize(
    ("context", "told"),
    [({"runAsUser": 0}, "runAsUser=0 (pod must not set runAsUser=0)"), ({"runAsNonRoot": False}, "")],
)
async def test_what_the_pod_says_counts_for_its_containers(api: Api, context: dict[str, Any], told: str) -> None:
    await guarded(api, enforce="restricted")
    made = safe_pod()
    made["spec"]["securityContext"] = context
    reply = await api.post(PODS, made)
    assert (reply.status, told in str(reply.body)) == (403 if told else 201, True), reply


async def test_baseline_takes_an_ordinary_pod_and_an_unlabelled_namespace_takes_any(api: Api) -> None:
    await guarded(api, enforce="baseline")
    assert (await api.post(PODS, pod("p"))).status == 201
    assert (await api.post("/api/v1/namespaces/default/pods", pod("p", hostNetwork=True))).status == 201


async def test_warn_warns_about_pods_and_about_what_makes_them(api: Api) -> None:
    await guarded(api, warn="restricted", warn_version="v1.30")
    for path, made in ((PODS, pod("p")), ("/apis/apps/v1/namespaces/guarded/deployments", deployment("d"))):
        reply = await api.post(path, made)
        assert reply.status == 201
        assert 'would violate PodSecurity \\"restricted:v1.30\\": allowPrivilegeEscalation' in reply.warnings
    assert (await api.post(PODS, safe_pod("q"))).warnings == ""


async def test_an_existing_pod_may_be_changed_after_the_namespace_has_become_stricter(api: Api) -> None:
    await guarded(api)
    assert (await api.post(PODS, pod("p"))).status == 201
    stricter = {"metadata": {"labels": {f"{PREFIX}enforce": "restricted"}}}
    assert (await api.patch("/api/v1/namespaces/guarded", stricter)).status == 200
    assert (await api.patch(f"{PODS}/p", {"metadata": {"labels": {"a": "b"}}})).status == 200


async def test_a_level_that_does_not_exist_is_refused(api: Api) -> None:
    meta = {"name": "guarded", "labels": {f"{PREFIX}enforce": "strict"}}
    reply = await api.post("/api/v1/namespaces", {"metadata": meta})
    assert (reply.status, "must be one of privileged, baseline, restricted" in reply.message) == (422, True)
