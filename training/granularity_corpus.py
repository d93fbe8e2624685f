"""
The text-granularity corpus: questions with weights over an ordered scale, coarse to fine (paper section 3.2.1).

A corpus is JSON Lines: `{"question": str, "weights": [w_1, ..., w_m]}`, optionally with `family`, `task` and `split`;
other keys are ignored. The m weights are the preference for looking at the image at each of m equal steps from coarse
to fine, and sum to 1. A model with n levels, n other than m, re-bins them: see `rebin_weights`.

```python
from granulon.training.granularity_corpus import load_corpus, rebin_weights, split_by_family

examples = load_corpus("questions_train.jsonl")
train, dev = split_by_family(examples, dev_share=0.1, seed=0)
targets = [rebin_weights(example.weights, num_levels=3) for example in train]
```
"""

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class GranularityExample:
    """`weights` are non-negative, coarse to fine, and sum to 1. `family` names the template that made the question."""

    question: str
    weights: tuple[float, ...]
    family: str = ""
    task: str = ""
    split: str = ""


def validate_weights(weights: object, num_steps: int | None = None) -> tuple[float, ...]:
    """
    The weights as floats that sum to 1 exactly (up to rounding), coarse to fine.

    Args:
        weights: at least one finite, non-negative number; their sum is within 1e-3 of 1.
        num_steps: how many weights are expected. None accepts any number.

    Raises:
        ValueError: what arrived, what was expected, what to do.
    """
    if not isinstance(weights, list | tuple) or not weights:
        raise ValueError(f"`weights` must be a list with one number per step of the scale, but got {weights!r}.")
    for step, weight in enumerate(weights):
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"`weights[{step}]` must be a number, but got {weight!r}. The weights are {weights}.")
        if not 0 <= weight < 1e300:  # nor NaN, which compares with nothing
            raise ValueError(
                f"`weights[{step}]` is {weight}, but a weight is finite and at least 0. The weights are {weights}."
            )
    if num_steps is not None and len(weights) != num_steps:
        raise ValueError(
            f"`weights` holds {len(weights)} numbers, but {num_steps} are expected: one per step of the scale, coarse "
            "to fine. All questions of a corpus share one scale."
        )
    total = math.fsum(weights)
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(
            f"`weights` sum to {total:.6g}, but must sum to 1 within {SUM_TOLERANCE}. Divide each by the sum. The "
            f"weights are {list(weights)}."
        )
    return tuple(weight / total for weight in weights)


