"""Files that are written completely or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import minidiff.files
from minidiff.files import FolderInUse, alone_in, atomic_folder, atomic_path, remove_leftovers

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL")

# Writes `new` over `old` in a child process that is killed at its first, second, ... call of the file system,
# until one survives; prints what a reader found each time, before and after tidying.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from minidiff import files

parent, kind = Path(sys.argv[1]), sys.argv[2]
CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")

def write(text):
    if kind == "file":
        with files.atomic_path(parent / "thing.txt") as path:
            path.write_text(text)
    else:
        with files.atomic_folder(parent / "thing") as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "a.txt").write_text(text)
            (folder / "b.txt").write_text(text)

def read():
    parts = [parent / "thing.txt", parent / "thing" / "inner" / "a.txt", parent / "thing" / "b.txt"]
    return [part.read_text() for part in parts if part.exists()]

def die_at(fatal):
    calls = 0
    def armed(function):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)
        return call
    for name in CALLS:
        setattr(os, name, armed(getattr(os, name)))

story, status = [], 1
while status:
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir()
    write("old")
    child = os.fork()
    if child == 0:
        die_at(len(story) + 1)
        write("new")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    before = read()
    files.remove_leftovers(parent)
    story.append([status, before, read(), sorted(path.name for path in parent.iterdir())])
print(json.dumps(story))
"""


def story_of_kills(parent: Path, kind: str) -> list[Any]:
    environment = {**os.environ, "PYTHONPATH": str(Path(minidiff.files.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(parent), kind],
        env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    story: list[Any] = json.loads(done.stdout)
    return story


@posix
def test_a_file_is_old_or_new_at_every_kill(tmp_path: Path) -> None:
    story = story_of_kills(tmp_path / "parent", "file")
    assert len(story) > 3  # kills before the end, and the child that survived
    assert [status != 0 for status, *_ in story] == [True] * (len(story) - 1) + [False]
    for _, before, after, names in story:
        assert before in (["old"], ["new"])
        assert after == before
        assert names == ["thing.txt"]
    assert story[0][1] == ["old"]
    assert story[-1][1] == ["new"]


@posix
def test_a_folder_is_old_or_new_at_every_kill_once_tidied(tmp_path: Path) -> None:
    story = story_of_kills(tmp_path / "parent", "folder")
    assert len(story) > 10
    for _, before, after, names in story:
        assert before in (["old"] * 2, ["new"] * 2, [])
        assert after in (["old"] * 2, ["new"] * 2)
        assert names == ["thing"]
    assert [before for _, before, _, _ in story].count([]) == 1  # between the two renames, and nowhere else
    assert story[0][2] == ["old"] * 2
    assert story[-1][2] == ["new"] * 2


def test_path_has_the_suffix_and_folder_of_the_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".tmp-")
        temporary.write_bytes(b"new")
        assert not (tmp_path / "picture.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]
    assert (tmp_path / "picture.png").read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_the_old_file_stays_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(str(path)) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@posix
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_device_or_a_pipe_is_written_to_and_stays_what_it_is(tmp_path: Path) -> None:
    """Or `--output /dev/null`, typed by root in a container, would put a file in its place."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with atomic_path(pipe) as where:
        assert where == pipe
    assert pipe.is_fifo()
    with atomic_path("/dev/null") as where:
        assert where == Path("/dev/null")
        where.write_text("nothing")
    assert where.is_char_device()


def test_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with atomic_path(tmp_path / "ours") as temporary:
        temporary.touch()
    usual, ours = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("usual", "ours"))
    assert ours == usual


@posix
def test_who_reads_the_old_file_reads_on(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
        assert reader.read() == "old"  # another file took its name; nobody wrote into it
    assert path.read_text() == "new"


def test_everything_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename, replace = minidiff.files._sync, os.rename, os.replace

    def watched_sync(path: Path) -> None:
        events.append(path.name)
        sync(path)

    def watched_rename(*names: Any) -> None:
        events.append("rename")
        rename(*names)

    def watched_replace(*names: Any) -> None:
        events.append("replace")
        replace(*names)

    monkeypatch.setattr(minidiff.files, "_sync", watched_sync)
    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(os, "replace", watched_replace)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
    assert events == [temporary.name, "replace", tmp_path.name]

    events.clear()
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a.txt").write_text("a")
    assert sorted(events[:3]) == sorted(["inner", "a.txt", temporary.name])
    assert events[3:] == ["rename", tmp_path.name]


def test_folder_is_replaced_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "step"
    for names in (["a", "b"], ["b", "c"]):
        with atomic_folder(path) as temporary:
            for name in names:
                (temporary / name).write_text("".join(names))
        assert sorted(part.name for part in path.iterdir()) == names
        assert (path / "b").read_text() == "".join(names)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", [False, True])
def test_after_an_exception_the_old_folder_stays(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "step"
    if old:
        path.mkdir()
        (path / "a").write_text("old")

    def fail() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [part.name for part in tmp_path.rglob("*")] == (["step", "a"] if old else [])
    assert not old or (path / "a").read_text() == "old"


def test_folder_comes_back_when_the_second_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("old")
    rename, calls = os.rename, []

    def second_fails(*names: Any) -> None:
        calls.append(names)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(*names)

    def replace() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "a").write_text("new")

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt):
        replace()
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_a_kill_moved_aside_does_not_disturb_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "step"
    for text in ("older", "old"):
        with atomic_folder(path) as temporary:
            (temporary / "a").write_text(text)
        shutil.copytree(path, tmp_path / ".tmp-old-step", dirs_exist_ok=True)  # left by a kill while deleting
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("new")
    assert (path / "a").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_half_of_a_folder_is_never_brought_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "step"

    def write() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "a").write_text("a")
            (temporary / "b").write_text("b")

    def killed_half_way(folder: Path) -> None:
        (folder / "a").unlink()
        raise KeyboardInterrupt

    write()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed_half_way)
        with pytest.raises(KeyboardInterrupt):
            write()
    shutil.rmtree(path)  # by its user
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_remove_leftovers_touches_nothing_of_the_users(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123abcd").mkdir()
    (tmp_path / ".tmp-0123abcd" / "a").touch()
    (tmp_path / ".tmp-4567.png").touch()
    kept = ["tmp-x", ".hidden", "a.tmp-b"]
    for name in kept:
        (tmp_path / name).touch()
    remove_leftovers(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_leftovers(tmp_path / "not there")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "nowhere" / "a.txt") as temporary:
            temporary.write_text("x")

    with pytest.raises(FileNotFoundError):
        write()


def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    """A second one is refused with the folder's name; when the first is killed, the next may work."""
    folder = tmp_path / "new" / "run"
    code = (
        "import sys, time; from minidiff.files import alone_in\n"
        "with alone_in(sys.argv[1]): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        with pytest.raises(FolderInUse, match=r"run: another process works in this folder"), alone_in(folder):
            pass
        first.kill()
    with alone_in(folder):
        (folder / "file").write_text("")
    with alone_in(folder):
        assert (folder / "file").exists()


def test_a_file_system_without_locks_forbids_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
