import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.values.selector import FieldSelector, LabelSelector, SelectorError

LABELS = {"app": "web", "tier": "front", "n": "5"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True), ("app=web", True), ("app==web,tier=front", True), ("app!=web", False), ("other!=x", True),
        ("app in (web, api)", True), ("app notin (web)", False), ("app", True), ("!app", False), ("!gone", True),
        ("n>4", True), ("n<5", False), ("app>1", False), ("gone=", False), ("tier in (back)", False),
    ],
)  # fmt: skip
def test_the_grammar_of_the_query_parameter(text: str, matches: bool) -> None:
    assert LabelSelector.parse(text).matches(LABELS) is matches


@pytest.mark.parametrize("text", ["=x", "a=b=c", "a in x", "a in (x", "a,", "n>x", "a b"])
def test_a_bad_selector_is_refused(text: str) -> None:
    with pytest.raises(SelectorError):
        LabelSelector.parse(text)


def test_a_selector_object_reads_as_its_text() -> None:
    selector = LabelSelector.from_dict(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "gone", "operator": "DoesNotExist"},
            ],
        }
    )
    assert str(selector) == "app=web,tier in (front,back),!gone"
    assert selector.matches(LABELS)


@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,5}\Z"), st.from_regex(r"\A[a-z0-9]{0,5}\Z"), max_size=4))
def test_text_and_parse_are_inverse(labels: dict[str, str]) -> None:
    selector = LabelSelector.from_labels(labels)
    assert LabelSelector.parse(str(selector)) == selector
    assert selector.matches(labels)


def test_field_terms_are_equalities_on_paths() -> None:
    selector = FieldSelector.parse("metadata.name=a,spec.nodeName!=b,status.phase==")
    assert selector.terms == (("metadata.name", "=", "a"), ("spec.nodeName", "!=", "b"), ("status.phase", "=", ""))
    assert selector.matches({"metadata.name": "a", "spec.nodeName": "c"})
    assert not selector.matches({"metadata.name": "a", "spec.nodeName": "b"})


def test_a_field_selector_needs_an_operator() -> None:
    with pytest.raises(SelectorError, match="can't understand"):
        FieldSelector.parse("metadata.name")
