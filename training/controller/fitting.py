"""Training a controller on pooled questions: the loop that a corpus and feedback share, and the loss of a corpus."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from granulon.modeling_granulon.granularity_granulon import GranularityController


def predict(controller: GranularityController, pooled: torch.Tensor) -> torch.Tensor:
    """Probabilities `(num_questions, num_levels)` of pooled vectors, by the controller's own forward."""
    with torch.no_grad():
        return controller(pooled)[0].softmax(-1)


def fit_controller(
    controller: GranularityController,
    train: tuple[torch.Tensor, torch.Tensor],
    dev: tuple[torch.Tensor, torch.Tensor],
    temperature: float | None = None,
    **training: Any,
) -> list[dict[str, float]]:
    """
    Train a controller from scratch, in place, by soft cross-entropy -sum_k w_k log p_k; `optimise_controller` says
    how. It keeps the weights with the lowest dev cross-entropy. Last, their logits are divided by the temperature with
    the lowest cross-entropy against the dev *labels* (one-hot at the largest weight), folded into the last layer: p
    then reads as the chance of being right.

    Args:
        train, dev: pooled vectors `(num_questions, text_hidden_size)`, and weights `(num_questions, num_levels)`.
        temperature: use this one.
        training: for `optimise_controller`.

    Returns:
        its log, and a last entry with the `temperature`.
    """
    (pooled, weights), (dev_pooled, dev_weights) = train, dev
    best: tuple[float, torch.Tensor] = (math.inf, dev_weights)

    def judge(predicted: torch.Tensor) -> dict[str, float]:
        nonlocal best
        cross_entropy = -(dev_weights * predicted).sum(-1).mean().item()
        if cross_entropy < best[0]:
            best = (cross_entropy, predicted)
        agreement = (predicted.argmax(-1) == dev_weights.argmax(-1)).float().mean().item()
        return {"dev_cross_entropy": cross_entropy, "dev_agreement": agreement}

    log = optimise_controller(
        controller,
        pooled,
        lambda predicted, rows: -(weights[rows] * predicted).sum(-1).mean(),
        dev_pooled,
        judge,
        **{"from_scratch": True, **training},
    )
    temperature = _fit_temperature(best[1], dev_weights.argmax(-1)) if temperature is None else temperature
    with torch.no_grad():
        for parameter in controller.head[-1].parameters():
            parameter.div_(temperature)
    return [*log, {"step": log[-1]["step"], "temperature": temperature}]


def optimise_controller(
    controller: GranularityController,
    pooled: torch.Tensor,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    dev_pooled: torch.Tensor,
    judge: Callable[[torch.Tensor], dict[str, float]],
    *,
    from_scratch: bool = False,
    steps: int = 4000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    noise: float = 0.45,
    average: float = 0.99,
    num_evaluations: int = 20,
    seed: int = 0,
) -> list[dict[str, float]]:
    """
    Train a controller on pooled vectors, in place, with AdamW: linear warm-up over a fortieth of the steps, then a
    cosine to zero; gradients clipped at norm 1.

    Two things are not in the paper. Gaussian noise joins each pooled vector, its standard deviation `noise` times that
    of each dimension over the training questions: it stands in for the variety that a corpus lacks. And GELU(pooled)
    is standardised while training; two affine maps in a row are one, so that W_p absorbs the standardisation and the
    saved controller is the plain one. The weights kept are a running mean over steps, where `judge` liked them best.

    Args:
        pooled: `(num_questions, text_hidden_size)`.
        loss_of: from log probabilities `(batch_size, num_levels)` and the rows of `pooled` that they are of.
        dev_pooled: `(num_dev, text_hidden_size)`.
        judge: from the dev log probabilities to named numbers; the first is the lower the better.
        from_scratch: initialise the weights anew.
        average: decay of the running mean of the weights.

    Returns:
        one entry per evaluation: `step`, `loss` (mean since the last), and `judge`'s numbers.

    Raises:
        ValueError: the loss is not finite, or a setting is out of range.
    """
    for name, value in {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}.items():
        if not value > 0:
            raise ValueError(f"`{name}` is {value}, but must be above 0.")
    if not noise >= 0 or not 0 <= average < 1:
        raise ValueError(f"`noise` is {noise} and `average` {average}; expected at least 0, and 0 to below 1.")
    if len(pooled) < 2 or not len(dev_pooled):
        raise ValueError(f"Got {len(pooled)} questions to train on and {len(dev_pooled)} for dev; need 2 and 1.")
    generator = torch.Generator().manual_seed(seed)
    controller.float().requires_grad_(True)
    with torch.no_grad():
        features = controller.activation(pooled)
    centre, scale = features.mean(0), features.std(0)
    scale = scale.clamp_min(0.1 * scale.median().clamp_min(1e-6))  # GELU flattens some dimensions to constants
    spread = noise * pooled.std(0)
    if from_scratch:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in controller.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
    else:
        with torch.no_grad():
            controller.descriptor.bias.add_(controller.descriptor.weight @ centre)
            controller.descriptor.weight.mul_(scale)

    def log_probabilities(module: Any, vectors: torch.Tensor) -> torch.Tensor:
        features = (module.activation(vectors) - centre) / scale
        return module.head(module.descriptor(features)).log_softmax(-1)

    averaged = torch.optim.swa_utils.AveragedModel(
        controller, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(average)
    )
    optimizer = torch.optim.AdamW(controller.parameters(), lr=learning_rate, weight_decay=weight_decay)
    warm_up = max(1, steps // 40)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    log: list[dict[str, float]] = []
    best: tuple[float, dict[str, torch.Tensor]] = (math.inf, {})
    total, since = 0.0, 0
    every = max(1, steps // num_evaluations)
    for step in range(1, steps + 1):
        rows = torch.randint(len(pooled), (batch_size,), generator=generator)
        vectors = pooled[rows] + spread * torch.randn(batch_size, pooled.shape[1], generator=generator)
        loss = loss_of(log_probabilities(controller, vectors), rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(controller.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(controller)
        total, since = total + loss.item(), since + 1
        if not math.isfinite(total):
            raise ValueError(f"The loss is not finite at step {step}. Lower `learning_rate` ({learning_rate}).")
        if step % every == 0 or step == steps:
            with torch.no_grad():
                judged = judge(log_probabilities(averaged.module, dev_pooled))
            log.append({"step": step, "loss": total / since, **judged})
            total, since = 0.0, 0
            score = next(iter(judged.values()))
            if score < best[0]:
                best = (score, {name: value.clone() for name, value in averaged.module.state_dict().items()})
    with torch.no_grad():
        controller.load_state_dict(best[1])
        controller.descriptor.weight.div_(scale)
        controller.descriptor.bias.sub_(controller.descriptor.weight @ centre)
    return log


def _fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The temperature from 1/4 to 4, in steps of 2 %, with the lowest cross-entropy against the labels."""
    temperatures = [1.02**power for power in range(-70, 71)]
    losses = [nn.functional.cross_entropy(logits / value, labels).item() for value in temperatures]
    return temperatures[losses.index(min(losses))]
