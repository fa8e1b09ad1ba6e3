"""Write a file or a folder completely, or not at all.

A run may be killed while it writes a checkpoint or a picture. Everything that minidiff writes is therefore
made under another name in the same folder, flushed to the disk, and only then renamed, which a file system
does in one step: under its own name a reader finds the whole old thing or the whole new one. What killed
processes left behind carries a prefix of ours, so that `remove_leftovers` can tell it from a user's files.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FolderInUse", "alone_in", "atomic_folder", "atomic_path", "remove_leftovers"]

UNFINISHED = ".tmp-"  # may be deleted: nobody has seen it
LOCK = ".lock"  # an empty file that stays; the lock on it ends with the process that holds it
REPLACED = ".tmp-old-"  # followed by the folder's name; its successor is about to take that name


class FolderInUse(OSError):
    """Another process works in a folder."""


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Keep other processes that ask the same out of a folder, which is made if it is not there.

    Raises
    ------
    FolderInUse
        If another process is in it. One that was killed is not.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        if not _locked(handle):
            raise FolderInUse(
                f"{folder}: another process works in this folder; wait for it, or name another folder"
            )
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Whether the lock on an open file is ours now; it ends when the file is closed."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)  # a file system without locks forbids nothing
    return True


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file that appears under its name only when it is complete.

    Parameters
    ----------
    path : str or Path
        Where the file shall be; an old file there is replaced. Its folder must exist.

    Yields
    ------
    Path
        Where to write instead: a new name in the same folder, with the same suffix. After an exception it is
        deleted and `path` is as it was. A device or a pipe, such as /dev/null, is itself what is written to.
    """
    path = Path(path)
    if path.is_char_device() or path.is_fifo():  # which a file would take the place of
        yield path
        return
    temporary = _beside(path, path.suffix)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        _remove(temporary)  # after a success nothing has this name


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder that appears under its name only when every file in it is complete.

    Parameters
    ----------
    path : str or Path
        Where the folder shall be. An old folder there is replaced. That takes two renames; a process killed
        between them leaves the old folder under another name, from which `remove_leftovers` brings it back.

    Yields
    ------
    Path
        A new, empty folder beside `path` to write into. After an exception it is deleted and `path` is as it
        was.
    """
    path = Path(path)
    temporary, replaced = _beside(path), path.with_name(REPLACED + path.name)
    temporary.mkdir()
    try:
        yield temporary
        for part in [*temporary.rglob("*"), temporary]:
            _sync(part)
        if path.exists():
            _remove(replaced)  # `path` is newer than what a killed process moved there
            os.rename(path, replaced)
        os.rename(temporary, path)
        _sync(path.parent)
        _remove(replaced)
    finally:
        _bring_back(replaced, path)  # Ctrl-C, too, may come between two renames
        _remove(temporary)


def remove_leftovers(parent: str | Path) -> None:
    """Tidy the folder `parent` after a process that was killed while it wrote there.

    Call it before reading, and only where no other process is writing now: its unfinished files would go too.
    """
    parent = Path(parent)
    for replaced in parent.glob(REPLACED + "*"):
        _bring_back(replaced, parent / replaced.name.removeprefix(REPLACED))
    for leftover in parent.glob(UNFINISHED + "*"):
        _remove(leftover)


def _beside(path: Path, suffix: str = "") -> Path:
    """A name in the folder of `path` that nothing has yet (eight hexadecimal digits never read `old-`)."""
    return path.with_name(f"{UNFINISHED}{secrets.token_hex(4)}{suffix}")


def _bring_back(replaced: Path, path: Path) -> None:
    if replaced.exists() and not path.exists():
        os.rename(replaced, path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        doomed = _beside(path)
        os.rename(path, doomed)  # so that half of a folder is never brought back
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until `path` is on the disk. Windows cannot sync a folder and needs a writable handle."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
