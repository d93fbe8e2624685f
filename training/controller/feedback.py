"""
The controller learns from the language model's own feedback, with no annotator: ranking feedback as in AVG-LLaVA
(arXiv 2410.02745, section 3.3), on cached scores.

The language model answers nothing here. For every sample and level k, its mean negative log-likelihood of the given
answer, l_k, is computed once, without gradient, and so is the pooled question that the controller sees; everything
that these depend on is frozen. The controller then learns on these numbers alone to rank the levels by likelihood.

```python
from granulon.training.controller.feedback import learn_from_feedback

report = learn_from_feedback(model, processor, train_rows, eval_rows, cost_per_token=0.0005)
```

`train_from_feedback` does it from directory to directory.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from transformers import AutoProcessor

from granulon.evaluation.intervals import bootstrap_interval
from granulon.files import check_new, new_directory
from granulon.modeling_granulon import GranulonForConditionalGeneration
from granulon.processing import GranulonProcessor
from granulon.training.collator import GranulonDataCollator
from granulon.training.data import load_training_data

from .directory import write_into_copy
from .fitting import optimise_controller, predict


@dataclass
class LevelScores:
    """
    Args:
        pooled: `(num_samples, text_hidden_size)` fp32, the controller's input.
        losses: `(num_samples, num_levels)`, l_k: mean negative log-likelihood of the answer's tokens, nats per token.
        tokens: `(num_samples, num_levels)`, visual tokens that the sample's images take at each level.
    """

    pooled: torch.Tensor
    losses: torch.Tensor
    tokens: torch.Tensor

    def costs(self, cost_per_token: float = 0.0) -> torch.Tensor:
        """c_k = l_k + cost_per_token * tokens_k: what a level is ranked by."""
        return self.losses + cost_per_token * self.tokens

    def rows(self, index: torch.Tensor) -> "LevelScores":
        return LevelScores(self.pooled[index], self.losses[index], self.tokens[index])


@torch.no_grad()
def score_levels(
    model: GranulonForConditionalGeneration,
    processor: GranulonProcessor,
    rows: Iterable[dict[str, Any]],
    batch_size: int = 8,
) -> LevelScores:
    """
    Score every sample at every level: one forward pass for each, on the model's device and in its dtype.

    Args:
        model: `GranulonForConditionalGeneration`; its mode is restored.
        processor: the model's.
        rows: `prompt`, `completion` and `images`, the columns that training takes. A fixed `granularity` and
            `granularity_labels` are ignored. A stream is read once.

    Raises:
        ValueError: no rows, a row without an image, or an answer without tokens.
    """
    if not model.config.turn_end_token_ids:
        raise ValueError(
            "The controller cannot find the question: this tokenizer's chat template does not mark the ends of turns. "
            "Compose the model with `turn_end=` (the text that ends a user's turn)."
        )
    collator = GranulonDataCollator(processor=processor, completion_only_loss=True)
    pooled, losses, tokens = [], [], []
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(rows, batch_size):
            results = []
            for level in range(len(model.config.levels)):
                inputs = collator([{**row, "granularity": level} for row in batch])
                inputs = {name: value.to(model.device) for name, value in inputs.items() if torch.is_tensor(value)}
                results.append(_score(model, **inputs))
            # the question is the same at every level
            pooled.append(model.model.describe_question(inputs["input_ids"], inputs["attention_mask"]).cpu())
            losses.append(torch.stack([loss for loss, _ in results], 1).cpu())
            tokens.append(torch.stack([count for _, count in results], 1).cpu())
    finally:
        model.train(was_training)
    if not pooled:
        raise ValueError("`rows` is empty: there is nothing to score. Pass at least one prompt/completion row.")
    return LevelScores(torch.cat(pooled), torch.cat(losses), torch.cat(tokens))


def _batches(rows: Iterable[dict[str, Any]], batch_size: int) -> Iterable[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for number, row in enumerate(tqdm(rows, desc="scoring levels", disable=None)):
        missing = [key for key in ("prompt", "completion", "images") if not row.get(key)]
        if missing:
            raise ValueError(
                f"Row {number} has no `{'`, `'.join(missing)}` (it has {sorted(row)}). Feedback needs rows of prompt, "
                "completion and images; `load_training_data` makes them of chats with one question."
            )
        batch.append({key: row[key] for key in ("prompt", "completion", "images")})
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _score(model: Any, labels: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean negative log-likelihood of each row's answer, and its visual tokens; both `(batch_size,)`."""
    labels = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    hidden_states = model.model(**inputs).last_hidden_state
    is_answer = labels != -100
    logits = model.lm_head(hidden_states[is_answer]).float()  # the answer's positions alone
    per_token = torch.zeros(labels.shape, device=labels.device)
    per_token[is_answer] = nn.functional.cross_entropy(logits, labels[is_answer], reduction="none")
    return per_token.sum(1) / is_answer.sum(1), model.model.is_visual(inputs["input_ids"]).sum(1)


