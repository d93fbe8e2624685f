"""Arguments of Granulon's supervised fine-tuning."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from trl import SFTConfig

from .fields import one_of
from .loss_terms import CONTRIBUTIONS, TERMS, LossArguments
from .stages import COMPONENTS, STAGES


# the least that a number may be
_AT_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "torch_empty_cache_steps": 1,
    "max_length": 1,
    "dataset_num_proc": 1,
    "dataloader_prefetch_factor": 1,
    "ddp_timeout": 1,
    "contribution_queue_size": 1,
    **dict.fromkeys((term.weight for term in TERMS), 0),
    "learning_rate": 0,
    "weight_decay": 0,
    "warmup_steps": 0,
    "max_grad_norm": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
    "label_smoothing_factor": 0,
    "neftune_noise_alpha": 0,
    "eval_delay": 0,
    "dataloader_num_workers": 0,
    "save_total_limit": 0,
    "seed": 0,
    "data_seed": 0,
}
# where a field has a value above the least that is too much
_BELOW = {"adam_beta1": 1, "adam_beta2": 1, "label_smoothing_factor": 1, "seed": 2**32, "data_seed": 2**32}
# how often something happens, where it happens by steps; below 1 a share of all steps
_PERIODS = {"logging_steps": "logging_strategy", "eval_steps": "eval_strategy", "save_steps": "save_strategy"}


@dataclass
class GranulonSFTConfig(LossArguments, SFTConfig):
    """
    `trl.SFTConfig` with the stage, and the weights of Granulon's loss terms (paper Eq. 2-3).

    L = L_task + lambda_d L_pixel + lambda_t L_semantic + lambda_c L_controller. L_pixel and L_semantic are means over
    the images of an optimizer step, L_controller over its rows with `granularity_labels`; they count what every
    micro-batch and rank saw, as `num_items_in_batch` does for L_task. Stages that freeze the contribution heads
    (`projector`, `controller`) have no contribution terms.

    Raises:
        ValueError: an unknown stage or contribution; a number that nothing can be trained with, such as a negative
            batch size or a learning rate of NaN; a learning rate of an unknown component.
        TypeError: no number where one is needed.
    """

    stage: str = field(
        default="connector",
        metadata={"help": "Which components train.", "choices": list(STAGES)},
    )
    module_learning_rates: dict | str | None = field(
        default=None,
        metadata={"help": f"Learning rates of single components, by name: {', '.join(COMPONENTS)}."},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longest row in tokens; `None`, the default, never cuts a prompt inside an image."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Unused: a loss that is not finite stops the run, its batch saved."}
    )

    _VALID_DICT_FIELDS = SFTConfig._VALID_DICT_FIELDS + ["module_learning_rates"]

    def __post_init__(self):
        self._check_numbers()
        if self.greater_is_better is None and (self.metric_for_best_model or "").removeprefix("eval_").startswith(
            "loss_"
        ):
            self.greater_is_better = False  # transformers knows only names that end with "loss"
        super().__post_init__()
        one_of("stage", self.stage, STAGES)
        one_of("contribution", self.contribution, CONTRIBUTIONS)
        for name, rate in (self.module_learning_rates or {}).items():
            one_of("module_learning_rates", name, COMPONENTS)
            _check_number(f"module_learning_rates[{name!r}]", rate, 0)
        if self.enable_jit_checkpoint:
            raise ValueError(
                "`enable_jit_checkpoint` is not needed: SIGTERM always writes a checkpoint. Leave it off."
            )
        if self.packing or self.padding_free:
            raise ValueError(
                "`packing` and `padding_free` join rows in one sequence, but an image's slots and its question belong "
                "to one row. Leave both off."
            )

    def _check_numbers(self) -> None:
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self)}
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None or defaults[name] is not None:
                _check_number(name, value, least, _BELOW.get(name, math.inf))
        for name, strategy in _PERIODS.items():
            value = getattr(self, name)
            if getattr(self, strategy) == "steps" and value is not None:
                _check_number(name, value, math.ulp(0))
        if self.max_steps < 1 and self.max_steps != -1:
            raise ValueError(
                f"`max_steps` is {self.max_steps}, expected at least 1, or -1 for `num_train_epochs` over the data."
            )
        _check_number("num_train_epochs", self.num_train_epochs, math.ulp(0))


def _check_number(name: str, value: Any, least: float, below: float = math.inf) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"`{name}` is {value!r}, a {type(value).__name__}, expected a number.")
    if not least <= value < below:  # NaN is neither
        bounds = "above 0" if least == math.ulp(0) else f"of at least {least:g}"
        bounds += "" if below == math.inf else f" and below {below:,}"
        raise ValueError(f"`{name}` is {value}, expected a finite number {bounds}.")
