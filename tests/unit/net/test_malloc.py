from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Each large block is freed while a small one that was made after it stays, as the bytes of a list are and its objects.
PROGRAM = """
import sys

from agentops.net import malloc


def resident_mib():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 2**20


if sys.argv[1] == "set":
    assert malloc.return_large_blocks()
kept = [bytes(16 << 20)]
kept.clear()
before = resident_mib()
for _ in range(4):
    large = b"x" * (16 << 20)
    kept.append(b"y" * 3000)
    del large
print(resident_mib() - before)
"""


def growth_mib(argument: str) -> float:
    return float(subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries need no such setting")
def test_memory_of_large_blocks_goes_back_to_the_system() -> None:
    assert growth_mib("set") < 2
    assert growth_mib("unset") > 10, "glibc gives such blocks back by itself: the setting is no longer needed"
