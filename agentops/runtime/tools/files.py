"""The file tools: `read`, `write`, `edit`, `ls`. All confined to the workspace, all in worker threads."""

from __future__ import annotations

import difflib
import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.base import Arguments, ToolOutput, schema
from agentops.runtime.tools.output import cut
from agentops.runtime.tools.sandbox import Sandbox
from agentops.runtime.tools.workspace import Workspace

MAX_READ_BYTES = 16 << 20
MAX_EDIT_BYTES = 8 << 20
MAX_ENTRIES = 2000
MAX_DIFF_CHARS = 50_000
"""Of the diff that is shown to people; the model's is cut as every result."""
_QUOTE = 80
_PIECE = 1 << 20
_ANY_SIZE = 1 << 62
_NO_SECOND_FILE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV})
"""What a directory says that may not be changed, or a file that is a mount of its own."""

_T = TypeVar("_T")
_PATH = {"type": "string", "description": "Path inside the workspace, relative or absolute."}

_LANGUAGES = {
    "go": "go", "ts": "typescript", "tsx": "typescript", "js": "javascript", "jsx": "javascript", "mjs": "javascript",
    "py": "python", "pyi": "python", "rs": "rust", "rb": "ruby", "java": "java", "c": "c", "h": "c", "cc": "cpp",
    "cpp": "cpp", "hpp": "cpp", "cs": "csharp", "swift": "swift", "kt": "kotlin", "scala": "scala", "sh": "bash",
    "bash": "bash", "yaml": "yaml", "yml": "yaml", "json": "json", "toml": "toml", "xml": "xml", "html": "html",
    "css": "css", "scss": "scss", "sql": "sql", "md": "markdown", "tf": "hcl", "hcl": "hcl", "proto": "protobuf",
    "graphql": "graphql", "gql": "graphql",
}  # fmt: skip


def language(path: str) -> str:
    """The highlighter's name for a file, or the empty string."""
    name = os.path.basename(path).lower()
    if name in ("dockerfile", "containerfile"):
        return "dockerfile"
    return _LANGUAGES.get(name.rpartition(".")[2], "") if "." in name else ""


