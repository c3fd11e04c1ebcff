"""Images are names of programs."""

from __future__ import annotations

import sys

import pytest

from agentops.local.kubelet.errors import ImageNotMapped
from agentops.local.kubelet.images import DEFAULT_IMAGES, ImageMap, ImageSpec, repository_basename


@pytest.mark.parametrize(
    "image",
    [
        "agentops",
        "agentops:0.1.0",
        "registry.example:5000/team/agentops:1.2@sha256:0123",
        "docker.io/library/agentops@sha256:0123",
    ],
)
def test_the_last_part_of_the_repository_picks_the_program(image: str) -> None:
    assert repository_basename(image) == "agentops"


def test_the_agentops_image_is_the_python_that_runs_the_plane() -> None:
    spec = DEFAULT_IMAGES.resolve("agentops:0.1.0")
    assert spec.argv((), ("operator",)) == (sys.executable, "-P", "-m", "agentops", "operator")


def test_another_image_is_refused_with_the_whole_table() -> None:
    with pytest.raises(ImageNotMapped, match=r'"nginx:1".*agentops -> .*-m agentops'):
        DEFAULT_IMAGES.resolve("nginx:1")


def test_command_replaces_the_entrypoint_and_its_default_arguments() -> None:
    spec = ImageSpec(entrypoint=("/bin/server",), args=("--port", "80"))
    assert spec.argv((), ()) == ("/bin/server", "--port", "80")
    assert spec.argv((), ("--help",)) == ("/bin/server", "--help")
    assert spec.argv(("sh",), ("-c", "true")) == ("sh", "-c", "true")


@pytest.mark.parametrize("command", [("tini", "--"), ("/usr/bin/tini", "-g", "--")])
def test_a_leading_tini_is_dropped_because_the_kubelet_reaps(command: tuple[str, ...]) -> None:
    assert ImageSpec(entrypoint=("x",)).argv(command, ("agentops", "operator")) == ("agentops", "operator")


def test_an_image_id_follows_from_the_mapping() -> None:
    one, other = ImageSpec(entrypoint=("a",)), ImageSpec(entrypoint=("b",))
    assert one.image_id.startswith("sha256:")
    assert one.image_id != other.image_id
    assert ImageMap({"x": one}).resolve("x").image_id == one.image_id
