"""The engine's process: llama.cpp's own HTTP server on a free loopback port.

Run as `python -m agentops.model.llama_server WEIGHTS CONTEXT THREADS`. The first line of standard input is the key it
will ask for; one JSON line on standard output says where it listens. It ends when standard input ends, so it cannot
outlive whoever started it.
"""

from __future__ import annotations

import json
import os
import sys


def main(weights: str, context_tokens: int, threads: int) -> None:
    key = sys.stdin.readline().strip()
    import xllamacpp

    params = xllamacpp.CommonParams()
    wanted = {
        "n_ctx": context_tokens,
        "n_parallel": 1,
        "hostnames": ["127.0.0.1"],
        "port": 0,
        "api_keys": [key],
        "use_jinja": True,
        "verbosity": -1,
        "n_threads_http": 4,
    }
    for name, value in wanted.items():
        if not hasattr(params, name):
            raise SystemExit(f"this xllamacpp has no setting {name}; install the pinned version")
        setattr(params, name, value)
    params.model.path = weights
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    # The C++ server has no interest in Python's orderly end.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
