"""/healthz, /livez and /readyz."""

from __future__ import annotations

from agentops.local.apiserver.http import Request, Response, text_response


def health(request: Request, name: str, *, ready: bool) -> Response:
    """The state of the server in one word, or with `?verbose` a line for each check."""
    code = 200 if ready else 500
    if any(key == "verbose" for key, _ in request.query):
        mark, word, end = ("+", "ok", "passed") if ready else ("-", "failed", "failed")
        return text_response(f"[{mark}]store {word}\n{name} check {end}\n", code)
    return text_response("ok" if ready else f"{name} check failed: the store is not open", code)
