"""Granulon's processor: chat messages and images to token slots and pixels."""

import math
import re
from typing import Any

import torch

from transformers.processing_utils import ImagesKwargs, MultiModalData, ProcessingKwargs, ProcessorMixin
from transformers.utils.chat_template_utils import mark_control_tokens


# the library's own marks around text that looks like a control token but is not one
_START, _END = mark_control_tokens("x", re.compile("x")).split("x")
_MARKED = re.compile(f"{_START}.*?{_END}")


class GranulonImagesKwargs(ImagesKwargs, total=False):
    """
    Args:
        granularity: a level's name or index, or a list with one for each text; `None` or "auto" lets the controller
            choose.
    """

    granularity: Any


class GranulonProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: GranulonImagesKwargs
    _defaults = {"text_kwargs": {"padding": False}}


class GranulonProcessor(ProcessorMixin):
    """
    Expands each image placeholder into the slots that the model fills: `image_token` for pixel tokens, then
    `semantic_token` for semantic tokens. While the level is open, as many as the largest level needs; with
    `granularity=`, exactly that level's.

    Args:
        patch_size: height and width of a patch in pixels.
        levels: the model's levels, coarse to fine; `name`, `tokens` and `pixel_pool` are read.
        image_token: placeholder of an image, and slot of a pixel token.
        semantic_token: slot of a semantic token. Only the processor writes it.
        image_size: height and width of the only image size that the encoder takes; `None` for an encoder with relative
            positions, which takes every multiple of the patch.
    """

    valid_processor_kwargs: Any = GranulonProcessorKwargs

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        chat_template=None,
        patch_size=(16, 16),
        levels=(),
        image_token="<image>",
        semantic_token="<semantic>",
        image_size=None,
        **kwargs,
    ):
        self.patch_size = [patch_size] * 2 if isinstance(patch_size, int) else list(patch_size)
        self.levels = [dict(level) for level in levels]
        self.image_size = None if image_size is None else list(image_size)
        self.image_token = image_token
        self.semantic_token = semantic_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(image_token)
        self.semantic_token_id = tokenizer.convert_tokens_to_ids(semantic_token)
        self.image_token_ids = [self.image_token_id, self.semantic_token_id]
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

    @property
    def level_names(self) -> list[str]:
        """Names of the levels, coarse to fine."""
        return [level["name"] for level in self.levels]

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "granularity"]

    # ------------------------------------------------------------------ images and texts

    def __call__(self, images: Any = None, text: Any = None, granularity: Any = None, **kwargs: Any):
        """
        Args:
            images: one image, one for each placeholder in order, or a list of them for each text. An image is a PIL
                image, an array, a tensor, a path, a URL, a data URI or base64 text.
            text: one or several prompts, with `image_token` where an image belongs.
            granularity: see `GranulonImagesKwargs`.

        Returns:
            `input_ids`, `attention_mask`, `pixel_values` `(num_images, 3, height, width)`, and, where a level is
            fixed, `granularity`: `(num_texts,)` level indices, -1 for an open choice.

        Raises:
            ValueError: no or another number of images than placeholders, unreadable images, images that the encoder
                cannot take, empty text, an unknown level, or a prompt cut inside an image.
        """
        if kwargs.get("images_kwargs"):
            kwargs["images_kwargs"] = dict(kwargs["images_kwargs"])
            nested = kwargs["images_kwargs"].pop("granularity", None)
            granularity = nested if granularity is None else granularity
        if text is None:
            return super().__call__(images=images, text=text, **kwargs)
        texts = [text] if isinstance(text, str) else list(text)
        levels = self._level_indices(granularity, len(texts))
        counts = self._count_placeholders(texts)
        images = self._flatten_images(images, counts)
        per_image = [level for level, count in zip(levels, counts, strict=True) for _ in range(count)]
        output = super().__call__(images=images, text=texts, granularity=per_image, **kwargs)
        if any(level >= 0 for level in levels) and "input_ids" in output:
            is_tensor = isinstance(output["input_ids"], torch.Tensor)
            output["granularity"] = torch.tensor(levels) if is_tensor else levels
        return output

    def _level_indices(self, granularity: Any, num_texts: int) -> list[int]:
        if isinstance(granularity, torch.Tensor):
            granularity = granularity.tolist()
        if not isinstance(granularity, list | tuple):
            granularity = [granularity] * num_texts
        if len(granularity) != num_texts:
            raise ValueError(
                f"`granularity` lists {len(granularity)} levels for {num_texts} texts. Pass one level, or one for "
                "each text."
            )
        return [self._level_index(level) for level in granularity]

    def _level_index(self, level: Any) -> int:
        if level is None or level == "auto":
            return -1
        if isinstance(level, str) and level in self.level_names:
            return self.level_names.index(level)
        if isinstance(level, int) and not isinstance(level, bool) and -1 <= level < len(self.levels):
            return level
        raise ValueError(
            f"`granularity` got {level!r}, expected one of {self.level_names}, an index from 0 to "
            f"{len(self.levels) - 1}, or "
            '"auto" for the controller\'s choice.'
        )

    def _count_placeholders(self, texts: list[str]) -> list[int]:
        counts = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"Text {index} is a {type(text).__name__}, expected a string.")
            if not text.strip():
                raise ValueError(f"Text {index} is empty. Pass a question, or at least `processor.image_token`.")
            text = _MARKED.sub("", text)
            if self.semantic_token in text:
                raise ValueError(
                    f"Text {index} contains {self.semantic_token!r}, which is reserved for semantic tokens: the "
                    "processor writes it after each image. Remove it, or pass chat messages, in which user text stays "
                    "text."
                )
            counts.append(text.count(self.image_token))
        return counts

    def _flatten_images(self, images: Any, counts: list[int]) -> list[Any] | None:
        """All images in a flat list, checked against the placeholders of each text."""
        if images is None:
            given: list[int] = [0] * len(counts)
            flat = []
        elif isinstance(images, list | tuple) and any(isinstance(group, list | tuple) for group in images):
            groups = [list(group) if isinstance(group, list | tuple) else [group] for group in images]
            given, flat = [len(group) for group in groups], [image for group in groups for image in group]
        else:
            flat = list(images) if isinstance(images, list | tuple) else [images]
            if len(flat) == 1 and getattr(flat[0], "ndim", 0) == 4:  # a batch in one array or tensor
                flat = list(flat[0])
            given = counts if len(flat) == sum(counts) else [len(flat)]
        if given != counts:
            raise ValueError(
                f"The texts have {counts} image placeholders ({self.image_token!r}), but {given} images came with "
                f"them. Put {self.image_token!r} into the text once for each image, or use `apply_chat_template` with "
                "an image item in the message."
            )
        return flat or None

    def _process_images(self, images: Any, granularity: Any = None, **kwargs: Any):
        images = self.image_processor.fetch_images(images)
        processed = self.image_processor(images, **{**kwargs, "return_tensors": None})
        sizes = sorted({tuple(image.shape[-2:]) for image in processed["pixel_values"]})
        if len(sizes) > 1:
            raise ValueError(
                f"The images of a batch have the sizes {sizes} after preprocessing; they must be equal. Leave "
                "`do_resize` on with a `size` of height and width, or process them one by one."
            )
        (height, width), (patch_height, patch_width) = sizes[0], self.patch_size
        if height % patch_height or width % patch_width or not min(height // patch_height, width // patch_width):
            raise ValueError(
                f"Images of {height} x {width} pixels cannot be cut into patches of {patch_height} x {patch_width}. "
                "Leave `do_resize` on, or pass images whose sides are multiples of the patch."
            )
        if self.image_size is not None and [height, width] != self.image_size:
            raise ValueError(
                f"This encoder has learned positions for {self.image_size[0]} x {self.image_size[1]} pixels and takes "
                f"no other size, got {height} x {width}. Leave `size`, `crop_size`, `do_resize` and `do_center_crop` "
                "as they are."
            )
        pixel_values = [torch.as_tensor(image, dtype=torch.float32) for image in processed["pixel_values"]]
        processed["pixel_values"] = torch.stack(pixel_values)
        levels = [-1] * len(pixel_values) if granularity is None else granularity
        return processed, [self._slots(height, width, level) for level in levels]

    def _count_slots(self, height: int, width: int, level: int) -> tuple[int, int]:
        """`<image>` and `<semantic>` slots of an image of so many pixels; -1 is the open level."""
        rows, columns = height // self.patch_size[0], width // self.patch_size[1]
        levels = self.levels if level < 0 else [self.levels[level]]
        pixel = max(
            math.ceil(rows / entry["pixel_pool"]) * math.ceil(columns / entry["pixel_pool"]) for entry in levels
        )
        return pixel, max(entry["tokens"] for entry in levels)

    def _slots(self, height: int, width: int, level: int) -> str:
        pixel, semantic = self._count_slots(height, width, level)
        return self.image_token * pixel + self.semantic_token * semantic

    def _check_special_mm_tokens(self, text: list[str], text_inputs: Any, modalities: list[str]) -> None:
        super()._check_special_mm_tokens(text, text_inputs, modalities)
        input_ids = text_inputs["input_ids"]
        rows = input_ids.tolist() if hasattr(input_ids, "tolist") else input_ids
        counted = [list(row).count(self.semantic_token_id) for row in rows]
        wanted = [_MARKED.sub("", sample).count(self.semantic_token) for sample in text]
        if counted != wanted:
            raise ValueError(
                f"Image features and image tokens do not match: the prompts need {wanted} semantic tokens, but "
                f"{counted} are left: truncation cut inside an image. Raise `max_length` or turn truncation off."
            )

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, granularity: Any = None, **kwargs: Any
    ) -> MultiModalData:
        """Slots of images of the given (height, width) before preprocessing, for serving engines that plan ahead."""
        if image_sizes is None:
            return MultiModalData()
        level = self._level_index(granularity)
        final = self.image_processor.crop_size if self.image_processor.do_center_crop else self.image_processor.size
        height, width = self.image_size or (final["height"], final["width"])
        count = sum(self._count_slots(height, width, level))
        return MultiModalData(num_image_tokens=[count] * len(image_sizes), num_image_patches=[1] * len(image_sizes))

    # ------------------------------------------------------------------ chats

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tokenize: bool = False,
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        """
        As `ProcessorMixin.apply_chat_template`. Every template sees plain strings: image items become `image_token`
        where they stand. Reserved tokens in a user's text stay text.

        Args:
            processor_kwargs: for `__call__`, such as `{"granularity": "fine"}`.
        """
        if not isinstance(conversation, list | tuple) or not conversation:
            raise ValueError(
                f"`conversation` must be a non-empty list of messages, or of chats, got {conversation!r}."
            )
        is_batched = isinstance(conversation[0], list | tuple)
        images: list[list[Any]] = []
        chats: list[list[dict[str, Any]]] = []
        for chat in conversation if is_batched else [conversation]:
            images.append([])
            chats.append([self._flatten_message(message, images[-1]) for message in chat])
        processor_kwargs = dict(processor_kwargs or {})
        if any(images):
            processor_kwargs.setdefault("images", images if is_batched else images[0])
        if any(_START in (message.get("content") or "") for chat in chats for message in chat):
            if not tokenize:  # nobody would resolve the marks
                for message in (message for chat in chats for message in chat):
                    message["content"] = re.sub(f"[{_START}{_END}]", "", message.get("content") or "")
            elif return_assistant_tokens_mask:
                raise ValueError(
                    f"A message holds {self.image_token!r} or {self.semantic_token!r} as text, which cannot be kept "
                    "as text with `return_assistant_tokens_mask=True`. Remove it from the message."
                )
            else:
                processor_kwargs["sanitize_control_tokens"] = True
        return super().apply_chat_template(
            chats if is_batched else chats[0],
            chat_template=chat_template,
            tokenize=tokenize,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            processor_kwargs=processor_kwargs,
            **kwargs,
        )

    def _flatten_message(self, message: dict[str, Any], images: list[Any]) -> dict[str, Any]:
        """The message with its content as one string; its images are appended to `images`."""
        content = message.get("content")
        if content is None:
            return dict(message)
        parts = [""]  # texts, and image tokens between them
        for item in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = item.get("type")
            if kind == "text":
                parts[-1] += item["text"]
            elif kind in ("image", "image_url"):
                source = item.get("image_url", item) if kind == "image_url" else item
                source = {"url": source} if isinstance(source, str) else source
                images.extend(source[key] for key in ("image", "url", "path", "base64") if source.get(key) is not None)
                parts += [self.image_token, ""]
            else:
                raise ValueError(
                    f"A message item has the type {kind!r}, expected `text`, `image` or `image_url`: {item!r}."
                )
        reserved = re.compile(f"{re.escape(self.image_token)}|{re.escape(self.semantic_token)}")
        parts[::2] = [mark_control_tokens(text, reserved) for text in parts[::2]]
        return {**message, "content": "".join(parts)}


GranulonProcessor.register_for_auto_class()

__all__ = ["GranulonProcessor"]
