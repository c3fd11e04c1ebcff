"""The example operators do on an API server what their first line says."""

import base64
import importlib.util
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
import yaml
from support.plane import api_plane, eventually
from support.webhooks import admission_review, call, conversion_review, local_options, make_pair, running

from agentops.controller import Builder, Manager, ManagerOptions
from agentops.kube.errors import Forbidden, NotFound
from agentops.kube.kinds import (
    CONFIG_MAP,
    CRD,
    MUTATING_WEBHOOK_CONFIGURATION,
    NAMESPACE,
    VALIDATING_WEBHOOK_CONFIGURATION,
)
from agentops.values.kinds import Kind

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[3] / "examples" / "framework"


def load(name):
    """The example's module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "operator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documents(name, file):
    return [d for d in yaml.safe_load_all((EXAMPLES / name / file).read_text()) if d]


@asynccontextmanager
async def plane_with(tmp_path, name, kinds, controllers=False):
    async with api_plane(tmp_path, controllers=controllers) as plane:
        await plane.client.create(NAMESPACE, {"metadata": {"name": "ns"}})
        for crd in documents(name, "crd.yaml"):
            await plane.client.create(CRD, crd)

        async def served():
            for kind in kinds:
                await plane.client.list(kind, "ns")
            return True

        await eventually(served)
        yield plane


async def create_samples(plane, name, kinds):
    for obj in documents(name, "sample.yaml"):
        kind = next(kind for kind in kinds if kind.matches(obj))
        obj["metadata"]["namespace"] = "ns"
        await plane.client.create(kind, obj)


async def absent(plane, kind, name):
    try:
        await plane.client.get(kind, name, "ns")
    except NotFound:
        return True
    return False


@pytest.mark.parametrize("name", ["config_map", "finalizer", "multi_kind", "webhook"])
def test_an_example_is_about_forty_lines(name):
    """Of code: docstrings and blank lines are for the reader."""
    text = (EXAMPLES / name / "operator.py").read_text()
    lines = [line for line in text.split('"""', 2)[2].splitlines() if line.strip()]
    assert len(lines) <= 50


async def test_config_map_follows_its_page_and_comes_back(tmp_path):
    example = load("config_map")
    async with plane_with(tmp_path, "config_map", [example.PAGE], controllers=True) as plane:
        manager = Manager(plane.transport, ManagerOptions(grace_s=2))
        example.Pages(manager)
        async with running(manager):
            await create_samples(plane, "config_map", [example.PAGE])

            async def text():
                return (await plane.client.get(CONFIG_MAP, "welcome", "ns"))["data"]["index.html"]

            async def says(wanted):
                return wanted in await text()

            await eventually(lambda: says("<h1>Welcome</h1>"))
            await plane.client.patch(example.PAGE, "welcome", {"spec": {"title": "Hello"}}, "ns")
            await eventually(lambda: says("<h1>Hello</h1>"))
            await plane.client.patch(CONFIG_MAP, "welcome", {"data": {"index.html": "vandal"}}, "ns")
            await eventually(lambda: says("<h1>Hello</h1>"))
            await plane.client.delete(CONFIG_MAP, "welcome", "ns")
            await eventually(lambda: says("<h1>Hello</h1>"))

            async def reported():
                page = await plane.client.get(example.PAGE, "welcome", "ns")
                return page.get("status") == {"observedGeneration": 2, "configMap": "welcome"}

            await eventually(reported)
            await plane.client.delete(example.PAGE, "welcome", "ns")
            await eventually(lambda: absent(plane, CONFIG_MAP, "welcome"))


async def test_a_folder_goes_only_after_its_directory(tmp_path):
    example = load("finalizer")
    root = tmp_path / "root"
    async with plane_with(tmp_path, "finalizer", [example.FOLDER]) as plane:
        manager = Manager(plane.transport, ManagerOptions(grace_s=2))
        example.Folders(manager, root)
        directory = root / "ns" / "inbox"
        async with running(manager):
            await create_samples(plane, "finalizer", [example.FOLDER])
            await eventually(directory.is_dir)
            (directory / "letter").write_text("unread")
            await plane.client.delete(example.FOLDER, "inbox", "ns")
            folder = await plane.client.get(example.FOLDER, "inbox", "ns")
            assert folder["metadata"]["finalizers"] == [example.FINALIZER]
            assert (directory / "letter").exists()
            await plane.client.patch(example.FOLDER, "inbox", {"spec": {"keepWhileFull": False}}, "ns")
            await eventually(lambda: absent(plane, example.FOLDER, "inbox"))
            assert not directory.exists()


async def test_projects_and_teams_keep_up_with_each_other(tmp_path):
    example = load("multi_kind")
    kinds = [example.TEAM, example.PROJECT]
    async with plane_with(tmp_path, "multi_kind", kinds) as plane:
        manager = Manager(plane.transport, ManagerOptions(grace_s=2))
        example.Teams(manager)
        async with running(manager):
            await create_samples(plane, "multi_kind", kinds)

            async def members(wanted):
                found = await plane.client.get(CONFIG_MAP, "compiler-members", "ns")
                return found["data"]["members"].split() == wanted

            async def projects(team, wanted):
                found = await plane.client.get(example.TEAM, team, "ns")
                return (found.get("status") or {}).get("projects") == wanted

            await eventually(lambda: members(["ada", "grace"]))
            await eventually(lambda: projects("platform", 1))
            await plane.client.patch(example.TEAM, "platform", {"spec": {"members": ["ada"]}}, "ns")
            await eventually(lambda: members(["ada"]))
            other = {"metadata": {"name": "tools", "namespace": "ns"}, "spec": {"members": ["linus"]}}
            await plane.client.create(example.TEAM, {"apiVersion": "examples.agentops.io/v1", "kind": "Team", **other})
            await plane.client.patch(example.PROJECT, "compiler", {"spec": {"team": "tools"}}, "ns")
            await eventually(lambda: members(["linus"]))
            await eventually(lambda: projects("tools", 1))
            await eventually(lambda: projects("platform", 0))


