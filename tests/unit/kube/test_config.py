import os
import ssl
import subprocess
import sys

import pytest
import yaml

from agentops.kube import ClusterConfig, load_config
from agentops.kube.config import _refresher, in_cluster, kubeconfig_yaml
from agentops.kube.errors import ConfigError
from agentops.kube.kubeconfig import static

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"  # the kubeconfig loader of the kubernetes package needs it


def write(path, document):
    path.write_text(yaml.safe_dump(document))
    return str(path)


def kubeconfig(server="http://one:1", **user):
    document = kubeconfig_yaml(ClusterConfig(server=server, namespace="work"))
    document["users"][0]["user"] = user
    return document


async def test_explicit_file_wins_over_the_variable_and_that_over_the_pod(tmp_path):
    one = write(tmp_path / "one", kubeconfig("http://one:1"))
    two = write(tmp_path / "two", kubeconfig("http://two:2"))
    environ = {"KUBECONFIG": two, "KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert (await load_config(one, environ=environ)).server == "http://one:1"
    assert (await load_config(environ=environ)).server == "http://two:2"
    assert (await load_config(environ=environ)).namespace == "work"


async def test_home_is_the_last_resort_and_its_absence_is_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"pass --kubeconfig, set KUBECONFIG, or create .*\.kube/config"):
        await load_config(environ={"HOME": str(tmp_path)})
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube" / "config", kubeconfig())
    assert (await load_config(environ={"HOME": str(tmp_path)})).server == "http://one:1"


async def test_token_certificates_and_context_are_taken_from_the_file(tmp_path):
    document = kubeconfig(token="secret")
    document["contexts"].append({"name": "other", "context": {"cluster": "agentops", "user": "agentops"}})
    path = write(tmp_path / "config", document)
    config = await load_config(path, "other")
    assert config.namespace == "default"
    assert config.authorization == "Bearer secret"
    assert "secret" not in repr(config)
    with pytest.raises(ConfigError, match="nope"):
        await load_config(path, "nope")


USERS = [
    {},
    {"token": "secret"},
    {"username": "u", "password": "p"},
    {"tokenFile": "token"},
    {"client-certificate": "cert", "client-key": "key"},
    {"client-certificate-data": "Y2VydA==", "client-key-data": "a2V5", "client-key": "key"},
]
CLUSTERS = [
    {"server": "http://one:1/"},
    {"server": "https://one:1", "certificate-authority": "ca"},
    {"server": "https://one:1/base/", "certificate-authority-data": "Y2E="},
    {"server": "https://one:1", "insecure-skip-tls-verify": True, "tls-server-name": "n", "proxy-url": "http://p:2"},
]


@pytest.mark.parametrize("user", USERS, ids=lambda user: "+".join(user) or "anonymous")
@pytest.mark.parametrize("cluster", CLUSTERS, ids=range(len(CLUSTERS)))
async def test_a_plain_kubeconfig_says_the_same_with_and_without_the_official_package(tmp_path, cluster, user):
    for name in ("token", "cert", "key", "ca"):
        (tmp_path / name).write_text(f"text of {name}")
    document = kubeconfig(**user)
    document["clusters"][0]["cluster"] = cluster
    path, other = write(tmp_path / "config", document), write(tmp_path / "other", {"kind": "Config"})
    assert static(path) is not None
    assert await load_config(path) == await load_config(f"{path}:{other}")  # several files need the package


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("user", {"exec": {"command": "x"}}),
        ("user", {"auth-provider": {"name": "oidc"}}),
        ("user", {"tokenFile": "missing"}),
        ("cluster", {"server": "https://x", "certificate-authority": "missing"}),
        ("cluster", {"server": None}),
    ],
)
def test_what_needs_a_plugin_or_is_wrong_is_left_to_the_official_package(tmp_path, part, change):
    document = kubeconfig()
    document[f"{part}s"][0][part] = change
    assert static(write(tmp_path / "config", document)) is None


