"""One run at a time in an output directory, whatever became of the one before."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from training_tools import make_trainer

from transformers import TrainerCallback

from granulon.training import run_lock
from granulon.training.run_lock import LOCK_FILE, RunLock


@contextlib.contextmanager
def another_run(output: Path, has_worker: bool = False) -> Iterator[int]:
    """The id of a process that holds the lock of `output`, and perhaps has a worker of its own."""
    ready, is_ready = os.pipe()
    child = os.fork()
    if child == 0:
        RunLock(output).__enter__()
        if has_worker and os.fork() == 0:
            signal.alarm(60)
            signal.pause()
        os.write(is_ready, b"!")
        signal.pause()
    os.read(ready, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path):
    with another_run(tmp_path) as child:
        for attempt in (RunLock(tmp_path).__enter__, RunLock(tmp_path).check):
            with pytest.raises(ValueError, match=rf"still going \(process {child} on .*, since 20"):
                attempt()
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == child
        RunLock(tmp_path / "other").check()
    RunLock(tmp_path).check()
    with RunLock(tmp_path):  # the other was killed and could not tidy up
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


def test_workers_that_outlive_a_killed_run_hold_nothing(tmp_path: Path):
    with another_run(tmp_path, has_worker=True):
        pass
    with RunLock(tmp_path):
        pass


def test_a_lock_is_entered_again_only_by_its_own_run(tmp_path: Path):
    output = tmp_path / "run"
    first, second = RunLock(output), RunLock(output)
    with first:
        with first:
            pass
        with pytest.raises(ValueError, match="still going"), second:
            pass
    with second:
        pass
    assert not output.exists()  # nothing was written to it


@pytest.mark.parametrize("is_alive", [True, False])
def test_without_locks_of_the_file_system_the_record_decides(tmp_path: Path, is_alive: bool, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    owner = {"pid": os.getppid() if is_alive else 2**22 + 1, "host": socket.gethostname(), "since": "2026-01-01"}
    (tmp_path / LOCK_FILE).write_text(json.dumps(owner))
    if is_alive:
        with pytest.raises(ValueError, match=f"process {os.getppid()}"):
            RunLock(tmp_path).check()
    else:
        with RunLock(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_an_unreadable_record_is_no_error(tmp_path: Path):
    (tmp_path / LOCK_FILE).write_text("{")
    with RunLock(tmp_path):
        pass


class Meddle(TrainerCallback):
    """Starts a second run in the same directory in the middle of the first."""

    def __init__(self, second):
        self.second, self.said = second, ""

    def on_step_begin(self, args, state, control, **kwargs):
        with pytest.raises(ValueError, match="still going") as caught:
            self.second.train()
        self.said = str(caught.value)


def test_two_trainers_in_one_directory(tmp_path: Path):
    second = make_trainer(tmp_path, max_steps=1)
    meddle = Meddle(second)
    first = make_trainer(tmp_path, max_steps=1, trainer={"callbacks": [meddle]})
    first.train()
    assert str(tmp_path) in meddle.said and first.state.global_step == 1
    second.train()
    assert second.state.global_step == 1 and not (tmp_path / LOCK_FILE).exists()