async def _inside(sandbox: Sandbox, path: str, work: Callable[[], _T]) -> _T:
    """Run `work` in the sandbox; operating system errors become a sentence about `path`."""
    try:
        return await sandbox.run(work)
    except FileNotFoundError:
        raise ToolFault(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ToolFault(f"{path} is a directory") from None
    except NotADirectoryError:
        raise ToolFault(f"{path} is not a directory") from None
    except OSError as error:
        raise ToolFault(f"{path}: {error.strerror or error}") from None


def _regular(path: Path, shown: str, limit: int) -> None:
    """Refuse what would block, flood or is no file at all."""
    info = path.stat()
    if stat.S_ISDIR(info.st_mode):
        raise ToolFault(f"{shown} is a directory; use ls")
    if not stat.S_ISREG(info.st_mode):
        raise ToolFault(f"{shown} is not a regular file")
    if info.st_size > limit:
        raise ToolFault(f"{shown} has {info.st_size} bytes, more than {limit}; use offset and limit, or grep")


class ReadTool:
    name = "read"
    kind = "builtin"
    parallel_safe = True
    description = "Read a text file. With `offset` (first line, from 1) and `limit` (number of lines), a part of it."
    schema = schema(
        {
            "path": _PATH,
            "offset": {"type": "integer", "description": "First line to return, counted from 1."},
            "limit": {"type": "integer", "description": "How many lines to return."},
        },
        ("path",),
    )

    def __init__(self, workspace: Workspace, sandbox: Sandbox | None = None) -> None:
        self._workspace = workspace
        self._sandbox = sandbox or Sandbox(None)

    async def run(self, arguments: Arguments) -> ToolOutput:
        shown = arguments["path"]
        offset, limit = arguments.get("offset", 1), arguments.get("limit")
        if offset < 1:
            raise ToolFault(f"offset counts lines from 1, got {offset}")
        if limit is not None and limit < 1:
            raise ToolFault(f"limit must be at least 1, got {limit}")
        path = self._workspace.resolve(shown)

        def work() -> tuple[str, int]:
            _regular(path, shown, _ANY_SIZE if limit is not None else MAX_READ_BYTES)
            with path.open("rb") as file:
                if b"\0" in file.read(8192):
                    raise ToolFault(f"{shown} is a binary file")
                file.seek(0)
                skip_lines(file, offset - 1)
                text, count, whole = read_lines(file, limit, MAX_READ_BYTES)
            if not whole:
                raise ToolFault(
                    f"the lines asked for have more than {MAX_READ_BYTES} bytes; ask for fewer, or use grep"
                )
            return text.decode("utf-8", "replace"), count

        text, count = await _inside(self._sandbox, shown, work)
        metadata = {
            "ui": "code",
            "filePath": shown,
            "offset": offset,
            "limit": limit,
            "language": language(shown),
            "lineCount": count,
        }
        return ToolOutput(text, metadata, whole_in=shown)


def skip_lines(file: BinaryIO, count: int) -> None:
    """Leave `file` after its first `count` lines, however long they are."""
    while count and (piece := file.readline(_PIECE)):
        count -= piece.endswith(b"\n")


def read_lines(file: BinaryIO, limit: int | None, most_bytes: int) -> tuple[bytes, int, bool]:
    """The next `limit` lines (None: all), their number, and whether they have at most `most_bytes` bytes."""
    pieces: list[bytes] = []
    size = count = 0
    while (limit is None or count < limit) and (piece := file.readline(_PIECE)):
        size += len(piece)
        if size > most_bytes:
            return b"".join(pieces), count, False
        pieces.append(piece)
        count += piece.endswith(b"\n")
    ended = not pieces or pieces[-1].endswith(b"\n")
    return b"".join(pieces), count if ended else count + 1, True


class WriteTool:
    name = "write"
    kind = "builtin"
    parallel_safe = False
    description = "Write a file, replacing it if it exists. Missing directories are made."
    schema = schema({"path": _PATH, "content": {"type": "string", "description": "The whole new content."}},
                    ("path", "content"))  # fmt: skip

    def __init__(self, workspace: Workspace, sandbox: Sandbox | None = None) -> None:
        self._workspace = workspace
        self._sandbox = sandbox or Sandbox(None)

    async def run(self, arguments: Arguments) -> ToolOutput:
        shown, content = arguments["path"], arguments["content"]
        path = self._workspace.resolve(shown)
        data = content.encode("utf-8", "replace")

        def work() -> None:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(path, shown, data)

        await _inside(self._sandbox, shown, work)
        metadata = {"ui": "file-created", "filePath": shown, "size": len(data), "language": language(shown)}
        return ToolOutput(f"Wrote {len(data)} bytes to {shown}", metadata)


def replace_file(path: Path, shown: str, data: bytes) -> None:
    """Make `data` the content of the file at once: when the disk is full, or the process is killed, the old content
    stays whole. Where the directory takes no second file, it is written in place."""
    mode = None
    if path.exists():
        _regular(path, shown, _ANY_SIZE)
        mode = stat.S_IMODE(path.stat().st_mode)
    draft = path.with_name(f".agentops-{secrets.token_hex(6)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
        os.replace(draft, path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.errno not in _NO_SECOND_FILE:
            raise
        path.write_bytes(data)


class EditTool:
    name = "edit"
    kind = "builtin"
    parallel_safe = False
    description = (
        "Change a file by replacing text. Each oldText must occur exactly once; edits apply in order, "
        "and either all of them or none is written. Returns the diff."
    )
    schema = schema(
        {
            "path": _PATH,
            "edits": {
                "type": "array",
                "description": "The replacements, in order.",
                "items": {
                    "type": "object",
                    "properties": {"oldText": {"type": "string"}, "newText": {"type": "string"}},
                    "required": ["oldText", "newText"],
                    "additionalProperties": False,
                },
            },
        },
        ("path", "edits"),
    )

    def __init__(self, workspace: Workspace, sandbox: Sandbox | None = None) -> None:
        self._workspace = workspace
        self._sandbox = sandbox or Sandbox(None)

    async def run(self, arguments: Arguments) -> ToolOutput:
        shown = arguments["path"]
        edits = arguments["edits"]
        if not edits:
            raise ToolFault("edits is empty; give at least one {oldText, newText}")
        path = self._workspace.resolve(shown)

        def work() -> tuple[str, str]:
            _regular(path, shown, MAX_EDIT_BYTES)
            try:
                before = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                raise ToolFault(f"{shown} is not UTF-8 text") from None
            after = apply_edits(before, edits)
            replace_file(path, shown, after.encode("utf-8", "replace"))
            return before, after

        before, after = await _inside(self._sandbox, shown, work)
        diff = unified_diff(before, after, shown)
        metadata = {"ui": "diff", "filePath": shown, "editCount": len(edits), "diff": cut(diff, MAX_DIFF_CHARS)}
        noun = "edit" if len(edits) == 1 else "edits"
        return ToolOutput(f"Applied {len(edits)} {noun} to {shown}\n{diff}", metadata)


def apply_edits(text: str, edits: list[dict[str, str]]) -> str:
    """`text` after all `edits`. Raises ToolFault when one does not match exactly once."""
    for number, edit in enumerate(edits, 1):
        old, new = (edit.get("oldText"), edit.get("newText")) if isinstance(edit, dict) else (None, None)
        if not isinstance(old, str) or not isinstance(new, str):
            raise ToolFault(f"edit {number}: oldText and newText must both be strings")
        if not old:
            raise ToolFault(f"edit {number}: oldText is empty")
        found = text.count(old)
        if found != 1:
            quoted = old if len(old) <= _QUOTE else old[: _QUOTE - 1] + "…"
            problem = "was not found" if found == 0 else f"occurs {found} times; add lines around it"
            raise ToolFault(f"edit {number}: oldText {problem}: {quoted!r}; nothing was written")
        text = text.replace(old, new, 1)
    return text


def unified_diff(before: str, after: str, path: str) -> str:
    """`diff -u` of the two texts."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


class LsTool:
    name = "ls"
    kind = "builtin"
    parallel_safe = True
    description = "List a directory: one path a line, directories with a slash at the end."
    schema = schema({"path": _PATH})

    def __init__(self, workspace: Workspace, sandbox: Sandbox | None = None) -> None:
        self._workspace = workspace
        self._sandbox = sandbox or Sandbox(None)

    async def run(self, arguments: Arguments) -> ToolOutput:
        shown = arguments.get("path", ".")
        path = self._workspace.resolve(shown)

        def work() -> list[str]:
            with os.scandir(path) as entries:
                return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)

        names = await _inside(self._sandbox, shown, work)
        metadata = {"ui": "file-tree", "path": shown, "entryCount": len(names)}
        if not names:
            return ToolOutput("(empty directory)", metadata)
        lines = names[:MAX_ENTRIES]
        if len(names) > MAX_ENTRIES:
            lines.append(f"… and {len(names) - MAX_ENTRIES} more")
        return ToolOutput("\n".join(lines), metadata)
