from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentops.runtime.errors import ToolFault
from agentops.runtime.tools.files import MAX_READ_BYTES, EditTool, LsTool, ReadTool, WriteTool
from agentops.runtime.tools.output import SPILL_DIR, spill
from agentops.runtime.tools.search import MAX_MATCHES, GlobTool, GrepTool, find_ripgrep, glob_regex
from agentops.runtime.tools.workspace import Workspace

pytestmark = pytest.mark.anyio


@pytest.fixture
def tree(workspace: Workspace) -> Workspace:
    for name, text in {
        "a.py": "one\ntwo\nthree\n",
        "src/b.py": "import a\n",
        "src/deep/c.py": "needle here\n",
        "src/deep/c.txt": "needle there\n",
        ".git/d.py": "needle hidden\n",
    }.items():
        path = workspace.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return workspace


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "/data2/x", "src/../../x", "link/x", "/data/../x"])
async def test_nothing_outside_the_workspace_is_reached(tree: Workspace, path: str) -> None:
    (tree.root / "link").symlink_to("/etc")
    for tool, arguments in (
        (ReadTool(tree), {"path": path}),
        (WriteTool(tree), {"path": path, "content": "x"}),
        (EditTool(tree), {"path": path, "edits": [{"oldText": "a", "newText": "b"}]}),
        (LsTool(tree), {"path": path}),
        (GlobTool(tree), {"pattern": "*", "path": path}),
        (GrepTool(tree, {}, 100, None), {"pattern": "x", "path": path}),
    ):
        with pytest.raises(ToolFault, match="outside the workspace"):
            await tool.run(arguments)


async def test_the_declared_path_means_the_workspace(tree: Workspace) -> None:
    assert (await ReadTool(tree).run({"path": "/data/a.py"})).text == "one\ntwo\nthree\n"
    assert (await ReadTool(tree).run({"path": str(tree.root / "a.py")})).text.startswith("one")


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [(1, None, "one\ntwo\nthree\n"), (2, 1, "two\n"), (3, 9, "three\n"), (9, 2, ""), (9, None, "")],
)
async def test_read_returns_the_lines_asked_for(tree: Workspace, offset: int, limit: int | None, expected: str) -> None:
    arguments: dict[str, Any] = {"path": "a.py", "offset": offset, **({"limit": limit} if limit else {})}
    output = await ReadTool(tree).run(arguments)
    assert output.text == expected
    assert output.metadata["language"] == "python"


async def test_read_refuses_what_is_no_text_file(tree: Workspace) -> None:
    (tree.root / "bin").write_bytes(b"\x7fELF\0\0")
    os.mkfifo(tree.root / "pipe")
    for path, says in (("bin", "binary"), ("pipe", "not a regular file"), ("src", "directory"), ("no", "not exist")):
        with pytest.raises(ToolFault, match=says):
            await ReadTool(tree).run({"path": path})


async def test_a_part_of_a_file_of_any_size_can_be_read(tree: Workspace) -> None:
    """Also where one line is larger than what a call may return."""
    with (tree.root / "big").open("wb") as file:
        file.write(b"first\n")
        file.write(b"x" * (MAX_READ_BYTES + 1) + b"\n")
        file.write(b"last\n")
    read = ReadTool(tree)
    assert (await read.run({"path": "big", "limit": 1})).text == "first\n"
    assert (await read.run({"path": "big", "offset": 3, "limit": 5})).text == "last\n"
    for arguments in ({"path": "big"}, {"path": "big", "offset": 2, "limit": 1}):
        with pytest.raises(ToolFault, match="more than"):
            await read.run(arguments)


async def test_write_makes_parents_and_counts_bytes(tree: Workspace) -> None:
    output = await WriteTool(tree).run({"path": "new/dir/f.md", "content": "é"})
    assert output.text == "Wrote 2 bytes to new/dir/f.md"
    assert (tree.root / "new/dir/f.md").read_text() == "é"


