"""Checkpoints: resuming is exact, and whatever ends a run leaves only complete ones."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_tools import logged, make_rows, make_trainer, parameters_of

from transformers import TrainerCallback

from granulon import GranulonForConditionalGeneration, GranulonProcessor
from granulon.training import checkpoints
from granulon.training.checkpoints import STAGING, find_fault, find_last_checkpoint


TERMS = ("loss", "loss_task", "loss_pixel", "loss_semantic", "loss_controller", "level/coarse", "level/finest")
SAVING = {"save_strategy": "steps", "save_steps": 2}


def assert_same_run(resumed, whole) -> None:
    expected = parameters_of(whole)
    for name, value in parameters_of(resumed).items():
        assert torch.equal(value, expected[name]), name
    assert repr(logged(resumed, *TERMS)) == repr(logged(whole, *TERMS))
    assert torch.equal(resumed.loss_terms.queue.descriptors, whole.loss_terms.queue.descriptors)
    assert torch.equal(resumed.loss_terms.queue.keys, whole.loss_terms.queue.keys)


@pytest.mark.parametrize("stage", ["connector", "lora", "full"])
def test_resumed_equals_uninterrupted(tmp_path: Path, stage: str):
    """Stopped after step 3 of 6, in the second epoch, with accumulation; `full` draws random numbers, too."""
    options = {"stage": stage, "max_steps": 6, "gradient_accumulation_steps": 2, "contribution_queue_size": 10}
    options |= {"save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-3, "lr_scheduler_type": "cosine"}
    rows = make_rows(10)
    whole = make_trainer(tmp_path / "whole", rows, **options)
    whole.train()
    first = make_trainer(tmp_path / "parts", rows, **options, trainer={"callbacks": [StopAfter(3)]})
    first.train()
    torch.manual_seed(12345)  # another process would have other random numbers
    second = make_trainer(tmp_path / "parts", rows, **options)
    for parameter in second.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()  # what is there counts for nothing
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 6
    assert_same_run(second, whole)


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"max_steps": -1, "num_train_epochs": 0.5}])
@pytest.mark.parametrize("stage", ["connector", "lora"])
def test_a_complete_run_is_restored_and_not_trained(tmp_path: Path, stage: str, length: dict, capsys):
    options = {"stage": stage, **length, **SAVING}  # 16 rows by twos: 8 steps an epoch
    whole = make_trainer(tmp_path, **options)
    whole.train()
    assert whole.state.global_step == 4 and not whole.was_complete
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    again = make_trainer(tmp_path, **options)
    for parameter in again.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    result = again.train(resume_from_checkpoint=True)
    assert again.was_complete and result.global_step == again.state.global_step == 4
    assert "checkpoint-4 is the last step of its run: there is nothing left to train" in capsys.readouterr().err
    assert_same_run(again, whole)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}


class StopAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def test_a_checkpoint_is_a_model_directory(tmp_path: Path):
    trainer = make_trainer(tmp_path, max_steps=2, **SAVING)
    trainer.provenance = {"recipe": {"name": "test"}, "results": {"accuracy": 0.5}}
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    model = GranulonForConditionalGeneration.from_pretrained(checkpoint)
    for name, value in model.named_parameters():
        assert torch.equal(value, dict(trainer.model.named_parameters())[name]), name
    assert GranulonProcessor.from_pretrained(checkpoint).level_names == model.config.level_names
    assert (checkpoint / "modeling_granulon.py").is_file()
    record = json.loads((checkpoint / "granulon_training.json").read_text())
    assert record["stage"] == "connector" and record["seed"] == 42
    assert record["recipe"] == {"name": "test"} and record["results"] == {"accuracy": 0.5}
    assert record["data"][0]["num_rows"] == 16 and record["data"][0]["fingerprint"]
    assert [entry["step"] for entry in record["log_history"]] == [1, 2]
    assert {"torch", "transformers", "trl", "peft", "datasets", "python"} <= set(record["versions"])
    assert not (tmp_path / STAGING).exists()
    trainer.save_model(str(tmp_path / "final"))
    assert (tmp_path / "final" / "granulon_training.json").is_file()


@pytest.mark.parametrize("damage", ["cut", "missing", "unfinished", "manifest"])
def test_incomplete_checkpoints_are_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture):
    trainer = make_trainer(tmp_path, max_steps=4, **SAVING)
    trainer.train()
    newest = tmp_path / "checkpoint-4"
    assert find_last_checkpoint(tmp_path) == newest
    if damage == "cut":
        content = (newest / "model.safetensors").read_bytes()
        (newest / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "missing":
        (newest / "optimizer.pt").unlink()
    elif damage == "unfinished":
        (newest / checkpoints.MANIFEST).unlink()
    else:
        (newest / checkpoints.MANIFEST).write_text("{")
    assert find_last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert "Passing over" in caplog.text and "checkpoint-4" in caplog.text
    with pytest.raises(ValueError, match="Cannot resume from .*checkpoint-4"):
        trainer.train(resume_from_checkpoint=str(newest))
    shutil.rmtree(tmp_path / "checkpoint-2")
    with pytest.raises(ValueError, match="no complete checkpoint"):
        trainer.train(resume_from_checkpoint=True)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from training_tools import make_rows, make_trainer
import transformers

save = transformers.Trainer._save_optimizer_and_scheduler
def die(self, directory):
    if self.state.global_step == 4:
        os.kill(os.getpid(), signal.SIGKILL)  # the weights are written, the rest is not
    save(self, directory)
transformers.Trainer._save_optimizer_and_scheduler = die
make_trainer(Path(sys.argv[2]), max_steps=6, save_strategy="steps", save_steps=2).train()
"""


