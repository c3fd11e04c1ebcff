"""`grep` and `glob` over the workspace."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.base import Arguments, ToolOutput, schema
from agentops.runtime.tools.bash import child_environment
from agentops.runtime.tools.output import SPILL_DIR, OutputSink, printable
from agentops.runtime.tools.processes import running
from agentops.runtime.tools.sandbox import Sandbox
from agentops.runtime.tools.workspace import Workspace

SEARCH_TIMEOUT_S = 60
MAX_LINE = 500
MAX_PATTERN = 4000
MAX_MATCHES = 5000
MAX_PATHS = 1000
_LONGEST_LINE = 1 << 20
_SKIPPED = frozenset({".git", ".hg", ".svn"})
_PATH = {"type": "string", "description": "Where to look; the workspace when left out."}


def find_ripgrep(env: Mapping[str, str]) -> str | None:
    """The `rg` beside our Python (the wheel), else the one on PATH, else None."""
    beside = Path(sys.executable).parent / "rg"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("rg", path=env.get("PATH"))


class GrepTool:
    """Ripgrep when there is one; the same lines from Python, with RE2, when there is none."""

    name = "grep"
    kind = "builtin"
    parallel_safe = True
    description = "Search file contents by regular expression. Returns path:line:text lines."
    schema = schema({"pattern": {"type": "string", "description": "Regular expression."}, "path": _PATH}, ("pattern",))

    def __init__(
        self,
        workspace: Workspace,
        env: Mapping[str, str],
        limit_chars: int,
        ripgrep: str | None,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._workspace = workspace
        self._env = child_environment(env)
        self._limit = limit_chars
        self._ripgrep = ripgrep
        self._sandbox = sandbox or Sandbox(None)

    async def run(self, arguments: Arguments) -> ToolOutput:
        pattern, shown = arguments["pattern"], arguments.get("path", ".")
        path = self._workspace.resolve(shown)
        if not path.exists():
            raise ToolFault(f"{shown} does not exist")
        if not path.is_file() and not path.is_dir():
            raise ToolFault(f"{shown} is not a regular file")
        if len(pattern) > MAX_PATTERN or "\0" in pattern:
            raise ToolFault(f"a pattern has at most {MAX_PATTERN} characters and no NUL byte")
        sink = OutputSink(self._workspace.root, f"grep-{secrets.token_hex(4)}", self._limit)
        try:
            with _limited_time("grep") as stop:
                if self._ripgrep:
                    matches = await self._rg(self._ripgrep, pattern, self._workspace.display(path), sink)
                else:
                    matches = await self._sandbox.run(
                        lambda: self._python(pattern, path, sink, stop), abandon_on_cancel=True
                    )
            if matches >= MAX_MATCHES:
                sink.write(f"[stopped after {MAX_MATCHES} matches; narrow the pattern or the path]\n".encode())
        finally:
            sink.close()
        metadata = {"ui": "search-results", "pattern": pattern, "path": shown, "matchCount": matches}
        if not matches:
            return ToolOutput("No matches found.", metadata)
        return ToolOutput(sink.text.rstrip("\n"), metadata, fitted=True)

    async def _rg(self, ripgrep: str, pattern: str, target: str, sink: OutputSink) -> int:
        command = [
            ripgrep, "--no-config", "--no-messages", "--line-number", "--with-filename", "--no-heading",
            "--color=never", "--sort=path", f"--max-columns={MAX_LINE}", "--max-columns-preview",
            f"--glob=!{SPILL_DIR}/**", f"--regexp={pattern}", "--", target,
        ]  # fmt: skip
        matches, code, errors = 0, 0, b""
        root = self._workspace.root
        with anyio.CancelScope() as enough:

            def take(chunk: bytes) -> None:
                nonlocal matches
                lines = chunk.splitlines(keepends=True)[: MAX_MATCHES - matches]
                matches += sum(line.endswith(b"\n") for line in lines)
                sink.write(b"".join(lines))
                if matches >= MAX_MATCHES:
                    enough.cancel()

            async with running(command, sandbox=self._sandbox, cwd=root, env=self._env, merge=False) as process:
                code = await process.read_until_end(take)
                errors = process.errors()
        if code == 2 and not matches:
            text = errors.decode("utf-8", "replace").strip()
            raise ToolFault(f"grep: {text[:500] or 'ripgrep failed'}")
        return matches

    def _python(self, pattern: str, path: Path, sink: OutputSink, stop: threading.Event) -> int:
        import re2

        try:
            regex = re2.compile(pattern.encode())
        except re2.error as error:
            raise ToolFault(f"grep: the pattern is not a valid regular expression: {error}") from None
        matches = 0
        for file in [path] if path.is_file() else walk_files(path, hidden=False):
            shown = self._workspace.display(file)
            for number, line in _text_lines(file):
                if stop.is_set():
                    return matches
                if regex.search(line):
                    sink.write(f"{shown}:{number}:".encode("utf-8", "replace") + line[:MAX_LINE] + b"\n")
                    matches += 1
                    if matches >= MAX_MATCHES:
                        return matches
        return matches


@contextmanager
def _limited_time(tool: str) -> Iterator[threading.Event]:
    """Ends what takes too long with a ToolFault; the event tells a thread that nobody waits for it any more."""
    stop = threading.Event()
    try:
        with anyio.fail_after(SEARCH_TIMEOUT_S):
            yield stop
    except TimeoutError:
        raise ToolFault(f"{tool} took longer than {SEARCH_TIMEOUT_S} s; search a smaller path") from None
    finally:
        stop.set()


def _text_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of a text file; nothing of one that is binary, unreadable, a link or no file at all."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return
        with file.open("rb") as lines:
            if b"\0" in lines.read(8192):
                return
            lines.seek(0)
            number = 1
            while line := lines.readline(_LONGEST_LINE):
                yield number, line.rstrip(b"\r\n")
                number += line.endswith(b"\n")
    except OSError:  # passed over, as ripgrep does
        return


class GlobTool:
    """Globstar over the tree; a pattern without a slash matches file names at any depth."""

    name = "glob"
    kind = "builtin"
    parallel_safe = True
    description = (
        "Find files by name pattern: `*` within a name, `**` across directories, `?`, `[ab]`, `{a,b}`. "
        "A pattern without a slash matches at any depth."
    )
    schema = schema({"pattern": {"type": "string", "description": "For example src/**/*.py."}, "path": _PATH},
                    ("pattern",))  # fmt: skip

    def __init__(self, workspace: Workspace, sandbox: Sandbox | None = None) -> None:
        self._workspace = workspace
        self._sandbox = sandbox or Sandbox(None)

    async def run(self, arguments: Arguments) -> ToolOutput:
        pattern, shown = arguments["pattern"], arguments.get("path", ".")
        root = self._workspace.resolve(shown)
        if not root.is_dir():
            raise ToolFault(f"{shown} is not a directory")
        if pattern.startswith("/"):
            declared = self._workspace.declared.rstrip("/") + "/"
            if not pattern.startswith(declared):
                raise ToolFault(f"pattern {pattern} is outside the workspace; write it relative to the workspace")
            pattern, root = pattern[len(declared) :], self._workspace.root
        if ".." in pattern.split("/"):
            raise ToolFault("a pattern cannot contain ..; use path")
        regex = glob_regex(pattern.removeprefix("./"))
        by_name = "/" not in pattern.removeprefix("./")

        with _limited_time("glob") as stop:

            def work() -> list[str]:
                found: list[str] = []
                for file in walk_files(root):
                    if stop.is_set():
                        break
                    if regex.fullmatch(printable(file.name if by_name else os.path.relpath(file, root))):
                        found.append(printable(self._workspace.display(file)))
                return sorted(found)

            paths = await self._sandbox.run(work, abandon_on_cancel=True)
        metadata = {"ui": "file-tree", "pattern": arguments["pattern"], "path": shown, "count": len(paths)}
        if not paths:
            return ToolOutput("No files found.", metadata)
        lines = paths[:MAX_PATHS]
        if len(paths) > MAX_PATHS:
            lines.append(f"… and {len(paths) - MAX_PATHS} more")
        return ToolOutput("\n".join(lines), metadata)


def walk_files(root: Path, hidden: bool = True) -> Iterator[Path]:
    """Every file below `root` but version control's and spilled output; links to directories are not followed.

    Without `hidden` names that begin with a dot are left out.
    """
    for directory, names, files in os.walk(root):
        if Path(directory).name == ".agentops":
            names[:] = []
            continue
        names[:] = sorted(name for name in names if name not in _SKIPPED and (hidden or name[0] != "."))
        for name in sorted(files):
            if hidden or name[0] != ".":
                yield Path(directory, name)


def glob_regex(pattern: str) -> Any:
    """`pattern` as an RE2 expression over a relative path with slashes: linear time, whatever the model wrote.

    Raises ToolFault when malformed.
    """
    import re2

    out: list[str] = []
    index, depth = 0, 0
    while index < len(pattern):
        char = pattern[index]
        if pattern.startswith("**/", index) and (index == 0 or pattern[index - 1] == "/"):
            out.append("(?:[^/]+/)*")
            index += 3
            continue
        if pattern.startswith("**", index):
            out.append(".*")
            index += 2
            continue
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", index + 2)) != -1:
            body = pattern[index + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out.append("[" + ("^" + body[1:] if body[0] in "!^" else body) + "]")
            index = end
        elif char == "{":
            out.append("(?:")
            depth += 1
        elif char == "}" and depth:
            out.append(")")
            depth -= 1
        elif char == "," and depth:
            out.append("|")
        else:
            out.append(re2.escape(char))
        index += 1
    try:
        return re2.compile("".join(out) + ")" * depth)
    except re2.error as error:
        raise ToolFault(f"the pattern {pattern!r} is malformed: {error}") from None