def ranking_loss(
    log_probabilities: torch.Tensor, costs: torch.Tensor, margin: float = 0.1, best_weight: float = 0.1
) -> torch.Tensor:
    """
    best_weight * L_best + L_rank, a scalar. With the levels of each sample sorted by ascending cost, c_1 <= ... <=
    c_n, and s_i the controller's log probability of the i-th best,

        L_best = mean over samples of -s_1
        L_rank = sum_{j=1}^{n-1} mean over samples and i = 1..n-j of max(0, s_{i+j} - s_i + m_ij)
        m_ij = margin * j * (c_{i+j} - c_i).

    A better level should lead by a margin that grows with both the gap in rank, j, and the gap in cost. Levels of
    equal cost keep their order, coarse first.

    Args:
        log_probabilities: `(batch_size, num_levels)`, with gradient.
        costs: `(batch_size, num_levels)`, without.
    """
    costs, order = costs.sort(dim=1, stable=True)
    scores = log_probabilities.gather(1, order)
    loss = -best_weight * scores[:, 0].mean()
    for gap in range(1, scores.shape[1]):
        wanted = margin * gap * (costs[:, gap:] - costs[:, :-gap])
        loss = loss + (scores[:, gap:] - scores[:, :-gap] + wanted).clamp_min(0).mean()
    return loss


def evaluate_choices(
    scores: LevelScores, probabilities: torch.Tensor, level_names: Sequence[str], cost_per_token: float = 0.0
) -> dict[str, Any]:
    """
    The controller's choices beside what it could have chosen.

    Args:
        probabilities: `(num_samples, num_levels)`, the controller's.

    Returns:
        `policies`: for `controller`, `oracle` (the best level of each sample), `random` (a uniform draw, in
        expectation) and every `always <level>`, the mean `loss` (nats per token), `visual_tokens` and `cost`;
        `regret`: mean of the controller's cost above the oracle's with its 95 % interval, [mean, low, high];
        `best_fixed_regret`, that of the best single level; `agreement`: share of samples whose choice is the best
        level, [mean, low, high]; `histogram` of choices and `oracle_histogram`, coarse to fine.

    Raises:
        ValueError: shapes that do not fit.
    """
    if probabilities.shape != scores.losses.shape or len(level_names) != scores.losses.shape[1]:
        raise ValueError(
            f"`probabilities` has the shape {tuple(probabilities.shape)}, the scores {tuple(scores.losses.shape)}, "
            f"and there are {len(level_names)} level names; expected one column for each level."
        )
    costs, num_levels = scores.costs(cost_per_token), len(level_names)
    chosen, best = probabilities.argmax(-1), costs.argmin(-1)
    numbers = {"loss": scores.losses, "visual_tokens": scores.tokens.float(), "cost": costs}
    picks = {"controller": chosen, "oracle": best}
    picks |= {f"always {name}": torch.full_like(best, level) for level, name in enumerate(level_names)}
    policies = {
        name: {key: _picked(value, pick).mean().item() for key, value in numbers.items()}
        for name, pick in picks.items()
    }
    policies["random"] = {key: value.mean().item() for key, value in numbers.items()}
    regret = _picked(costs, chosen) - _picked(costs, best)
    groups = list(range(len(regret)))
    return {
        "num_samples": len(regret),
        "cost_per_token": cost_per_token,
        "policies": policies,
        "regret": list(bootstrap_interval(regret.tolist(), groups)),
        "best_fixed_regret": (costs - _picked(costs, best)[:, None]).mean(0).min().item(),
        "agreement": list(bootstrap_interval((chosen == best).float().tolist(), groups)),
        "histogram": chosen.bincount(minlength=num_levels).tolist(),
        "oracle_histogram": best.bincount(minlength=num_levels).tolist(),
    }


