"""Results as JSON, as a table, as a plot. `python -m benchmarks.report` renders docs/benchmarks.md anew."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from attrs import asdict, field, frozen

from benchmarks.measure import REPOSITORY, machine

PAGE = REPOSITORY / "docs" / "benchmarks.md"
_COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#64748b")


@frozen(slots=True)
class Result:
    """One benchmark's outcome. `figures` is contender (or case) to metric to {median, min, max}."""

    name: str
    title: str
    metrics: Mapping[str, str]
    settings: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]
    details: Mapping[str, Any] = field(factory=dict)
    machine: Mapping[str, Any] = field(factory=machine)


def once(**values: float) -> dict[str, dict[str, float]]:
    """Figures of a single run."""
    return {key: {"median": value, "min": value, "max": value} for key, value in values.items()}


def table(result: Result) -> str:
    """Markdown: a row per metric, a column per contender; then ours to theirs."""
    names = list(result.figures)
    if result.details.get("transposed"):
        return _transposed(result)
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for key, label in result.metrics.items():
        cells = [_cell(result.figures[name].get(key)) for name in names]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cell or '-' for cell in cells)} |")
    ratios = {name: row for name, row in (result.details.get("ratios") or {}).items() if row}
    if ratios:
        lines += ["", f"| ours to theirs | {' | '.join(ratios)} |", f"|---|{'---|' * len(ratios)}"]
        for key, label in result.metrics.items():
            if any(key in row for row in ratios.values()):
                cells = [f"{row[key]:.2f}x" if key in row else "-" for row in ratios.values()]
                lines.append(f"| {label} | {' | '.join(cells)} |")
    for name, why in (result.details.get("failures") or {}).items():
        lines += ["", f"{name} did not finish: {why}"]
    return "\n".join(lines)


def _transposed(result: Result) -> str:
    """A row per case, for many cases with few metrics."""
    lines = [f"| | {' | '.join(result.metrics.values())} |", f"|---|{'---|' * len(result.metrics)}"]
    for name, row in result.figures.items():
        lines.append(f"| {name} | {' | '.join(_cell(row.get(key)) or '-' for key in result.metrics)} |")
    return "\n".join(lines)


def section(result: Result) -> str:
    """A result as it stands in the page."""
    settings = ", ".join(f"{key} {value}" for key, value in result.settings.items())
    where = result.machine
    versions = {"ours": where["versions"], **(result.details.get("peers") or {})}
    installed = "; ".join(
        f"{name}: {', '.join(f'{package} {number}' for package, number in found.items())}"
        for name, found in versions.items()
        if found
    )
    parts = [
        f"### {result.title}",
        f"{settings}.",
        table(result),
        f"{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}, CPython {where['python']}, "
        f"load before {where['load_before'][0]}. {installed}.",
    ]
    if result.details.get("server"):
        parts.insert(1, f"Server: {result.details['server']}.")
    return "\n\n".join(parts)


def write_section(page: Path, result: Result) -> None:
    """Put a result between its markers in the page."""
    text = page.read_text()
    begin, end = f"<!-- {result.name} -->", f"<!-- /{result.name} -->"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    body = f"{begin}\n{section(result)}\n{end}"
    page.write_text(re.sub(re.escape(begin) + r".*?" + re.escape(end), lambda _: body, text, flags=re.DOTALL))


def plot(result: Result, keys: tuple[str, ...], *, title: str) -> str:
    """An SVG of grouped bars, each metric scaled by its largest value; whiskers are min and max."""
    names = list(result.figures)
    bar, gap, height, top, left = 26, 34, 220, 54, 20
    group = max(bar * len(names) + gap, 170)
    width = max(left * 2 + group * len(keys), 480)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height + top + 66}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{left}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, name in enumerate(names):
        x = left + number * 110
        parts.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{_COLOURS[number % len(_COLOURS)]}"/>')
        parts.append(f'<text x="{x + 14}" y="39">{escape(name)}</text>')
    for column, key in enumerate(keys):
        present = {name: result.figures[name][key] for name in names if key in result.figures[name]}
        largest = max((value["max"] for value in present.values()), default=0) or 1
        x = left + column * group
        for number, name in enumerate(names):
            value = present.get(name)
            if value is None:
                continue
            at, tall = x + number * bar, height * value["median"] / largest
            y = top + height - tall
            high, low = (top + height - height * value[end] / largest for end in ("max", "min"))
            middle = at + bar / 2 - 2
            parts.append(
                f'<rect x="{at}" y="{y:.1f}" width="{bar - 4}" height="{tall:.1f}" '
                f'fill="{_COLOURS[number % len(_COLOURS)]}"/>'
                f'<line x1="{middle}" x2="{middle}" y1="{high:.1f}" y2="{low:.1f}" stroke="black"/>'
                f'<text x="{middle}" y="{max(y - 3, top):.1f}" text-anchor="middle" font-size="9">'
                f"{_number(value['median'])}</text>"
            )
        label = escape(result.metrics[key])
        parts.append(f'<text x="{x}" y="{top + height + 16}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


PLOTS = {
    "widgets": (
        ("cold_per_s", "burst_per_s", "cold_cpu_s", "burst_cpu_s", "latency_p50_ms", "latency_p99_ms", "rss_mib"),
        "Widgets: the same controller in every framework",
    ),
    "ingest-pods": (("list_per_s", "events_per_s", "bytes_per_object"), "Taking in Pods of 6 KB"),
}


def render(page: Path, files: Sequence[Path]) -> None:
    """Bring the page and its plots up to date with results on disk."""
    for file in files:
        result = Result(**json.loads(file.read_text()))
        write_section(page, result)
        if result.name in PLOTS:
            keys, title = PLOTS[result.name]
            file.with_suffix(".svg").write_text(plot(result, keys, title=title))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark can be told."""
    parser.add_argument("--peer-python", default="", help="interpreter of the peers' environment; none: ours alone")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--page", type=Path, help="put the table into this page, such as docs/benchmarks.md")


def finish(result: Result, args: argparse.Namespace) -> None:
    """Print, and write where `args` say."""
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(asdict(result), indent=1, default=str) + "\n")
    if args.page:
        write_section(args.page, result)


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return ""
    if value["min"] == value["max"]:
        return _number(value["median"])
    return f"{_number(value['median'])} ({_number(value['min'])}-{_number(value['max'])})"


def _number(value: float) -> str:
    if value == round(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


if __name__ == "__main__":
    render(PAGE, sorted(PAGE.with_suffix("").glob("*.json")))
