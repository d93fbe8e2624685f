"""
Files and directories that are whole or absent: written aside, flushed to the disk, then renamed.

Whatever ends the process in between (an error, a full disk, `kill -9`, a power cut), a name holds what it held before
or all of the new. What a dead process leaves beside it, `.NAME-xxxxxxxx.partial`, goes when NAME is next written.
"""

import ctypes
import errno
import glob
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


try:
    import fcntl
except ImportError:  # Windows: nothing is flushed, and what dead processes leave stays
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".partial"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h and stdio.h of Linux


def check_new(out: str | Path) -> None:
    """
    Raises:
        ValueError: `out` is a file, a directory with something in it, or one that no other can take the place of.
    """
    place = _real(out)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty directory. Name another, or remove it.")
    if place.exists() and (os.path.ismount(place) or os.path.samefile(place, os.curdir)):
        kind = "on which a file system is mounted" if os.path.ismount(place) else "where this command runs"
        raise ValueError(f"--out {out} is the folder {kind}, so nothing can take its place. Name a new one inside it.")


@contextmanager
def new_directory(out: str | Path) -> Iterator[Path]:
    """
    A directory to write into, beside `out`, that takes the name `out` once the block has ended well. After an error,
    also that of a full disk, nothing is left. Where `out` is a link to a directory, that one is written.

    Raises:
        ValueError: as `check_new`.
    """
    check_new(out)
    place = _real(out)
    with _staging(place, is_directory=True) as staging:
        yield staging
        _flush(staging)
        try:
            _rename(staging, place)  # an empty directory gives way, one that was filled meanwhile does not
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise ValueError(f"Something else was written to {out} meanwhile, and was left as it is.") from error
        _flush_entry(place.parent)


def replace_directory(staged: str | Path, out: str | Path) -> None:
    """
    Give a finished directory, on the same file system, the name `out`. A directory that stood there is deleted once
    the new one has the name.

    Where two names can be exchanged (Linux), there is no moment without `out`. Elsewhere a process that dies between
    two renames leaves the old directory, whole, beside it, under a name that ends in `.outdated`.
    """
    staged, place = Path(staged), _real(out)
    _flush(staged)
    if not place.exists():
        staged.rename(place)
    elif _exchange(staged, place):
        shutil.rmtree(staged, ignore_errors=True)
    else:
        outdated = place.with_name(f".{place.name[:50]}-{secrets.token_hex(4)}.outdated")
        place.rename(outdated)
        try:
            staged.rename(place)
        except OSError:
            outdated.rename(place)
            raise
        shutil.rmtree(outdated, ignore_errors=True)
    _flush_entry(place.parent)


@contextmanager
def new_file(out: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """
    A file to write into, beside `out`, that takes its name, and the place of what stood there, once the block has
    ended well. After an error, also that of a full disk, `out` is what it was.

    A file that is replaced hands on its permissions; where `out` is a link to a file, that one is written; what is
    neither file nor directory (a pipe, /dev/null) is written to as it stands.

    Args:
        mode: "w" (UTF-8, unless `options` say otherwise) or "wb".
        options: for `open`.
    """
    place = _real(out)
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    if place.exists() and not place.is_file():
        with open(out, mode, **options) as file:
            yield file
        return
    if place.exists():
        os.close(os.open(place, os.O_WRONLY))  # what may not be written may not be replaced
    with _staging(place, is_directory=False) as staging:
        with staging.open(mode, **options) as file:
            yield file
        _flush(staging)
        if place.exists():
            staging.chmod(stat.S_IMODE(place.stat().st_mode))
        staging.replace(place)
        _flush_entry(place.parent)


def _real(out: str | Path) -> Path:
    return Path(os.path.realpath(out))


@contextmanager
def _staging(place: Path, is_directory: bool) -> Iterator[Path]:
    """Something empty beside `place`, open to whom the umask says, and locked for as long as this process lives."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place)
    staging = place.with_name(f".{place.name[:50]}-{secrets.token_hex(4)}{_SUFFIX}")
    if is_directory:
        staging.mkdir()
    else:
        staging.touch(exist_ok=False)
    lock = _lock(staging)
    try:
        yield staging
    finally:
        _remove(staging)
        if lock is not None:
            os.close(lock)


def _remove_abandoned(place: Path) -> None:
    """Delete what dead processes left of earlier attempts to write `place`."""
    for name in glob.glob(f".{glob.escape(place.name[:50])}-????????{_SUFFIX}", root_dir=place.parent):
        path = place.with_name(name)
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < 60:
                continue  # its owner may be about to lock it
            lock = _lock(path)
            if lock is not None:
                _remove(path)
                os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of `path`, or `None` where another one does, or nothing can be locked."""
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _rename(staging: Path, place: Path) -> None:
    if os.name == "nt" and place.is_dir():
        place.rmdir()  # there, nothing gives way by itself
    staging.rename(place)


def _exchange(first: Path, second: Path) -> bool:
    """Whether two names of one file system could be exchanged, in one step."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def _flush(path: Path) -> None:
    """Wait until a file, or all of a directory, is on the disk: a name must not arrive there before its content."""
    for folder, _, names in os.walk(path):
        for name in names:
            _flush_entry(Path(folder, name))
        _flush_entry(Path(folder))
    if path.is_file():
        _flush_entry(path)


def _flush_entry(path: Path) -> None:
    if fcntl is None or path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
