"""Asking a model the questions of benchmarks, so that a run can be stopped at any time and goes on where it was."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from granulon.evaluation.benchmarks import Item, Questions
from granulon.evaluation.predictions import Predictions
from granulon.evaluation.report import as_markdown, summarise
from granulon.evaluation.subjects import AUTO, Subject
from granulon.files import new_file
from granulon.training.run_lock import RunLock


PREDICTIONS, SUMMARY, REPORT = "predictions.jsonl", "summary.json", "report.md"


def evaluate(
    subject: Subject,
    drawn: Sequence[Questions],
    out: str | Path,
    granularity: str | int = AUTO,
    batch_size: int = 16,
) -> dict[str, Any]:
    """
    Ask what `out` does not know yet, then write there the summary of all that was drawn.

    `out` gets `predictions.jsonl`, a line for each answer as soon as its batch is known; `summary.json`, which is also
    returned; and `report.md`. After a kill the same call asks only what is missing.

    Args:
        drawn: of `granulon.evaluation.benchmarks.load`, all with one seed.
        granularity: "auto", a level's name or index, or "all" for auto and each level in turn.

    Raises:
        ValueError: `out` is of another model, seed or data, holds something else, or another run is writing to it.
    """
    out = Path(out)
    check_folder(out)
    if PartialState().num_processes > 1:
        raise ValueError("An evaluation runs in one process; start it without `accelerate launch`.")
    seeds = {questions.seed for questions in drawn}
    if len(seeds) != 1:
        raise ValueError(f"Expected benchmarks drawn with one seed, got the seeds {sorted(seeds)}.")
    levels = subject.granularities(granularity)
    with RunLock(out):
        identity = {"model": subject.name, "revision": subject.revision, "dtype": subject.dtype, "seed": seeds.pop()}
        predictions = Predictions(out / PREDICTIONS, identity)
        results = []
        for questions in drawn:
            for level in levels:
                lines = _ask(subject, questions, level, predictions, batch_size)
                results.append(summarise(questions, level, lines, subject.level_names))
        summary = {**identity, "results": results}
        with new_file(out / SUMMARY) as file:
            json.dump(summary, file, indent=1)
        with new_file(out / REPORT) as file:
            file.write(as_markdown(summary))
    return summary


def check_folder(out: Path) -> None:
    """
    Raises:
        ValueError: `out` is a file, or a folder of something else than an evaluation.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for results.")
    if out.is_dir() and any(out.iterdir()) and not (out / PREDICTIONS).exists():
        raise ValueError(f"{out} holds something, but no {PREDICTIONS} to go on from. Name a new folder.")


def _ask(
    subject: Subject, questions: Questions, level: str, predictions: Predictions, batch_size: int
) -> list[dict[str, Any]]:
    """A line for each question in order; those that are not known yet are asked."""
    benchmark = questions.benchmark
    known = [predictions.find(benchmark.name, level, item) for item in questions.items]
    pending = [item for item, line in zip(questions.items, known, strict=True) if line is None]
    name = benchmark.name if level == AUTO else f"{benchmark.name}, {level}"
    with tqdm(total=len(known), initial=len(known) - len(pending), desc=name, unit="question", disable=None) as bar:
        for start in range(0, len(pending), batch_size):
            batch = pending[start : start + batch_size]
            images = [questions.image(item) for item in batch]
            answers = subject.answer([item.prompt for item in batch], images, level, benchmark.max_new_tokens)
            predictions.append(
                _line(benchmark.name, level, item, answer) for item, answer in zip(batch, answers, strict=True)
            )
            bar.update(len(batch))
    found = [predictions.find(benchmark.name, level, item) for item in questions.items]
    return [line for line in found if line is not None]


def _line(benchmark: str, level: str, item: Item, answer: Any) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "granularity": level,
        "id": item.id,
        "prompt": item.prompt,
        "reference": item.reference,
        "prediction": answer.text,
        "level": answer.level,
        "visual_tokens": answer.visual_tokens,
    }
