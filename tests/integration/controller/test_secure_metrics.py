"""Metrics over TLS: tokens and rights are asked of the API server."""

import httpx2
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from support.plane import api_plane
from support.webhooks import client, make_pair, running

from agentops.controller import Builder, Manager, ManagerOptions
from agentops.controller.certificates import CertificateError
from agentops.controller.securemetrics import SecureMetrics
from agentops.kube.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, NAMESPACE, SERVICE_ACCOUNT
from agentops.net.errors import UsageError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def plane(tmp_path):
    async with api_plane(tmp_path, controllers=False) as plane:
        await plane.client.create(NAMESPACE, {"metadata": {"name": "ns"}})
        yield plane


async def bearer(plane, name):
    await plane.client.create(SERVICE_ACCOUNT, {"metadata": {"name": name, "namespace": "ns"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = await plane.client.create(SERVICE_ACCOUNT, request, namespace="ns", name=name, subresource="token")
    return {"authorization": f"Bearer {made['status']['token']}"}


async def may_scrape(plane, name):
    rules = [{"nonResourceURLs": ["/metrics", "/debug/*"], "verbs": ["get"]}]
    await plane.client.create(CLUSTER_ROLE, {"metadata": {"name": "scrape"}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scrape"}
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": "ns"}]
    await plane.client.create(
        CLUSTER_ROLE_BINDING, {"metadata": {"name": "scrape"}, "roleRef": role, "subjects": subjects}
    )


async def reconcile_nothing(request):
    """Nothing to do."""


async def extra(request):
    return PlainTextResponse("extra")


@pytest.mark.guarantee("HM4")
async def test_a_service_account_with_the_right_may_scrape_and_nobody_else(plane, tmp_path):
    pair = make_pair(tmp_path / "certs")
    secure = SecureMetrics(cert_dir=tmp_path / "certs")
    manager = Manager(
        plane.transport,
        ManagerOptions(
            metrics_bind="127.0.0.1:0", secure_metrics=secure, metrics_routes=(Route("/debug/x", extra),), grace_s=2
        ),
    )
    scraper, other = await bearer(plane, "scraper"), await bearer(plane, "other")
    await may_scrape(plane, "scraper")
    async with running(manager), client(pair.cert_pem) as http:
        url = f"https://{manager.bound['metrics']}"
        assert (await http.get(f"{url}/metrics")).status_code == 401
        wrong = await http.get(f"{url}/metrics", headers={"authorization": "Bearer nope"})
        assert wrong.status_code == 401
        assert (await http.get(f"{url}/metrics", headers=other)).status_code == 403
        answer = await http.get(f"{url}/metrics", headers=scraper)
        assert answer.status_code == 200
        assert "certwatcher_read_certificate_total 1.0" in answer.text
        assert (await http.get(f"{url}/debug/x", headers=scraper)).text == "extra"
        assert (await http.get(f"{url}/debug/x")).status_code == 401


@pytest.mark.guarantee("US9", "HM4")
async def test_why_keys_were_reconciled_is_told_to_those_who_may_ask(plane, tmp_path):
    pair = make_pair(tmp_path / "certs")
    options = {
        "metrics_bind": "127.0.0.1:0",
        "secure_metrics": SecureMetrics(cert_dir=tmp_path / "certs"),
        "grace_s": 2,
    }
    for explain in (True, False):
        manager = Manager(plane.transport, ManagerOptions(explain=explain, **options))
        Builder(manager).named("spaces").for_(NAMESPACE).build(reconcile_nothing)
        if explain:
            scraper = await bearer(plane, "scraper")
            await may_scrape(plane, "scraper")
        async with running(manager), client(pair.cert_pem) as http:
            url = f"https://{manager.bound['metrics']}/debug/queue?controller=spaces&name=ns"
            assert (await http.get(url)).status_code == 401
            answer = await http.get(url, headers=scraper)
            assert answer.status_code == (200 if explain else 404)
            if explain:
                (key,) = answer.json()["controllers"][0]["keys"]
                assert key["triggers"][0]["by"] == "namespaces"


@pytest.mark.guarantee("HM3")
async def test_without_a_directory_the_certificate_is_self_signed(plane):
    secure = SecureMetrics(hosts=("127.0.0.1",), authorize=False)
    manager = Manager(plane.transport, ManagerOptions(metrics_bind="127.0.0.1:0", secure_metrics=secure, grace_s=2))
    async with running(manager), httpx2.AsyncClient(verify=False) as http:
        assert (await http.get(f"https://{manager.bound['metrics']}/metrics")).status_code == 200


async def test_what_cannot_be_served_is_said_before_anything_starts(plane, tmp_path):
    def manager(**options):
        return Manager(plane.transport, ManagerOptions(metrics_bind="127.0.0.1:0", **options))

    with pytest.raises(CertificateError, match=r"tls\.crt"):
        await manager(secure_metrics=SecureMetrics(cert_dir=tmp_path)).run()
    with pytest.raises(UsageError, match="cannot share"):
        await manager(secure_metrics=SecureMetrics(), probes_bind="127.0.0.1:0").run()
    with pytest.raises(UsageError, match="/metrics"):
        await manager(metrics_routes=(Route("/metrics", extra),)).run()
