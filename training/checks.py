"""What cannot train is refused before it begins, by the trainer and by the dry run alike."""

from collections.abc import Sequence
from typing import Any

from trl.chat_template_utils import has_generation_markers

from transformers import PreTrainedTokenizerBase

from .adapters import lora_config
from .config import GranulonSFTConfig
from .loss_terms import Term
from .stages import STAGES, base_of, component_of


def check_adapters(model: Any, args: GranulonSFTConfig, peft_config: Any) -> Any:
    """The adapters of the stage: the preset where `lora` came without."""
    is_peft = hasattr(model, "peft_config")
    if is_peft and not hasattr(model, "get_base_model"):
        raise ValueError(
            "The model was loaded from an adapter's directory through an Auto class, which can answer but not train. "
            "Load the base model and use `peft.PeftModel.from_pretrained(base, directory, is_trainable=True)`."
        )
    if args.stage == "lora":
        if peft_config is None and not is_peft:
            return lora_config(None if isinstance(model, str) else model)
    elif peft_config is not None or is_peft:
        raise ValueError(
            f"Adapters came with stage {args.stage!r}, which trains the weights themselves. Use stage='lora' "
            "(connector + adapters on the language model), or leave `peft_config` out."
        )
    return peft_config


def check_data(args: GranulonSFTConfig, data: Any, processor: Any) -> None:
    """Settle which tokens are learned, and refuse data that the stage cannot use."""
    row = next(iter(data), None)
    if row is None:
        raise ValueError("`train_dataset` is empty: it has no rows.")
    columns = sorted(row)
    if isinstance(processor, PreTrainedTokenizerBase):
        raise TypeError(
            "`processing_class` is a tokenizer, expected the GranulonProcessor: it writes the image slots, and is "
            "saved beside every checkpoint."
        )
    if "images" not in row and "image" not in row:
        raise ValueError(
            f"`train_dataset` has the columns {columns}, but no `images`: stage {args.stage!r} trains on images. Add "
            "`images`, a list for each row (empty for a row of text alone)."
        )
    if "prompt" in row and "completion" in row:
        if args.completion_only_loss is False:
            raise ValueError(
                "`completion_only_loss=False` would train on the prompt and its image slots. Leave it out."
            )
    elif "messages" in row:
        if not args.assistant_only_loss:
            if processor is not None and not has_generation_markers(processor.chat_template or ""):
                raise ValueError(
                    "The data set has `messages`, but the chat template does not mark what the assistant says "
                    "(`{% generation %}`), so questions and image slots would be learned, too. Use `prompt` and "
                    "`completion` columns, or a template with the marks."
                )
            args.assistant_only_loss = True
    else:
        raise ValueError(
            f"`train_dataset` has the columns {columns}, expected `prompt` and `completion`, or `messages`, so that "
            "the answer can be told from the question."
        )
    if (
        "granularity_labels" in row
        and args.controller_loss_weight > 0
        and "granularity_controller" not in STAGES[args.stage]
    ):
        raise ValueError(
            f"The data set has `granularity_labels`, but stage {args.stage!r} freezes the controller that they teach. "
            "Set `controller_loss_weight=0` to ignore them, or choose another stage."
        )


def check_stage(args: GranulonSFTConfig, model: Any, terms: Sequence[Term]) -> None:
    """
    Args:
        model: its stage set.
        terms: the active ones.

    Raises:
        ValueError: the stage needs the question, which the model cannot find; a learning rate of what the stage
            freezes.
    """
    controller = component_of(model, "granularity_controller")
    is_question_read = terms or any(part.requires_grad for part in controller.parameters())
    if is_question_read and not base_of(model).config.turn_end_token_ids:
        raise ValueError(
            f"Stage {args.stage!r} needs the question, but this model's chat template does not mark the ends of "
            "turns. Compose the model with `turn_end=` (the text that ends a user's turn), or train stage "
            "'projector'."
        )
    frozen = [
        name
        for name in args.module_learning_rates or {}
        if not any(parameter.requires_grad for parameter in component_of(model, name).parameters())
    ]
    if frozen:
        raise ValueError(
            f"`module_learning_rates` names {frozen}, which stage {args.stage!r} freezes. It trains "
            f"{list(STAGES[args.stage])}: remove the rate, or choose another stage."
        )
