"""Files and directories that are whole or absent: written aside, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def check_new(out: str | Path) -> None:
    """
    Raises:
        ValueError: `out` is a file, or a directory with something in it.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty directory. Name another, or remove it.")


@contextmanager
def new_directory(out: str | Path) -> Iterator[Path]:
    """
    A directory to write into, beside `out`, that takes the name `out` once the block has ended well. After an error,
    also that of a full disk, nothing is left.

    Raises:
        ValueError: as `check_new`.
    """
    out = Path(out)
    check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield staging
        if out.exists():
            out.rmdir()
        staging.chmod(0o755)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def new_file(out: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """
    A file to write into, beside `out`, that takes its name, and the place of what stood there, once the block has
    ended well. After an error, also that of a full disk, `out` is what it was.

    Args:
        mode: "w" (UTF-8, unless `options` say otherwise) or "wb".
        options: for `open`.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}-")
    os.close(handle)
    staging = Path(name)
    try:
        with staging.open(mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.chmod(0o644)
        staging.replace(out)
    finally:
        staging.unlink(missing_ok=True)
