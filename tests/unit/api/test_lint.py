"""`agentops lint`: every problem, with its line."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from click.testing import CliRunner

from agentops.api.lint import lint
from agentops.cli.lint import lint as command

EXAMPLES = Path(__file__).parents[3] / "examples"
HEAD = "apiVersion: agents.agentops.io/v1alpha1\n"
AGENT = HEAD + "kind: Agent\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
PROVIDER = AGENT.replace("Agent", "Provider")
RUN = AGENT.replace("Agent", "AgentRun")


def found(text: str) -> list[tuple[int, str, str]]:
    return [
        (p.line, p.error.path, "warning" if p.warning else p.error.message) for p in lint([("f.yaml", dedent(text))])
    ]


def test_every_problem_is_reported_on_its_line() -> None:
    text = """\
        apiVersion: agents.agentops.io/v1alpha1
        kind: Agent
        metadata:
          name: hello
        spec:
          mode: deamon
          model: remote/x
          providerRefs:
            - name: local
            - nam: other
          systemPromt: hi
          maxSteps: "3"
          maxSteps: 0
          builtinTools: [bash]
          env:
            PORT: 80
        """
    assert [(line, path) for line, path, _ in found(text)] == [
        (6, "spec.mode"),
        (10, "spec.providerRefs[1].nam"),
        (10, "spec.providerRefs[1].name"),
        (11, "spec.systemPromt"),
        (13, "spec.maxSteps"),
        (13, "spec.maxSteps"),
        (16, "spec.env.PORT"),
    ]
    assert (11, "spec.systemPromt", "unknown field; did you mean systemPrompt?") in found(text)


def test_one_unreadable_field_does_not_hide_the_rules() -> None:
    text = AGENT.format(name="a", spec="mode: task, model: b/c, providerRefs: [{name: a}], env: {A: 1}")
    assert {path for _, path, _ in found(text)} == {"spec.env.A", "spec.model", "spec.tools"}


def test_a_fraction_that_is_no_text_is_refused_as_the_api_server_does() -> None:
    spec = (
        "mode: task, model: b/c, providerRefs: [{name: b}], builtinTools: [ls], "
        "resources: {requests: {cpu: 0.5, memory: 1.0}, limits: {cpu: '1.5'}}"
    )
    [(_, path, message)] = found(AGENT.format(name="a", spec=spec))
    assert path == "spec.resources.requests.cpu"
    assert "got the number 0.5 (the API server takes fractions as text only: put it in quotes)" in message


def test_objects_see_one_another_across_files() -> None:
    provider = PROVIDER.format(name="p", spec="type: openaicompat, endpoint: {baseURL: http://m}, models: [a]")
    agent = AGENT.format(name="x", spec="mode: daemon, model: p/b, providerRefs: [{name: p}], builtinTools: [ls]")
    run = RUN.format(name="r", spec="agentRef: x, prompt: hi, git: {resourceRef: g, branch: b}")
    problems = lint([("agent.yaml", agent), ("run.yaml", run), ("provider.yaml", provider)])
    assert [(p.file, p.subject, p.error.path) for p in problems] == [
        ("agent.yaml", "Agent/x", "spec.model"),
        ("run.yaml", "AgentRun/r", "spec.git"),
        ("run.yaml", "AgentRun/r", "spec.git.resourceRef"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: [", 1, "not YAML"),
        ("a: 1\nb: {\n", 3, "not YAML"),
        ("- 1\n", 1, "expected an object"),
        ("kind: Agent\n", 1, "is required"),
        ("{}\n", 1, "?/?: apiVersion: is required"),
        ("apiVersion: agents.agentops.io/v1\nkind: Agent\n", 1, "write agents.agentops.io/v1alpha1"),
        (HEAD + "kind: Agnt\n", 2, "not one of Agent"),
        (HEAD + "kind: AgentRun\nspec: {agentRef: a, prompt: p}\n", 1, "is required"),
    ],
)
def test_what_is_no_object_of_ours_is_said_in_one_line(text: str, line: int, says: str) -> None:
    (problem,) = lint([("f", text)])
    assert problem.line == line
    assert says in str(problem)


def test_other_groups_and_empty_documents_are_passed_over() -> None:
    assert found("---\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nonsense: 1}\n") == []


def test_the_items_of_a_list_are_looked_at() -> None:
    text = """\
        apiVersion: v1
        kind: List
        items:
          - apiVersion: agents.agentops.io/v1alpha1
            kind: Provider
            metadata: {name: p}
            spec: {type: x}
        """
    assert [(line, path) for line, path, _ in found(text)] == [(7, "spec.type")]


def test_the_examples_have_no_problems() -> None:
    result = CliRunner().invoke(command, ["-f", str(EXAMPLES), "--strict"])
    assert (result.exit_code, result.output) == (0, "")


def test_exit_codes_tell_problems_from_unreadable_files(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(PROVIDER.format(name="p", spec="type: x"))
    result = CliRunner().invoke(command, ["-f", str(bad)])
    assert result.exit_code == 1
    assert f"{bad}:4: Provider/p: spec.type: 'x' is not one of anthropic" in result.stdout
    missing = CliRunner().invoke(command, ["-f", str(tmp_path / "no.yaml")])
    assert missing.exit_code == 2
    assert "cannot read" in missing.stderr
    odd = "mode: daemon, model: p/b, providerRefs: [{name: p}], builtinTools: [ls], concurrency: {maxRuns: 2}"
    warned = CliRunner().invoke(command, ["-f", "-"], input=AGENT.format(name="x", spec=odd))
    assert warned.exit_code == 0
    assert "warning: Agent/x: spec.concurrency.maxRuns" in warned.stdout
