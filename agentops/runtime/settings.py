"""Settings of the runtime: flags over environment over the pod's defaults, and config.json behind them.

Whatever is wrong here ends the process before it listens, with one line that names file or variable,
field and fix.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from attrs import evolve, field, frozen

from agentops.api.codec import WireError, loads
from agentops.api.runtime_config import SCHEMA_VERSION, RuntimeConfig
from agentops.net.paths import pod_path
from agentops.runtime.errors import ConfigFault

CONFIG_PATH = "/etc/operator/config.json"
DATA_DIR = "/var/lib/agentops"
WORKSPACE = "/data"
LISTEN = ":4096"
GRACE_S = 110.0
"""How long a turn may go on after SIGTERM; under the pod's 120 s, so that what is left still gets written."""
MAX_CONFIG_BYTES = 4 << 20


@frozen
class Settings:
    """Where things are, as the pod names them; `data_path` and `workspace_path` are where they really are."""

    config_path: str = CONFIG_PATH
    data_dir: str = DATA_DIR
    workspace: str = WORKSPACE
    listen: str = LISTEN
    token_file: str | None = None
    memory_token_file: str | None = None
    insecure: bool = False
    grace_s: float = GRACE_S
    name: str = "default"
    namespace: str = "default"
    environ: Mapping[str, str] = field(factory=dict, repr=False)

    @property
    def data_path(self) -> Path:
        return pod_path(os.path.abspath(self.data_dir), self.environ)

    @property
    def workspace_path(self) -> Path:
        return pod_path(os.path.abspath(self.workspace), self.environ)


def settings_from(environ: Mapping[str, str], **flags: Any) -> Settings:
    """`flags` that are None fall back to the environment, then to the defaults."""
    found = Settings(
        config_path=environ.get("AGENT_CONFIG_PATH") or CONFIG_PATH,
        data_dir=environ.get("AGENT_DATA_DIR") or DATA_DIR,
        workspace=environ.get("WORKSPACE") or WORKSPACE,
        listen=environ.get("AGENT_LISTEN") or LISTEN,
        token_file=environ.get("AGENT_TOKEN_FILE") or None,
        memory_token_file=environ.get("MEMORY_TOKEN_FILE") or None,
        name=environ.get("AGENT_NAME") or "default",
        namespace=environ.get("AGENT_NAMESPACE") or "default",
        grace_s=_grace(environ.get("AGENT_GRACE_SECONDS")),
        environ=dict(environ),
    )
    return evolve(found, **{name: value for name, value in flags.items() if value is not None})


def load_config(settings: Settings) -> RuntimeConfig:
    """Read and check config.json. Raises ConfigFault."""
    path = pod_path(settings.config_path, settings.environ)
    shown = settings.config_path
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise ConfigFault(
            f"{shown}: no such file; set AGENT_CONFIG_PATH or --config to the agent's config.json"
        ) from None
    except OSError as error:
        raise ConfigFault(f"{shown}: {error.strerror}; set AGENT_CONFIG_PATH to a readable file") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigFault(f"{shown}: larger than {MAX_CONFIG_BYTES} bytes")
    _check_version(shown, data)
    try:
        config = loads(RuntimeConfig, data)
    except WireError as error:
        raise ConfigFault(f"{shown}: {error}; fix the field and start again") from None
    return _checked(shown, config)


def prepare_directories(settings: Settings, *, durable: bool) -> None:
    """Make the workspace, and with `durable` the state dir; check that both can be written. Raises ConfigFault."""
    wanted = [("WORKSPACE", settings.workspace, settings.workspace_path)]
    if durable:
        wanted.append(("AGENT_DATA_DIR", settings.data_dir, settings.data_path))
    for variable, shown, path in wanted:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigFault(f"{variable} {shown}: {error.strerror}; set it to a directory that can be made") from None
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigFault(f"{variable} {shown}: not readable and writable by uid {os.getuid()}; check its owner")
    if durable and settings.data_path.resolve().is_relative_to(settings.workspace_path.resolve()):
        raise ConfigFault(
            f"AGENT_DATA_DIR {settings.data_dir} lies inside WORKSPACE {settings.workspace}: tools must not see the "
            "agent's state; set it to a directory outside"
        )


def _check_version(shown: str, data: bytes) -> None:
    """Before the fields are read: a newer file may have other ones."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ConfigFault(f"{shown}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigFault(f"{shown}: expected a JSON object, got {type(raw).__name__}")
    version = raw.get("schemaVersion", SCHEMA_VERSION)
    if not isinstance(version, int) or isinstance(version, bool):
        raise ConfigFault(f"{shown}: schemaVersion: expected an integer, got {version!r}")
    if version > SCHEMA_VERSION:
        raise ConfigFault(
            f"{shown}: schemaVersion {version} is newer than this runtime reads ({SCHEMA_VERSION}); "
            "use a runtime image as new as the operator"
        )
    if version < SCHEMA_VERSION - 1:
        raise ConfigFault(
            f"{shown}: schemaVersion {version} is too old for this runtime ({SCHEMA_VERSION - 1} or "
            f"{SCHEMA_VERSION}); let the current operator write it again"
        )


def _checked(shown: str, config: RuntimeConfig) -> RuntimeConfig:
    problems = []
    if not 0 < config.budget_fraction < 1:
        problems.append(f"budgetFraction: must be between 0 and 1, got {config.budget_fraction}")
    for name, value in (
        ("maxSteps", config.max_steps),
        ("maxOutputTokens", config.max_output_tokens),
        ("maxToolResultChars", config.max_tool_result_chars),
    ):
        if value is not None and value < 1:
            problems.append(f"{name}: must be at least 1, got {value}")
    names = [provider.name for provider in config.providers]
    if len(set(names)) != len(names):
        problems.append("providers: two providers have the same name")
    if problems:
        raise ConfigFault(f"{shown}: " + "; ".join(problems))
    return config


def _grace(text: str | None) -> float:
    if not text:
        return GRACE_S
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise ConfigFault(f"AGENT_GRACE_SECONDS: {text!r} is not a number of seconds between 0 and 86400")
    return value
