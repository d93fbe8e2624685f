"""Files and directories that are whole or absent: at every way to die, for every kind of name."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from granulon import files
from granulon.files import check_new, new_directory, new_file, replace_directory


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def python(script: str, *arguments: object) -> subprocess.Popen:
    """A process that runs `script` with granulon.files imported as `files`, and nothing heavy."""
    head = "import importlib.util as u, os, sys, time\nfrom pathlib import Path\n"
    head += f"s = u.spec_from_file_location('files', {files.__file__!r})\n"
    head += "files = u.module_from_spec(s); s.loader.exec_module(files)\n"
    command = [sys.executable, "-c", head + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_appears_when_it_is_whole(tmp_path: Path, exists: bool):
    out = tmp_path / "deep" / "model"
    if exists:
        out.mkdir(parents=True)
    with new_directory(out) as staging:
        (staging / "config.json").touch()
        assert not (out / "config.json").exists() and staging.parent == out.parent
    assert names(out) == ["config.json"] and names(out.parent) == ["model"]


def test_after_an_error_nothing_has_changed(tmp_path: Path):
    (tmp_path / "old.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "model") as staging:
        (staging / "half").write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), new_file(tmp_path / "old.txt") as file:
        file.write("new")
        raise RuntimeError
    assert names(tmp_path) == ["old.txt"] and (tmp_path / "old.txt").read_text() == "old"


FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # a real error of a real write
out = Path(sys.argv[1])
for write in (files.new_file, files.new_directory):
    try:
        with write(out / ("old.txt" if write is files.new_file else "model")) as target:
            (target if write is files.new_file else (target / "weights").open("w")).write("x" * 100_000)
    except OSError as error:
        print(error.errno)
"""


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "old.txt").write_text("old")
    out, error = python(FULL_DISK, tmp_path).communicate(timeout=60)
    assert len(out.split()) == 2, error
    assert names(tmp_path) == ["old.txt"] and (tmp_path / "old.txt").read_text() == "old"


DYING = """
with (files.new_directory if sys.argv[2] == "directory" else files.new_file)(sys.argv[1]) as target:
    (target / "half").write_text("half") if sys.argv[2] == "directory" else target.write("half")
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_killed_process_leaves_no_half_and_the_next_one_clears_up(tmp_path: Path, kind: str):
    out = tmp_path / "out"
    write = new_directory if kind == "directory" else new_file
    process = python(DYING, out, kind)
    assert process.stdout.readline() == "here\n"
    (left,) = names(tmp_path)
    old = time.time() - 3600
    os.utime(tmp_path / left, (old, old))
    with write(out):
        assert left in names(tmp_path), "its owner lives"
    (out.rmdir if kind == "directory" else out.unlink)()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert names(tmp_path) == [left], "killed before the rename, there is no `out`"
    with write(tmp_path / "other"):
        assert left in names(tmp_path), "another name's business"
    os.utime(tmp_path / left, None)
    with write(out):
        assert left in names(tmp_path), "so young that its owner may be about to lock it"
    (out.rmdir if kind == "directory" else out.unlink)()
    os.utime(tmp_path / left, (old, old))
    with write(out):
        assert left not in names(tmp_path)
    assert names(tmp_path) == ["other", "out"]


def test_a_directory_that_is_filled_meanwhile_is_left_alone(tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="meanwhile"), new_directory(out) as staging:
        (staging / "mine").touch()
        out.mkdir()
        (out / "theirs").touch()
    assert names(out) == ["theirs"] and names(tmp_path) == ["out"]


def test_what_cannot_be_replaced_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    for out, reason in ((tmp_path / "file", "not an empty"), (tmp_path, "not an empty"), (Path("/proc"), "not an")):
        with pytest.raises(ValueError, match=reason):
            check_new(out)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="where this command runs"):
        check_new(".")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files.os.path, "ismount", lambda path: str(path).endswith("here"))
    with pytest.raises(ValueError, match="mounted"), new_directory("here"):
        raise AssertionError("not reached")


def test_links_stay_and_what_they_point_to_is_written(tmp_path: Path):
    disk = tmp_path / "big-disk"
    (disk / "model").mkdir(parents=True)
    (disk / "old.txt").write_text("old")
    for name in ("model", "old.txt", "new.txt"):
        (tmp_path / name).symlink_to(disk / name)
    with new_directory(tmp_path / "model") as staging:
        assert staging.parent == disk, "a rename works within one file system only"
        (staging / "config.json").touch()
    for name in ("old.txt", "new.txt"):
        with new_file(tmp_path / name) as file:
            file.write("new")
        assert (tmp_path / name).is_symlink() and (disk / name).read_text() == "new"
    assert (tmp_path / "model").is_symlink() and names(disk / "model") == ["config.json"]


def test_a_pipe_is_written_to(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with new_file(tmp_path / "pipe") as file:
        file.write("water")
    assert os.read(reader, 100) == b"water" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    with pytest.raises(IsADirectoryError), new_file(tmp_path):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask_or_the_file_that_was_there(tmp_path: Path, umask: int):
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    before = os.umask(umask)
    try:
        with new_directory(tmp_path / "model"), new_file(tmp_path / "new"), new_file(secret):
            pass
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {"model": 0o777 & ~umask, "new": 0o666 & ~umask, "secret": 0o600}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_directory_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    for step in ("one", "two"):
        (tmp_path / "staged").mkdir()
        (tmp_path / "staged" / step).touch()
        replace_directory(tmp_path / "staged", tmp_path / "checkpoint")
        assert names(tmp_path) == ["checkpoint"] and names(tmp_path / "checkpoint") == [step]
    with pytest.raises(OSError):
        replace_directory(tmp_path / "missing", tmp_path / "checkpoint")
    assert names(tmp_path) == ["checkpoint"] and names(tmp_path / "checkpoint") == ["two"]


REPLACING = """
out = Path(sys.argv[1])
staged = out.with_name("staged")
files._flush_entry = lambda path: None  # the disk is not what is tested: more replacements in less time
print("here", flush=True)
for step in range(10**6):
    staged.mkdir(exist_ok=True)
    for name in "abc":
        (staged / name).write_text(str(step))
    files.replace_directory(staged, out)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names can be exchanged on Linux")
def test_a_replacement_that_is_killed_leaves_one_of_the_two_whole(tmp_path: Path):
    for attempt in range(5):
        process = python(REPLACING, tmp_path / "out")
        assert process.stdout.readline() == "here\n"
        deadline = time.monotonic() + 0.05 * (attempt + 1)
        while time.monotonic() < deadline:
            pass
        process.kill()
        process.communicate()
        assert len({(tmp_path / "out" / name).read_text() for name in "abc"}) == 1
