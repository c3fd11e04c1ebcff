import random

from hypothesis import given
from hypothesis import strategies as st

from agentops.values.names import (
    is_dns1035_label,
    is_dns1123_label,
    is_dns1123_subdomain,
    is_label_value,
    is_qualified_name,
    random_suffix,
    safe_name,
)


@given(st.lists(st.text(max_size=300), min_size=1, max_size=3), st.integers(min_value=12, max_value=63))
def test_a_safe_name_is_always_a_label_of_the_length_asked_for(parts: list[str], length: int) -> None:
    name = safe_name(*parts, max_length=length)
    assert is_dns1123_label(name)
    assert len(name) <= length


def test_a_name_that_is_safe_already_stays() -> None:
    assert safe_name("tool", "git-hub") == "tool-git-hub"


def test_names_that_clean_to_the_same_text_stay_different() -> None:
    assert safe_name("a.b") != safe_name("a-b")
    assert safe_name("x" * 80) != safe_name("x" * 81)


def test_labels_and_subdomains_are_told_apart() -> None:
    assert is_dns1123_subdomain("a.b") and not is_dns1123_label("a.b")
    assert is_dns1123_label("1a") and not is_dns1035_label("1a")


def test_keys_have_a_prefix_or_none_and_values_may_be_empty() -> None:
    for key in ("team", "example.com/team_1.x", "a" * 63):
        assert is_qualified_name(key), key
    for key in ("", "/team", "a/b/c", "a b", "-x", "A.com/x", "example.com/", "a" * 64, "x\n"):
        assert not is_qualified_name(key), key
    assert is_label_value("") and is_label_value("A_b.c") and not is_label_value("No Such") and not is_label_value("a.")


def test_suffixes_follow_the_injected_randomness() -> None:
    assert random_suffix(random.Random(1)) == random_suffix(random.Random(1))
    assert len(random_suffix(random.Random(1), 8)) == 8
