"""
The loss terms beside L_task: a table of them, their arguments, and their averages over whole optimizer steps.

A new term is a row of `TERMS`, a function of a `MicroBatch`, and its weight in `LossArguments`: docs/training.md,
"Add a loss term".
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from accelerate import Accelerator

from .losses import ContributionQueue, contribution_loss, controller_loss, count_images, question_keys


CONTRIBUTIONS = ("contrastive", "literal", "none")


@dataclass
class LossArguments:
    """The fields of `GranulonSFTConfig` that weigh and shape the terms; a weight of 0 leaves its term out."""

    contribution: str = field(
        default="contrastive",
        metadata={
            "help": "Contribution terms: `contrastive` contrasts a token's own question with earlier ones, `literal` "
            "is -log p as the paper prints it (its optimum is p = 1 everywhere), `none` leaves them out.",
            "choices": list(CONTRIBUTIONS),
        },
    )
    contribution_queue_size: int = field(
        default=256, metadata={"help": "Questions of earlier optimizer steps kept as negatives."}
    )
    pixel_loss_weight: float = field(default=0.1, metadata={"help": "lambda_d, the weight of L_pixel."})
    semantic_loss_weight: float = field(default=0.1, metadata={"help": "lambda_t, the weight of L_semantic."})
    controller_loss_weight: float = field(
        default=1.0, metadata={"help": "lambda_c, the weight of L_controller where rows carry `granularity_labels`."}
    )


# ------------------------------------------------------------------------------------- what a term is computed from


class MicroBatch:
    """
    What a term can read: the rows of one micro-batch and, after the forward pass, what the model made of them.

    Attributes:
        inputs: what the model gets: `input_ids`, `attention_mask`, `labels`, `pixel_values` ...
        granularity_labels: `(batch_size, num_levels)`, zeros for a row without; `None` where no row has any.
        num_images: `(batch_size,)`.
        keys: `(batch_size,)`, see `question_keys`, and
        negatives: `(num_questions, controller_hidden_size)`, earlier questions, and
        is_negative: `(batch_size, num_questions)` bool, those that are not the row's own; all three `None` without
            contrast.
        model: the `GranulonModel`, after the forward pass, and
        output: its output.
        values: by name, each active term's `compute`, after the forward pass.
    """

    def __init__(self, config: Any, inputs: dict[str, Any], labels: torch.Tensor | None, queue: Any = None):
        self.config, self.inputs, self.granularity_labels = config, inputs, labels
        self.num_images = count_images(config, inputs["input_ids"])
        self.keys = self.negatives = self.is_negative = None
        if queue is not None:
            self.keys = question_keys(config, inputs["input_ids"], inputs["attention_mask"])
            self.negatives, self.is_negative = queue.descriptors, queue.differs(self.keys)
        self.model: Any = None
        self.output: Any = None
        self.values: dict[str, torch.Tensor] = {}

    @cached_property
    def row(self) -> torch.Tensor:
        """`(num_images,)`, the row in which each image stands."""
        rows = torch.arange(len(self.num_images), device=self.num_images.device)
        return torch.repeat_interleave(rows, self.num_images)

    @cached_property
    def is_labelled(self) -> torch.Tensor:
        """`(batch_size,)` bool: rows with an image and `granularity_labels`."""
        if self.granularity_labels is None:
            return torch.zeros_like(self.num_images, dtype=torch.bool)
        return (self.granularity_labels.sum(1) > 0) & (self.num_images > 0)

    def visual_tokens(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            kind: "pixel" or "semantic".

        Returns:
            projected tokens `(num_images, num_tokens, hidden_size)` and, `(num_images, num_tokens)` bool, which of
            them the image's level uses.
        """
        grid = self.config.grid_of(*self.inputs["pixel_values"].shape[-2:])
        num_patches, states = math.prod(grid), self.output.image_hidden_states
        tokens = states[:, :num_patches] if kind == "pixel" else states[:, num_patches:]
        used = self.model.count_slots(self.output.granularity, grid)[self.row, int(kind == "semantic")]
        return tokens, torch.arange(tokens.shape[1], device=tokens.device) < used[:, None]


