"""A container's environment."""

from __future__ import annotations

import base64

import pytest
from support.kubelet import make_pod

from agentops.local.kubelet.env import Sources, base_env, container_env, expand, references, service_links
from agentops.local.kubelet.errors import ContainerConfig


def env_of(container: dict, *, pod: dict | None = None, **options: object) -> dict[str, str]:
    pod = pod or make_pod(container)
    return container_env(pod, container, base=options.pop("base", {}), **options)


def secret(**data: str) -> dict:
    return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


def test_nothing_of_the_planes_environment_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert set(base_env({})) == {"PATH", "HOME", "LANG"}
    assert base_env({"HTTP_PROXY": "http://p"})["HTTP_PROXY"] == "http://p"


def test_values_expand_earlier_names_and_keep_unknown_ones() -> None:
    env = env_of(
        {
            "name": "c",
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(LATER)-$$(A)-$(BASE)"},
                {"name": "LATER", "value": "x"},
            ],
        },
        base={"BASE": "b"},
    )
    assert env["B"] == "1-$(LATER)-$(A)-b"


@pytest.mark.parametrize(
    ("text", "expected"), [("$(A)", "1"), ("$$", "$"), ("$(NO)", "$(NO)"), ("$A", "$A"), ("$(A", "$(A"), ("", "")]
)
def test_expansion_follows_kubernetes(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}) == expected


def test_env_wins_over_env_from_and_both_over_the_base() -> None:
    container = {
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "S_", "secretRef": {"name": "s"}}],
        "env": [{"name": "ONE", "value": "env"}],
    }
    sources = Sources({"s": secret(KEY="k")}, {"m": {"data": {"ONE": "map", "TWO": "map", "bad name": "x"}}})
    env = env_of(container, base={"ONE": "base", "TWO": "base", "THREE": "base"}, sources=sources)
    assert env == {"ONE": "env", "TWO": "map", "THREE": "base", "S_KEY": "k"}


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"envFrom": [{"secretRef": {"name": "s"}}]}, 'secret "s" not found'),
        ({"envFrom": [{"configMapRef": {"name": "m"}}]}, 'configmap "m" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "have", "key": "k"}}}]},
            "couldn't find key k in Secret default/have",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]},
            'configmap "m" not found',
        ),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]}, "'spec.foo'"),
    ],
)
def test_what_is_missing_is_named(container: dict, message: str) -> None:
    with pytest.raises(ContainerConfig, match=message):
        env_of({"name": "c", **container}, sources=Sources({"have": secret()}))


def test_optional_references_may_be_missing() -> None:
    container = {
        "name": "c",
        "envFrom": [{"secretRef": {"name": "s", "optional": True}}],
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": True}}}],
    }
    assert env_of(container) == {}


def test_the_downward_api_gives_the_pods_own_fields() -> None:
    paths = {
        "NAME": "metadata.name",
        "NS": "metadata.namespace",
        "UID": "metadata.uid",
        "LABEL": "metadata.labels['app.kubernetes.io/name']",
        "NODE": "spec.nodeName",
        "IP": "status.podIP",
        "HOST": "status.hostIP",
    }
    container = {
        "name": "c",
        "env": [{"name": k, "valueFrom": {"fieldRef": {"fieldPath": v}}} for k, v in paths.items()],
    }
    pod = make_pod(container)
    pod["metadata"]["labels"] = {"app.kubernetes.io/name": "hello"}
    env = env_of(container, pod=pod, pod_ip="127.64.0.1", host_ip="127.0.0.1")
    assert env == {
        "NAME": "p",
        "NS": "default",
        "UID": "uid-1",
        "LABEL": "hello",
        "NODE": "local",
        "IP": "127.64.0.1",
        "HOST": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "512"),
        ({"resource": "requests.cpu"}, "0"),
        ({"resource": "limits.ephemeral-storage"}, "7"),
    ],
)
def test_resources_are_rounded_up_to_whole_divisors(ref: dict, expected: str) -> None:
    container = {
        "name": "c",
        "resources": {"limits": {"cpu": "1500m", "memory": "512Mi"}},
        "env": [{"name": "R", "valueFrom": {"resourceFieldRef": ref}}],
    }
    assert env_of(container, allocatable={"ephemeral-storage": "7"})["R"] == expected


def test_service_links_name_services_of_the_pods_namespace_only() -> None:
    def service(name: str, namespace: str, ip: str) -> dict:
        ports = [{"name": "http", "port": 80}]
        return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": ports}}

    links = service_links(
        [
            service("my-db", "default", "127.96.0.9"),
            service("x", "other", "127.96.0.8"),
            service("h", "default", "None"),
        ],
        "default",
    )
    assert links["MY_DB_SERVICE_HOST"] == "127.96.0.9"
    assert links["MY_DB_SERVICE_PORT_HTTP"] == "80"
    assert links["MY_DB_PORT_80_TCP_ADDR"] == "127.96.0.9"
    assert not any(name.startswith(("X_", "H_")) for name in links)


def test_the_api_servers_real_address_wins_over_its_service_link() -> None:
    kubernetes = {
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "127.96.0.1", "ports": [{"port": 443}]},
    }
    env = env_of({"name": "c"}, base={"KUBERNETES_SERVICE_HOST": "127.0.0.1"}, services=[kubernetes])
    assert env["KUBERNETES_SERVICE_HOST"] == "127.0.0.1"


def test_references_names_everything_that_must_be_read() -> None:
    pod = make_pod(
        {"name": "a", "envFrom": [{"secretRef": {"name": "s1"}}]},
        {"name": "b", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m1", "key": "k"}}}]},
    )
    assert references(pod["spec"]) == ({"s1"}, {"m1"})
