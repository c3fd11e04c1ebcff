"""Protobuf bodies as kubectl encodes them."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import CONFIG_MAPS, Api

from agentops.local.apiserver.errors import ApiFailure
from agentops.local.apiserver.protobuf import decode_envelope


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def field(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    return b"k8s\x00" + field(1, field(1, api_version) + field(2, kind)) + field(2, raw)


def meta(name: str) -> bytes:
    # Go writes empty scalars too.
    return field(1, name) + field(2, "") + field(3, "default") + field(7, 0)


def test_maps_and_empty_scalars() -> None:
    raw = field(1, meta("a")) + field(2, field(1, "k") + field(2, "v"))
    assert decode_envelope(envelope("v1", "ConfigMap", raw)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a", "namespace": "default"},
        "data": {"k": "v"},
    }


def test_a_pointer_keeps_its_zero() -> None:
    raw = field(1, meta("a")) + field(2, field(1, 0) + field(5, 0))
    assert decode_envelope(envelope("apps/v1", "Deployment", raw))["spec"] == {"replicas": 0}


def test_bytes_int_or_string_and_negative_numbers() -> None:
    secret = decode_envelope(envelope("v1", "Secret", field(2, field(1, "k") + field(2, b"\x00\xff"))))
    assert secret["data"] == {"k": "AP8="}
    port = field(3, 80) + field(4, field(1, 1) + field(2, 0) + field(3, "http"))
    service = decode_envelope(envelope("v1", "Service", field(2, field(1, port))))
    assert service["spec"]["ports"] == [{"port": 80, "targetPort": "http"}]
    options = decode_envelope(envelope("v1", "DeleteOptions", field(1, -1)))
    assert options["gracePeriodSeconds"] == -1


def test_inlined_members_are_flattened() -> None:
    path = field(1, "/x") + field(2, field(4, field(1, "svc") + field(2, field(2, 80)))) + field(3, "Prefix")
    rule = field(1, "a.b") + field(2, field(1, field(1, path)))
    found = decode_envelope(envelope("networking.k8s.io/v1", "Ingress", field(2, field(3, rule))))
    assert found["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"] == {
        "name": "svc",
        "port": {"number": 80},
    }


def test_unknown_kinds_and_broken_bodies_are_refused() -> None:
    with pytest.raises(ApiFailure) as unknown:
        decode_envelope(envelope("v1", "Nonsense", b""))
    assert unknown.value.code == 415
    assert unknown.value.message.endswith("application/json, application/yaml")
    with pytest.raises(ApiFailure) as broken:
        decode_envelope(envelope("v1", "ConfigMap", b"")[:-1] + b"\x0a\xff\xff\xff")
    assert broken.value.code == 400


@pytest.mark.anyio
async def test_the_server_takes_them(api: Api) -> None:
    body = envelope("v1", "ConfigMap", field(1, meta("a")) + field(2, field(1, "k") + field(2, "v")))
    reply = await api.call("POST", CONFIG_MAPS, body, content_type="application/vnd.kubernetes.protobuf")
    assert reply.status == 201, reply
    assert reply.body["data"] == {"k": "v"}
