"""Arguments of Granulon's supervised fine-tuning."""

import math
from dataclasses import dataclass, field

from trl import SFTConfig

from .fields import one_of
from .loss_terms import CONTRIBUTIONS, TERMS, LossArguments
from .stages import COMPONENTS, STAGES


@dataclass
class GranulonSFTConfig(LossArguments, SFTConfig):
    """
    `trl.SFTConfig` with the stage, and the weights of Granulon's loss terms (paper Eq. 2-3).

    L = L_task + lambda_d L_pixel + lambda_t L_semantic + lambda_c L_controller. L_pixel and L_semantic are means over
    the images of an optimizer step, L_controller over its rows with `granularity_labels`; they count what every
    micro-batch and rank saw, as `num_items_in_batch` does for L_task. Stages that freeze the contribution heads
    (`projector`, `controller`) have no contribution terms.

    Raises:
        ValueError: an unknown stage or contribution, a negative weight, a learning rate of an unknown component.
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
        if self.greater_is_better is None and (self.metric_for_best_model or "").removeprefix("eval_").startswith(
            "loss_"
        ):
            self.greater_is_better = False  # transformers knows only names that end with "loss"
        super().__post_init__()
        one_of("stage", self.stage, STAGES)
        one_of("contribution", self.contribution, CONTRIBUTIONS)
        for name in (term.weight for term in TERMS):
            if not math.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be a finite number of at least 0, got {getattr(self, name)}.")
        if self.contribution_queue_size < 1:
            raise ValueError(
                f"`contribution_queue_size` must be at least 1, got {self.contribution_queue_size}. To train without "
                'contribution terms, use `contribution="none"`.'
            )
        for name, rate in (self.module_learning_rates or {}).items():
            one_of("module_learning_rates", name, COMPONENTS)
            if not isinstance(rate, int | float) or not math.isfinite(rate) or rate < 0:
                raise ValueError(f"`module_learning_rates[{name!r}]` must be a number of at least 0, got {rate!r}.")
        if self.enable_jit_checkpoint:
            raise ValueError(
                "`enable_jit_checkpoint` is not needed: SIGTERM always writes a checkpoint. Leave it off."
            )
        if self.packing or self.padding_free:
            raise ValueError(
                "`packing` and `padding_free` join rows in one sequence, but an image's slots and its question belong "
                "to one row. Leave both off."
            )
