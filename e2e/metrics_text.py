"""The text a scrape gives, as promtool would look at it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, frozenset[tuple[str, str]]]

MAX_SERIES = 200
"""Series of one name in a small cluster; more means a label without bounds. Histograms have one per bucket."""
_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-|\b[0-9a-f]{16,}\b")


def samples(text: str) -> dict[Sample, float]:
    """Every sample by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: Mapping[Sample, float], name: str, **labels: str) -> float:
    """The sum of the samples of `name` that have `labels`."""
    wanted = set(labels.items())
    return sum(value for (other, has), value in found.items() if other == name and wanted <= has)


def problems(text: str, forbidden: list[str]) -> list[str]:
    """What a linter of the format would say, and labels that hold one of `forbidden` or look like an id."""
    found = []
    for kind in ("HELP", "TYPE"):
        named = Counter(line.split()[2] for line in text.splitlines() if line.startswith(f"# {kind} "))
        found += [f"{name}: # {kind} {count} times" for name, count in named.items() if count > 1]
    helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP ") and len(line.split()) > 3}
    typed = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE ")}
    found += [f"{name}: no help" for name in typed.keys() - helped]
    for name, kind in typed.items():
        if (kind == "counter") != name.endswith("_total"):
            found.append(f"{name}: a {kind} {'should' if kind == 'counter' else 'should not'} end in _total")
        if re.search(r"_(milliseconds|minutes|hours|kilobytes|megabytes)\b", name):
            found.append(f"{name}: not in base units")
    series: Counter[str] = Counter()
    for (name, labels), value in samples(text).items():
        if math.isnan(value):
            found.append(f"{name}{dict(labels)}: NaN")
        if ("le", "+Inf") in labels or not any(label == "le" for label, _ in labels):
            series[name] += 1
        for label, held in labels:
            if _RUN_ID.search(held) or any(text in held for text in forbidden):
                found.append(f"{name}: label {label}={held!r} has no bounds")
    return found + [f"{name}: {count} series" for name, count in series.items() if count > MAX_SERIES]