async def test_edit_applies_in_order_and_returns_the_diff(tree: Workspace) -> None:
    edits = [{"oldText": "one", "newText": "uno"}, {"oldText": "uno\ntwo", "newText": "uno\ndos"}]
    output = await EditTool(tree).run({"path": "a.py", "edits": edits})
    assert (tree.root / "a.py").read_text() == "uno\ndos\nthree\n"
    assert "--- a/a.py\n+++ b/a.py\n" in output.text
    assert "-one\n-two\n+uno\n+dos\n three\n" in output.text


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ([{"oldText": "one", "newText": "1"}, {"oldText": "absent", "newText": "x"}], "edit 2: oldText was not found"),
        ([{"oldText": "e", "newText": "x"}], "occurs"),
        ([{"oldText": "", "newText": "x"}], "empty"),
        ([{"oldText": 1, "newText": "x"}], "strings"),
        ([], "at least one"),
    ],
)
async def test_an_edit_that_does_not_fit_leaves_the_file(tree: Workspace, edits: list[Any], says: str) -> None:
    with pytest.raises(ToolFault, match=says):
        await EditTool(tree).run({"path": "a.py", "edits": edits})
    assert (tree.root / "a.py").read_text() == "one\ntwo\nthree\n"


async def test_ls_lists_paths(tree: Workspace) -> None:
    assert (await LsTool(tree).run({})).text == ".git/\na.py\nsrc/"


class TestGlob:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"  # a thread cannot be awaited with a deadline in virtual time

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("**/*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
            ("*.py", ["a.py", "src/b.py", "src/deep/c.py"]),
            ("src/*.py", ["src/b.py"]),
            ("src/**", ["src/b.py", "src/deep/c.py", "src/deep/c.txt"]),
            ("src/**/c.{py,txt}", ["src/deep/c.py", "src/deep/c.txt"]),
            ("**/[ab].py", ["a.py", "src/b.py"]),
            ("**/[!ab].py", ["src/deep/c.py"]),
            ("/data/src/?.py", ["src/b.py"]),
            ("nothing*", []),
        ],
    )
    async def test_glob_knows_the_globstar(self, tree: Workspace, pattern: str, expected: list[str]) -> None:
        output = await GlobTool(tree).run({"pattern": pattern})
        assert (output.text.splitlines() if expected else []) == expected
        assert output.metadata["count"] == len(expected)

    async def test_a_pattern_that_would_explode_takes_no_time(self, tree: Workspace) -> None:
        (tree.root / ("a/" * 30)).mkdir(parents=True)
        (tree.root / ("a/" * 30) / "b").touch()
        output = await GlobTool(tree).run({"pattern": "**/" * 15 + "c"})
        assert output.text == "No files found."

    async def test_a_name_that_is_no_text_is_listed(self, tree: Workspace) -> None:
        (tree.root / os.fsdecode(b"odd\xff.txt")).touch()
        assert (await GlobTool(tree).run({"pattern": "odd*"})).text == "odd?.txt"


def test_dots_in_a_pattern_are_dots() -> None:
    assert glob_regex("*.py").fullmatch("xpy") is None


