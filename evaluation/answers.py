"""A model's answers to questions about images: asking for them, and how many are right beside the question alone."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from granulon.chats import chat_inputs
from granulon.modeling_granulon import GranulonForConditionalGeneration
from granulon.processing import GranulonProcessor

from .intervals import Interval, bootstrap_interval


@torch.no_grad()
def answer_questions(
    model: GranulonForConditionalGeneration,
    processor: GranulonProcessor,
    rows: Sequence[dict[str, Any]],
    batch_size: int = 64,
    granularity: str | int | None = None,
    name: str = "questions",
) -> tuple[list[str], list[int]]:
    """
    Greedy answers of at most twelve tokens, lower-cased, and the index of the level at which each was given.

    Args:
        rows: each with a `question` and an `image`, whatever the processor takes as one.
        granularity: the level for all of them; by default the controller chooses.
        name: what the progress bar calls them.
    """
    answers, levels = [], []
    for start in tqdm(range(0, len(rows), batch_size), desc=name, leave=False):
        batch = rows[start : start + batch_size]
        questions, images = [row["question"] for row in batch], [row["image"] for row in batch]
        inputs = chat_inputs(processor, questions, images, granularity=granularity).to(model.device)
        if granularity is None:
            chosen = model.get_granularity(inputs["input_ids"], inputs["attention_mask"]).argmax(-1)
        else:
            chosen = inputs["granularity"]
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip().lower() for text in processor.batch_decode(new, skip_special_tokens=True)]
        levels += chosen.tolist()
    return answers, levels


def question_only(rows: Sequence[dict[str, Any]], training: Sequence[dict[str, Any]]) -> list[str]:
    """
    The commonest answer of training to each row's question; to questions of its `kind` where training never asked it.

    No model that sees only questions can be expected to do better. Training rows of kind "" serve every kind.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for row in training:
        by_question[row["question"]][row["answer"]] += 1
        by_kind[row["kind"]][row["answer"]] += 1
    return [
        (by_question.get(row["question"]) or by_kind.get(row["kind"]) or by_kind[""]).most_common(1)[0][0]
        for row in rows
    ]


def summarise(
    rows: Sequence[dict[str, Any]],
    answers: Sequence[str],
    levels: Sequence[int],
    baseline: Sequence[str],
    level_names: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """
    Accuracies of all rows ("all"), of those labelled with each level (its name), and of each kind ("kind: ...").

    Args:
        rows: each with `answer`, `granularity` (the level's name that its question asks for), `kind`, and `group`,
            what is resampled together for the intervals, such as the image.
        answers, levels: as `answer_questions` gives them.
        baseline: answers to compare with, such as those of `question_only`.

    Returns:
        for each cut that has rows, `questions` (their number); `accuracy`, `question_only` (the baseline's) and
        `gain`, each [mean, low, high] with 95 % intervals, as fractions; `levels`, how often each was chosen; and
        `level_as_asked`, the share of rows whose level is the labelled one.
    """
    scored = [
        {**row, "hit": float(answer == row["answer"]), "guess": float(guess == row["answer"]), "level": level}
        for row, answer, level, guess in zip(rows, answers, levels, baseline, strict=True)
    ]
    cuts = {"all": scored} | {name: [row for row in scored if row["granularity"] == name] for name in level_names}
    for kind in sorted({row["kind"] for row in scored}):
        cuts[f"kind: {kind}"] = [row for row in scored if row["kind"] == kind]
    return {cut: _summary(chosen, level_names) for cut, chosen in cuts.items() if chosen}


def _summary(scored: list[dict[str, Any]], level_names: Sequence[str]) -> dict[str, Any]:
    groups = [row["group"] for row in scored]
    return {
        "questions": len(scored),
        "accuracy": list(bootstrap_interval([row["hit"] for row in scored], groups)),
        "question_only": list(bootstrap_interval([row["guess"] for row in scored], groups)),
        "gain": list(bootstrap_interval([row["hit"] - row["guess"] for row in scored], groups)),
        "levels": {name: sum(row["level"] == index for row in scored) for index, name in enumerate(level_names)},
        "level_as_asked": sum(level_names[row["level"]] == row["granularity"] for row in scored) / len(scored),
    }


def as_table(summary: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of `summarise`'s result, in percent."""
    lines = ["| | questions | Granulon | question only | gain | levels chosen |", "|---|---|---|---|---|---|"]
    for cut, row in summary.items():
        accuracy, guess, gain = (Interval(*row[name]) for name in ("accuracy", "question_only", "gain"))
        levels = ", ".join(f"{name} {count}" for name, count in row["levels"].items() if count)
        lines.append(f"| {cut} | {row['questions']:,} | {accuracy} | {guess} | {gain:+} | {levels} |")
    return "\n".join(lines)
