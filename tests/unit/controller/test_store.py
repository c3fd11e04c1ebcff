import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.controller.store import Entry, Store, version_number
from agentops.kube.kinds import POD
from agentops.kube.watch import decode_meta, encode
from agentops.values.selector import LabelSelector


def entry(name, version=1, namespace="ns", node="n1", **labels):
    raw = encode(
        {
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": str(version), "labels": labels},
            "spec": {"nodeName": node},
        }
    )
    return Entry(POD, decode_meta(raw), raw, version)


def by_node(obj):
    return [obj["spec"]["nodeName"]] if obj["spec"]["nodeName"] else []


def names(entries):
    return sorted(e.meta.name for e in entries)


@pytest.mark.guarantee("IN19", "IN21")
def test_lists_by_namespace_and_labels():
    store = Store()
    for e in (entry("a", app="x"), entry("b", app="y"), entry("c", namespace="other", app="x")):
        store.put(e)
    assert names(store.list("ns")) == ["a", "b"]
    assert names(store.list("", LabelSelector.parse("app=x"))) == ["a", "c"]
    assert names(store.list("ns", LabelSelector.parse("app=x"))) == ["a"]
    assert names(store.list("nowhere")) == []


@pytest.mark.guarantee("IN19")
def test_a_namespace_is_listed_without_a_look_at_the_others():
    class Unlistable(dict):
        def __iter__(self):
            raise AssertionError("all objects are looked at")

    store = Store()
    for e in (entry("a"), entry("b", namespace="other")):
        store.put(e)
    store._entries = Unlistable(store._entries)
    assert names(store.list("ns")) == ["a"]


@pytest.mark.guarantee("IN19")
def test_an_index_value_that_is_everywhere_costs_a_namespace_what_it_holds():
    class Unlistable(dict):
        def __iter__(self):
            raise AssertionError("all objects of the value are looked at")

    store = Store()
    store.add_index("node", by_node)
    for e in (entry("a"), entry("b", node="n2"), *(entry("a", namespace=f"ns{n}") for n in range(5))):
        store.put(e)
    store._indices["node"]["n1"] = Unlistable(store._indices["node"]["n1"])
    assert names(store.by_index("node", "n1", "ns")) == ["a"]
    assert names(store.by_index("node", "n1", "nowhere")) == []


@pytest.mark.guarantee("IN21")
def test_nothing_is_decoded_to_compare_labels(monkeypatch):
    store = Store()
    for e in (entry("a", app="x"), entry("b", app="y")):
        store.put(e)
    monkeypatch.setattr(Entry, "object", lambda self: pytest.fail("an object is decoded"))
    assert names(store.list("", LabelSelector.parse("app=x"))) == ["a"]


@pytest.mark.guarantee("IN16", "IN18")
def test_index_added_late_covers_what_is_there_and_empty_values_vanish():
    store = Store()
    store.put(entry("a"))
    store.add_index("node", by_node)
    assert names(store.by_index("node", "n1")) == ["a"]
    store.put(entry("a", 2, node="n2"))
    assert names(store.by_index("node", "n1")) == []
    assert store.index_values("node") == ["n2"]
    store.remove(("ns", "a"))
    assert store.index_values("node") == []


@pytest.mark.guarantee("IN16")
def test_unknown_and_duplicate_indices_are_errors():
    store = Store("pods")
    with pytest.raises(KeyError, match="no index 'node'"):
        store.by_index("node", "x")
    store.add_index("node", by_node)
    with pytest.raises(ValueError, match="already"):
        store.add_index("node", by_node)


def test_index_function_that_raises_finds_nothing_and_is_logged(caplog):
    store = Store()
    store.add_index("bad", lambda obj: [obj["nope"]])
    store.put(entry("a"))
    assert names(store.by_index("bad", "x")) == []
    assert "index.failed" in caplog.text


def test_index_function_that_returns_a_string_is_told_to_return_a_list(caplog):
    store = Store()
    store.add_index("node", lambda obj: obj["spec"]["nodeName"])
    store.put(entry("a"))
    assert store.index_values("node") == []
    assert "return a list of strings" in caplog.text


@pytest.mark.guarantee("WA18")
def test_versions_that_are_no_numbers_are_minus_one():
    assert [version_number(v) for v in ("12", "", "abc", "-1", "²")] == [12, -1, -1, -1, -1]


operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.sampled_from(["n1", "n2", ""])),
        st.tuples(st.just("remove"), st.sampled_from("abc"), st.just("")),
        st.tuples(st.just("replace"), st.sampled_from(["", "ab", "c"]), st.sampled_from(["n1", "n2"])),
    )
)


@given(operations)
@pytest.mark.guarantee("IN16")
def test_indices_equal_a_rebuild_after_any_history(history):
    store = Store()
    store.add_index("node", by_node)
    for version, (operation, name, node) in enumerate(history):
        if operation == "put":
            store.put(entry(name, version, node=node))
        elif operation == "remove":
            store.remove(("ns", name))
        else:
            store.replace([entry(n, version, node=node) for n in name])
    rebuilt = Store()
    rebuilt.replace(list(store.list()))
    rebuilt.add_index("node", by_node)
    assert sorted(store.index_values("node")) == sorted(rebuilt.index_values("node"))
    for value in rebuilt.index_values("node"):
        assert names(store.by_index("node", value)) == names(rebuilt.by_index("node", value))
    assert names(store.list("ns")) == names(store.list())
