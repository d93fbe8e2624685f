"""Generation that decides the level first and pays only for the slots that this level uses."""

from collections.abc import Callable
from typing import Any

import torch

from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_granulon import GranulonConfig
from .granularity_granulon import GranularityChoice
from .slots_granulon import flush, level_indices, run_starts


# what the library calls the key/value cache: transformers 5.24 renamed it
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__annotations__ else "past_key_values"


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


class _Draft:
    """
    An assistant model as assisted decoding calls it: `generate` with what the main model was given. What that one saw
    is not for the draft, which has eyes of its own, or, as a text-only one, none.

    Args:
        model: the assistant.
        is_visual: `(batch_size, num_prompt_tokens)` bool, hidden from a draft without eyes; `None` where it sees them.
        embeds: of the prompt, for a Granulon: with images where it sees them.
    """

    def __init__(self, model: Any, is_visual: torch.Tensor | None, embeds: torch.Tensor | None):
        self._model, self._is_visual, self._embeds = model, is_visual, embeds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        for name in ("granularity", "granularity_logits", "prompt_embeds"):
            kwargs.pop(name, None)
        if self._is_visual is not None and attention_mask is not None:
            attention_mask = attention_mask.clone()
            attention_mask[:, : self._is_visual.shape[1]] *= ~self._is_visual.to(attention_mask.device)
        cache = kwargs.get(CACHE)
        num_cached = 0 if cache is None else cache.get_seq_length()
        if self._embeds is not None and num_cached < self._embeds.shape[1]:  # a rejected draft may cut into the prompt
            kwargs["draft_embeds"] = self._embeds[:, num_cached:]
        return GenerationMixin.generate(self._model, input_ids, attention_mask=attention_mask, **kwargs)


