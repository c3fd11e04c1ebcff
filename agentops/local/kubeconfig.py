"""The kubeconfig of a plane: its CA and the admin's client certificate inside, nothing written anywhere."""

from __future__ import annotations

import base64

import yaml

from agentops.local.state import HOST, StateDir
from agentops.net.errors import UsageError


def render_kubeconfig(*, name: str, server: str, ca_pem: bytes, cert_pem: bytes, key_pem: bytes) -> str:
    """YAML with one cluster, one user and one context, all called `name`, and the context current."""

    def data(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": data(ca_pem)}}],
        "users": [
            {"name": name, "user": {"client-certificate-data": data(cert_pem), "client-key-data": data(key_pem)}}
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
        "current-context": name,
    }
    return yaml.safe_dump(document, sort_keys=False, width=10_000)


def kubeconfig_of(state: StateDir) -> str:
    """The admin's kubeconfig of a state dir that a plane has used. Raises UsageError when none has."""
    port = state.settings().port
    if not port or not (state.pki / "admin.crt").exists():
        raise UsageError(f"no plane has run on state dir {state.path} yet; start one with `agentops local up`")
    return render_kubeconfig(
        name=state.context_name(),
        server=f"https://{HOST}:{port}",
        ca_pem=(state.pki / "ca.crt").read_bytes(),
        cert_pem=(state.pki / "admin.crt").read_bytes(),
        key_pem=(state.pki / "admin.key").read_bytes(),
    )