def at(manager, config, pair):
    """A clientConfig that calls the manager in this process."""
    path = config["service"]["path"]
    url = f"https://127.0.0.1:{manager.webhooks.port}{path}"
    return {"url": url, "caBundle": base64.b64encode(pair.cert_pem).decode()}


async def test_coupons_go_through_their_webhooks_on_the_api_server(tmp_path):
    example = load("webhook")
    old_kind = Kind("examples.agentops.io", "v1alpha1", "Coupon", "coupons")
    pair = make_pair(tmp_path / "certs")
    async with api_plane(tmp_path, controllers=False) as plane:
        await plane.client.create(NAMESPACE, {"metadata": {"name": "ns"}})
        manager = Manager(plane.transport, ManagerOptions(grace_s=2, webhooks=local_options(tmp_path / "certs")))
        example.add_webhooks(manager)

        async def reconcile(request):
            return None

        (crd,) = documents("webhook", "crd.yaml")
        # Its cache lists through its own conversion webhook, so this hangs unless webhooks are served first.
        Builder(manager).named("coupons").for_(old_kind).build(reconcile)
        manager.webhooks.bind()
        conversion = crd["spec"]["conversion"]["webhook"]
        conversion["clientConfig"] = at(manager, conversion["clientConfig"], pair)
        await plane.client.create(CRD, crd)
        await eventually(lambda: plane.server.registry.find("examples.agentops.io", "v1", "coupons") is not None)
        paper = {"metadata": {"name": "paper", "namespace": "ns"}, "spec": {"percent": 10, "code": "PAPER"}}
        coupon = {"apiVersion": "examples.agentops.io/v1", "kind": "Coupon", **paper}
        await plane.client.create(example.COUPON, coupon)
        async with running(manager):
            cached = await manager.client.get(old_kind, "paper", "ns")
            assert cached["spec"] == {"fraction": "0.1", "code": "PAPER"}
            for configuration in documents("webhook", "webhooks.yaml"):
                for hook in configuration["webhooks"]:
                    hook["clientConfig"] = at(manager, hook["clientConfig"], pair)
                kinds = (MUTATING_WEBHOOK_CONFIGURATION, VALIDATING_WEBHOOK_CONFIGURATION)
                await plane.client.create(next(k for k in kinds if k.matches(configuration)), configuration)
            coupon["metadata"] = {"name": "summer", "namespace": "ns"}
            coupon["spec"] = {"percent": 25}
            created = await plane.client.create(example.COUPON, coupon)
            assert created["spec"] == {"percent": 25, "code": "SUMMER"}
            await create_samples(plane, "webhook", [old_kind])
            sample = await plane.client.get(example.COUPON, "spring", "ns")
            assert sample["spec"] == {"percent": 25, "code": "SPRING"}, "defaulted as v1, though written as v1alpha1"
            with pytest.raises(Forbidden, match="printed on paper"):
                await plane.client.patch(example.COUPON, "summer", {"spec": {"code": "WINTER"}}, "ns")
            await plane.client.patch(example.COUPON, "summer", {"spec": {"percent": 30}}, "ns")

            async def converted():
                found = await manager.client.get(old_kind, "summer", "ns")
                return found["spec"]["fraction"] == "0.3"

            await eventually(converted)


async def test_coupons_are_defaulted_judged_and_converted(tmp_path):
    example = load("webhook")
    make_pair(tmp_path / "certs")
    async with api_plane(tmp_path, controllers=False) as plane:
        manager = Manager(plane.transport, ManagerOptions(grace_s=2, webhooks=local_options(tmp_path / "certs")))
        example.add_webhooks(manager)
        (configuration, rules) = documents("webhook", "webhooks.yaml")
        mutate = configuration["webhooks"][0]["clientConfig"]["service"]["path"]
        validate = rules["webhooks"][0]["clientConfig"]["service"]["path"]
        coupon = {"apiVersion": "examples.agentops.io/v1", "kind": "Coupon", "metadata": {"name": "spring"}}
        async with running(manager):

            async def ask(path, obj, **request):
                return (await call(manager.webhooks, path, admission_review(obj, **request))).json()["response"]

            response = await ask(mutate, {**coupon, "spec": {"percent": 25}})
            patch = orjson.loads(base64.b64decode(response["patch"]))
            assert patch == [{"op": "add", "path": "/spec/code", "value": "SPRING"}]
            generous = {**coupon, "spec": {"percent": 80, "code": "A"}}
            assert await ask(validate, generous) == {
                "uid": "review-1",
                "allowed": True,
                "warnings": ["this is generous"],
            }
            changed = {**coupon, "spec": {"percent": 80, "code": "B"}}
            response = await ask(validate, changed, operation="UPDATE", oldObject=generous)
            assert not response["allowed"]
            assert response["status"]["code"] == 403
            (sample,) = documents("webhook", "sample.yaml")
            review = conversion_review("examples.agentops.io/v1", sample)
            response = (await call(manager.webhooks, "/convert", review)).json()["response"]
            assert response["convertedObjects"][0]["spec"] == {"percent": 25}
