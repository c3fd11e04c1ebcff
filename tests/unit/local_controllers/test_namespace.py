"""What a terminating namespace says about itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

from agentops.local.controllers.namespace import Remains, next_status


def told(make: Any, remains: Remains) -> dict[str, tuple[str, str, str]]:
    conditions = next_status({"metadata": {"name": "ns"}}, remains, make.now)["conditions"]
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in conditions}


def test_what_remains_is_named_by_resource_and_group(make: Any) -> None:
    remains = Remains(
        resources=Counter({"widgets.example.com": 2, "configmaps": 1}), finalizers=Counter({"x/y": 1, "a/b": 2})
    )
    conditions = told(make, remains)
    assert conditions["NamespaceContentRemaining"] == (
        "True",
        "SomeResourcesRemain",
        "Some resources are remaining: configmaps. has 1 resource instances, "
        "widgets.example.com has 2 resource instances",
    )
    assert conditions["NamespaceFinalizersRemaining"] == (
        "True",
        "SomeFinalizersRemain",
        "Some content in the namespace has finalizers remaining: a/b in 2 resource instances, "
        "x/y in 1 resource instances",
    )


def test_failures_are_counted_and_told_in_a_stable_order(make: Any) -> None:
    conditions = told(make, Remains(content_errors=["secrets: no", "configmaps: no"]))
    assert conditions["NamespaceDeletionContentFailure"] == (
        "True",
        "ContentDeletionFailed",
        "Failed to delete all resource types, 2 remaining: configmaps: no, secrets: no",
    )
    assert told(make, Remains(discovery_error="down"))["NamespaceDeletionDiscoveryFailure"] == (
        "True",
        "DiscoveryFailed",
        "down",
    )
