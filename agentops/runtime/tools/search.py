"""`grep` and `glob` over the workspace."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.base import Arguments, ToolOutput, schema
from agentops.runtime.tools.bash import child_environment
from agentops.runtime.tools.output import SPILL_DIR, OutputSink
from agentops.runtime.tools.workspace import Workspace

GREP_TIMEOUT_S = 60
MAX_LINE = 500
MAX_MATCHES = 5000
MAX_PATHS = 1000
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

    def __init__(self, workspace: Workspace, env: Mapping[str, str], limit_chars: int, ripgrep: str | None) -> None:
        self._workspace = workspace
        self._env = child_environment(env)
        self._limit = limit_chars
        self._ripgrep = ripgrep
        self._count = 0

    async def run(self, arguments: Arguments) -> ToolOutput:
        pattern, shown = arguments["pattern"], arguments.get("path", ".")
        path = self._workspace.resolve(shown)
        if not path.exists():
            raise ToolFault(f"{shown} does not exist")
        self._count += 1
        sink = OutputSink(self._workspace.root, f"grep-{os.getpid()}-{self._count}", self._limit)
        target = self._workspace.display(path)
        try:
            with anyio.fail_after(GREP_TIMEOUT_S):
                if self._ripgrep:
                    matches = await self._rg(self._ripgrep, pattern, target, sink)
                else:
                    matches = await anyio.to_thread.run_sync(self._python, pattern, path, sink, abandon_on_cancel=True)
        except TimeoutError:
            raise ToolFault(f"grep took longer than {GREP_TIMEOUT_S} s; search a smaller path") from None
        finally:
            sink.close()
        metadata = {"ui": "search-results", "pattern": pattern, "path": shown, "matchCount": matches}
        if not matches:
            return ToolOutput("No matches found.", metadata)
        return ToolOutput(sink.text.rstrip("\n"), metadata, sink.spilled, sink.total_chars)

    async def _rg(self, ripgrep: str, pattern: str, target: str, sink: OutputSink) -> int:
        command = [
            ripgrep, "--no-config", "--line-number", "--with-filename", "--no-heading", "--color=never", "--sort=path",
            f"--max-columns={MAX_LINE}", "--max-columns-preview", f"--glob=!{SPILL_DIR}/**",
            f"--regexp={pattern}", "--", target,
        ]  # fmt: skip
        matches = 0
        process = await anyio.open_process(
            command, stdin=subprocess.DEVNULL, cwd=self._workspace.root, env=self._env, start_new_session=True
        )
        async with process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                async for chunk in process.stdout:
                    matches += chunk.count(b"\n")
                    sink.write(chunk)
                errors = b"".join([chunk async for chunk in process.stderr])
                code = await process.wait()
            except BaseException:
                process.kill()
                raise
        if code == 2 and not matches:
            text = errors.decode("utf-8", "replace").strip()
            raise ToolFault(f"grep: {text[:500] or 'ripgrep failed'}")
        return matches

    def _python(self, pattern: str, path: Path, sink: OutputSink) -> int:
        import re2

        try:
            regex = re2.compile(pattern.encode())
        except re2.error as error:
            raise ToolFault(f"grep: the pattern is not a valid regular expression: {error}") from None
        matches = 0
        for file in [path] if path.is_file() else walk_files(path):
            shown = self._workspace.display(file)
            if shown.startswith(SPILL_DIR):
                continue
            try:
                lines = file.read_bytes().splitlines()
            except OSError:  # unreadable files are passed over, as ripgrep does
                continue
            if any(b"\0" in line for line in lines[:50]):
                continue
            for number, line in enumerate(lines, 1):
                if regex.search(line):
                    sink.write(f"{shown}:{number}:".encode() + line[:MAX_LINE] + b"\n")
                    matches += 1
                    if matches >= MAX_MATCHES:
                        return matches
        return matches


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

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

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

        def work() -> list[str]:
            found: list[str] = []
            for file in walk_files(root):
                relative = os.path.relpath(file, root)
                if regex.fullmatch(file.name if by_name else relative):
                    found.append(self._workspace.display(file))
            return sorted(found)

        paths = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        metadata = {"ui": "file-tree", "pattern": arguments["pattern"], "path": shown, "count": len(paths)}
        if not paths:
            return ToolOutput("No files found.", metadata)
        lines = paths[:MAX_PATHS]
        if len(paths) > MAX_PATHS:
            lines.append(f"… and {len(paths) - MAX_PATHS} more")
        return ToolOutput("\n".join(lines), metadata)


def walk_files(root: Path) -> Iterator[Path]:
    """Every file below `root`, links to directories not followed, version control left out."""
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        for name in sorted(files):
            yield Path(directory, name)


def glob_regex(pattern: str) -> re.Pattern[str]:
    """`pattern` as a regular expression over a relative path with slashes. Raises ToolFault when malformed."""
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
            out.append(re.escape(char))
        index += 1
    try:
        return re.compile("".join(out) + ")" * depth)
    except re.error as error:
        raise ToolFault(f"the pattern {pattern!r} is malformed: {error}") from None
