"""Checkpoints that are whole or absent: written aside, listed in a manifest, then renamed."""

import contextlib
import errno
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from granulon.files import replace_directory


logger = logging.getLogger(__name__)

MANIFEST = "checkpoint_manifest.json"
STAGING = "_incomplete"  # folder in the output directory that is never resumed from, and not pushed (its "_")
_NAME = re.compile(r"^checkpoint-(\d+)$")


def write_manifest(checkpoint: Path) -> None:
    """List every file of a checkpoint with its size; written last, so that it vouches for the others."""
    sizes = {str(file.relative_to(checkpoint)): file.stat().st_size for file in _files(checkpoint)}
    (checkpoint / MANIFEST).write_text(json.dumps({"files": dict(sorted(sizes.items()))}, indent=1))


def find_fault(checkpoint: Path) -> str | None:
    """Why a checkpoint is not complete, or `None` where every file of its manifest is there in full."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so it was not finished"
    except (ValueError, KeyError, TypeError):
        return f"its {MANIFEST} cannot be read"
    for name, size in files.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def find_last_checkpoint(output_dir: Path) -> Path:
    """
    The newest complete checkpoint; newer ones that are not complete are passed over with a warning.

    Raises:
        ValueError: there is none.
    """
    found = [path for path in output_dir.glob("checkpoint-*") if path.is_dir() and _NAME.match(path.name)]
    staged = sorted(path.name for path in (output_dir / STAGING).glob("checkpoint-*"))
    if staged:
        logger.warning(
            "%s was being written when the run ended; what there is of it lies in %s and is passed over.",
            " and ".join(staged),
            output_dir / STAGING,
        )
    faults = []
    for checkpoint in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = find_fault(checkpoint)
        if fault is None:
            return checkpoint
        logger.warning("Passing over %s: %s.", checkpoint, fault)
        faults.append(f"{checkpoint.name}: {fault}")
    raise ValueError(
        f"{output_dir} holds no complete checkpoint to resume from ({'; '.join(faults) or 'no checkpoint at all'}). "
        "Pass the path of another checkpoint, or start anew with `resume_from_checkpoint=False`."
    )


# what a full disk is called, by the system's number
_FULL = {
    errno.ENOSPC: "No space left on the disk",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "A file got larger than the system allows",
}


@contextlib.contextmanager
def explain_full_disk(target: Path, consequence: str) -> Iterator[None]:
    """
    Turn the many shapes of a full disk into one `OSError` that names `target`, the consequence, and what to do.

    Raises:
        OSError: ENOSPC, EDQUOT or EFBIG.
    """
    try:
        yield
    except Exception as error:
        number = _full_disk_number(error, target)
        if number is None:
            raise
        raise OSError(
            number,
            f"{_FULL[number]} while writing {target}. {consequence} Free some space (or lower `save_total_limit`, or "
            "set `save_only_model=True`), then resume with `resume_from_checkpoint=True`",
        ) from error


def _full_disk_number(error: Exception, target: Path) -> int | None:
    """The system's number for a full disk, where that is what an error is about."""
    if getattr(error, "errno", None) in _FULL:
        return error.errno  # type: ignore[attr-defined]
    text = str(error)
    for number in _FULL:  # safetensors quotes the system
        if f"(os error {number})" in text or os.strerror(number) in text:
            return number
    if "inline_container.cc" in text or "PytorchStreamWriter" in text:  # torch does not say why it could not write
        return _probe(target.parent)
    return None


def _probe(folder: Path, size: int = 4 << 20) -> int | None:
    """The number of what stops a file of `size` bytes from being written in `folder`."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(size))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno if error.errno in _FULL else None
    return None


def publish(staged: Path, final: Path) -> None:
    """Give a finished directory its name; one that stood there makes way."""
    replace_directory(staged, final)
    with contextlib.suppress(OSError):
        staged.parent.rmdir()  # unless it holds what another run left


def _files(directory: Path) -> list[Path]:
    return [file for file in directory.rglob("*") if file.is_file() and file.name != MANIFEST]