def test_killed_while_writing_a_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (tmp_path / "killed" / STAGING / "checkpoint-4" / "model.safetensors").is_file()
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-2"]
    whole = make_trainer(tmp_path / "whole", max_steps=6)
    whole.train()
    resumed = make_trainer(tmp_path / "killed", max_steps=6, **SAVING)
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-4 was being written when the run ended" in caplog.text
    assert_same_run(resumed, whole)
    assert not (tmp_path / "killed" / STAGING).exists()  # written anew, and complete
    assert find_fault(tmp_path / "killed" / "checkpoint-4") is None


@pytest.mark.parametrize("writer", ["torch.save", "torch's zip", "manifest", "safetensors"])
def test_a_full_disk_loses_nothing(tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch):
    trainer = make_trainer(tmp_path, max_steps=6, save_total_limit=1, **SAVING)

    def fill(*args, **kwargs):
        if trainer.state.global_step >= 4:
            if writer == "safetensors":
                raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
            if writer == "torch's zip":
                raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)

    if writer.startswith("torch"):
        monkeypatch.setattr(checkpoints, "_probe", lambda folder: errno.ENOSPC)
        original = torch.save
        monkeypatch.setattr(torch, "save", fill)
    elif writer == "manifest":
        original = checkpoints.write_manifest
        monkeypatch.setattr("granulon.training.trainer.write_manifest", fill)
    else:
        original = trainer.model.save_pretrained
        monkeypatch.setattr(trainer.model, "save_pretrained", fill)
    with pytest.raises(OSError, match="No space left on the disk while writing .*checkpoint-4") as caught:
        trainer.train()
    assert caught.value.errno == errno.ENOSPC and "resume_from_checkpoint" in str(caught.value)
    assert find_last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not list((tmp_path / STAGING).glob("*")) and not (tmp_path / "checkpoint-4").exists()
    monkeypatch.undo()
    trainer = make_trainer(tmp_path, max_steps=6, save_total_limit=1, **SAVING)
    trainer.train(resume_from_checkpoint=True)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


class FillDisk(TrainerCallback):
    """Leaves, before the second checkpoint, only room for all of a checkpoint but one file and what follows it."""

    def __init__(self, directory: Path, first_too_large: str):
        self.directory, self.first_too_large = directory, first_too_large

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3:
            files = list((self.directory / "run" / "checkpoint-2").iterdir())
            (last,) = (file for file in files if file.name == self.first_too_large)
            room = sum(f.stat().st_size for f in files if f.stat().st_mtime_ns < last.stat().st_mtime_ns)
            free = shutil.disk_usage(self.directory).free - room - last.stat().st_size // 2
            with open(self.directory / "ballast", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, free)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.parametrize("first_too_large", ["model.safetensors", "optimizer.pt"])
def test_a_disk_that_is_really_full(small_disk: Path, first_too_large: str):
    fill = FillDisk(small_disk, first_too_large)
    trainer = make_trainer(small_disk / "run", trainer={"callbacks": [fill]}, max_steps=4, **SAVING)
    with pytest.raises(OSError, match="No space left on the disk while writing .*checkpoint-4") as caught:
        trainer.train()
    assert caught.value.errno == errno.ENOSPC
    assert find_last_checkpoint(small_disk / "run").name == "checkpoint-2"
    assert not list((small_disk / "run" / STAGING).glob("*"))
    if first_too_large == "model.safetensors":
        with pytest.raises(OSError, match="No space left on the disk while writing .*final"):
            trainer.save_final(small_disk / "run" / "final")
        assert not (small_disk / "run" / "final").exists()
    (small_disk / "ballast").unlink()
    trainer.save_final(small_disk / "run" / "final")
    assert (small_disk / "run" / "final" / "model.safetensors").is_file()


def test_other_faults_of_torch_stay_what_they_are(tmp_path: Path):
    fault = RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    with pytest.raises(RuntimeError, match="PytorchStreamWriter"), checkpoints.explain_full_disk(tmp_path / "a", ""):
        raise fault


class Terminate(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # in the middle of the third step


def test_sigterm_finishes_the_step_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(tmp_path / "parts", max_steps=5, trainer={"callbacks": [Terminate()]})
    with pytest.raises(SystemExit) as ended:
        trainer.train()
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert "Stopped by SIGTERM after step 3" in capsys.readouterr().err
    assert find_last_checkpoint(tmp_path / "parts").name == "checkpoint-3"
    whole = make_trainer(tmp_path / "whole", max_steps=5)
    whole.train()
    resumed = make_trainer(tmp_path / "parts", max_steps=5)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole)


def test_the_best_checkpoint_is_kept_and_loaded(tmp_path: Path):
    rows = make_rows(8)
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1}
    options |= {"metric_for_best_model": "eval_loss_task", "max_steps": 6}
    trainer = make_trainer(tmp_path, rows, trainer={"eval_dataset": rows}, **options, **SAVING)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path and find_fault(best) is None
    losses = {e["step"]: e["eval_loss_task"] for e in trainer.state.log_history if "eval_loss_task" in e}
    assert best.name == f"checkpoint-{min(losses, key=losses.get)}"
    assert json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    again = make_trainer(tmp_path, rows, trainer={"eval_dataset": rows}, **options, **SAVING)
    again.train(resume_from_checkpoint=True)
    for name, value in parameters_of(again).items():
        assert torch.equal(value, parameters_of(trainer)[name]), name
