"""Directories that are whole or absent."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