def _picked(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    return values.gather(1, levels[:, None]).squeeze(1)


def fit_ranking(
    controller: Any,
    train: LevelScores,
    dev: LevelScores,
    *,
    cost_per_token: float = 0.0,
    margin: float = 0.1,
    best_weight: float = 0.1,
    **training: Any,
) -> list[dict[str, float]]:
    """
    Train a controller in place, from the weights it has, by `ranking_loss`; the weights with the lowest mean cost of
    the chosen level on `dev` are kept.

    Args:
        training: for `optimise_controller`, whose log is returned.

    Raises:
        ValueError: `cost_per_token`, `margin` or `best_weight` is negative.
    """
    for name, value in {"cost_per_token": cost_per_token, "margin": margin, "best_weight": best_weight}.items():
        if not value >= 0:
            raise ValueError(f"`{name}` is {value}, but must be at least 0.")
    costs, dev_costs = train.costs(cost_per_token), dev.costs(cost_per_token)

    def judge(predicted: torch.Tensor) -> dict[str, float]:
        chosen = predicted.argmax(-1)
        return {
            "dev_cost": _picked(dev_costs, chosen).mean().item(),
            "dev_agreement": (chosen == dev_costs.argmin(-1)).float().mean().item(),
        }

    return optimise_controller(
        controller,
        train.pooled,
        lambda predicted, rows: ranking_loss(predicted, costs[rows], margin, best_weight),
        dev.pooled,
        judge,
        **{"steps": 1000, **training},
    )


def learn_from_feedback(
    model: GranulonForConditionalGeneration,
    processor: GranulonProcessor,
    train_rows: Iterable[dict[str, Any]],
    eval_rows: Iterable[dict[str, Any]] | None = None,
    *,
    batch_size: int = 8,
    cost_per_token: float = 0.0,
    dev_share: float = 0.1,
    seed: int = 0,
    **training: Any,
) -> dict[str, Any]:
    """
    Score the levels of every row, train the model's controller in place to rank them, and evaluate it.

    The pressure to look coarsely is `cost_per_token`, in nats per visual token: a level that gains less likelihood
    than its further tokens cost is ranked behind. At 0, likelihood alone decides.

    Args:
        train_rows, eval_rows: see `score_levels`. A share of `train_rows` is set aside as dev, which chooses when to
            stop; `eval_rows` choose nothing.
        batch_size: samples scored at once.
        training: for `fit_ranking`: `margin`, `best_weight`, `steps`, `learning_rate`, `noise` ...

    Returns:
        `before` and `after`, `evaluate_choices` on `eval_rows` (without them, on dev: `evaluated_on` says which), the
        `log`, and the settings.

    Raises:
        ValueError: fewer than ten rows to train on, or `dev_share` outside 0 to 1.
    """
    if not 0 < dev_share < 1:
        raise ValueError(f"`dev_share` is {dev_share}, but must lie between 0 and 1.")
    scores = score_levels(model, processor, train_rows, batch_size)
    num_rows = len(scores.losses)
    if num_rows < 10:
        raise ValueError(
            f"`train_rows` has {num_rows} rows; learning needs at least 10, and some hundred to be useful."
        )
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    num_dev = max(1, round(dev_share * num_rows))
    train, dev = scores.rows(order[num_dev:]), scores.rows(order[:num_dev])
    evaluated = dev if eval_rows is None else score_levels(model, processor, eval_rows, batch_size)

    controller, names = model.model.granularity_controller, model.config.level_names
    device, trainable = model.device, [parameter.requires_grad for parameter in controller.parameters()]
    controller.cpu()  # where the pooled vectors are
    try:
        before = evaluate_choices(evaluated, predict(controller, evaluated.pooled), names, cost_per_token)
        log = fit_ranking(controller, train, dev, cost_per_token=cost_per_token, seed=seed, **training)
        after = evaluate_choices(evaluated, predict(controller, evaluated.pooled), names, cost_per_token)
    finally:
        controller.to(device)
        for parameter, is_trainable in zip(controller.parameters(), trainable, strict=True):
            parameter.requires_grad_(is_trainable)
            parameter.grad = None
    return {
        "num_rows": {"train": num_rows - num_dev, "dev": num_dev},
        "evaluated_on": "dev" if eval_rows is None else "eval",
        "settings": {"cost_per_token": cost_per_token, "dev_share": dev_share, "seed": seed, **training},
        "before": before,
        "after": after,
        "log": log,
    }


def train_from_feedback(
    model: str | Path,
    out: str | Path,
    data: str | Path,
    *,
    max_rows: int | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    report: Callable[[str], None] = lambda line: None,
    **learning: Any,
) -> dict[str, Any]:
    """
    Load a whole Granulon, learn from its likelihoods on data, and write a copy of it with the new controller, and with
    feedback.json.

    Args:
        model: directory or Hub id of a composed Granulon.
        out: directory to write; it must not exist, or be empty.
        data: images, questions and answers, as `load_training_data` takes them.
        max_rows: use so many rows of the data at most.
        device: by default CUDA where there is some.
        report: called with lines of results.
        learning: for `learn_from_feedback`: `cost_per_token`, `seed`, `steps`, `learning_rate`, `noise`, ...

    Returns:
        what is written as feedback.json: the report of `learn_from_feedback`, and where the `data` came from.

    Raises:
        ValueError: bad options, or data that cannot be used.
    """
    out = Path(out)
    check_new(out)
    processor = AutoProcessor.from_pretrained(model)
    whole = GranulonForConditionalGeneration.from_pretrained(model, dtype=dtype)
    whole.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    loaded = load_training_data(data, processor=processor, max_rows=max_rows)
    result = learn_from_feedback(whole, processor, loaded.dataset, **learning)
    result["data"] = loaded.provenance()
    with new_directory(out) as staging:
        write_into_copy(str(model), staging, whole.model.granularity_controller)
        (staging / "feedback.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    report(f"{result['after']['num_samples']} samples of dev, by the language model's likelihood:")
    for when in ("before", "after"):
        report(f"  {when}: {_summary(result[when], whole.config.level_names)}")
    return result


def _summary(part: dict[str, Any], level_names: Sequence[str]) -> str:
    chosen, oracle = part["policies"]["controller"], part["policies"]["oracle"]
    shares = ", ".join(f"{name} {count}" for name, count in zip(level_names, part["histogram"], strict=True))
    return (
        f"loss {chosen['loss']:.4f} (oracle {oracle['loss']:.4f}), regret {part['regret'][0]:.4f} (best fixed level "
        f"{part['best_fixed_regret']:.4f}), {chosen['visual_tokens']:.1f} visual tokens; {shares}"
    )
