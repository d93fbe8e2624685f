"""Checkpoints that are whole or absent: written aside, listed in a manifest, then renamed."""

import contextlib
import errno
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path


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


@contextlib.contextmanager
def explain_full_disk(target: Path, consequence: str) -> Iterator[None]:
    """
    Turn the many shapes of a full disk into one `OSError` (ENOSPC) that names `target`, the consequence, and what to
    do.

    torch and safetensors report it as a RuntimeError and a SafetensorError with the system's words in the text.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        is_full = (
            getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            or "os error 28" in text
            or "No space left" in text
        )
        # torch's zip writer does not pass on why it failed
        if not is_full and "PytorchStreamWriter" in text:
            is_full = shutil.disk_usage(target.parent).free < 1 << 20
        if not is_full:
            raise
        raise OSError(
            errno.ENOSPC,
            f"No space left on the disk while writing {target}. {consequence} Free some space (or lower "
            "`save_total_limit`, or set `save_only_model=True`), then resume with `resume_from_checkpoint=True`",
        ) from error


def publish(staged: Path, final: Path) -> None:
    """Give a finished checkpoint its name; a checkpoint of the same step makes way."""
    if final.exists():
        outdated = staged.parent / f"outdated-{final.name}"
        shutil.rmtree(outdated, ignore_errors=True)
        final.rename(outdated)
        staged.rename(final)
        shutil.rmtree(outdated, ignore_errors=True)
    else:
        staged.rename(final)
    with contextlib.suppress(OSError):
        staged.parent.rmdir()  # unless it holds what another run left


def _files(directory: Path) -> list[Path]:
    return [file for file in directory.rglob("*") if file.is_file() and file.name != MANIFEST]
