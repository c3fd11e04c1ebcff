"""Bodies nobody sends by accident: each is refused in good time and harms nothing."""

from __future__ import annotations

import pytest
from support.apiserver import CONFIG_MAPS, Api, config_map

pytestmark = pytest.mark.anyio


def bomb(levels: int) -> bytes:
    """YAML of a few hundred bytes that stands for 9**levels strings."""
    lines = ["apiVersion: v1", "kind: ConfigMap", "metadata: {name: a}", "x0: &x0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"x{i}: &x{i} [{','.join([f'*x{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines).encode()


async def test_yaml_whose_aliases_blow_up_is_refused(api: Api) -> None:
    reply = await api.call("POST", CONFIG_MAPS, bomb(9), content_type="application/yaml")
    assert (reply.status, reply.message) == (
        400, "error converting YAML to JSON: yaml: document contains excessive aliasing",
    )  # fmt: skip


async def test_yaml_that_contains_itself_is_refused(api: Api) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: &d {a: *d}"
    assert (await api.call("POST", CONFIG_MAPS, body, content_type="application/yaml")).status == 400


async def test_yaml_may_use_aliases(api: Api) -> None:
    body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: &v one, b: *v}"
    reply = await api.call("POST", CONFIG_MAPS, body, content_type="application/yaml")
    assert reply.body["data"] == {"a": "one", "b": "one"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "text/html"])
async def test_a_body_of_another_media_type_is_refused(api: Api, kind: str) -> None:
    reply = await api.call("POST", CONFIG_MAPS, config_map("a"), content_type=kind)
    assert (reply.status, reply.reason) == (415, "UnsupportedMediaType")
