"""Granulon's processor: chat messages and images to token slots and pixels."""

from typing import Any

import torch

from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from .chats_granulon import (
    ControlTokens,
    added_around,
    control_tokens,
    cut_marked,
    encode_with_offsets,
    has_marks,
    mark,
    read_message,
    strip_marks,
)
from .image_processing_granulon import GranulonImageProcessorKwargs
from .slots_granulon import OPEN, level_index, level_indices, slots_to_write


# options of the library's `apply_chat_template` that are no variables of a template
_NO_VARIABLES = {"return_tensors", "return_dict", "return_assistant_tokens_mask", "continue_final_message"}


class GranulonProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: GranulonImageProcessorKwargs
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
            images: one image, one for each placeholder in order, or a list of them for each text. An image is
                whatever `images_granulon.open_image` takes: a PIL image, an array, a path, a URL, bytes ...
            text: one or several prompts, with `image_token` where an image belongs.
            granularity: a level's name or index, or a list with one for each text; `None` or "auto" lets the
                controller choose.

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
            return self._stack(super().__call__(images=images, text=text, **kwargs))
        texts = [text] if isinstance(text, str) else list(text)
        levels = level_indices(granularity, self.level_names, len(texts))
        counts = self._count_placeholders(texts, is_marked=kwargs.get("sanitize_control_tokens", False))
        images = self._flatten_images(images, counts)
        per_image = [level for level, count in zip(levels, counts, strict=True) for _ in range(count)]
        output = self._stack(super().__call__(images=images, text=texts, granularity=per_image, **kwargs))
        if images is not None and "input_ids" in output:
            self._check_whole(output, levels, counts)
        if "text_replacement_offsets" in output and kwargs.get("sanitize_control_tokens"):
            output["offset_mapping"] = self._offsets(texts, output)
        if any(level != OPEN for level in levels) and "input_ids" in output:
            is_tensor = isinstance(output["input_ids"], torch.Tensor)
            output["granularity"] = torch.tensor(levels) if is_tensor else levels
        return output

    def _count_placeholders(self, texts: list[str], is_marked: bool) -> list[int]:
        counts = []
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"Text {index} is a {type(text).__name__}, expected a string.")
            if not text.strip():
                raise ValueError(f"Text {index} is empty. Pass a question, or at least `processor.image_token`.")
            text = cut_marked(text) if is_marked else text
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

    # ------------------------------------------------------------------ slots

    def replace_image_token(
        self, image_inputs: dict[str, Any], image_idx: int, granularity: Any = None, **kwargs: Any
    ) -> str:
        """
        The slots of an image: the library writes them in place of its placeholder.

        Args:
            image_inputs: what the image processor gave.
            granularity: level indices, one for each image.

        Raises:
            ValueError: images of different sizes, or a size that the encoder cannot take.
        """
        size, first = (tuple(image_inputs["pixel_values"][index].shape[-2:]) for index in (image_idx, 0))
        if size != first:
            raise ValueError(
                f"The images of a batch have the sizes {sorted({first, size})} after preprocessing; they must be "
                "equal. Leave `do_resize` on with a `size` of height and width, or process them one by one."
            )
        grid, level = self._grid(*size), OPEN if granularity is None else granularity[image_idx]
        if self.image_size is not None and list(size) != self.image_size:
            raise ValueError(
                f"This encoder has learned positions for {self.image_size[0]} x {self.image_size[1]} pixels and takes "
                f"no other size, got {size[0]} x {size[1]}. Leave `size`, `crop_size`, `do_resize` and "
                "`do_center_crop` as they are."
            )
        pixel, semantic = slots_to_write(self.levels, grid, level)
        return self.image_token * pixel + self.semantic_token * semantic

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = height // self.patch_size[0], width // self.patch_size[1]
        if not rows or not columns or (rows * self.patch_size[0], columns * self.patch_size[1]) != (height, width):
            raise ValueError(
                f"Images of {height} x {width} pixels cannot be cut into patches of {self.patch_size[0]} x "
                f"{self.patch_size[1]}. Leave `do_resize` on, or pass images whose sides are multiples of the patch."
            )
        return rows, columns

    def _stack(self, output: Any) -> Any:
        """The output with its pixels in one tensor of floats."""
        pixels = output.get("pixel_values")
        if isinstance(pixels, list):
            pixels = torch.stack([torch.as_tensor(image, dtype=torch.float32) for image in pixels])
        if isinstance(pixels, torch.Tensor):
            output["pixel_values"] = pixels.float()
        return output

    def _check_whole(self, output: Any, levels: list[int], counts: list[int]) -> None:
        """The library counts `image_token`; what it leaves is that no semantic slot was cut off."""
        grid = self._grid(*output["pixel_values"].shape[-2:])
        wanted = [
            count * slots_to_write(self.levels, grid, level)[1] for level, count in zip(levels, counts, strict=True)
        ]
        counted = [list(row).count(self.semantic_token_id) for row in _to_lists(output["input_ids"])]
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
        final = self.image_processor.crop_size if self.image_processor.do_center_crop else self.image_processor.size
        grid = self._grid(*(self.image_size or (final["height"], final["width"])))
        count = sum(slots_to_write(self.levels, grid, level_index(granularity, self.level_names)))
        return MultiModalData(num_image_tokens=[count] * len(image_sizes), num_image_patches=[1] * len(image_sizes))

    # ------------------------------------------------------------------ chats

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tokenize: bool = False,
        tools: Any = None,
        documents: Any = None,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        **kwargs: Any,
    ):
        """
        As `ProcessorMixin.apply_chat_template`. Every template sees plain strings: image items become `image_token`
        where they stand. Control tokens in the messages, tools and documents stay text.

        Args:
            processor_kwargs: for `__call__`, such as `{"granularity": "fine"}`.
            sanitize_control_tokens: keep them as text in the variables of the template (`kwargs`), too.

        Raises:
            TypeError, ValueError: what is malformed, by message and field.
        """
        template = self._find_template(chat_template)
        tokens = control_tokens(self.tokenizer, template, (self.image_token, self.semantic_token))
        is_batched, chats, images = self._read_chats(conversation, tokens, opens_images=tokenize)
        processor_kwargs = dict(processor_kwargs or {})
        if any(images):
            processor_kwargs.setdefault("images", images if is_batched else images[0])
        given = {"tools": tools, "documents": documents, **(kwargs if sanitize_control_tokens else {})}
        kwargs.update({name: mark(value, tokens.of_users, f"`{name}`") for name, value in given.items()})
        variables = {**self.tokenizer.special_tokens_map, **kwargs}
        try:
            if tokenize and any(map(has_marks, [*chats, *(kwargs[name] for name in given)])):
                processor_kwargs["sanitize_control_tokens"] = True
                chat_template = self._write_added_tokens(template, chats[0], processor_kwargs, variables)
            output = super().apply_chat_template(
                chats if is_batched else chats[0],
                chat_template=chat_template,
                tokenize=tokenize,
                processor_kwargs=processor_kwargs,
                **kwargs,
            )
        except Exception as error:  # jinja's own, or whatever its operations raise on what a message holds
            self._blame_message(error, chats, template, is_batched, variables)
            raise
        if tokenize:
            return output
        return strip_marks(output) if isinstance(output, str) else [strip_marks(text) for text in output]

    def _read_chats(
        self, conversation: Any, tokens: ControlTokens, opens_images: bool
    ) -> tuple[bool, list[list[dict[str, Any]]], list[list[Any]]]:
        """Whether several chats came; the messages of each (`read_message`); and its images."""
        if not isinstance(conversation, list | tuple) or not conversation:
            raise ValueError(
                f"`conversation` must be a non-empty list of messages, or of chats, got {conversation!r}."
            )
        is_batched = isinstance(conversation[0], list | tuple)
        fetch = self.image_processor.fetch_image if opens_images else _leave
        chats, images = [], []
        for index, chat in enumerate(conversation if is_batched else [conversation]):
            if not isinstance(chat, list | tuple) or not chat:
                raise ValueError(f"Chat {index} must be a non-empty list of messages, got {chat!r}.")
            of_chat = f" of chat {index}" if is_batched else ""
            read = [
                read_message(message, f"Message {place}{of_chat}", self.image_token, tokens, fetch)
                for place, message in enumerate(chat)
            ]
            chats.append([message for message, _ in read])
            images.append([image for _, found in read for image in found])
        return is_batched, chats, images

    def _find_template(self, chat_template: str | None) -> str:
        """The text of the chat template that the library will use."""
        own = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        return own.get(chat_template or "default", chat_template) or ""

    def _write_added_tokens(
        self, template: str, chat: list[dict[str, Any]], processor_kwargs: dict[str, Any], variables: dict[str, Any]
    ) -> str:
        """
        The template that itself writes what the tokenizer would add around its text: of marked texts, the library
        encodes only what is there. A template that begins with the token that begins texts stays as it is.
        """
        before, after = added_around(self.tokenizer)
        if not before + after or not processor_kwargs.get("add_special_tokens", True):
            return template
        processor_kwargs["add_special_tokens"] = False
        begin = self.tokenizer.bos_token
        if begin is not None and self._render(chat, template, variables).startswith(begin):
            return template
        return before + (template.removesuffix("\n") + after if after else template)

    def _render(self, chat: list[dict[str, Any]], template: str, variables: dict[str, Any]) -> str:
        variables = {name: value for name, value in variables.items() if name not in _NO_VARIABLES}
        return render_jinja_template([chat], chat_template=template, **variables)[0][0]

    def _blame_message(
        self, error: Exception, chats: list[list[dict[str, Any]]], template: str, is_batched: bool, variables: Any
    ) -> None:
        """Raise a `ValueError` that names the first message with which the template ends in `error`, if one does."""
        for index, chat in enumerate(chats):
            for stop in range(1, len(chat) + 1):
                try:
                    self._render(chat[:stop], template, variables)
                except Exception as again:
                    if (type(again), str(again)) == (type(error), str(error)):
                        label = f"message {stop - 1}" + (f" of chat {index}" if is_batched else "")
                        raise ValueError(
                            f"The chat template does not take {label}, which has the fields {list(chat[stop - 1])}: "
                            f"{error}. Change what the template complains about, or pass `chat_template=`."
                        ) from error

    def _offsets(self, texts: list[str], output: Any) -> list[list[tuple[int, int]]]:
        """
        The characters of each prompt, its slots written out, that its tokens cover, as `return_offsets_mapping` gives
        them where nothing is marked; (0, 0) for padding.
        """
        rows = []
        all_ids = _to_lists(output["input_ids"])
        masks = _to_lists(output.get("attention_mask", [[1] * len(ids) for ids in all_ids]))
        for text, replaced, ids, mask in zip(texts, output["text_replacement_offsets"], all_ids, masks, strict=True):
            for each in reversed(replaced):
                text = text[: each["span"][0]] + each["replacement"] + text[each["span"][1] :]
            whole, spans = encode_with_offsets(self.tokenizer, text)
            kept = [token for token, is_kept in zip(ids, mask, strict=True) if is_kept]
            spans = spans[: len(kept)] if whole[: len(kept)] == kept else spans[len(whole) - len(kept) :]
            remaining = iter(spans)
            rows.append([next(remaining) if is_kept else (0, 0) for is_kept in mask])
        return rows


def _to_lists(rows: Any) -> list[list[int]]:
    return rows.tolist() if hasattr(rows, "tolist") else rows


def _leave(image: Any) -> Any:
    return image


GranulonProcessor.register_for_auto_class()

__all__ = ["GranulonProcessor"]
