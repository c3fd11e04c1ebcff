"""Conversion through a hub."""

import time

import anyio
import orjson
import pytest

from agentops.controller.admission import BadReview
from agentops.controller.conversion import ConversionError, Converter, Converters, Spoke
from agentops.controller.errors import BuildError
from agentops.values.kinds import Kind

pytestmark = pytest.mark.anyio

WIDGET = Kind("example.com", "v1", "Widget", "widgets")


def colour_to_hub(obj):
    obj["spec"]["paint"] = {"colour": obj["spec"].pop("colour")}


def colour_from_hub(obj):
    obj["spec"]["colour"] = obj["spec"].pop("paint")["colour"]


def size_to_hub(obj):
    if obj["spec"]["size"] == "huge":
        raise ConversionError("size 'huge' means nothing in v1")
    obj["spec"]["size"] = int(obj["spec"]["size"])


def size_from_hub(obj):
    obj["spec"]["size"] = str(obj["spec"]["size"])


SPOKES = {
    "v1alpha1": Spoke(to_hub=colour_to_hub, from_hub=colour_from_hub),
    "v1beta1": Spoke(to_hub=size_to_hub, from_hub=size_from_hub),
}
CONVERTER = Converter(WIDGET, SPOKES)


def widget(version, name="w", **spec):
    metadata = {"name": name, "uid": f"uid-{name}", "labels": {"a": "b"}, "resourceVersion": "7"}
    return {"apiVersion": f"example.com/{version}", "kind": "Widget", "metadata": metadata, "spec": spec}


def review(desired, *objects, **changes):
    request = {"uid": "u-2", "desiredAPIVersion": desired, "objects": list(objects)}
    sent = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request, **changes}
    return orjson.dumps(sent)


@pytest.fixture
def converters():
    found = Converters()
    found.add(CONVERTER)
    return found


@pytest.mark.guarantee("WH8")
def test_a_spoke_becomes_another_one_through_the_hub():
    source = widget("v1alpha1", colour="red", size=3)
    converted = CONVERTER.convert(source, "example.com/v1beta1")
    assert converted["apiVersion"] == "example.com/v1beta1"
    assert converted["spec"] == {"paint": {"colour": "red"}, "size": "3"}
    assert converted["metadata"] == source["metadata"]
    assert source["spec"] == {"colour": "red", "size": 3}, "the source is left alone"


def test_the_hub_itself_needs_one_step():
    assert CONVERTER.convert(widget("v1beta1", size="3"), "example.com/v1")["spec"] == {"size": 3}
    assert CONVERTER.convert(widget("v1", size=3), "example.com/v1beta1")["spec"] == {"size": "3"}
    assert CONVERTER.convert(widget("v1", size=3), "example.com/v1")["spec"] == {"size": 3}


@pytest.mark.guarantee("WH8")
async def test_a_batch_keeps_its_order_and_echoes_the_uid(converters):
    answer, broke = await converters.answer(
        review("example.com/v1", widget("v1beta1", "b", size="2"), widget("v1beta1", "a", size="1"))
    )
    response = answer["response"]
    assert (answer["kind"], response["uid"], response["result"]["status"]) == ("ConversionReview", "u-2", "Success")
    assert [obj["metadata"]["name"] for obj in response["convertedObjects"]] == ["b", "a"]
    assert not broke


@pytest.mark.guarantee("WH8")
async def test_one_bad_object_fails_the_batch_and_is_named(converters):
    answer, broke = await converters.answer(
        review("example.com/v1", widget("v1beta1", "a", size="1"), widget("v1beta1", "b", size="huge"))
    )
    response = answer["response"]
    assert response["result"]["status"] == "Failed"
    assert response["convertedObjects"] == []
    assert "Widget b: size 'huge'" in response["result"]["message"]
    assert not broke


async def test_a_broken_function_fails_the_batch_and_is_counted(converters):
    answer, broke = await converters.answer(review("example.com/v1", widget("v1beta1", "a")))
    assert answer["response"]["result"]["status"] == "Failed"
    assert "KeyError" in answer["response"]["result"]["message"]
    assert broke


@pytest.mark.guarantee("WH8", "WH9")
async def test_others_get_to_run_while_a_long_list_is_converted():
    running = True
    turns = 0

    async def other():
        nonlocal turns
        while running:
            turns += 1
            await anyio.sleep(0)

    def slow(obj):
        time.sleep(0.001)

    converters = Converters()
    converters.add(Converter(WIDGET, {"v2": Spoke(slow, slow)}))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await converters.answer(review("example.com/v1", *(widget("v2", f"w{number}") for number in range(60))))
        running = False
    assert turns > 5


@pytest.mark.guarantee("WH8")
def test_metadata_may_change_in_labels_and_annotations_only():
    def annotate(obj):
        obj["metadata"]["annotations"] = {"was": "v2"}

    def rename(obj):
        obj["metadata"]["name"] = "other"

    converter = Converter(WIDGET, {"v2": Spoke(annotate, annotate), "v3": Spoke(rename, rename)})
    assert converter.convert(widget("v2"), "example.com/v1")["metadata"]["annotations"] == {"was": "v2"}
    with pytest.raises(ConversionError, match="metadata"):
        converter.convert(widget("v3"), "example.com/v1")


@pytest.mark.parametrize("version", ["example.com/v9", "other.com/v1"])
def test_an_unknown_version_is_named(version):
    with pytest.raises(ConversionError, match=version):
        CONVERTER.convert(widget("v1"), version)


async def test_what_is_no_review_is_a_bad_request(converters):
    for data in (b"{}", review("example.com/v1", apiVersion="apiextensions.k8s.io/v1beta1"), review("")):
        with pytest.raises(BadReview):
            await converters.answer(data)


def test_a_kind_has_one_converter_and_its_hub_is_no_spoke(converters):
    with pytest.raises(BuildError):
        converters.add(CONVERTER)
    with pytest.raises(BuildError):
        Converter(WIDGET, {"v1": Spoke(colour_to_hub, colour_from_hub)})
