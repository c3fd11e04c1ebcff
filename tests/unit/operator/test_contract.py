"""What the operator renders is what the runtime reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.operator import NAMESPACE

from agentops.runtime.settings import load_config, settings_from

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["daemon", "task"])
def test_the_runtime_accepts_the_rendered_config(name: str, tmp_path: Path) -> None:
    config_map = next(
        obj for obj in yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text()) if obj["kind"] == "ConfigMap"
    )
    path = tmp_path / "config.json"
    path.write_text(config_map["data"]["config.json"])
    config = load_config(settings_from({"AGENT_CONFIG_PATH": str(path)}))
    assert config.primary_model == "local/smollm2"
    assert [provider.name for provider in config.providers] == ["local"]


def test_the_runtime_finds_its_settings_in_the_rendered_environment() -> None:
    manifests = yaml.safe_load_all((GOLDEN / "daemon-full.yaml").read_text())
    deployment = next(obj for obj in manifests if obj["kind"] == "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    settings = settings_from({item["name"]: item.get("value", "") for item in container["env"]})
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert (settings.name, settings.namespace) == ("full", NAMESPACE)
    assert settings.grace_s == 110
    assert settings.token_file == "/var/run/agentops/token/token"
    assert settings.memory_token_file == "/var/run/agentops/memory/token"
    assert {"/etc/operator", settings.data_dir, "/var/run/agentops/token", "/var/run/agentops/memory"} <= mounts
