"""One run at a time in an output directory."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list


try:
    import fcntl
except ImportError:  # Windows: the record in the file decides alone
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".run.lock"
_descriptors: set[int] = set()  # of the locks that this process holds


def _close_locks() -> None:
    for held in _descriptors:
        os.close(held)


if hasattr(os, "register_at_fork"):  # a worker that outlives a killed run must not hold its lock
    os.register_at_fork(after_in_child=_close_locks)


class RunLock:
    """
    A context in which no other run may use `output_dir`: a file in it, locked by the main process of the run.

    The system drops the lock when its process ends, however it ends, so a dead run never keeps the directory. May be
    entered again while it is held.

    Raises:
        ValueError: another run is going on there; on every rank.
        OSError: the directory cannot be written; on every rank.
    """

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir) / LOCK_FILE
        self._depth = 0
        self._descriptor: int | None = None
        self._is_new_directory = False

    def __enter__(self) -> "RunLock":
        if self._depth == 0:
            faults: list[Exception | None] = [None]
            if PartialState().is_main_process:
                try:
                    self._acquire()
                except (ValueError, OSError) as error:
                    faults = [error]
            if PartialState().num_processes > 1:
                broadcast_object_list(faults)
            if faults[0] is not None:
                raise faults[0]
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._descriptor is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()  # while it is held, so that nobody has locked it
            os.close(self._descriptor)
            _descriptors.discard(self._descriptor)
            self._descriptor = None
            if self._is_new_directory:
                with contextlib.suppress(OSError):
                    self.path.parent.rmdir()  # if nothing was written to it

    def check(self) -> None:
        """Change nothing; raise what entering would raise."""
        if self._descriptor is None and self.path.exists():
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                self._lock(descriptor)
            finally:
                os.close(descriptor)

    def _acquire(self) -> None:
        self._is_new_directory = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock(descriptor)
                if os.path.exists(self.path) and os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    break  # else the run that held it has just ended and taken the file away
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        self._descriptor = descriptor
        _descriptors.add(descriptor)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)

    def _lock(self, descriptor: int) -> None:
        owner: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            owner = json.loads(os.pread(descriptor, 4096, 0))
        try:
            if fcntl is None:
                raise OSError
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse(owner)
        except OSError:  # a file system without locks
            if owner and _is_alive(owner):
                self._refuse(owner)

    def _refuse(self, owner: dict[str, Any]) -> None:
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}" if owner else "it has just begun"
        raise ValueError(
            f"{self.path.parent} is the output of a run that is still going ({who}). Wait for its end, stop it, or "
            "choose another output directory."
        )


def _is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process of a record lives; on another machine it is taken to."""
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return owner["pid"] != os.getpid()
