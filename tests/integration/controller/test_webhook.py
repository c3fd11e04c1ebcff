"""The webhook server over real TLS, alone and in a manager."""

import base64
import ssl

import anyio
import httpx2
import orjson
import pytest
from support.plane import api_plane, eventually
from support.webhooks import (
    admission_review,
    call,
    client,
    conversion_review,
    local_options,
    make_pair,
    running,
    serving,
)

from agentops.controller import Builder, Manager, ManagerOptions
from agentops.controller.admission import Denied
from agentops.controller.certificates import CertificateError
from agentops.controller.conversion import Spoke
from agentops.controller.errors import BuildError, ControllerError
from agentops.controller.webhook import WebhookOptions, WebhookServer, default_cert_dir, generated_path
from agentops.kube.kinds import CONFIG_MAP, DEPLOYMENT, NAMESPACE, POD
from agentops.local.pki import ensure_pki
from agentops.net.errors import ListenError
from agentops.telemetry.metrics import Registry
from agentops.values.kinds import Kind

pytestmark = pytest.mark.anyio

WIDGET = Kind("apps.example.com", "v1", "Widget", "widgets")
OBJECT = {"apiVersion": "apps.example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"unknown": 1}}


async def colour(obj, request):
    obj["spec"]["colour"] = "red"


async def refuse_big(obj, request):
    if obj["spec"].get("size", 0) > 10:
        raise Denied("spec.size must be at most 10")
    return ["it is small"]


async def broken(obj, request):
    raise RuntimeError("boom")


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
async def server(tmp_path, registry):
    make_pair(tmp_path)
    server = WebhookServer(local_options(tmp_path, poll_s=0.05), registry=registry)
    server.mutating(WIDGET, colour)
    server.validating(WIDGET, refuse_big)
    server.validating(POD, broken)
    async with serving(server):
        yield server


@pytest.mark.guarantee("WH2")
def test_paths_are_controller_runtimes():
    assert generated_path("mutate", WIDGET) == "/mutate-apps-example-com-v1-widget"
    assert generated_path("validate", POD) == "/validate--v1-pod"
    assert generated_path("validate", DEPLOYMENT) == "/validate-apps-v1-deployment"


@pytest.mark.guarantee("WH1")
def test_defaults_are_controller_runtimes():
    options = WebhookOptions()
    assert options.bind == ":9443"
    assert (options.cert_name, options.key_name) == ("tls.crt", "tls.key")
    assert default_cert_dir().parts[-2:] == ("k8s-webhook-server", "serving-certs")
    assert not WebhookOptions(bind="-1").enabled


@pytest.mark.guarantee("WH2")
def test_a_path_is_taken_once():
    server = WebhookServer()
    server.validating(WIDGET, refuse_big)
    with pytest.raises(BuildError, match="/validate-apps-example-com-v1-widget"):
        server.validating(WIDGET, refuse_big)
    server.validating(WIDGET, refuse_big, path="/another")
    with pytest.raises(BuildError, match="begin with /"):
        server.validating(WIDGET, refuse_big, path="nope")


@pytest.mark.guarantee("WH4", "WH5")
async def test_mutation_and_validation_over_tls(server, registry):
    answer = await call(server, "/mutate-apps-example-com-v1-widget", admission_review(OBJECT))
    assert answer.status_code == 200
    response = answer.json()["response"]
    assert orjson.loads(base64.b64decode(response["patch"])) == [{"op": "add", "path": "/spec/colour", "value": "red"}]
    answer = await call(server, "/validate-apps-example-com-v1-widget?timeout=5s", admission_review(OBJECT, "u7"))
    assert answer.json()["response"] == {"uid": "u7", "allowed": True, "warnings": ["it is small"]}
    big = {**OBJECT, "spec": {"size": 11}}
    answer = await call(server, "/validate-apps-example-com-v1-widget", admission_review(big))
    assert answer.status_code == 200
    assert answer.json()["response"]["status"]["message"] == "spec.size must be at most 10"
    name, labels = "controller_runtime_webhook_requests_total", {"webhook": "/validate-apps-example-com-v1-widget"}
    assert registry.value(name, code="200", **labels) == 2
    assert registry.value(name, code="500", **labels) == 0
    assert registry.value("controller_runtime_webhook_requests_in_flight", **labels) == 0
    assert registry.value("controller_runtime_webhook_latency_seconds_count", **labels) == 2
    assert registry.value("controller_runtime_webhook_panics_total") == 0


async def test_a_broken_handler_answers_and_is_counted(server, registry):
    answer = await call(server, "/validate--v1-pod", admission_review({}, "u8"))
    assert answer.json()["response"]["uid"] == "u8"
    assert answer.json()["response"]["status"]["code"] == 500
    assert registry.value("controller_runtime_webhook_panics_total") == 1


@pytest.mark.guarantee("WH3")
async def test_what_is_no_review_is_refused_with_its_status(server):
    path = f"https://127.0.0.1:{server.port}/mutate-apps-example-com-v1-widget"
    async with client(server.ca_pem) as http:
        json_type = {"content-type": "application/json"}
        assert (await http.post(path, content=b"", headers=json_type)).status_code == 400
        assert (await http.post(path, content=b"{}", headers={"content-type": "text/plain"})).status_code == 400
        assert (await http.post(path, content=b" " * (7 * 1024 * 1024 + 1), headers=json_type)).status_code == 413
        assert (await http.get(path)).status_code == 405
        assert (await http.post(path + "s", json={})).status_code == 404
        refused = await http.post(path, content=b"{", headers=json_type)
        assert refused.json()["response"]["allowed"] is False
        big = admission_review({**OBJECT, "spec": {"blob": "x" * 3_000_000}})
        assert (await http.post(path, json=big)).status_code == 200


@pytest.mark.guarantee("WH7")
async def test_a_new_certificate_serves_new_connections_while_old_ones_live(server, tmp_path):
    old = server.ca_pem
    review = admission_review(OBJECT)
    url = f"https://127.0.0.1:{server.port}/mutate-apps-example-com-v1-widget"
    async with httpx2.AsyncClient(verify=ssl.create_default_context(cadata=old.decode())) as kept:
        assert (await kept.post(url, json=review)).status_code == 200
        make_pair(tmp_path)
        await eventually(lambda: server.ca_pem != old)
        assert (await call(server, "/mutate-apps-example-com-v1-widget", review)).status_code == 200
        with pytest.raises(httpx2.ConnectError):
            await call(server, "/mutate-apps-example-com-v1-widget", review, ca_pem=old)
        assert (await kept.post(url, json=review)).status_code == 200, "its connection is from before"


@pytest.mark.guarantee("WH1")
async def test_with_a_client_authority_only_its_clients_get_in(tmp_path):
    pair = make_pair(tmp_path / "server")
    for name in ("caller", "stranger"):
        made = ensure_pki(tmp_path / "pki" / name, addresses=())
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.crt").write_bytes(made.ca_pem)
        (tmp_path / name / "tls.crt").write_bytes(made.admin_cert_pem)
        (tmp_path / name / "tls.key").write_bytes(made.admin_key_pem)
    options = local_options(tmp_path / "server", client_ca=tmp_path / "caller" / "ca.crt")
    server = WebhookServer(options)
    server.mutating(WIDGET, colour)

    async def post(name):
        context = ssl.create_default_context(cadata=pair.cert_pem.decode())
        if name:
            context.load_cert_chain(tmp_path / name / "tls.crt", tmp_path / name / "tls.key")
        async with httpx2.AsyncClient(verify=context) as http:
            url = f"https://127.0.0.1:{server.port}/mutate-apps-example-com-v1-widget"
            return (await http.post(url, json=admission_review(OBJECT))).status_code

    async with serving(server):
        assert await post("caller") == 200
        for name in ("", "stranger"):
            with pytest.raises((httpx2.TransportError, ssl.SSLError)):
                await post(name)
        assert await server._dial() is None


@pytest.mark.guarantee("WH9")
async def test_reviews_beyond_the_limit_wait_and_then_give_up(tmp_path):
    make_pair(tmp_path)
    server = WebhookServer(local_options(tmp_path, max_in_flight=1))
    entered, release = anyio.Event(), anyio.Event()

    async def wait(obj, request):
        entered.set()
        await release.wait()

    path = server.validating(WIDGET, wait)
    async with serving(server), anyio.create_task_group() as tasks:
        answers = []

        async def first():
            answers.append((await call(server, path, admission_review(OBJECT))).json()["response"]["allowed"])

        tasks.start_soon(first)
        await entered.wait()
        late = await call(server, f"{path}?timeout=50ms", admission_review(OBJECT))
        assert late.status_code == 503
        release.set()
    assert answers == [True]


async def test_a_server_without_a_certificate_says_which_file_is_missing(tmp_path):
    server = WebhookServer(local_options(tmp_path))
    with pytest.raises(CertificateError, match=r"no certificate: .*tls\.crt"):
        server.bind()


async def test_a_self_signed_certificate_needs_no_files(tmp_path):
    server = WebhookServer(local_options(tmp_path, self_signed=("localhost", "127.0.0.1")))
    path = server.mutating(WIDGET, colour)
    assert server.problem() == "not started"
    async with serving(server):
        assert server.problem() is None
        assert (await call(server, path, admission_review(OBJECT))).status_code == 200
        assert await server._dial() is None
    assert server.problem() == "not running"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.guarantee("WH8")
async def test_conversion_over_tls(tmp_path, registry):
    make_pair(tmp_path)
    server = WebhookServer(local_options(tmp_path), registry=registry)

    def up(obj):
        obj["spec"]["size"] = int(obj["spec"]["size"])

    def down(obj):
        obj["spec"]["size"] = str(obj["spec"]["size"])

    path = server.converting(WIDGET, {"v1beta1": Spoke(up, down)})
    assert path == "/convert"
    async with serving(server):
        old = {**OBJECT, "apiVersion": "apps.example.com/v1beta1", "spec": {"size": "3"}}
        response = (await call(server, path, conversion_review("apps.example.com/v1", old))).json()["response"]
        assert response["convertedObjects"][0]["spec"] == {"size": 3}
        response = (await call(server, path, conversion_review("apps.example.com/v1", {**old, "spec": {}}))).json()
        assert response["response"]["result"]["status"] == "Failed"
        assert registry.value("controller_runtime_conversion_webhook_panics_total") == 1


@pytest.mark.guarantee("WH3", "WH8")
async def test_a_list_larger_than_any_object_is_converted_in_one_review(tmp_path):
    make_pair(tmp_path)
    server = WebhookServer(local_options(tmp_path, max_conversion_bytes=10_000_000))

    def same(obj):
        pass

    path = server.converting(WIDGET, {"v1beta1": Spoke(same, same)})
    async with serving(server):
        old = {**OBJECT, "apiVersion": "apps.example.com/v1beta1", "spec": {"blob": "x" * 1_000_000}}
        answer = await call(server, path, conversion_review("apps.example.com/v1", *([old] * 9)))
        assert len(answer.json()["response"]["convertedObjects"]) == 9
        answer = await call(server, path, conversion_review("apps.example.com/v1", *([old] * 11)))
        assert answer.status_code == 413


# in a manager


@pytest.fixture
async def plane(tmp_path):
    async with api_plane(tmp_path, controllers=False) as plane:
        await plane.client.create(NAMESPACE, {"metadata": {"name": "ns"}})
        yield plane


@pytest.mark.guarantee("MG2")
async def test_the_manager_serves_webhooks_before_it_lists_anything(plane, tmp_path):
    make_pair(tmp_path / "certs")
    manager = Manager(plane.transport, ManagerOptions(webhooks=local_options(tmp_path / "certs"), grace_s=2))
    path = manager.webhooks.mutating(WIDGET, colour)
    answered_before = []

    async def list_through_a_webhook(request, handler):
        if request.path.endswith("/configmaps") and not answered_before:
            answer = await call(manager.webhooks, path, admission_review(OBJECT))
            answered_before.append(answer.status_code)
        return await handler(request)

    async def reconcile(request):
        return None

    plane.server.middleware.append(list_through_a_webhook)
    Builder(manager).named("maps").for_(CONFIG_MAP).build(reconcile)
    async with running(manager):
        assert answered_before == [200]
    with pytest.raises(httpx2.ConnectError):
        await call(manager.webhooks, path, admission_review(OBJECT))


async def test_a_manager_without_webhooks_binds_no_port_and_takes_none_later(plane):
    manager = Manager(plane.transport, ManagerOptions(grace_s=2))
    async with running(manager):
        with pytest.raises(ControllerError, match="before run"):
            _ = manager.webhooks


async def test_a_taken_port_stops_the_manager_before_any_list(plane, tmp_path):
    make_pair(tmp_path / "certs")
    async with serving(WebhookServer(local_options(tmp_path / "certs"))) as other:
        options = WebhookOptions(bind=f"127.0.0.1:{other.port}", cert_dir=tmp_path / "certs")
        manager = Manager(plane.transport, ManagerOptions(webhooks=options))
        manager.webhooks.mutating(WIDGET, colour)
        with pytest.raises(ListenError):
            await manager.run()
