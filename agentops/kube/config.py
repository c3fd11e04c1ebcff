"""Which API server, and who we are there.

Order: an explicit kubeconfig, `$KUBECONFIG`, the pod's ServiceAccount, `~/.kube/config`. In a pod
these are our own few lines, because importing the `kubernetes` package costs 20 MB and half a second; so are
plain kubeconfigs (`kubeconfig`). Exec plugins, OIDC and joined files go through `kubernetes.aio.config`,
imported when first needed.
"""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from attrs import asdict, field, frozen

from agentops.kube.errors import ConfigError
from agentops.kube.kubeconfig import impersonation, static
from agentops.net.paths import pod_path
from agentops.telemetry.logging import get_logger

log = get_logger("kube.config")

_FORM = "that is a YAML mapping of clusters, users, contexts and current-context"
SERVICE_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"

Refresh = Callable[[], Awaitable[str | None]]
"""Gives the current `Authorization` value, asking the exec plugin or identity provider again."""


@frozen(slots=True)
class ClusterConfig:
    """One API server and one identity. PEM fields hold the text of the files, not their paths.

    `token_file` is read again every minute, since projected tokens rotate. `authorization` is a
    whole header value and wins over `token`.
    """

    server: str
    namespace: str = "default"
    ca_pem: bytes | None = None
    client_cert_pem: bytes | None = None
    client_key_pem: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    insecure: bool = False
    tls_server_name: str | None = None
    proxy: str | None = None
    authorization: str | None = field(default=None, repr=False)
    impersonate: tuple[tuple[str, str], ...] = ()
    """Headers of the identity to act as, from the `as…` fields of a kubeconfig's user."""
    refresh: Refresh | None = field(default=None, repr=False, eq=False)

    @property
    def host(self) -> str:
        """`host:port`, the label of client metrics."""
        return urlsplit(self.server).netloc

    def ssl_context(self) -> ssl.SSLContext | None:
        """A client context, or None for a plain HTTP server. Build it once: it costs 10 to 30 ms."""
        if not self.server.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.ca_pem.decode() if self.ca_pem else None)
        if self.ca_pem and hasattr(ssl, "VERIFY_X509_STRICT"):
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # clusters exist whose CA lacks key usage
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert_pem and self.client_key_pem:
            # the ssl module reads certificates from files only
            with tempfile.NamedTemporaryFile(suffix=".pem") as pair:
                pair.write(self.client_cert_pem + b"\n" + self.client_key_pem)
                pair.flush()
                context.load_cert_chain(pair.name)
        return context


async def load_config(
    kubeconfig: str | None = None, context: str | None = None, environ: Mapping[str, str] = os.environ
) -> ClusterConfig:
    """The cluster to talk to. Raises ConfigError naming what is missing and where it was looked for."""
    chosen = kubeconfig or environ.get("KUBECONFIG")
    if chosen:
        return await from_kubeconfig(chosen, context)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster(environ)
    default = os.path.join(environ.get("HOME") or "/", ".kube", "config")
    if _files(default):
        return await from_kubeconfig(default, context)
    raise ConfigError(f"no cluster: pass --kubeconfig, set KUBECONFIG, or create {default}; this is not a pod either")


