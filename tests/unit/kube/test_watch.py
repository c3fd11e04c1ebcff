import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentops.kube.watch import (
    LineSplitter,
    MalformedObject,
    decode_event,
    decode_list,
    decode_meta,
    decode_object,
    encode,
    strip_managed_fields,
)


def split(data, cuts):
    splitter = LineSplitter()
    lines = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        lines += splitter.feed(data[start:end])
    return lines, splitter.pending_bytes


@given(
    st.lists(st.text(alphabet=st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs", "Z", "C"]))),
    st.lists(st.integers(0, 400)),
)
@pytest.mark.guarantee("PY4")
def test_lines_are_the_same_however_the_bytes_are_cut(texts, cuts):
    """Also in the middle of a UTF-8 sequence; empty lines are heartbeats."""
    data = "".join(text + "\n" for text in texts).encode()
    lines, pending = split(data, cuts)
    assert [line.decode() for line in lines] == [text for text in texts if text]
    assert pending == 0


@pytest.mark.guarantee("PY4")
def test_megabyte_line_and_crlf_and_unfinished_tail():
    big = b"x" * 1_200_000
    data = big + b"\r\n\n\r\n" + b"y\nrest"
    lines, pending = split(data, range(0, len(data), 65536))
    assert lines == [big, b"y"]
    assert pending == 4


@pytest.mark.guarantee("PY2")
def test_event_gives_metadata_and_the_bytes_of_the_object():
    obj = {
        "kind": "Pod",
        "metadata": {
            "name": "a",
            "namespace": "ns",
            "resourceVersion": "7",
            "creationTimestamp": None,
            "labels": None,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u"}],
            "finalizers": ["x"],
        },
        "spec": {"ü": ["nested", 1.5]},
    }
    event = decode_event(json.dumps({"type": "ADDED", "object": obj}).encode())
    assert (event.type, event.kind, event.meta.name, event.meta.resource_version) == ("ADDED", "Pod", "a", "7")
    assert event.meta.owner_references[0].group == "apps"
    assert event.decode() == obj


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{", b'{"type":"ADDED"}', b'{"type":"ADDED","object":{"metadata":[]}}', b"\xff"]
)
def test_what_is_no_event_is_malformed(line):
    with pytest.raises(MalformedObject):
        decode_event(line)


@pytest.mark.parametrize(
    "line",
    [
        '{"type":"MODIFIED","object":%s}',
        '{ "type" : "MODIFIED", "object" : %s }',
        '{"object":%s,"type":"MODIFIED"}',
        '{"type":"MODIFIED","object":%s,"later":{"metadata":{"name":"b"}}}',
    ],
)
def test_events_are_understood_however_their_envelope_is_written(line):
    obj = '{"kind":"Pod","metadata":{"name":"a","managedFields":[{"manager":"m"}],"uid":"u"},"spec":{"x":"}"}}'
    event = decode_event((line % obj).encode(), managed_fields=False)
    assert (event.type, event.kind, event.meta.name, event.meta.uid) == ("MODIFIED", "Pod", "a", "u")
    assert event.decode() == {"kind": "Pod", "metadata": {"name": "a", "uid": "u"}, "spec": {"x": "}"}}
    assert decode_event((line % obj).encode()).decode() == json.loads(obj)


def test_a_compact_event_with_something_after_its_object_is_malformed():
    with pytest.raises(MalformedObject):
        decode_event(b'{"type":"ADDED","object":{"metadata":{"name":"a"}}}}')
    with pytest.raises(MalformedObject):
        decode_event(b'{"type":"ADDED","object":{"metadata":{"name":"a"}},}')


@pytest.mark.guarantee("WL3")
def test_bookmark_that_ends_the_initial_events_is_told_from_others():
    def bookmark(annotations):
        obj = {"kind": "Pod", "metadata": {"resourceVersion": "9", "annotations": annotations}}
        return decode_event(encode({"type": "BOOKMARK", "object": obj}))

    assert bookmark({"k8s.io/initial-events-end": "true"}).ends_initial_events
    assert not bookmark({"k8s.io/initial-events-end": "false"}).ends_initial_events
    assert not bookmark(None).ends_initial_events


def test_list_page():
    page = decode_list(
        encode(
            {
                "kind": "PodList",
                "metadata": {"resourceVersion": "5", "continue": "t"},
                "items": [{"metadata": {"name": "a"}}],
            }
        )
    )
    assert (page.resource_version, page.continue_token) == ("5", "t")
    assert [(meta.name, raw) for meta, raw in page.items] == [("a", b'{"metadata":{"name":"a"}}')]
    assert decode_list(b'{"kind":"PodList","metadata":{},"items":null}').items == []


@pytest.mark.guarantee("LI14")
@pytest.mark.parametrize("body", [b"{}", b'{"kind":"Pod","metadata":{"name":"a","resourceVersion":"5"}}'])
def test_what_has_no_items_is_no_list(body):
    with pytest.raises(MalformedObject, match="that has no items"):
        decode_list(body)


@pytest.mark.guarantee("PY4")
def test_line_that_never_ends_is_given_up():
    splitter = LineSplitter()
    chunk = b"x" * (1 << 20)
    for _ in range(64):
        assert list(splitter.feed(chunk)) == []
    with pytest.raises(MalformedObject, match="more than 64 MiB"):
        list(splitter.feed(chunk))


@pytest.mark.guarantee("IN27")
def test_depth_that_servers_allow_is_read_and_written():
    deep = {"spec": "x"}
    for _ in range(1_200):
        deep = {"a": deep}
    raw = encode({"metadata": {"name": "a"}, "spec": deep})
    assert decode_meta(raw).name == "a"
    assert encode(decode_object(raw)) == raw
    for beyond in (b"[" * 100_000 + b"]" * 100_000, b"[]", b"1e999", b"null"):
        with pytest.raises(MalformedObject):
            decode_object(beyond)


@pytest.mark.guarantee("LI12")
def test_table_is_refused():
    with pytest.raises(MalformedObject, match="Table"):
        decode_list(b'{"kind":"Table","rows":[]}')


names = st.text(alphabet='ab"\\,:{}', max_size=8)


@given(
    st.dictionaries(names, names, max_size=3),
    st.lists(st.dictionaries(names, names, max_size=2), min_size=1, max_size=2),
    st.permutations(["labels", "managedFields", "name", "annotations"]),
    st.booleans(),
    st.booleans(),
)
@pytest.mark.guarantee("IN15")
def test_cutting_managed_fields_out_changes_nothing_else(labels, managed, order, compact, spec_first):
    values = {
        "labels": labels,
        "managedFields": managed,
        "name": "a",
        "annotations": {"x": '"managedFields":' + json.dumps(managed)},
    }
    obj = {"metadata": {key: values[key] for key in order}, "spec": {"managedFields": managed}}
    if spec_first:
        obj = {"spec": obj["spec"], "metadata": obj["metadata"]}
    separators = (",", ":") if compact else None
    stripped = json.loads(strip_managed_fields(json.dumps(obj, separators=separators).encode()))
    del obj["metadata"]["managedFields"]
    assert stripped == obj


def test_object_without_managed_fields_is_left_as_it_is():
    raw = b'{"metadata":{"name":"a"}}'
    assert strip_managed_fields(raw) is raw
    assert decode_meta(raw).name == "a"
    with pytest.raises(MalformedObject):
        decode_meta(b"nope")
