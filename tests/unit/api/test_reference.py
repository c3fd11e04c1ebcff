"""docs/reference: whole, and true to the types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from agentops.api.fields import fields_of
from agentops.api.lint import lint
from agentops.api.not_in_effect import not_in_effect
from agentops.api.objects import decode
from agentops.api.types import Agent, AgentRun, Provider

DOCS = Path(__file__).parents[3] / "docs" / "reference"
PAGES = [(Agent, "agent.md"), (AgentRun, "agentrun.md"), (Provider, "provider.md")]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def first_yaml(text: str) -> str:
    match = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert match, "the page begins with the whole object"
    return match.group(1)


@pytest.mark.parametrize(("cls", "name"), PAGES)
def test_the_whole_object_has_every_field_and_no_problem(cls: type, name: str) -> None:
    text = first_yaml(page(name))
    assert [str(problem) for problem in lint([(name, text)]) if not problem.warning] == []
    spec = next(info.type for info in fields_of(cls) if info.name == "spec")
    written = yaml.safe_load(text)["spec"]
    assert {info.json_name for info in fields_of(spec)} == written.keys()


@pytest.mark.parametrize(("cls", "name"), PAGES)
def test_every_field_of_spec_and_status_is_on_the_page(cls: type, name: str) -> None:
    text = page(name)
    fields = {info.name: info.type for info in fields_of(cls)}
    for part in ("spec", "status"):
        for info in fields_of(fields[part]):
            assert re.search(rf"`{info.json_name}[`.]", text), f"{part}.{info.json_name} is not on {name}"


@pytest.mark.parametrize(("cls", "name"), [PAGES[0], PAGES[1]])
def test_a_field_without_effect_is_called_that(cls: type, name: str) -> None:
    text = page(name)
    for path in not_in_effect(decode(cls, yaml.safe_load(first_yaml(text)))):
        field = path.split(".")[1].split("[")[0]
        if field != "providerRefs":
            line = next((line for line in text.splitlines() if re.match(rf"\| .*`{field}[`.]", line)), "")
            assert "Not in effect" in line, f"{path}: {line}"
