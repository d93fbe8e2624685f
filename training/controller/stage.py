"""A corpus in, a directory out: the whole stage that trains a controller from questions."""

import copy
import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import transformers
from transformers import AutoConfig, PreTrainedTokenizerBase

from granulon.backbones import fingerprint_first_block, resolve_text_source
from granulon.evaluation.granularity import measure_agreement
from granulon.files import check_new, new_directory
from granulon.modeling_granulon.granularity_granulon import GranularityController
from granulon.training.granularity_corpus import GranularityExample, load_corpus, rebin_weights, split_by_family

from .directory import run_line, write_controller, write_into_copy
from .fitting import fit_controller, optimise_controller, predict
from .reading import QuestionReader, open_reader, pool_questions


CORPORA = Path(__file__).parents[1] / "corpora"


def train_controller(
    text: str | Path,
    out: str | Path,
    *,
    corpus: str | Path | None = None,
    heldout: str | Path | None = None,
    levels: Sequence[str] | None = None,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    dtype: str | torch.dtype = "auto",
    chat_template: str | None = None,
    turn_end: str | list[str] | None = None,
    controller_hidden_size: int | None = None,
    seeds: Sequence[int] = (0,),
    refit: bool = True,
    report: Callable[[str], None] = lambda line: None,
    **training: Any,
) -> dict[str, Any]:
    """
    Train the controller for a language model, and write it as a directory that `from_backbones(..., controller=)`
    loads. For a composed Granulon, `out` becomes a copy of it with the new controller in place.

    With several `seeds`, the one with the lowest dev cross-entropy is kept. With `refit`, it is then trained once
    more, with the dev questions among the others and the temperature that was found: families are what a corpus has
    too few of. Held-out questions choose nothing.

    Args:
        text, levels, tokenizer, dtype, chat_template, turn_end, controller_hidden_size: see `open_reader`.
        out: directory to write; it must not exist, or be empty.
        corpus: JSON Lines; by default the 6,000 questions that come with the package. See `granularity_corpus`.
        heldout: JSON Lines to report on; by default the 280 questions written by hand, with the default corpus.
        report: called with lines of progress.
        training: for `optimise_controller`: `steps`, `learning_rate`, `noise`, ...

    Returns:
        what is written as controller.json: names, sizes, corpus, settings and metrics.

    Raises:
        ValueError: bad options, or a corpus that is not valid.
    """
    out = Path(out)
    check_new(out)
    if not seeds:
        raise ValueError("`seeds` is empty. Pass at least one, such as (0,).")
    started = time.monotonic()
    corpus_parts = _open_corpus(corpus, heldout, seeds[0])
    reader = open_reader(
        text,
        levels=levels,
        tokenizer=tokenizer,
        dtype=dtype,
        chat_template=chat_template,
        turn_end=turn_end,
        controller_hidden_size=controller_hidden_size,
    )
    report(
        f"{reader.text_model}: {', '.join(map(str, corpus_parts.sizes.values()))} questions to train on, to choose by "
        f"and to report on; levels {', '.join(reader.level_names)}"
    )
    questions = _read_questions(reader, corpus_parts)
    attempts = []
    for seed in seeds:
        attempts.append(_fit(reader.model.granularity_controller, questions, seed, training))
        report(run_line(attempts[-1].run))
    best = min(attempts, key=lambda attempt: attempt.run["lowest_dev_cross_entropy"])
    log = [entry for attempt in attempts for entry in attempt.log]
    if refit:
        log += _refit(best, questions, training)
        if "heldout" in best.metrics:
            report(run_line({"seed": f"{best.run['seed']}, trained again with dev", **best.metrics}))
    settings = {
        **_describe(reader),
        "corpus": corpus_parts.description,
        "training": {
            **_defaults(optimise_controller),
            **training,
            "seeds": list(seeds),
            "seed": best.run["seed"],
            "refit": refit,
        },
        "seconds": round(time.monotonic() - started, 1),
        "metrics": best.metrics,
        "runs": [attempt.run for attempt in attempts],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    where, options = resolve_text_source(text)
    with new_directory(out) as staging:
        if AutoConfig.from_pretrained(where, **options).model_type == "granulon":
            write_into_copy(where, staging, best.controller)
            write_controller(staging / "controller", best.controller, settings, log)
        else:
            write_controller(staging, best.controller, settings, log)
    return settings


# ---------------------------------------------------------------------- questions


class _Corpus(NamedTuple):
    train: list[GranularityExample]
    dev: list[GranularityExample]
    heldout: list[GranularityExample]
    files: list[Path]

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "dev": len(self.dev), "heldout": len(self.heldout)}

    @property
    def description(self) -> dict[str, Any]:
        content = b"".join(file.read_bytes() for file in self.files)
        fingerprint = hashlib.sha256(content).hexdigest()[:16]
        return {"name": self.files[0].name, "fingerprint": fingerprint, "num_questions": self.sizes}


