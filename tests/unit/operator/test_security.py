"""The floor under every pod."""

from __future__ import annotations

from typing import Any

import pytest

from agentops.api.objects import decode
from agentops.api.types.shared import SecurityOverrides
from agentops.operator.objects.security import apply_floor, compute_violations

POD = {"containers": [{"name": "main"}, {"name": "side"}], "initContainers": [{"name": "init"}]}


def overrides(**blocks: Any) -> SecurityOverrides:
    return decode(SecurityOverrides, blocks)


def assert_restricted(spec: dict[str, Any]) -> None:
    """The Pod Security standard `restricted`, as far as these pods can break it."""
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] != 0
    assert pod["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["runAsNonRoot"] is True
        assert context.get("runAsUser") != 0
        assert "ALL" in context["capabilities"]["drop"]
        assert "add" not in context["capabilities"]
        assert context["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        assert not context.get("privileged")


MALICIOUS = overrides(
    pod={"runAsNonRoot": False, "runAsUser": 0, "fsGroup": 0, "seccompProfile": {"type": "Unconfined"}},
    container={
        "runAsNonRoot": False,
        "runAsUser": 0,
        "seccompProfile": {"type": "Unconfined"},
        "allowPrivilegeEscalation": True,
        "privileged": True,
        "readOnlyRootFilesystem": False,
        "capabilities": {"add": ["SYS_ADMIN"]},
    },
)


@pytest.mark.parametrize("wishes", [None, overrides(), MALICIOUS])
def test_no_wish_gets_a_pod_below_restricted(wishes: SecurityOverrides | None) -> None:
    assert_restricted(apply_floor(POD, main="main", overrides=wishes))


def test_every_refused_wish_is_named() -> None:
    text = "\n".join(compute_violations(MALICIOUS))
    for field in (
        "pod.runAsNonRoot=false",
        "pod.runAsUser=0",
        "pod.fsGroup=0",
        "pod.seccompProfile.type=Unconfined",
        "container.runAsNonRoot=false",
        "container.runAsUser=0",
        "container.seccompProfile.type=Unconfined",
        "container.allowPrivilegeEscalation=true",
        "container.privileged=true",
        "container.readOnlyRootFilesystem=false",
        "container.capabilities.add=SYS_ADMIN",
    ):
        assert field in text


def test_ignored_fields_are_named_too() -> None:
    wishes = overrides(pod={"sysctls": [{"name": "a", "value": "b"}]}, container={"procMount": "Unmasked"})
    assert [text.split(" ")[0] for text in compute_violations(wishes)] == ["pod.sysctls", "container.procMount"]


def test_nothing_is_reported_when_nothing_is_asked() -> None:
    assert compute_violations(None) == []
    assert compute_violations(overrides(pod={"runAsUser": 1000}, container={"runAsUser": 1001})) == []


def test_harmless_wishes_are_kept_and_reach_only_the_main_container() -> None:
    wishes = overrides(pod={"runAsUser": 1000, "fsGroup": 2000}, container={"runAsUser": 1001})
    floored = apply_floor(POD, main="main", overrides=wishes)
    assert floored["securityContext"]["runAsUser"] == 1000
    assert floored["securityContext"]["fsGroup"] == 2000
    main, side = floored["containers"]
    assert main["securityContext"]["runAsUser"] == 1001
    assert "runAsUser" not in side["securityContext"]


def test_a_service_account_token_is_mounted_only_on_request() -> None:
    assert apply_floor(POD, main="main")["automountServiceAccountToken"] is False
    asked = overrides(automountServiceAccountToken=True)
    assert apply_floor(POD, main="main", overrides=asked)["automountServiceAccountToken"] is True


def test_the_input_is_not_changed() -> None:
    apply_floor(POD, main="main")
    assert POD == {"containers": [{"name": "main"}, {"name": "side"}], "initContainers": [{"name": "init"}]}
