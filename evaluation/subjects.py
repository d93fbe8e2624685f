"""Who is measured: a Granulon, or any other model of transformers that answers questions about images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from transformers import AutoModelForImageTextToText, AutoProcessor

from granulon.chats import chat_inputs, question_chat
from granulon.modeling_granulon.slots_granulon import OPEN, level_index, slot_counts


AUTO = "auto"


class Answer(NamedTuple):
    """What a model said, and how it looked."""

    text: str
    level: str | None  # at which it was given; `None` where the model knows no levels
    visual_tokens: int | None  # that the language model read; `None` where they do not stand in the prompt


class Subject:
    """
    A model and its processor, to be asked in batches.

    Args:
        name: what results call it.
        revision: what tells its weights from others'.

    Raises:
        ValueError: the processor takes no images.
    """

    def __init__(self, model: Any, processor: Any, name: str, revision: str = "") -> None:
        if getattr(processor, "image_processor", None) is None:
            raise ValueError(
                f"{name} brings a {type(processor).__name__}, which takes no images; benchmarks ask about images. "
                "Name an image-text-to-text model with its processor."
            )
        self.model, self.processor, self.name, self.revision = model.eval(), processor, name, revision
        if (tokenizer := getattr(processor, "tokenizer", None)) is not None:
            tokenizer.padding_side = "left"
            if tokenizer.pad_token is None:  # any will do, since it is masked
                tokenizer.pad_token = tokenizer.eos_token
        is_granulon = model.config.model_type == "granulon"
        self.level_names: tuple[str, ...] = tuple(model.config.level_names) if is_granulon else ()

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def granularities(self, wanted: str | int) -> list[str]:
        """
        "auto", or levels by name.

        Args:
            wanted: "auto", a level's name or index, or "all": "auto" and then each level.

        Raises:
            ValueError: no level of this model, or a level of a model that has none.
        """
        if wanted == "all":
            return [AUTO, *self.level_names]
        if wanted == AUTO:
            return [AUTO]
        if not self.level_names:
            raise ValueError(f"{self.name} is no Granulon and has no levels: leave the granularity at auto.")
        index = level_index(wanted, self.level_names)
        return [AUTO if index == OPEN else self.level_names[index]]

    @torch.no_grad()
    def answer(
        self, prompts: Sequence[str], images: Sequence[Image.Image], granularity: str = AUTO, max_new_tokens: int = 16
    ) -> list[Answer]:
        """Greedy answers to a batch of questions, one image each."""
        inputs = self._inputs(prompts, images, granularity).to(self.model.device, self.model.dtype)
        levels, counts = self._look(inputs)
        output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        return [Answer(*answer) for answer in zip(texts, levels, counts, strict=True)]

    def _inputs(self, prompts: Sequence[str], images: Sequence[Image.Image], granularity: str) -> Any:
        if self.level_names:
            level = None if granularity == AUTO else granularity
            return chat_inputs(self.processor, list(prompts), list(images), granularity=level)
        return self.processor.apply_chat_template(
            [question_chat(prompt, image) for prompt, image in zip(prompts, images, strict=True)],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        )

    def _look(self, inputs: Any) -> tuple[list[str | None], list[int | None]]:
        """Level and visual tokens of each row; a level that the controller chooses is fixed in `inputs`."""
        config, ids = self.model.config, inputs["input_ids"]
        if not self.level_names:
            image_token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
            counts = [None] * len(ids) if image_token is None else ids.eq(image_token).sum(1).tolist()
            return [None] * len(ids), counts
        choice = self.model.model.choose_granularity(ids, inputs["attention_mask"], inputs.get("granularity"))
        inputs["granularity"] = choice.granularity
        slots = slot_counts(config.levels, config.grid_of(*inputs["pixel_values"].shape[-2:]))
        chosen = choice.granularity.tolist()
        return [self.level_names[level] for level in chosen], [sum(slots[level]) for level in chosen]


def load_subject(
    source: str, revision: str | None = None, dtype: str = "auto", device: str | torch.device | None = None
) -> Subject:
    """
    The model and the processor of a directory or a Hub id.

    Args:
        device: cuda where there is one, by default.

    Raises:
        ValueError: it takes no images.
        OSError: it is not there.
    """
    import granulon  # noqa: F401  registers the Auto classes

    processor = AutoProcessor.from_pretrained(source, revision=revision or "main")
    if getattr(processor, "image_processor", None) is None:
        return Subject(torch.nn.Identity(), processor, source)  # raises, before any weights are read
    model: Any = AutoModelForImageTextToText.from_pretrained(source, revision=revision or "main", dtype=dtype)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    known_as = fingerprint(Path(source)) if Path(source).is_dir() else getattr(model.config, "_commit_hash", None)
    return Subject(model, processor, source, known_as or revision or "")


def fingerprint(directory: Path) -> str:
    """What changes with a model's weights, configuration or processor, and with nothing else of a directory."""
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja") and path.name != "granulon_training.json":
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