def _open_corpus(corpus: str | Path | None, heldout: str | Path | None, seed: int) -> _Corpus:
    """Train, dev and held-out questions; without a dev split of its own, 15 % of a corpus's families."""
    path = CORPORA / "questions_train.jsonl" if corpus is None else Path(corpus)
    if corpus is None and heldout is None:
        heldout = CORPORA / "questions_heldout.jsonl"
    examples = load_corpus(path)
    kept_back = [example for example in examples if example.split in ("heldout", "test")]
    dev = [example for example in examples if example.split in ("dev", "validation")]
    train = [example for example in examples if example.split not in ("heldout", "test", "dev", "validation")]
    if not dev:
        train, dev = split_by_family(train, seed=seed)
    if heldout is not None:
        kept_back = load_corpus(heldout, num_steps=len(examples[0].weights))
    if min(len(train), len(dev)) < 2:
        raise ValueError(
            f"{path} leaves {len(train)} questions for training and {len(dev)} for choosing settings (`split` is "
            "`dev`, or 15 % of the families). Add questions, of more families."
        )
    return _Corpus(train, dev, kept_back, [path] + ([] if heldout is None else [Path(heldout)]))


class _Part(NamedTuple):
    """Questions as the controller takes them."""

    pooled: torch.Tensor  # (num_questions, text_hidden_size)
    weights: torch.Tensor  # (num_questions, num_levels)
    families: list[str]  # the questions of one topic count as one in an interval


def _read_questions(reader: QuestionReader, corpus: _Corpus) -> dict[str, _Part]:
    """`train`, `dev` and, if there are any, `heldout`."""
    examples = {"train": corpus.train, "dev": corpus.dev, "heldout": corpus.heldout}
    texts = [example.question for part in examples.values() for example in part]
    pooled = pool_questions(reader.model, reader.processor, texts).split([len(part) for part in examples.values()])
    return {
        name: _Part(
            vectors,
            torch.tensor([rebin_weights(example.weights, len(reader.level_names)) for example in part]),
            [example.family.split("/")[0] or example.question for example in part],
        )
        for (name, part), vectors in zip(examples.items(), pooled, strict=True)
        if part
    }


def _describe(reader: QuestionReader) -> dict[str, Any]:
    config = reader.model.config
    return {
        "level_names": reader.level_names,
        "num_levels": len(reader.level_names),
        "controller_hidden_size": config.controller_hidden_size,
        "text_hidden_size": config.text_config.hidden_size,
        "text_model": reader.text_model,
        "text_fingerprint": fingerprint_first_block(reader.model.language_model),
        "dtype": str(reader.model.dtype).removeprefix("torch."),
    }


# ---------------------------------------------------------------------- seeds


class _Attempt(NamedTuple):
    """One seed: the controller, its log, what `controller.json` says of the run, and all its metrics."""

    controller: GranularityController
    log: list[dict[str, Any]]
    run: dict[str, Any]
    metrics: dict[str, dict[str, Any]]


def _fit(start: GranularityController, parts: dict[str, _Part], seed: int, training: dict[str, Any]) -> _Attempt:
    controller = copy.deepcopy(start)
    curve = fit_controller(controller, parts["train"][:2], parts["dev"][:2], seed=seed, **training)
    dev = parts["dev"]
    metrics = {"dev": measure_agreement(predict(controller, dev.pooled), dev.weights, dev.families)}
    metrics |= _measure_heldout(controller, parts)
    lowest = min(entry["dev_cross_entropy"] for entry in curve[:-1])  # before the temperature
    run: dict[str, Any] = {"seed": seed, "lowest_dev_cross_entropy": lowest, **curve[-1]}
    for name, values in metrics.items():
        kept = ("agreement", "within_one", "cross_entropy", "expected_calibration_error")
        run[name] = {key: values[key] for key in kept}
    return _Attempt(controller, [{"seed": seed, **entry} for entry in curve], run, metrics)


def _refit(best: _Attempt, parts: dict[str, _Part], training: dict[str, Any]) -> list[dict[str, Any]]:
    """Train the controller once more, in place, with the dev questions among the others; returns the log."""
    train, dev = parts["train"], parts["dev"]
    both = (torch.cat([train.pooled, dev.pooled]), torch.cat([train.weights, dev.weights]))
    seed = best.run["seed"]
    curve = fit_controller(best.controller, both, both, best.run["temperature"], seed=seed, **training)
    best.metrics.update(_measure_heldout(best.controller, parts))
    return [{"seed": seed, "refit": True, **entry} for entry in curve]


def _measure_heldout(controller: GranularityController, parts: dict[str, _Part]) -> dict[str, dict[str, Any]]:
    if (part := parts.get("heldout")) is None:
        return {}
    return {"heldout": measure_agreement(predict(controller, part.pooled), part.weights)}


def _defaults(function: Callable) -> dict[str, Any]:
    """Keyword-only parameters of a function that have defaults, but for the seed and the start."""
    return {
        name: value for name, value in (function.__kwdefaults__ or {}).items() if name not in ("seed", "from_scratch")
    }
