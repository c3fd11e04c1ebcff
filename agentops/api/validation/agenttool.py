"""The rules of an AgentTool: one source, and a usable one."""

from __future__ import annotations

import re

from agentops.api.types.agenttool import INLINE_MAX_BYTES, SOURCES, AgentTool, OCISource
from agentops.api.validation import common
from agentops.api.validation.agent import tool_sources
from agentops.api.validation.common import FieldError, invalid, required

OCI_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-/:@+]+")
DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}")


def validate_tool(tool: AgentTool) -> list[FieldError]:
    """Every error of the object by itself."""
    spec = tool.spec
    errors = []
    sources = tool_sources(tool)
    if not sources:
        errors.append(required("spec", f"exactly one source is needed: one of {', '.join(SOURCES)}"))
    elif len(sources) > 1:
        errors.append(invalid("spec", f"{len(sources)} sources are set ({', '.join(sources)}); keep one"))
    for name, source in (("oci", spec.oci), ("skill", spec.skill)):
        if source is not None:
            errors += _oci(f"spec.{name}", source)
    if spec.config_map is not None:
        errors += common.secret_ref("spec.configMap", spec.config_map.name, spec.config_map.key)
    if spec.inline is not None:
        size = len(spec.inline.content.encode())
        if not size:
            errors.append(required("spec.inline.content", "write the tool"))
        elif size > INLINE_MAX_BYTES:
            errors.append(
                invalid("spec.inline.content", f"{size} bytes are more than {INLINE_MAX_BYTES}; use configMap or oci")
            )
    errors += _mcp_server(tool) + _mcp_endpoint(tool) + _permissions(tool, sources)
    return errors


def _oci(path: str, source: OCISource) -> list[FieldError]:
    errors = []
    if not source.ref:
        errors.append(required(f"{path}.ref", "write a reference such as registry/repository:tag"))
    elif not OCI_REF.fullmatch(source.ref):
        errors.append(invalid(f"{path}.ref", f"{source.ref!r} is not a reference such as registry/repository:tag"))
    if source.digest and not DIGEST.fullmatch(source.digest):
        errors.append(invalid(f"{path}.digest", f"{source.digest!r} is not a digest such as sha256:<64 hex digits>"))
    if source.pull_secret is not None:
        errors += common.secret_ref(f"{path}.pullSecret", source.pull_secret.name, source.pull_secret.key)
    return errors


def _mcp_server(tool: AgentTool) -> list[FieldError]:
    server = tool.spec.mcp_server
    if server is None:
        return []
    errors = []
    if not server.image:
        errors.append(required("spec.mcpServer.image", "write the image of the server"))
    else:
        errors += common.image("spec.mcpServer.image", server.image)
    errors += common.env("spec.mcpServer.env", server.env)
    errors += common.secret_env("spec.mcpServer.secrets", server.secrets, server.env)
    errors += common.resources("spec.mcpServer.resources", server.resources.requests, server.resources.limits)
    return errors


def _mcp_endpoint(tool: AgentTool) -> list[FieldError]:
    endpoint = tool.spec.mcp_endpoint
    if endpoint is None:
        return []
    if not endpoint.url:
        return [required("spec.mcpEndpoint.url", "write the http or https URL of the server")]
    return common.http_url("spec.mcpEndpoint.url", endpoint.url)


def _permissions(tool: AgentTool, sources: list[str]) -> list[FieldError]:
    permissions = tool.spec.default_permissions
    if permissions is None or permissions.mode is None or not sources:
        return []
    if any(source in ("mcpServer", "mcpEndpoint") for source in sources):
        return []
    return [
        invalid("spec.defaultPermissions.mode", f"a tool from {sources[0]} has no permissions; only MCP tools have")
    ]