def in_cluster(environ: Mapping[str, str] = os.environ) -> ClusterConfig:
    """The pod's own ServiceAccount. Raises ConfigError."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise ConfigError("not in a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not both set")
    directory = pod_path(SERVICE_ACCOUNT_DIR, environ)
    token_file, ca_file = directory / "token", directory / "ca.crt"
    try:
        ca_pem = ca_file.read_bytes()
        token = token_file.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"in-cluster configuration: cannot read {error.filename} ({error.strerror}); "
            "is the ServiceAccount token mounted (automountServiceAccountToken)?"
        ) from error
    host = f"[{host}]" if ":" in host else host
    return ClusterConfig(
        server=f"https://{host}:{port}",
        namespace=own_namespace(environ) or "default",
        ca_pem=ca_pem,
        token=token,
        token_file=str(token_file),
    )


def own_namespace(environ: Mapping[str, str] = os.environ) -> str:
    """The namespace of the pod this process runs in, empty outside of one."""
    try:
        return (pod_path(SERVICE_ACCOUNT_DIR, environ) / "namespace").read_text().strip()
    except OSError:
        return ""


async def from_kubeconfig(path: str, context: str | None = None) -> ClusterConfig:
    """From a kubeconfig, or several joined by colons. Runs exec plugins. Raises ConfigError."""
    files = _files(path)
    if not files:
        raise ConfigError(f"kubeconfig {path!r} {_why_none(path)}")
    plain = static(files[0], context) if len(files) == 1 else None  # a few kilobytes at the start: no thread for that
    if plain is not None:
        return ClusterConfig(**asdict(plain, recurse=False))

    import yaml
    from kubernetes.aio.config import kube_config as untyped
    from kubernetes.aio.config.config_exception import ConfigException

    kube_config: Any = untyped
    target = SimpleNamespace(api_key={})
    with tempfile.TemporaryDirectory(prefix="agentops-kubeconfig-") as scratch:
        try:
            loader = await kube_config.load_kube_config(
                os.pathsep.join(files),
                context=context,
                client_configuration=target,
                persist_config=False,
                temp_file_path=scratch,
            )
            return await anyio.to_thread.run_sync(_from_loader, loader, target, path)
        except ConfigException as error:
            raise ConfigError(f"kubeconfig {path!r}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            missing = f"it has no {error.args[0]!r}" if isinstance(error, KeyError) and error.args else _FORM
            raise ConfigError(f"kubeconfig {path!r} does not have the form of one: {missing}") from error
        except (OSError, ValueError, yaml.YAMLError) as error:
            why = " ".join(str(error).split())  # YAML's own takes several lines
            raise ConfigError(f"kubeconfig {path!r} is not usable: {why}") from error
        finally:
            kube_config._cleanup_temp_files()


def _from_loader(loader: Any, target: SimpleNamespace, path: str) -> ClusterConfig:
    """Read what the kubernetes package left as files and attributes."""
    user = loader._user.value if loader._user is not None else {}
    server = getattr(target, "host", None)
    if not server:
        raise ConfigError(f"kubeconfig {path!r}: the cluster of context {_name(loader)!r} has no server")
    authorization = target.api_key.get("BearerToken")
    cert = _read(getattr(target, "cert_file", None))
    if "exec" in user and not authorization and not cert:
        command = user["exec"].get("command")
        raise ConfigError(
            f"kubeconfig {path!r}: the exec plugin {command!r} gave no credentials; run it by hand to see why"
        )
    current = loader.current_context.get("context") or {}
    token_file = user.get("tokenFile")
    if token_file:
        token_file = str(Path(path.split(os.pathsep)[0]).expanduser().parent / token_file)
    return ClusterConfig(
        server=server,
        namespace=current.get("namespace") or "default",
        ca_pem=_read(getattr(target, "ssl_ca_cert", None)),
        client_cert_pem=cert,
        client_key_pem=_read(getattr(target, "key_file", None)),
        authorization=None if token_file else authorization,
        token_file=token_file,
        insecure=not getattr(target, "verify_ssl", True),
        tls_server_name=getattr(target, "tls_server_name", None),
        proxy=getattr(target, "proxy", None),
        impersonate=impersonation(user),
        refresh=_refresher(loader) if "exec" in user or loader.provider else None,
    )


def _refresher(loader: Any) -> Refresh:
    async def refresh() -> str | None:
        loader.__dict__.pop("exec_plugin_expiry", None)  # a 401 means that it is over, whatever it said
        try:
            with anyio.move_on_after(60):
                await loader._load_authentication()
        except Exception as error:  # whatever plugins and identity providers raise: the 401 says what is wrong
            log.warning("credentials.not_renewed", error=f"{type(error).__name__}: {error}")
        token: str | None = loader.__dict__.get("token")
        return token

    return refresh


def _files(path: str) -> list[str]:
    """The existing files of a colon-separated list; missing ones are skipped, as kubectl does."""
    return [name for name in map(os.path.expanduser, path.split(os.pathsep)) if name and os.path.isfile(name)]


def _why_none(path: str) -> str:
    """Why `_files` finds nothing there."""
    there = [name for name in map(os.path.expanduser, path.split(os.pathsep)) if name and os.path.exists(name)]
    if not there:
        return "does not exist"
    return "is a directory; name the file in it" if os.path.isdir(there[0]) else "is not a regular file"


def _name(loader: Any) -> str:
    return str(loader.current_context.get("name"))


def _read(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def kubeconfig_yaml(config: ClusterConfig, name: str = "agentops") -> dict[str, Any]:
    """A kubeconfig document for `config`, with everything inline."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    cluster: dict[str, Any] = {"server": config.server}
    if config.ca_pem:
        cluster["certificate-authority-data"] = encoded(config.ca_pem)
    if config.insecure:
        cluster["insecure-skip-tls-verify"] = True
    user: dict[str, Any] = {}
    if config.client_cert_pem and config.client_key_pem:
        user["client-certificate-data"] = encoded(config.client_cert_pem)
        user["client-key-data"] = encoded(config.client_key_pem)
    if config.token:
        user["token"] = config.token
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": config.namespace}}],
        "current-context": name,
    }
