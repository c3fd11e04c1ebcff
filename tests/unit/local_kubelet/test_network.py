"""Addresses, Services and names, decided purely."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agentops.local.kubelet.addresses import PodAddresses
from agentops.local.kubelet.errors import KubeletError
from agentops.local.kubelet.hosts import HostsFiles, pod_lines, render
from agentops.local.kubelet.proxy import frontends


def service(name: str, ip: str = "127.96.0.5", namespace: str = "agents", **spec: object) -> dict:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": ip, "ports": ports, **spec}}


def piece(name: str, *endpoints: tuple[str, bool | None], namespace: str = "agents", port: int = 4096) -> dict:
    return {
        "metadata": {"namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": port}],
        "endpoints": [
            {"addresses": [ip], "conditions": {} if ready is None else {"ready": ready}} for ip, ready in endpoints
        ],
    }


def test_only_ready_endpoints_stand_behind_a_service() -> None:
    slices = [piece("a", ("127.64.0.2", True), ("127.64.0.3", False)), piece("a", ("127.64.0.1", None))]
    (found,) = frontends(service("a"), slices)
    assert found.address == ("127.96.0.5", 80)
    assert found.backends == (("127.64.0.1", 4096), ("127.64.0.2", 4096))


def test_endpoints_count_where_there_are_no_slices() -> None:
    endpoints = {"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "http", "port": 6443}]}]}
    (found,) = frontends(service("kubernetes"), [], endpoints)
    assert found.backends == (("127.0.0.1", 6443),)


def test_ports_are_matched_by_name_and_headless_services_have_no_frontend() -> None:
    other = service("a", ports=[{"name": "grpc", "port": 90}])
    assert frontends(other, [piece("a", ("127.64.0.1", True))])[0].backends == ()
    assert frontends(service("a", ip="None"), [piece("a", ("127.64.0.1", True))]) == []


def test_a_bare_name_means_the_pods_own_namespace() -> None:
    services = [service("memory"), service("api", ip="127.96.0.1", namespace="default")]
    assert render("agents", services, []).splitlines() == [
        "127.96.0.1 api.default api.default.svc api.default.svc.cluster.local",
        "127.96.0.5 memory memory.agents memory.agents.svc memory.agents.svc.cluster.local",
    ]


def test_a_headless_service_leads_to_its_ready_pods_and_their_hostnames() -> None:
    slices = [piece("db", ("127.64.0.7", True), ("127.64.0.8", False))]
    slices[0]["endpoints"][0]["hostname"] = "db-0"
    text = render("agents", [service("db", ip="None")], slices)
    assert "127.64.0.7 db db.agents" in text
    assert "127.64.0.7 db-0.db db-0.db.agents" in text
    assert "127.64.0.8" not in text


def test_hosts_files_are_replaced_not_rewritten(tmp_path: Path) -> None:
    files = HostsFiles(tmp_path / "resolve")
    files.write("agents", "127.0.0.1 a\n")
    first = files.path("agents").stat().st_ino
    files.write("agents", "127.0.0.1 a\n")
    assert files.path("agents").stat().st_ino == first
    files.write("agents", "127.0.0.1 b\n")
    assert files.path("agents").read_text() == "127.0.0.1 b\n"
    assert [p.name for p in (tmp_path / "resolve").iterdir()] == ["agents"]


def test_a_pods_own_file_stays_the_file_it_was_mounted_as(tmp_path: Path) -> None:
    files = HostsFiles(tmp_path / "resolve")
    files.write("agents", "127.96.0.5 a-long-name\n")
    alias = {"ip": "192.0.2.7", "hostnames": ["alias", "other"]}
    pod = {"metadata": {"name": "p", "namespace": "agents"}, "spec": {"hostAliases": [alias]}}
    files.add_pod(tmp_path, pod, "127.65.0.9")
    path = files.pod_path(tmp_path)
    inode, text = path.stat().st_ino, path.read_text()
    assert text.startswith("127.0.0.1 localhost\n127.65.0.9 p\n192.0.2.7 alias other\n")
    assert text.endswith("\n127.96.0.5 a-long-name\n")
    files.write("agents", "127.96.0.5 b\n")
    assert (path.stat().st_ino, path.read_text()) == (inode, text.replace("a-long-name", "b"))
    files.write("elsewhere", "127.96.0.6 c\n")
    files.forget_pod(tmp_path)
    files.write("agents", "")
    assert path.read_text() == text.replace("a-long-name", "b")


def test_a_pod_knows_what_its_machine_knows_but_for_itself() -> None:
    pod = {"metadata": {"name": "p"}, "spec": {}}
    machine = "127.0.0.1 localhost vm # here\n::1 localhost\n\n# nothing\n192.0.2.1 p mirror\n"
    assert pod_lines(pod, "127.65.0.9", machine) == (
        "127.0.0.1 localhost\n127.65.0.9 p\n127.0.0.1 vm\n192.0.2.1 mirror\n"
    )


def test_each_pod_has_its_own_address_and_may_get_its_old_one_back() -> None:
    addresses = PodAddresses("127.65.0.0/24")
    first, second = addresses.allocate("a"), addresses.allocate("b")
    assert first != second
    assert addresses.allocate("a") == first
    addresses.release("a")
    assert addresses.allocate("c") not in (first, second)
    assert addresses.allocate("a", preferred=first) == first
    assert addresses.allocate("d", preferred="10.0.0.1").startswith("127.65.0.")


def test_an_address_whose_port_is_taken_is_passed_over() -> None:
    with socket.create_server(("127.65.9.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert PodAddresses("127.65.9.0/24").allocate("a", ports=[port]) == "127.65.9.2"


@pytest.mark.parametrize("cidr", ["10.0.0.0/16", "127.64.0.1/12", "nonsense", "127.64.0.0/31"])
def test_a_pod_network_off_the_loopback_is_refused(cidr: str) -> None:
    with pytest.raises(KubeletError, match="pod network"):
        PodAddresses(cidr)