def parse_example(line: str, num_steps: int | None = None) -> GranularityExample:
    """One line of a corpus. Raises ValueError without the line's number, which `load_corpus` adds."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"this is not JSON ({error.msg} at column {error.colno}): {_shorten(line)}. Each line is one object "
            'such as {"question": "What colour is the cup?", "weights": [0.05, 0.1, 0.8, 0.05]}.'
        ) from error
    except RecursionError:
        raise ValueError(f"this is nested too deeply to be read: {_shorten(line)}.") from None
    if not isinstance(record, dict):
        raise ValueError(f"a line holds one JSON object, but got a {type(record).__name__}: {_shorten(line)}.")
    missing = [key for key in ("question", "weights") if key not in record]
    if missing:
        raise ValueError(f"`{'` and `'.join(missing)}` is missing. The keys are {sorted(record)}.")
    question = record["question"]
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"`question` must be a text that is not empty, but got {question!r}.")
    names = {}
    for key in ("family", "task", "split"):
        names[key] = record.get(key) or ""
        if not isinstance(names[key], str):
            raise ValueError(f"`{key}` must be a text, but got {record[key]!r}.")
    return GranularityExample(question, validate_weights(record["weights"], num_steps), **names)


def load_corpus(path: str | Path, num_steps: int | None = None, split: str | None = None) -> list[GranularityExample]:
    """
    Read and validate a whole corpus, in file order; blank lines are skipped.

    Args:
        path: a UTF-8 JSON Lines file.
        num_steps: weights per question. None takes the number of the first question for all.
        split: keep the questions whose `split` is this. None keeps all.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the first invalid line, with its number, or a corpus or split without questions.
    """
    examples = []
    # split on "\n" alone: a question may contain other characters that `splitlines` takes for line ends
    for number, raw in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            if not line.strip():
                continue
            example = parse_example(line, num_steps)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: this is not UTF-8 ({error}). Save the file as UTF-8.") from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        num_steps = num_steps or len(example.weights)
        examples.append(example)
    if not examples:
        raise ValueError(
            f"{path} holds no questions. Expected one JSON object with `question` and `weights` per line."
        )
    chosen = [example for example in examples if split is None or example.split == split]
    if not chosen:
        raise ValueError(
            f"{path} holds no question with `split` {split!r}. Its splits are {sorted({e.split for e in examples})}."
        )
    return chosen


def rebin_weights(weights: Sequence[float], num_levels: int) -> list[float]:
    """
    Weights over m equal steps of the scale as weights over `num_levels` equal levels of the same scale.

    Step i covers [i/m, (i+1)/m] of the unit interval with its mass spread evenly; level k collects what lies in
    [k/n, (k+1)/n]. The total is preserved, n = m is the identity, and n = 1 collects everything. Where n is a multiple
    of m, a step becomes n/m equal levels; an argmax then takes the coarsest of them.

    Raises:
        ValueError: no weights, or `num_levels` below 1.
    """
    num_steps = len(weights)
    if num_steps < 1 or num_levels < 1:
        raise ValueError(f"Got {num_steps} `weights` and `num_levels` {num_levels}; both must be at least 1.")
    levels = [0.0] * num_levels
    # in units of 1/(m n) all borders are integers: step i is [i n, (i+1) n], level k is [k m, (k+1) m]
    for step, weight in enumerate(weights):
        start, end = step * num_levels, (step + 1) * num_levels
        for level in range(start // num_steps, (end - 1) // num_steps + 1):
            overlap = min(end, (level + 1) * num_steps) - max(start, level * num_steps)
            levels[level] += weight * (overlap / num_levels)
    return levels


def preferred_level(weights: Sequence[float], num_levels: int | None = None) -> int:
    """Index of the largest weight, after re-binning to `num_levels` if given. Ties go to the coarsest."""
    levels = list(weights) if num_levels is None else rebin_weights(weights, num_levels)
    return levels.index(max(levels))


def class_histogram(examples: Iterable[GranularityExample], num_levels: int | None = None) -> list[int]:
    """How many questions prefer each level, coarse to fine. `num_levels=None` counts over the corpus's own steps."""
    preferred = [
        (preferred_level(example.weights, num_levels), num_levels or len(example.weights)) for example in examples
    ]
    counts = [0] * max((size for _, size in preferred), default=num_levels or 0)
    for level, _ in preferred:
        counts[level] += 1
    return counts


def split_by_family(
    examples: Sequence[GranularityExample], dev_share: float = 0.15, seed: int = 0
) -> tuple[list[GranularityExample], list[GranularityExample]]:
    """
    Train and dev questions such that no family is in both: questions of one family differ in a word or two, so a split
    by question would test memory. `airport/coarse` and `airport/fine`, one topic asked about at several levels, stay
    together. The families are stratified by the levels that they prefer; a question without a family counts as one of
    its own. The order of the questions is kept, and their `split` is not read.

    Args:
        dev_share: share of the families that go to dev, from 0 to 1.

    Raises:
        ValueError: `dev_share` is outside 0 to 1.
    """
    if not 0 <= dev_share <= 1:
        raise ValueError(f"`dev_share` is {dev_share}, but must lie between 0 and 1.")
    names = [example.family.split("/")[0] or f"\0{example.question}" for example in examples]
    levels: dict[str, set[int]] = {}
    for name, example in zip(names, examples, strict=True):
        levels.setdefault(name, set()).add(preferred_level(example.weights))
    strata: dict[tuple[int, ...], list[str]] = {}
    for name in sorted(levels):
        strata.setdefault(tuple(sorted(levels[name])), []).append(name)
    generator = random.Random(seed)
    dev: set[str] = set()
    for key in sorted(strata):
        dev.update(generator.sample(strata[key], round(dev_share * len(strata[key]))))
    train = [example for name, example in zip(names, examples, strict=True) if name not in dev]
    return train, [example for name, example in zip(names, examples, strict=True) if name in dev]


def _shorten(text: str, limit: int = 80) -> str:
    text = text.strip()
    return repr(text if len(text) <= limit else f"{text[:limit]}...")