# -------------------------------------------------------------------------------------------------------- the terms


def contribution_term(batch: MicroBatch, kind: str) -> torch.Tensor:
    """How well the `kind` tokens of each image tell its question, `(num_images,)`: see `contribution_loss`."""
    tokens, is_used = batch.visual_tokens(kind)
    is_negative = None if batch.is_negative is None else batch.is_negative[batch.row]
    head, descriptors = batch.model.contribution_heads[kind], batch.output.question_descriptor
    return contribution_loss(head, tokens, is_used, batch.row, descriptors, batch.negatives, is_negative)


def controller_term(batch: MicroBatch) -> torch.Tensor:
    """The controller's distribution against the labels, `(batch_size,)`, 0 for rows without: see `controller_loss`."""
    if batch.granularity_labels is None:
        return torch.zeros(len(batch.num_images), device=batch.num_images.device)
    return controller_loss(batch.output.granularity_logits, batch.granularity_labels * batch.is_labelled[:, None])


def count_contrasted_images(batch: MicroBatch) -> torch.Tensor:
    """Images whose question can be contrasted with another; without contrast, all images."""
    if batch.is_negative is None:
        return batch.num_images.sum()
    return (batch.num_images * batch.is_negative.any(1)).sum()


def count_labelled_rows(batch: MicroBatch) -> torch.Tensor:
    return batch.is_labelled.sum()


def _is_contributing(args: LossArguments) -> bool:
    return args.contribution != "none"


@dataclass(frozen=True)
class Term:
    """
    A row of the table of loss terms.

    A step's value is the sum of `compute` over all its micro-batches and ranks, divided by the sum of `count`, so that
    accumulation and the number of processes change nothing.
    """

    name: str  # logged as `loss_<name>`
    weight: str  # the field of `LossArguments` that it is multiplied with
    trains: str  # the part of `GranulonModel` that it teaches; in a stage that freezes it the term is left out
    compute: Callable[[MicroBatch], torch.Tensor]  # values of any shape, to be summed; called where there are images
    count: Callable[[MicroBatch], torch.Tensor]  # what it is averaged over, known before the forward pass
    is_wanted: Callable[[LossArguments], bool] = lambda args: True
    is_sole_teacher: bool = False  # without the term nothing gives its part a gradient: the part is frozen


TERMS = (
    Term(
        "pixel",
        weight="pixel_loss_weight",
        trains="contribution_heads.pixel",
        compute=partial(contribution_term, kind="pixel"),
        count=count_contrasted_images,
        is_wanted=_is_contributing,
        is_sole_teacher=True,
    ),
    Term(
        "semantic",
        weight="semantic_loss_weight",
        trains="contribution_heads.semantic",
        compute=partial(contribution_term, kind="semantic"),
        count=count_contrasted_images,
        is_wanted=_is_contributing,
        is_sole_teacher=True,
    ),
    Term(
        "controller",
        weight="controller_loss_weight",
        trains="granularity_controller",
        compute=controller_term,
        count=count_labelled_rows,
    ),
)


def choose_terms(args: LossArguments, model: Any) -> list[Term]:
    """
    The terms that have a weight and something to teach. A part that only another one teaches gets frozen.

    Args:
        model: `GranulonForConditionalGeneration`, its stage set.
    """
    active = []
    for term in TERMS:
        part = model.base_model.get_submodule(term.trains)
        is_trained = any(parameter.requires_grad for parameter in part.parameters())
        if is_trained and term.is_wanted(args) and getattr(args, term.weight) > 0:
            active.append(term)
        elif term.is_sole_teacher:
            part.requires_grad_(False)
    return active


# ----------------------------------------------------------------------------------------------------- a run's terms