class GranulonGenerationMixin(GenerationMixin):
    """`generate()` for a model whose child `model` is a `GranulonModel`."""

    config: GranulonConfig
    model: Any

    def prepare_inputs_for_generation(
        self, input_ids: Any, draft_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """
        As in the library; once the cache holds the prompt, its embeddings are not passed again.

        Args:
            draft_embeds: `prompt_embeds` of a draft, which is never told that it is at a beginning.
        """
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            kwargs = {**kwargs, "prompt_embeds": None}
        if draft_embeds is not None and kwargs.get("next_sequence_length") != 1:
            kwargs["prompt_embeds"] = draft_embeds
        return super().prepare_inputs_for_generation(input_ids, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        prefix_allowed_tokens_fn: Callable[[int, torch.Tensor], list[int]] | None = None,
        synced_gpus: bool | None = None,
        assistant_model: PreTrainedModel | None = None,
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

        for name in ("past_key_values", "cache"):
            if kwargs.get(name) is not None:
                kwargs[CACHE] = kwargs.pop(name)
        granularity = kwargs.pop("granularity", None)
        pixel_values = kwargs.pop("pixel_values", None)
        if input_ids is None or not bool(self.model.is_visual(input_ids).any()):
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
        if granularity is not None:
            indices = level_indices(granularity, self.config.level_names, len(prompt))
            granularity = torch.tensor(indices, device=device)
        choice = self.model.choose_granularity(prompt, mask, granularity)
        cache = kwargs.get(CACHE)
        num_cached = cache.get_seq_length() if cache is not None else 0
        decision = {"granularity": choice.granularity, "granularity_logits": choice.logits}
        decision["prompt_embeds"], keep = self._embed_prompt(prompt, mask.bool(), pixel_values, choice, num_cached)

        if assistant_model is not None:
            kwargs["assistant_model"] = self._draft(assistant_model, prompt, pixel_values, choice)
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

        if streamer is not None:
            kwargs["streamer"] = _PromptStreamer(streamer, input_ids.cpu())
        return self._generate_shortened(prompt, keep, decision, setting, kwargs).to(input_ids.device)

    def _generate_shortened(
        self, prompt: torch.Tensor, keep: torch.Tensor, decision: dict[str, Any], setting: Any, kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Generate from the tokens of the prompt that count, and put the caller's own prompt in front again."""
        order = flush(keep, "right")  # (batch_size, longest)
        length, mask = order.shape[1], keep.gather(1, order)
        embeds = decision["prompt_embeds"]
        embeds = embeds.gather(1, order.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))
        shortened = torch.where(mask, prompt.gather(1, order), self._padding_id(setting))
        dropped = prompt.shape[1] - length
        if setting("max_new_tokens") is None and setting("max_length") is not None:  # counts the prompt
            kwargs["max_length"] = setting("max_length") - dropped
        if setting("min_new_tokens") is None and setting("min_length"):
            kwargs["min_length"] = max(0, setting("min_length") - dropped)
        sequences = super().generate(
            shortened, attention_mask=mask.long(), **{**decision, "prompt_embeds": embeds}, **kwargs
        )
        prompts = prompt.repeat_interleave(len(sequences) // len(prompt), dim=0)
        return torch.cat([prompts, sequences[:, length:]], dim=1)

    def _embed_prompt(
        self,
        input_ids: torch.Tensor,
        is_real: torch.Tensor,
        pixel_values: torch.Tensor | None,
        choice: GranularityChoice,
        num_cached: int,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """
        Embeddings of the prompt after what the cache holds, images in their slots (`None` where no image is new), and
        which tokens of the whole prompt count: neither padding nor empty slots, `(batch_size, num_tokens)` bool.

        Images that the cache holds are not encoded again; `pixel_values` may leave them out.
        """
        starts = run_starts(input_ids.eq(self.config.image_token_id))
        num_all, num_new = starts.sum(1), starts[:, num_cached:].sum(1)
        if pixel_values is None and bool(num_new.any()):
            raise ValueError("The prompt has image placeholders, but no `pixel_values` came with it.")
        if pixel_values is not None and num_cached and len(pixel_values) == int(num_all.sum()):
            index = (torch.arange(int(n)) >= int(n - new) for n, new in zip(num_all, num_new, strict=True))
            pixel_values = pixel_values[torch.cat(list(index)).to(pixel_values.device)]
        if pixel_values is not None and len(pixel_values) != int(num_new.sum()):
            raise ValueError(
                f"Image features and image tokens do not match: {len(pixel_values)} images for {int(num_new.sum())} "
                "placeholders. Pass one image for each placeholder."
            )
        embeds = slots = None
        if bool(num_new.any()):
            embeds, slots, _ = self.model.embed_prompt(input_ids[:, num_cached:], pixel_values, choice)
        if num_cached:
            # one size for all: images that the cache holds must have been as large as these
            size = self.config.image_size if pixel_values is None else pixel_values.shape[-2:]
            slots = self.model.locate_slots(
                input_ids, choice.granularity, self.config.grid_of(*size), int(num_all.sum())
            )
        assert slots is not None  # a prompt without a cache has new images, or `generate` would not be here
        return embeds, is_real & (slots.is_used | ~slots.is_visual)

    def _draft(
        self,
        assistant: PreTrainedModel,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        choice: GranularityChoice,
    ) -> _Draft:
        """The assistant with eyes of its own where it is a Granulon that reads the same slots; else without."""
        mine, config = self.config, assistant.config
        if config.model_type != mine.model_type:
            return _Draft(assistant, self.model.is_visual(input_ids), None)
        core = assistant.model
        same = ("image_token_id", "semantic_token_id", "levels", "patch_size", "image_size")
        is_seeing = all(getattr(mine, name) == getattr(config, name) for name in same)
        if (
            is_seeing
            and pixel_values is not None
            and len(pixel_values) == int(run_starts(input_ids.eq(mine.image_token_id)).sum())
        ):
            embeds, hidden = core.embed_prompt(input_ids, pixel_values, choice)[0], None
        else:
            embeds, hidden = core.get_input_embeddings()(input_ids), self.model.is_visual(input_ids)
        return _Draft(assistant, hidden, embeds)

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
