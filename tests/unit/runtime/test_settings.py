from __future__ import annotations

from pathlib import Path

import pytest

from agentops.runtime.errors import ConfigFault
from agentops.runtime.settings import Settings, load_config, prepare_directories, settings_from


def test_flags_win_over_environment_over_defaults() -> None:
    environ = {"AGENT_LISTEN": ":1", "WORKSPACE": "/w", "AGENT_NAME": ""}
    settings = settings_from(environ, listen=":2", workspace=None)
    assert (settings.listen, settings.workspace, settings.name) == (":2", "/w", "default")
    assert (settings.data_dir, settings.grace_s) == ("/var/lib/agentops", 110.0)


def test_pod_paths_follow_the_root_of_the_pod(tmp_path: Path) -> None:
    settings = settings_from({"AGENTOPS_ROOT": str(tmp_path)})
    assert settings.workspace_path == tmp_path / "data"
    assert settings.data_path == tmp_path / "var/lib/agentops"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "expected"),
        ('{"schemaVersion": "1"}', "schemaVersion"),
        ('{"schemaVersion": -1}', "too old"),
        ('{"budgetFraction": 2}', "budgetFraction"),
        ('{"maxSteps": 0}', "maxSteps: must be at least 1"),
        ('{"providers": [{"name": "a"}, {"name": "a"}]}', "same name"),
        ('{"providers": [{}]}', "providers"),
    ],
)
def test_a_bad_field_is_named_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigFault, match=says) as fault:
        load_config(Settings(config_path=str(path)))
    assert str(path) in str(fault.value)


def test_unknown_fields_and_a_missing_version_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"primaryModel": "m", "holograms": true}')
    assert load_config(Settings(config_path=str(path))).primary_model == "m"


def test_state_inside_the_workspace_is_refused(tmp_path: Path) -> None:
    settings = Settings(workspace=str(tmp_path), data_dir=str(tmp_path / "state"))
    with pytest.raises(ConfigFault, match="inside WORKSPACE"):
        prepare_directories(settings, durable=True)