class Tally:
    """Means by name over micro-batches and ranks: sums, and how many things they are sums over."""

    def __init__(self, names: Sequence[str], device: torch.device):
        self.names = list(names)
        self.sums = torch.zeros(2, len(names), device=device)

    def add(self, entries: dict[str, tuple[Any, Any]]) -> None:
        """
        Args:
            entries: by name, a sum and the count of what was summed, each a number or a tensor of one.
        """
        zero = self.sums.new_zeros(())
        rows = [entries.get(name, (zero, zero)) for name in self.names]
        columns = [[torch.as_tensor(value, device=zero.device).detach().float() for value in row] for row in rows]
        self.sums += torch.stack([torch.stack(column) for column in columns], dim=1)

    def mean(self, accelerator: Accelerator) -> torch.Tensor:
        """`(num_names,)` over all ranks, NaN where nothing was counted."""
        sums, counts = accelerator.reduce(self.sums, "sum")
        return sums / counts  # 0 / 0 is NaN


class LossTerms:
    """
    The terms of a run: what they add to L_task, the questions that they contrast with, and what is logged of them.

    The trainer calls, for each optimizer step, `begin_step` with all its micro-batches, then for each of these
    `observe` around the forward pass and `add_to` for the loss, then `finish_step`.

    Attributes:
        active: the terms that have a weight, and something to teach.
        queue: questions of earlier steps; it belongs to a checkpoint.
    """

    def __init__(self, args: LossArguments, model: Any, accelerator: Accelerator):
        """
        Args:
            model: as for `choose_terms`.
        """
        self.args, self.config, self.accelerator = args, model.config, accelerator
        self.active = choose_terms(args, model)
        self.queue = ContributionQueue(args.contribution_queue_size, model.config.controller_hidden_size)
        self.queue.to(accelerator.device)
        self._is_contrastive = args.contribution == "contrastive" and any(
            term.count is count_contrasted_images for term in self.active
        )
        self._step_counts: dict[Callable, int] = {}
        self._new_questions: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._step, self._evaluation = self._new_tally(), self._new_tally()
        self._means: list[torch.Tensor] = []  # of each optimizer step since the last log

    def _new_tally(self) -> Tally:
        terms = [f"loss_{name}" for name in ("task", *(term.name for term in self.active))]
        return Tally([*terms, *(f"level/{name}" for name in self.config.level_names)], self.accelerator.device)

    def _micro_batch(self, inputs: dict[str, Any], labels: torch.Tensor | None) -> MicroBatch:
        return MicroBatch(self.config, inputs, labels, self.queue if self._is_contrastive else None)

    # --------------------------------------------------------------------------------------------- an optimizer step

    def begin_step(self, batches: Sequence[dict[str, Any]]) -> None:
        """Count, over all ranks, what the terms of this optimizer step will be averaged over."""
        counters = list(dict.fromkeys(term.count for term in self.active))
        counts = torch.zeros(len(counters), dtype=torch.long, device=self.accelerator.device)
        for inputs in batches:
            batch = self._micro_batch(inputs, inputs.get("granularity_labels"))
            for place, counter in enumerate(counters):
                counts[place] += counter(batch).to(counts.device)
        self._step_counts = dict(zip(counters, self.accelerator.reduce(counts, "sum").tolist(), strict=True))

    @contextmanager
    def observe(self, model: Any, inputs: dict[str, Any], labels: torch.Tensor | None) -> Iterator[MicroBatch]:
        """
        Compute the terms within the forward pass of `model`, the `GranulonModel`.

        0 times their sum joins the hidden states, so that data-parallel wrappers, which trace the output of the
        forward pass, find every parameter in the graph once.
        """
        batch = self._micro_batch(inputs, labels)
        handle = model.register_forward_hook(partial(self._compute, batch))
        try:
            yield batch
        finally:
            handle.remove()

    def _compute(self, batch: MicroBatch, module: Any, args: tuple, output: Any) -> Any:
        if batch.output is not None:  # a second forward, for logits alone
            return output
        batch.model, batch.output = module, output
        if output.image_hidden_states is not None:
            batch.values = {term.name: term.compute(batch).sum() for term in self.active}
            parts = list(batch.values.values())
        else:
            parts = _idle_parameters(module)
        if parts and torch.is_grad_enabled():
            zero = 0 * torch.stack([part.sum().float() for part in parts]).sum()
            output.last_hidden_state = output.last_hidden_state + zero.to(output.last_hidden_state)
        return output

    def add_to(
        self, task: torch.Tensor, batch: MicroBatch, num_parts: int | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """
        The loss of a micro-batch, and its terms.

        Args:
            task: L_task of the micro-batch.
            num_parts: while training, by how much the trainer will still divide the loss that it backpropagates: its
                means over ranks, and over micro-batches where it takes one. `None` while evaluating: the
                micro-batch counts alone.

        Returns:
            the weighted sum, and by name what was summed.
        """
        loss, terms = task, {"task": task}
        for term in self.active:
            if term.name in batch.values:
                count = int(term.count(batch)) if num_parts is None else self._step_counts[term.count]
                terms[term.name] = batch.values[term.name] * (num_parts or 1) / max(1, count)
                loss = loss + getattr(self.args, term.weight) * terms[term.name].to(task)
        return loss, terms

    def record(self, batch: MicroBatch, task: torch.Tensor, count: torch.Tensor | float, is_training: bool) -> None:
        """
        Remember a micro-batch for the logs and, while training, its questions for the queue.

        Args:
            task: L_task, summed over `count` things of which the logs will show the mean.
        """
        tally = self._step if is_training else self._evaluation
        levels = batch.output.granularity[batch.output.granularity >= 0]
        chosen = torch.bincount(levels, minlength=len(self.config.levels))
        tally.add(
            {"loss_task": (task, count)}
            | {f"loss_{t.name}": (batch.values[t.name], t.count(batch)) for t in self.active if t.name in batch.values}
            | {f"level/{name}": (chosen[level], len(levels)) for level, name in enumerate(self.config.level_names)}
        )
        if is_training and batch.keys is not None and batch.output.question_descriptor is not None:
            self._new_questions.append((batch.output.question_descriptor.detach(), batch.keys))

    def finish_step(self) -> None:
        """After an optimizer step: its questions join the queue, and its terms what is logged, both from all ranks."""
        self._means.append(self._step.mean(self.accelerator))
        self._step = self._new_tally()
        if self._is_contrastive:
            self._fill_queue()

    def _fill_queue(self) -> None:
        """Questions in the order in which a single process would have met them: micro-batch by micro-batch."""
        new, self._new_questions = self._new_questions, []
        empty = self.queue.keys.new_zeros(0)
        descriptors = torch.cat([self.queue.descriptors[:0], *(values for values, _ in new)])
        keys = torch.cat([empty, *(values for _, values in new)])
        order = torch.cat([empty, *(torch.full_like(values, place) for place, (_, values) in enumerate(new))])
        if self.accelerator.num_processes > 1:
            # ranks may hold different numbers of rows: padding has the key -1, which the queue leaves out
            descriptors, keys, order = (
                self.accelerator.gather(self.accelerator.pad_across_processes(value, pad_index=index))
                for value, index in ((descriptors, 0), (keys, -1), (order, len(new)))
            )
        order = order.argsort(stable=True)
        self.queue.push(descriptors[order], keys[order])

    # --------------------------------------------------------------------------------------------------------- logs

    def pop_logs(self) -> dict[str, float]:
        """Each term's mean, and each level's share, over the optimizer steps since the last call that had any."""
        if not self._means:
            return {}
        means = torch.stack(self._means).nanmean(0).tolist()
        self._means = []
        return {name: value for name, value in zip(self._step.names, means, strict=True) if not math.isnan(value)}

    @contextmanager
    def evaluating(self) -> Iterator[dict[str, float]]:
        """The dict gets, at the end, each term's mean over the tokens, images or rows of the whole data set."""
        self._evaluation = self._new_tally()
        metrics: dict[str, float] = {}
        yield metrics
        means = self._evaluation.mean(self.accelerator).tolist()
        metrics |= {n: v for n, v in zip(self._evaluation.names, means, strict=True) if not math.isnan(v)}


def _idle_parameters(module: Any) -> list[torch.Tensor]:
    """What trains outside the language model: rows without images use none of it."""
    children = [child for name, child in module.named_children() if name != "language_model"]
    return [parameter for child in children for parameter in child.parameters() if parameter.requires_grad]