@pytest.mark.parametrize("ripgrep", [find_ripgrep({"PATH": "/usr/bin"}), None])
class TestGrep:
    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"  # a child process cannot be awaited in virtual time

    async def test_matches_are_path_line_text(self, tree: Workspace, ripgrep: str | None) -> None:
        output = await GrepTool(tree, {"PATH": "/usr/bin"}, 1000, ripgrep).run({"pattern": "needle (he|the)re"})
        assert sorted(line.removeprefix("./") for line in output.text.splitlines()) == [
            "src/deep/c.py:1:needle here",
            "src/deep/c.txt:1:needle there",
        ]
        assert output.metadata["matchCount"] == 2

    async def test_no_match_is_no_error(self, tree: Workspace, ripgrep: str | None) -> None:
        output = await GrepTool(tree, {"PATH": "/usr/bin"}, 1000, ripgrep).run({"pattern": "-absent"})
        assert output.text == "No matches found."

    async def test_a_malformed_pattern_is_said(self, tree: Workspace, ripgrep: str | None) -> None:
        with pytest.raises(ToolFault, match="grep"):
            await GrepTool(tree, {"PATH": "/usr/bin"}, 1000, ripgrep).run({"pattern": "("})

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [({"pattern": "x\0y"}, "no NUL byte"), ({"pattern": "(" * 60_000}, "at most 4000 characters"),
         ({"pattern": "x", "path": "pipe"}, "not a regular file")],
    )  # fmt: skip
    async def test_what_would_hold_the_search_is_refused(
        self, tree: Workspace, ripgrep: str | None, arguments: dict[str, str], says: str
    ) -> None:
        os.mkfifo(tree.root / "pipe")
        with pytest.raises(ToolFault, match=says):
            await GrepTool(tree, {"PATH": "/usr/bin"}, 1000, ripgrep).run(arguments)

    async def test_one_file_can_be_searched(self, tree: Workspace, ripgrep: str | None) -> None:
        output = await GrepTool(tree, {"PATH": "/usr/bin"}, 1000, ripgrep).run({"pattern": "two", "path": "a.py"})
        assert output.text == "a.py:2:two"

    async def test_links_pipes_and_hidden_files_are_left_alone(
        self, tree: Workspace, ripgrep: str | None, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("needle outside\n")
        (tree.root / "link.txt").symlink_to(tmp_path / "secret")
        (tree.root / ".hidden").write_text("needle\n")
        (tree.root / "bin").write_bytes(b"needle\0\n")
        os.mkfifo(tree.root / "pipe")
        output = await GrepTool(tree, {"PATH": "/usr/bin"}, 1000, ripgrep).run({"pattern": "needle (outside|here)?"})
        assert sorted(line.removeprefix("./") for line in output.text.splitlines()) == [
            "src/deep/c.py:1:needle here",
            "src/deep/c.txt:1:needle there",
        ]

    async def test_too_many_matches_stop_the_search(self, tree: Workspace, ripgrep: str | None) -> None:
        (tree.root / "many").write_text("m\n" * (MAX_MATCHES + 10))
        output = await GrepTool(tree, {"PATH": "/usr/bin"}, 10_000, ripgrep).run({"pattern": "m", "path": "many"})
        assert output.metadata["matchCount"] == MAX_MATCHES
        assert output.text.endswith(f"[stopped after {MAX_MATCHES} matches; narrow the pattern or the path]")

    async def test_spilled_output_is_searched_only_when_it_is_meant(self, tree: Workspace, ripgrep: str | None) -> None:
        spill(tree.root, "c1", "needle spilled\n")
        grep = GrepTool(tree, {"PATH": "/usr/bin"}, 1000, ripgrep)
        assert "spilled" not in (await grep.run({"pattern": "needle"})).text
        meant = await grep.run({"pattern": "needle", "path": f"{SPILL_DIR}/c1.txt"})
        assert meant.text == f"{SPILL_DIR}/c1.txt:1:needle spilled"


def test_a_workspace_behind_a_link_is_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Workspace(tmp_path / "link").root == (tmp_path / "real").resolve()


async def test_what_is_no_file_is_not_written_to(tree: Workspace) -> None:
    """A pipe nobody reads would hold the turn for ever, and no abort could end it."""
    os.mkfifo(tree.root / "pipe")
    edits = [{"oldText": "a", "newText": "b"}]
    for path, says in (("pipe", "not a regular file"), ("src", "directory")):
        with pytest.raises(ToolFault, match=says):
            await WriteTool(tree).run({"path": path, "content": "x"})
        with pytest.raises(ToolFault, match=says):
            await EditTool(tree).run({"path": path, "edits": edits})


async def test_a_disk_that_is_full_leaves_the_old_content(tree: Workspace) -> None:
    (tree.root / "a.py").chmod(0o751)
    large = "x" * 5000
    with limited_files(4096), pytest.raises(ToolFault, match="too large"):
        await WriteTool(tree).run({"path": "a.py", "content": large})
    with limited_files(4096), pytest.raises(ToolFault, match="too large"):
        await EditTool(tree).run({"path": "a.py", "edits": [{"oldText": "one", "newText": large}]})
    assert (tree.root / "a.py").read_text() == "one\ntwo\nthree\n"
    assert sorted(path.name for path in tree.root.iterdir()) == [".git", "a.py", "src"]
    await WriteTool(tree).run({"path": "a.py", "content": large})
    assert (tree.root / "a.py").read_text() == large
    assert (tree.root / "a.py").stat().st_mode & 0o777 == 0o751, "it is the same file to others"


async def test_a_file_that_is_a_mount_of_its_own_is_written_in_place(
    tree: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    await WriteTool(tree).run({"path": "a.py", "content": "new"})
    assert (tree.root / "a.py").read_text() == "new"
    assert sorted(path.name for path in tree.root.iterdir()) == [".git", "a.py", "src"]


@contextmanager
def limited_files(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
