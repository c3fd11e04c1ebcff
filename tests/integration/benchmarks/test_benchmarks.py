"""Every benchmark once, tiny and untimed, so that none rots; and the yardstick does its work."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import anyio
import pytest
import yaml
from attrs import asdict

from agentops.kube.errors import NotFound
from agentops.kube.kinds import CONFIG_MAP
from benchmarks import (
    compare,
    failover,
    halfopen,
    idle,
    ingest,
    latency,
    micro,
    reconciles,
    report,
    restart,
    storm,
    webhooks,
)
from benchmarks.cluster import api_server, widgets_on
from benchmarks.contenders import CONTENDERS
from benchmarks.measure import REPOSITORY, Child, own_command, percentile
from benchmarks.widgets import WIDGET


def settings(module: ModuleType, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    parsed = parser.parse_args(arguments)
    parsed.peer_python = ""
    return parsed


@pytest.mark.anyio
async def test_widgets_puts_right_what_another_hand_changes_and_then_writes_nothing(tmp_path: Path) -> None:
    with api_server(tmp_path) as (_, kubeconfig):
        async with widgets_on(kubeconfig, 8) as widgets:
            await widgets.create()
            command = own_command("benchmarks.widgets")
            with Child(command, tmp_path / "widgets.log", env={"KUBECONFIG": str(kubeconfig)}) as controller:
                await widgets.all_settled(timeout_s=60, contender=controller)
                namespace, name = widgets.names[0]
                await widgets.client.delete(CONFIG_MAP, name, namespace)
                evil = {"data": {"value": "evil"}, "metadata": {"ownerReferences": None}}
                await widgets.client.patch(CONFIG_MAP, widgets.names[1][1], evil, widgets.names[1][0])
                await widgets.client.patch(
                    WIDGET, widgets.names[2][1], {"status": {"phase": "No"}}, widgets.names[2][0], subresource="status"
                )
                with anyio.fail_after(30):
                    while await widgets.wrong() or not await _ready(widgets, 2):
                        await anyio.sleep(0.05)
                revision = await widgets.revision()
                await anyio.sleep(0.5)
                assert await widgets.revision() == revision, "it writes at rest"
            assert controller.stop() == 0, controller.log


async def _ready(widgets: object, number: int) -> bool:
    namespace, name = widgets.names[number]  # type: ignore[attr-defined]
    try:
        widget = await widgets.client.get(WIDGET, name, namespace)  # type: ignore[attr-defined]
    except NotFound:
        return False
    return widget.get("status") == {"observedGeneration": widget["metadata"]["generation"], "phase": "Ready"}


def test_widgets_prints_its_crd() -> None:
    printed = subprocess.run(
        own_command("benchmarks.widgets", "--crd"), cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    crd = yaml.safe_load(printed.stdout)
    assert crd["metadata"]["name"] == "widgets.bench.agentops.io"
    assert crd["spec"]["versions"][0]["subresources"] == {"status": {}}


def test_comparison_fills_every_figure_of_a_contender(tmp_path: Path) -> None:
    arguments = ("--objects", "12", "--rounds", "1", "--samples", "3", "--idle-s", "0.5", "--contenders", "agentops")
    result = compare.run(settings(compare, *arguments))
    assert result.details["failures"] == {}
    assert set(result.figures["agentops"]) == set(compare.METRICS)
    assert result.figures["agentops"]["wrong"]["max"] == 0
    assert result.figures["agentops"]["writes_at_rest"]["max"] == 0


def test_ingest_fills_every_figure_of_a_contender() -> None:
    arguments = ("--objects", "60", "--events", "60", "--rounds", "1", "--contenders", "agentops")
    result = ingest.run(settings(ingest, *arguments))
    assert result.details["failures"] == {}
    assert set(result.figures["agentops"]) == set(ingest.METRICS)


@pytest.mark.parametrize("options", [("--no-streaming",), ("--no-streaming", "--ignore-limit")])
def test_ingest_takes_in_lists_that_are_not_streamed(tmp_path: Path, options: tuple[str, ...]) -> None:
    found = ingest.measure(own_command("benchmarks.ingest_ours"), tmp_path, "ours", 60, 60, *options)
    assert min(found["list_per_s"], found["events_per_s"]) > 0


def test_idle_and_storm_measure_a_manager_from_outside() -> None:
    waiting = idle.run(settings(idle, "--objects", "50", "--seconds", "0.5"))
    assert waiting.figures["agentops"]["rss_mib"]["median"] > 0
    after = storm.run(settings(storm, "--informers", "2", "--objects", "50"))
    assert after.figures["agentops"]["peak_rss_mib"]["median"] > 0


def test_a_half_open_watch_loses_nothing_and_is_noticed_in_time() -> None:
    result = halfopen.run(settings(halfopen, "--rounds", "3", "--changes", "10"))
    assert result.figures["after a bookmark"]["noticed_s"]["max"] <= 105
    assert all(row["lost"]["max"] == 0 for row in result.figures.values())


def test_restart_recovers_without_a_needless_write_with_and_without_its_history() -> None:
    result = restart.run(settings(restart, "--objects", "20", "--outage-s", "0.5"))
    kept, expired = result.figures["history kept"], result.figures["history expired"]
    assert kept["lists"]["max"] == 0 < 2 <= expired["lists"]["max"]
    assert all(row["writes"]["max"] == row["wrong"]["max"] == 0 for row in (kept, expired))


def test_latency_misses_no_event() -> None:
    arguments = ("--objects", "50", "--rates", "200", "--seconds", "0.5", "--contenders", "agentops")
    result = latency.run(settings(latency, *arguments))
    assert result.details["failures"] == {}
    assert len(result.figures) == 2
    assert all(row["missing"]["max"] == 0 < row["p50_ms"]["max"] for row in result.figures.values())


def test_reconciles_of_hot_keys_are_fewer_than_their_events() -> None:
    figures = reconciles.run(settings(reconciles, "--objects", "1000", "--rounds", "1")).figures
    assert figures["no-op, 1 worker"]["per_event"]["median"] == 1
    assert figures["hot keys, 1 worker"]["per_event"]["median"] < 0.5


def test_webhooks_answer_every_review_while_pods_are_taken_in() -> None:
    result = webhooks.run(settings(webhooks, "--rates", "50", "--seconds", "0.3", "--pods", "100"))
    assert len(result.figures) == 2
    assert all(row["failed"]["max"] == 0 < row["reviews"]["max"] for row in result.figures.values())


def test_failover_on_sigterm_never_has_two_leaders(tmp_path: Path) -> None:
    assert failover.measure(tmp_path, Child.stop)["overlap"] == 0


def test_micro_measures_every_part() -> None:
    result = micro.run(settings(micro, "--objects", "40", "--rounds", "1"))
    # some figures are differences of two timings, so that noise may take them below zero
    assert all(math.isfinite(row["us"]["median"]) for row in result.figures.values())
    stormy = micro.run_storm(settings(micro, "--failing", "10", "--seconds", "1"))
    assert stormy.figures["agentops"]["retries_per_s"]["median"] > 0


def test_a_result_becomes_a_table_and_a_plot_and_replaces_its_section(tmp_path: Path) -> None:
    figures = {"ours": report.once(a_ms=1.5), "theirs": report.once(a_ms=3.0)}
    result = report.Result("widgets", "Title", {"a_ms": "a, ms"}, {"objects": 1}, figures)
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- widgets -->\nold\n<!-- /widgets -->\n\nrest\n")
    report.write_section(page, result)
    text = page.read_text()
    assert "| a, ms | 1.5 | 3 |" in text
    assert "old" not in text
    assert text.endswith("rest\n")
    assert report.plot(result, ("a_ms",), title="T").startswith("<svg")
    assert json.loads(json.dumps(asdict(result)))["name"] == "widgets"


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentile([], 50) == 0
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(list(range(1, 101)), 99) == 99


def test_nothing_here_imports_a_peer() -> None:
    modules = {c.widgets for c in CONTENDERS.values()} | {c.ingest for c in CONTENDERS.values()}
    assert all((REPOSITORY / (module.replace(".", "/") + ".py")).exists() for module in modules)
    code = "import benchmarks.__main__, sys; assert not {'kopf', 'lightkube'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
