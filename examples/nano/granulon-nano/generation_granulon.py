"""Generation that decides the level first and pays only for the slots that this level uses."""

from numbers import Integral
from typing import Any

import torch

from transformers import GenerationMixin
from transformers.generation.streamers import BaseStreamer

from .configuration_granulon import GranulonConfig
from .granularity_granulon import GranularityChoice, run_starts


class _PromptStreamer(BaseStreamer):
    """Shows a streamer the caller's prompt in place of the shortened one; everything later passes through."""

    def __init__(self, streamer: BaseStreamer, prompt: torch.Tensor):
        self.streamer = streamer
        self.prompt: torch.Tensor | None = prompt

    def put(self, value: torch.Tensor) -> None:
        self.streamer.put(value if self.prompt is None else self.prompt)
        self.prompt = None

    def end(self) -> None:
        self.streamer.end()


class GranulonGenerationMixin(GenerationMixin):
    """`generate()` for a model whose child `model` is a `GranulonModel`."""

    config: GranulonConfig
    model: Any

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]:
        """As in the library; once the cache holds the images, their embeddings are not passed again."""
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            kwargs = {**kwargs, "image_embeds": None, "slots_per_image": None}
        return super().prepare_inputs_for_generation(input_ids, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: Any = None,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        prefix_allowed_tokens_fn: Any = None,
        synced_gpus: bool | None = None,
        assistant_model: Any = None,
        streamer: BaseStreamer | None = None,
        **kwargs: Any,
    ):
        """
        As `GenerationMixin.generate`, with one decision before the first step: the level of each row, by `granularity`
        (a name, an index, or one of either per row; `None` or -1 lets the controller choose). Images are encoded once.

        Slots that the level leaves empty are dropped, so they cost nothing, and the sequences that come back begin
        with the caller's own prompt. They are kept and masked instead where somebody could see the difference: with
        `logits_processor`, `stopping_criteria`, `prefix_allowed_tokens_fn`, `assistant_model`, `past_key_values`, or
        `return_dict_in_generate=True`, which hands back the cache. That output also carries `granularity` and
        `granularity_logits`, one row per prompt.
        """
        input_ids = kwargs.pop("input_ids", None) if inputs is None else inputs
        kwargs.update(
            generation_config=generation_config,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            synced_gpus=synced_gpus,
            assistant_model=assistant_model,
            streamer=streamer,
        )

        def setting(name: str) -> Any:
            """A generation setting, in the library's order: argument, the caller's config, the model's config."""
            values = [
                kwargs.get(name),
                getattr(generation_config, name, None),
                getattr(self.generation_config, name, None),
            ]
            return next((value for value in values if value is not None), None)

        granularity = kwargs.pop("granularity", None)
        pixel_values = kwargs.pop("pixel_values", None)
        if input_ids is None or not bool(self.model._is_visual(input_ids).any()):
            if pixel_values is not None:
                raise ValueError(
                    f"Image features and image tokens do not match: {len(pixel_values)} images, but the prompt has no "
                    "placeholder. Put `processor.image_token` into the text, or an image item into the chat message."
                )
            prompts = kwargs.get("inputs_embeds") if input_ids is None else input_ids
            outputs = super().generate(input_ids, **kwargs)
            return self._with_granularity(outputs, None, num_rows=1 if prompts is None else len(prompts))
        if setting("prefill_chunk_size"):
            raise ValueError(
                "`prefill_chunk_size` cannot be used with images: AdaTA needs whole images. Leave it out."
            )
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("Images need `input_ids`: their slots and the question are found from token ids.")

        device = self.model.get_input_embeddings().weight.device
        prompt, mask = input_ids.to(device), kwargs.pop("attention_mask", None)
        mask = self._infer_mask(prompt, setting) if mask is None else mask.to(device)
        choice = self.model.choose_granularity(prompt, mask, self._level_indices(granularity, len(prompt), device))
        cache = kwargs.get("past_key_values")
        num_cached = cache.get_seq_length() if cache is not None else 0
        decision = self._embed_images_for_generation(prompt, pixel_values, choice, num_cached)
        is_visual = self.model._is_visual(prompt)
        slots = self.model.locate_slots(prompt, decision["slots_per_image"])
        keep = mask.bool() & (slots.is_used | ~is_visual)

        is_watched = any(
            (
                logits_processor,
                stopping_criteria,
                prefix_allowed_tokens_fn,
                assistant_model,
                setting("return_dict_in_generate"),
            )
        )
        if is_watched or cache is not None:
            outputs = super().generate(prompt, attention_mask=keep.long(), **decision, **kwargs)
            return self._with_granularity(outputs, choice, num_rows=len(prompt))

        length = int(keep.sum(1).max())
        order = keep.long().argsort(dim=1, stable=True)[:, -length:]  # kept tokens, in order, flush right
        mask = keep.gather(1, order)
        shortened = torch.where(mask, prompt.gather(1, order), self._padding_id(setting))
        dropped = prompt.shape[1] - length
        if setting("max_new_tokens") is None and setting("max_length") is not None:  # counts the prompt
            kwargs["max_length"] = setting("max_length") - dropped
        if setting("min_new_tokens") is None and setting("min_length"):
            kwargs["min_length"] = max(0, setting("min_length") - dropped)
        if streamer is not None:
            kwargs["streamer"] = _PromptStreamer(streamer, input_ids.cpu())
        sequences = super().generate(shortened, attention_mask=mask.long(), **decision, **kwargs)
        prompts = prompt.repeat_interleave(len(sequences) // len(prompt), dim=0)
        return torch.cat([prompts, sequences[:, length:]], dim=1).to(input_ids.device)

    def _embed_images_for_generation(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        choice: GranularityChoice,
        num_cached: int,
    ) -> dict[str, Any]:
        """
        The generate keywords that carry the decision: `granularity`, `granularity_logits`, `image_embeds` and
        `slots_per_image` (see `GranulonModel.forward`). All have a row per prompt, so beams and returned sequences
        expand them. Images that the cache holds already are not encoded again; `pixel_values` may leave them out.
        """
        decision = {"granularity": choice.granularity, "granularity_logits": choice.logits, "image_embeds": None}
        starts = run_starts(input_ids.eq(self.config.image_token_id))
        num_all, num_new = starts.sum(1), starts[:, num_cached:].sum(1)
        if pixel_values is None and bool(num_new.any()):
            raise ValueError("The prompt has image placeholders, but no `pixel_values` came with it.")
        # one size for all: images that the cache holds must have been as large as these
        size = self.config.image_size if pixel_values is None else pixel_values.shape[-2:]
        grid = self.config.grid_of(*size)
        slots_per_image = self.model.count_slots(choice.granularity, grid)
        if num_cached:  # else `embed_images` checks the whole prompt
            self.model.check_slots(input_ids, slots_per_image, int(num_all.sum()), grid)
        if pixel_values is not None and num_cached and len(pixel_values) == int(num_all.sum()):
            index = (torch.arange(int(n)) >= int(n - new) for n, new in zip(num_all, num_new, strict=True))
            pixel_values = pixel_values[torch.cat(list(index)).to(pixel_values.device)]
        if pixel_values is not None and len(pixel_values) != int(num_new.sum()):
            raise ValueError(
                f"Image features and image tokens do not match: {len(pixel_values)} images for {int(num_new.sum())} "
                "placeholders. Pass one image for each placeholder."
            )
        if not bool(num_new.any()):
            return {**decision, "slots_per_image": slots_per_image}
        visual_embeds, slots, slots_per_image, _ = self.model.embed_images(
            input_ids[:, num_cached:], pixel_values, choice
        )
        # compact the used slots flush right
        used = slots.is_used.to(visual_embeds.device)
        order = used.long().argsort(dim=1, stable=True)[:, -int(used.sum(1).max()) :]
        embeds = visual_embeds.gather(1, order.unsqueeze(-1).expand(-1, -1, visual_embeds.shape[-1]))
        return {**decision, "image_embeds": embeds.to(input_ids.device), "slots_per_image": slots_per_image}

    def _level_indices(self, granularity: Any, num_rows: int, device: torch.device) -> torch.Tensor | None:
        """
        Level names and indices, one for all rows or one per row, as `(batch_size,)` indices, -1 for an open choice.
        """
        if granularity is None:
            return None
        if isinstance(granularity, torch.Tensor):
            granularity = granularity.tolist()
        if not isinstance(granularity, list | tuple):
            granularity = [granularity] * num_rows
        names = self.config.level_names
        indices = []
        for level in granularity:
            if level is None or level == "auto":
                indices.append(-1)
            elif level in names:
                indices.append(names.index(level))
            elif isinstance(level, Integral) and not isinstance(level, bool):
                indices.append(int(level))
            else:
                raise ValueError(f'`granularity` got {level!r}, expected one of {names}, an index, or "auto".')
        return torch.tensor(indices, device=device)

    def _padding_id(self, setting: Any) -> int:
        ids = [setting("pad_token_id"), setting("eos_token_id"), self.config.text_config.pad_token_id, 0]
        value = next(value for value in ids if value is not None)
        return value[0] if isinstance(value, list) else value

    def _infer_mask(self, input_ids: torch.Tensor, setting: Any) -> torch.Tensor:
        """As `generate` infers it: padding is masked where its id has no other meaning."""
        padding, ends = setting("pad_token_id"), setting("eos_token_id")
        if padding is None or padding in (ends if isinstance(ends, list) else [ends]):
            return torch.ones_like(input_ids)
        return (input_ids != padding).long()

    def _with_granularity(self, outputs: Any, choice: GranularityChoice | None, num_rows: int) -> Any:
        if isinstance(outputs, torch.Tensor):
            return outputs
        if choice is None:
            levels, device = len(self.config.levels), outputs.sequences.device
            outputs["granularity"] = torch.full((num_rows,), -1, device=device)
            outputs["granularity_logits"] = torch.zeros(num_rows, levels, device=device)
        else:
            outputs["granularity"], outputs["granularity_logits"] = choice.granularity, choice.logits
        return outputs
