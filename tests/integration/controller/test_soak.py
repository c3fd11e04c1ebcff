"""The soak driver works; how long it runs is up to who starts it."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]


def test_short_soak_misses_nothing(tmp_path):
    spec = "reset-after p=0.2; truncate p=0.1; throttle verb=get p=0.3; split p=0.5; duplicate p=0.5"
    figures_file = str(tmp_path / "figures")
    args = ["--minutes", "0.05", "--objects", "30", "--json", figures_file, "--spec", spec]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *args],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(Path(figures_file).read_text())
    assert (figures["missed_keys"], figures["cache_differs"], figures["index_differs"]) == (0, 0, 0)
    assert figures["writes"] > 30
    assert figures["faults_total"] > 0
