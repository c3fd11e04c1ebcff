"""Volumes and what is written into them."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from support.kubelet import MemoryApi, make_pod

from agentops.local.kubelet.errors import ContainerConfig, VolumeNotReady
from agentops.local.kubelet.payload import File, write_payload
from agentops.local.kubelet.volumes import PodVolumes
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def volumes(tmp_path: Path, api: MemoryApi) -> PodVolumes:
    return PodVolumes(tmp_path / "pods/u", tmp_path, api, LoopClock(), {"status.podIP": "127.64.0.1"}, {"cpu": "2"})


def source_of(volumes: PodVolumes, name: str, **mount: object) -> Path:
    container = {"name": "main", "volumeMounts": [{"name": name, "mountPath": "/m", **mount}]}
    return volumes.mounts(container, {"POD": "p"})[0].source


def test_a_payload_is_swapped_at_once_and_stale_files_go(tmp_path: Path) -> None:
    assert write_payload(tmp_path, {"a": File(b"1"), "d/b": File(b"2", 0o600)})
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert (tmp_path / "d/b").read_bytes() == b"2"
    assert (tmp_path / "d/b").stat().st_mode & 0o777 == 0o600
    old = os.readlink(tmp_path / "..data")
    assert not write_payload(tmp_path, {"a": File(b"1"), "d/b": File(b"2", 0o600)})
    assert write_payload(tmp_path, {"c": File(b"3")})
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("..")) == ["c"]
    assert not (tmp_path / old).exists()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", ""])
def test_a_payload_cannot_leave_its_volume(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        write_payload(tmp_path, {path: File(b"")})


async def test_items_pick_keys_and_modes(volumes: PodVolumes, api: MemoryApi) -> None:
    api.secrets["s"] = {"data": {"k": base64.b64encode(b"v").decode(), "other": ""}}
    items = [{"key": "k", "path": "dir/file", "mode": 0o400}]
    await volumes.prepare(make_pod(volumes=[{"name": "v", "secret": {"secretName": "s", "items": items}}]))
    file = source_of(volumes, "v") / "dir/file"
    assert file.read_bytes() == b"v"
    assert file.stat().st_mode & 0o777 == 0o400
    assert not (source_of(volumes, "v") / "other").exists()


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "m"}}, 'volume "v" : configmap "m" not found'),
        ({"secret": {"secretName": "s"}}, 'secret "s" not found'),
        ({"configMap": {"name": "have", "items": [{"key": "k", "path": "p"}]}}, 'has no key "k"'),
        ({"persistentVolumeClaim": {"claimName": "c"}}, 'persistentvolumeclaim "c" not found'),
        ({"persistentVolumeClaim": {"claimName": "unbound"}}, '"unbound" is not bound'),
        ({"persistentVolumeClaim": {"claimName": "outside"}}, "outside the state directory"),
        ({"nfs": {}}, "nfs is not supported"),
    ],
)
async def test_a_volume_that_cannot_be_made_says_why(
    volumes: PodVolumes, api: MemoryApi, volume: dict, message: str
) -> None:
    api.config_maps["have"] = {"data": {}}
    api.claims["unbound"] = {"spec": {}, "status": {"phase": "Pending"}}
    api.claims["outside"] = {"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}
    api.volumes["pv"] = {"spec": {"hostPath": {"path": "/etc"}}}
    with pytest.raises(VolumeNotReady, match=message):
        await volumes.prepare(make_pod(volumes=[{"name": "v", **volume}]))


async def test_optional_sources_may_be_missing(volumes: PodVolumes) -> None:
    await volumes.prepare(make_pod(volumes=[{"name": "v", "configMap": {"name": "m", "optional": True}}]))
    assert source_of(volumes, "v").is_dir()


async def test_a_claim_is_the_directory_of_its_volume_and_survives_the_pod(
    volumes: PodVolumes, api: MemoryApi, tmp_path: Path
) -> None:
    api.claims["c"] = {"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}
    api.volumes["pv"] = {"spec": {"hostPath": {"path": str(tmp_path / "volumes/ns-c")}}}
    await volumes.prepare(make_pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]))
    state = source_of(volumes, "v", subPath="state")
    (state / "kept").write_text("x")
    volumes.remove()
    assert (tmp_path / "volumes/ns-c/state/kept").read_text() == "x"


async def test_a_changed_config_map_reaches_the_mount_but_not_a_sub_path(volumes: PodVolumes, api: MemoryApi) -> None:
    api.config_maps["m"] = {"data": {"f": "old"}}
    pod = make_pod(volumes=[{"name": "v", "configMap": {"name": "m"}}])
    await volumes.prepare(pod)
    whole, part = source_of(volumes, "v"), source_of(volumes, "v", subPath="f")
    api.config_maps["m"] = {"data": {"f": "new"}}
    assert await volumes.refresh(pod) == []
    assert (whole / "f").read_text() == "new"
    assert part.read_text() == "old"


async def test_a_source_that_vanished_leaves_the_last_content(volumes: PodVolumes, api: MemoryApi) -> None:
    api.config_maps["m"] = {"data": {"f": "old"}}
    pod = make_pod(volumes=[{"name": "v", "configMap": {"name": "m"}}])
    await volumes.prepare(pod)
    del api.config_maps["m"]
    assert await volumes.refresh(pod) == ['v: configmap "m" not found']
    assert (source_of(volumes, "v") / "f").read_text() == "old"


async def test_a_token_is_renewed_when_four_fifths_of_its_life_are_over(volumes: PodVolumes, api: MemoryApi) -> None:
    api.config_maps["kube-root-ca.crt"] = {"data": {"ca.crt": "CA"}}
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 1000}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    pod = make_pod(volumes=[{"name": "v", "projected": {"sources": sources, "defaultMode": 0o644}}])
    clock = LoopClock()
    await volumes.prepare(pod)
    folder = source_of(volumes, "v")
    assert {p.name: p.read_text() for p in folder.iterdir() if p.name[0] != "."} == {
        "token": "token-1", "ca.crt": "CA", "namespace": "default",
    }  # fmt: skip
    await clock.sleep(790)
    await volumes.refresh(pod)
    assert (folder / "token").read_text() == "token-1"
    await clock.sleep(20)
    await volumes.refresh(pod)
    assert (folder / "token").read_text() == "token-2"


@pytest.mark.parametrize("sub_path", ["../../etc", "/etc"])
async def test_a_sub_path_cannot_leave_its_volume(volumes: PodVolumes, sub_path: str) -> None:
    await volumes.prepare(make_pod(volumes=[{"name": "v", "emptyDir": {}}]))
    with pytest.raises(ContainerConfig, match="leaves volume"):
        source_of(volumes, "v", subPath=sub_path)


async def test_sub_path_expr_expands_the_environment(volumes: PodVolumes) -> None:
    await volumes.prepare(make_pod(volumes=[{"name": "v", "emptyDir": {}}]))
    assert source_of(volumes, "v", subPathExpr="$(POD)/x").parts[-2:] == ("p", "x")