async def test_a_plain_kubeconfig_does_not_import_the_official_package(tmp_path):
    path = write(tmp_path / "config", kubeconfig(token="secret"))
    code = (
        "import asyncio, sys; from agentops.kube import load_config; "
        f"asyncio.run(load_config({path!r})); sys.exit('kubernetes' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("files", [1, 2], ids=["plain", "joined"])
async def test_identity_to_act_as_is_taken_from_the_file(tmp_path, files):
    user = {"as": "eve", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"x/y": ["1"]}}
    path = write(tmp_path / "config", kubeconfig(token="secret", **user))
    if files == 2:
        path += f":{write(tmp_path / 'other', kubeconfig())}"
    assert (await load_config(path)).impersonate == (
        ("Impersonate-User", "eve"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-x%2Fy", "1"),
    )


@pytest.mark.guarantee("PY27")
async def test_identity_provider_that_cannot_be_asked_is_no_new_credential(caplog):
    class Loader:
        async def _load_authentication(self):
            raise ValueError("oidc: no refresh token")

    assert await _refresher(Loader())() is None
    assert "credentials.not_renewed" in caplog.text


@pytest.mark.guarantee("PY27")
async def test_exec_plugin_gives_the_token_and_is_asked_again_on_refresh(tmp_path):
    counter = tmp_path / "counter"
    script = (
        f"import json,pathlib;p=pathlib.Path({str(counter)!r});n=int(p.read_text()) if p.exists() else 0;"
        "p.write_text(str(n+1));"
        "print(json.dumps({'kind':'ExecCredential','apiVersion':'client.authentication.k8s.io/v1',"
        "'status':{'token':f't{n}','expirationTimestamp':'2099-01-01T00:00:00Z'}}))"
    )
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", script],
        "interactiveMode": "Never",
    }
    config = await load_config(write(tmp_path / "config", kubeconfig(exec=plugin)))
    assert config.authorization == "Bearer t0"
    assert await config.refresh() == "Bearer t1"


async def test_exec_plugin_that_fails_is_named(tmp_path):
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "/does/not/exist"}
    with pytest.raises(ConfigError, match="/does/not/exist"):
        await load_config(write(tmp_path / "config", kubeconfig(exec=plugin)))


@pytest.mark.parametrize("text", ["[]", "{", "current-context: x"], ids=["list", "no-yaml", "empty"])
async def test_unusable_file_is_named(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError, match="config"):
        await load_config(str(path))


@pytest.fixture
def pod_environ(tmp_path):
    directory = tmp_path / "var/run/secrets/kubernetes.io/serviceaccount"
    directory.mkdir(parents=True)
    (directory / "token").write_text("tok\n")
    (directory / "ca.crt").write_bytes(b"pem")
    (directory / "namespace").write_text("agents")
    return {
        "AGENTOPS_ROOT": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "6443",
    }


async def test_pod_uses_its_service_account_below_the_pod_root(pod_environ):
    config = await load_config(environ=pod_environ)
    assert (config.server, config.namespace, config.token, config.ca_pem) == (
        "https://[fd00::1]:6443",
        "agents",
        "tok",
        b"pem",
    )
    assert config.token_file.startswith(pod_environ["AGENTOPS_ROOT"])


def test_missing_token_mount_is_explained(tmp_path):
    environ = {"AGENTOPS_ROOT": str(tmp_path), "KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        in_cluster(environ)
    with pytest.raises(ConfigError, match="not in a cluster"):
        in_cluster({})


def test_tls_context_only_for_https_and_without_checks_only_when_asked():
    assert ClusterConfig(server="http://x").ssl_context() is None
    assert ClusterConfig(server="https://x").ssl_context().verify_mode is ssl.CERT_REQUIRED
    assert ClusterConfig(server="https://x", insecure=True).ssl_context().verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    "text", ["root:x:0:0", "- a\n- b\n", "clusters: [\n  a: {", "clusters: 5\ncurrent-context: x\n"]
)
async def test_a_file_that_is_no_kubeconfig_is_said_in_one_line(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        await load_config(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("directory", "is a directory; name the file in it"), ("gone", "does not exist"), ("pipe", "not a regular file")],
)
async def test_a_kubeconfig_that_is_no_file_says_what_is_there(tmp_path, name, says):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=says):
        await load_config(str(tmp_path / name))


@pytest.mark.parametrize("text", ["root:x:0:0", "- a\n- b\n", "clusters: 5\ncurrent-context: x\n"])
async def test_what_is_wrong_with_a_kubeconfig_is_not_said_in_pythons_words(tmp_path, text):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        await load_config(str(path))
    assert "Error" not in str(caught.value)
    assert "indices" not in str(caught.value)
