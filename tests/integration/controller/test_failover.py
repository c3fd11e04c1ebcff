"""Two real processes on a real socket: who leads after the leader was told to stop, or was killed."""

import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.plane import plane_process

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    with plane_process(tmp_path_factory.mktemp("plane")) as plane:
        yield plane


class Candidate:
    def __init__(self, plane, name):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.leader_process", str(plane.kubeconfig), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.name = name

    def _read(self):
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put((time.monotonic(), line))

    def leads_at(self, timeout_s):
        at, line = self._lines.get(timeout=timeout_s)
        assert line == f"leading {self.name}\n"
        return at

    @property
    def waits(self):
        return self._lines.empty()

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()

    def exit_code(self):
        return self._process.wait(30)


@contextmanager
def candidates(plane):
    one = Candidate(plane, "one")
    two = None
    try:
        one.leads_at(30)
        two = Candidate(plane, "two")
        time.sleep(6)  # the second has to have seen that the lease is held; nothing it does tells when
        assert two.waits
        yield one, two
    finally:
        for candidate in (one, two):
            if candidate is not None:
                candidate.kill()
                candidate.exit_code()


@pytest.mark.guarantee("LE12", "LE18", "MG8")
def test_leader_that_is_told_to_stop_hands_over_within_four_and_a_half_seconds(plane):
    with candidates(plane) as (one, two):
        told = time.monotonic()
        one.terminate()
        assert two.leads_at(30) - told <= 4.5
        assert one.exit_code() == 0
        two.terminate()
        assert two.exit_code() == 0


@pytest.mark.guarantee("LE5", "LE18")
def test_leader_that_is_killed_is_succeeded_within_twenty_four_seconds(plane):
    with candidates(plane) as (one, two):
        killed = time.monotonic()
        one.kill()
        took_s = two.leads_at(40) - killed
        assert 10 <= took_s <= 24, "not before the lease has run out, and not much later"
