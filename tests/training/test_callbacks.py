"""What is shown while training: a line per log with everything in it, and answers to fixed questions."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from tiny import make_granulon, make_image
from training_tools import make_rows, make_trainer, parameters_of

from transformers import TrainerCallback

from granulon.training.callbacks import ProgressReport, SampleGeneration


QUESTION = {"question": "What colour is it?", "image": make_image(0)}


def test_progress_shows_time_terms_levels_and_speed(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3)
    stream = io.StringIO()
    ProgressReport.install(trainer, stream)
    trainer.train()
    lines = [line for line in stream.getvalue().splitlines() if " left | loss " in line]
    assert [line.split(" | ")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3"]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    for line, entry in zip(lines, logs, strict=True):
        assert f"task {entry['loss_task']:.4g}" in line and f"controller {entry['loss_controller']:.4g}" in line
        assert "levels coarse " in line and f"{entry['samples_per_second']:.4g} samples/s" in line
    assert "pixel" in lines[-1] and "semantic" in lines[-1] and "tokens/s" in lines[-1]
    assert logs[-1]["tokens_per_second"] > logs[-1]["samples_per_second"] > 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_says_what_is_left_and_nothing_prints_dictionaries(tmp_path, capsys):
    terminal = Terminal()
    trainer = make_trainer(tmp_path, max_steps=4, logging_steps=2, disable_tqdm=False)
    ProgressReport.install(trainer, terminal)
    trainer.train()
    shown = terminal.getvalue().replace("\r", "\n").splitlines()
    bars = [line for line in shown if "%|" in line]
    assert bars[0].startswith("  0%|") and bars[0].rstrip().endswith("step 0/4")
    assert "100%|" in bars[-1] and "step 4/4, 0 s left" in bars[-1]
    assert len([line for line in shown if line.startswith("step ") and " left | loss " in line]) == 2
    assert len([line for line in shown if line.startswith("step 4/4 | the end after ")]) == 1
    captured = capsys.readouterr()
    assert not any("{'" in text for text in (*shown, captured.out, captured.err))


def test_the_trainer_reports_in_lines_by_itself(tmp_path, capsys):
    make_trainer(tmp_path, max_steps=2).train()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("step 1/2 | ") == 1 and "step 2/2 | the end after" in captured.err


def test_the_time_left_counts_what_was_measured_on_the_clock(monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("granulon.training.callbacks.time", clock)
    report = ProgressReport(io.StringIO())
    state = SimpleNamespace(global_step=10, max_steps=110, epoch=0.5, is_world_process_zero=True)
    report.on_train_begin(SimpleNamespace(disable_tqdm=False), state, None)  # resumed after step 10
    assert report.time_left(10, 110) == ""
    clock.now = 40.0  # of which an evaluation took 20
    assert report.time_left(30, 110) == "3 min left"  # 80 steps of 2 s


def test_speed_counts_the_rows_that_were_there(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("granulon.training.callbacks.time", clock)

    class Tick(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            clock.now += 1.0  # a step takes a second

    options = {"max_steps": 3, "per_device_train_batch_size": 4, "trainer": {"callbacks": [Tick()]}}
    trainer = make_trainer(tmp_path, make_rows(5), **options)
    ProgressReport.install(trainer, io.StringIO())
    trainer.train()
    speeds = [entry["samples_per_second"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(speeds[:2]) == pytest.approx(5) and max(speeds) <= 4, "4 rows and 1 are an epoch of 5"


def test_progress_line_of_an_evaluation():
    line = ProgressReport(io.StringIO()).line(
        {"eval_loss": 1.5, "eval_loss_task": 1.25, "eval_level/coarse": 0.25, "epoch": 1.0}, 4, 8
    )
    assert line == "step 4/8 | evaluation | loss 1.5 (task 1.25) | levels coarse 25%"


def test_samples_are_written_and_change_nothing_in_training(tmp_path):
    def train(folder, *callbacks):
        trainer = make_trainer(folder, make_rows(8), trainer={"callbacks": list(callbacks)}, max_steps=4)
        trainer.train()
        return trainer

    processor = make_granulon()[1]
    plain = train(tmp_path / "plain")
    fixed = {**QUESTION, "granularity": processor.level_names[1]}
    samples = SampleGeneration(processor, [QUESTION, fixed, {"question": "Hello?"}], every=2, max_new_tokens=3)
    sampled = train(tmp_path / "sampled", samples)
    for name, value in parameters_of(plain).items():
        assert torch.equal(value, parameters_of(sampled)[name]), name
    written = [json.loads(line) for line in (tmp_path / "sampled" / "samples.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in written] == [step for step in (0, 2, 4) for _ in range(3)]
    assert [entry["granularity"] for entry in written[1:3]] == [processor.level_names[1], "none"]
    kept = [entry for entry in sampled.state.log_history if "samples" in entry]
    assert [entry["step"] for entry in kept] == [0, 2, 4] and kept[0]["samples"][0]["question"] == "What colour is it?"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"questions": []}, "is empty"),
        ({"questions": [{"image": "a.png"}]}, "expected `question`"),
        ({"questions": [{"question": "What?", "image": "no/such.png"}]}, "no/such.png"),
        ({"questions": [QUESTION], "every": 0}, "at least 1"),
        ({"questions": [{**QUESTION, "granularity": "medum"}]}, "`granularity` got 'medum'"),
    ],
)
def test_samples_that_cannot_be_asked(options, words):
    with pytest.raises(ValueError, match=words):
        SampleGeneration(make_granulon()[1], **options)
