from __future__ import annotations

import pytest

from agentops.api.memory_access import bearer_project, project_bearer


def test_a_projects_bearer_says_its_project_and_no_other() -> None:
    bearer = project_bearer("service-bearer", " Shop ")
    assert bearer_project(bearer, "service-bearer") == "shop"
    assert bearer != project_bearer("service-bearer", "blog")


def test_a_new_service_bearer_ends_the_projects_ones() -> None:
    assert bearer_project(project_bearer("old", "shop"), "new") is None


def test_a_project_cannot_be_swapped_into_another_projects_bearer() -> None:
    mine, theirs = project_bearer("b", "shop").split("."), project_bearer("b", "blog").split(".")
    assert bearer_project(f"amp1.{theirs[1]}.{mine[2]}", "b") is None


@pytest.mark.parametrize(
    "presented", ["", "amp1", "amp1..", "amp1.a.b.c", "amp1.ä.ö", "amp1.=.=", "x" * 100_000, "\x00.\x00.\x00"]
)
def test_what_nobody_made_is_nobodys(presented: str) -> None:
    assert bearer_project(presented, "b") is None


def test_the_empty_project_is_not_every_project() -> None:
    assert bearer_project(project_bearer("b", ""), "b") is None
