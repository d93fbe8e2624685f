"""Granulon: vision encoder, granularity controller, AdaTA, gated projector and language model (paper section 3)."""

import importlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from transformers import AutoModel, AutoModelForImageTextToText, PreTrainedModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.processing_utils import ProcessorMixin, Unpack
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .adata_granulon import AdaptiveTokenAggregation, AggregationOutput, IdentityLinear, pool_tokens
from .configuration_granulon import GranulonConfig
from .encoders_granulon import accept_saved_names, encoder_of, last_attention, record_last_attention
from .generation_granulon import CACHE, GranulonGenerationMixin
from .granularity_granulon import GranularityChoice, GranularityController, question_mask, straight_through
from .slots_granulon import (
    OPEN,
    Slots,
    fill_slots,
    flush,
    locate_slots,
    slot_counts,
    slots_to_write,
    visual_mask,
)


@dataclass
class GranulonModelOutputWithPast(BaseModelOutputWithPast):
    """
    Attributes:
        granularity: `(batch_size,)`, the level of each row, 0 is the coarsest, -1 for a row without an image.
        granularity_logits: `(batch_size, num_levels)` fp32, the controller's; zeros for a row without an image.
        question_descriptor: `(batch_size, controller_hidden_size)` fp32, h of Eq. 6, where images entered the forward.
        image_hidden_states: `(num_images, num_patches + max_semantic_tokens, hidden_size)`, projected tokens, where
            images entered the forward; of each part the level's first entries are used.
        attention_mask: the mask that the language model saw: slots that the level leaves empty are 0.
    """

    granularity: torch.Tensor | None = None
    granularity_logits: torch.Tensor | None = None
    question_descriptor: torch.Tensor | None = None
    image_hidden_states: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None


@dataclass
class GranulonCausalLMOutputWithPast(CausalLMOutputWithPast):
    """As `GranulonModelOutputWithPast`, with the language model's loss and logits."""

    granularity: torch.Tensor | None = None
    granularity_logits: torch.Tensor | None = None
    question_descriptor: torch.Tensor | None = None
    image_hidden_states: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None


class ImageFeatures(NamedTuple):
    """The visual tokens of a batch of images, and how AdaTA came to the semantic ones."""

    hidden_states: torch.Tensor  # (num_images, num_patches + max_semantic_tokens, hidden_size)
    num_patches: int
    aggregation: AggregationOutput


class GranulonMultiModalProjector(nn.Module):
    """Phi_gamma (paper Eq. 4): Linear, activation, the level's gate on the hidden layer, Linear."""

    def __init__(self, config: GranulonConfig):
        super().__init__()
        text_size = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, text_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.gate = nn.Parameter(torch.ones(len(config.levels), text_size))  # gamma_k, a row for each level
        self.linear_2 = nn.Linear(text_size, text_size)

    def forward(self, visual_tokens: torch.Tensor, level_weights: torch.Tensor) -> torch.Tensor:
        """
        Args:
            visual_tokens: `(num_images, num_tokens, vision_hidden_size)`.
            level_weights: `(num_images, num_levels)` fp32, one-hot in value (`straight_through`).
        """
        hidden_states = self.act(self.linear_1(visual_tokens))
        with torch.autocast(visual_tokens.device.type, enabled=False):
            gate = level_weights @ self.gate.float()
        return self.linear_2(hidden_states * gate.unsqueeze(1).to(hidden_states.dtype))


class ContributionHead(nn.Module):
    """The logit of p(C | v, T) = sigmoid(<U v, W h> / sqrt(d) + b) (paper Eq. 2; the form of p is ours)."""

    def __init__(self, config: GranulonConfig):
        super().__init__()
        self.token_projection = nn.Linear(config.text_config.hidden_size, config.contribution_hidden_size, bias=False)
        self.question_projection = nn.Linear(
            config.controller_hidden_size, config.contribution_hidden_size, bias=False
        )
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: torch.Tensor, descriptors: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: `(num_images, num_tokens, hidden_size)`, projected tokens v.
            descriptors: `(num_questions, controller_hidden_size)`, h.

        Returns:
            `(num_images, num_tokens, num_questions)`, every token against every question.
        """
        token = self.token_projection(tokens)
        question = self.question_projection(descriptors.to(token.dtype))
        return token @ question.T / math.sqrt(token.shape[-1]) + self.bias


class GranulonPreTrainedModel(PreTrainedModel):
    """Weight initialisation, loading that refuses incomplete checkpoints, and saving as a self-contained directory."""

    config: GranulonConfig
    config_class = GranulonConfig
    base_model_prefix = "model"
    input_modalities: Any = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = [CACHE]
    _keep_in_fp32_modules_strict = {"granularity_controller"}
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, GranulonMultiModalProjector):
            init.normal_(module.gate, mean=1.0, std=self.config.gate_init_std)
        elif isinstance(module, IdentityLinear):
            init.eye_(module.weight)

    def post_init(self):
        super().post_init()
        unquantised = self._unquantised()
        self._keep_in_fp32_modules |= unquantised.keys()
        for root in unquantised.values():
            for module in root.modules():
                module.qconfig = None  # type: ignore[assignment] # so that PyTorch's own quantiser leaves it alone, too

    def _unquantised(self) -> dict[str, nn.Module]:
        """
        The modules, by name (escaped), that keep their precision whatever the quantiser: what joins the parts, and the
        encoder's last attention. transformers' quantisers leave alone what `_keep_in_fp32_modules` names.
        """
        core: Any = self.base_model
        tower = core.vision_tower
        kept = {child for name, child in core.named_children() if name not in ("vision_tower", "language_model")}
        kept |= {core._last_attention()}
        kept |= {tower.get_submodule(name) for name in encoder_of(tower.config.model_type).float_modules}
        return {re.escape(name): module for name, module in self.named_modules() if module in kept}

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        """As the library's, where `_keep_in_fp32_modules` also means fp32 in a model of fp16; for ours it does not."""
        ours = {*self._unquantised(), *self.base_model._unquantised()}  # the library collects children's names, too
        ours -= self._keep_in_fp32_modules_strict
        return {name: value for name, value in super()._get_dtype_plan(dtype).items() if name not in ours}

    @classmethod
    def from_pretrained(
        cls, *args, output_loading_info: bool = False, ignore_mismatched_sizes: bool = False, **kwargs
    ):
        """
        As `PreTrainedModel.from_pretrained`, but only safetensors are read, and a checkpoint that does not fit is an
        error, not a warning.

        Raises:
            ValueError: weights are missing, unexpected, of another shape (the last may be allowed) or damaged; weights
                of the controller or of what joins the parts are NaN or infinite.
            OSError: no safetensors there.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("`use_safetensors=False` would read a pickle, which can run code. Leave it out.")
        if kwargs.get("state_dict") is None:
            kwargs["use_safetensors"] = True
        try:
            # the library's own error about shapes is a RuntimeError that names nothing
            loaded: Any = super().from_pretrained(
                *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            )
        except SafetensorError as error:
            source = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            raise ValueError(
                f"The weights in {str(source)!r} are damaged ({error}). The file was cut short or is no safetensors "
                "file: download it again."
            ) from error
        model, info = loaded
        names = ["missing_keys", "unexpected_keys", *([] if ignore_mismatched_sizes else ["mismatched_keys"])]
        faults = {name: sorted(map(str, info[name])) for name in names if info.get(name)}
        if faults:
            listed = "; ".join(
                f"{len(keys)} {name.replace('_', ' ')}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
                for name, keys in faults.items()
            )
            raise ValueError(
                f"The checkpoint does not hold exactly the weights of {cls.__name__} ({listed}). It was cut short, or "
                "it belongs to another model or configuration: download it again, or load it with the class that "
                "saved it."
            )
        model._check_finite()
        return (model, info) if output_loading_info else model

    def _check_finite(self) -> None:
        """The parts that are ours alone decide what is looked at: there, NaN would go on as an answer."""
        for name, parameter in self.base_model.named_parameters():
            is_ours = not name.startswith(("vision_tower.", "language_model."))
            if is_ours and not parameter.is_meta and not bool(parameter.isfinite().all()):
                raise ValueError(
                    f"The weight `{name}` holds NaN or infinite values: the training that saved it had diverged. Use "
                    "an earlier checkpoint."
                )


class GranulonModel(GranulonPreTrainedModel):
    """Granulon without its language-model head."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(
        self,
        config: GranulonConfig,
        vision_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        """`vision_tower` and `language_model` are adopted as they are; without them they are made from the config."""
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config) if vision_tower is None else vision_tower
        self.language_model = AutoModel.from_config(config.text_config) if language_model is None else language_model
        self.granularity_controller = GranularityController(config)
        self.token_aggregator = AdaptiveTokenAggregation(config)
        self.multi_modal_projector = GranulonMultiModalProjector(config)
        self.contribution_heads = nn.ModuleDict(
            {"pixel": ContributionHead(config), "semantic": ContributionHead(config)}
        )
        if config.affinity == "attention":
            record_last_attention(self.vision_tower)
        self.register_load_state_dict_pre_hook(accept_saved_names)
        self.post_init()

    def train(self, mode: bool = True):
        """
        As `nn.Module.train`, but a frozen vision tower stays in eval mode: DINOv3 jitters positions in train mode.
        """
        super().train(mode)
        if mode and not self._trains_vision():
            self.vision_tower.eval()
        return self

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def _last_attention(self) -> nn.Module:
        return last_attention(self.vision_tower)

    def _trains_vision(self) -> bool:
        return any(parameter.requires_grad for parameter in self.vision_tower.parameters())

    # ------------------------------------------------------------------ image -> patches

    def encode_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
        """
        Args:
            pixel_values: `(num_images, num_channels, height, width)`, preprocessed.

        Returns:
            patch tokens F `(num_images, num_patches, hidden_size)`, after the encoder's final LayerNorm, prefix tokens
            removed, row-major; their relation A `(num_images, num_patches, num_patches)`, row-stochastic attention or
            cosines; rows and columns of patches.

        Raises:
            ValueError: another number of dimensions, sides that patches do not tile, NaN or infinite pixels.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"`pixel_values` has the shape {tuple(pixel_values.shape)}, expected (num_images, channels, height, "
                "width)."
            )
        (height, width), (patch_height, patch_width) = pixel_values.shape[-2:], self.config.patch_size
        grid = self.config.grid_of(height, width)
        if height % patch_height or width % patch_width or not math.prod(grid):
            raise ValueError(
                f"Images of {height} x {width} pixels cannot be cut into patches of {patch_height} x {patch_width}. "
                "Resize them so that each side is a multiple of the patch (the processor does, unless "
                "`do_resize=False`)."
            )
        if not torch.compiler.is_compiling() and not bool(pixel_values.isfinite().all()):
            raise ValueError("`pixel_values` holds NaN or infinite pixels. Check the images before preprocessing.")
        num_patches = math.prod(grid)
        recorded: list[torch.Tensor] = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains_vision()):
            options = {"recorded_attention": recorded} if self.config.affinity == "attention" else {}
            encoder = encoder_of(self.config.vision_config.model_type)
            hidden_states = encoder.run(self.vision_tower, pixel_values, self.config.patch_size, **options)
            expected = num_patches + self.config.num_prefix_tokens
            if hidden_states.shape[1] != expected:
                raise ValueError(
                    f"The vision encoder returned {hidden_states.shape[1]} tokens for a {grid[0]} x {grid[1]} grid of "
                    f"patches, expected {expected} with its {self.config.num_prefix_tokens} prefix tokens."
                )
            patch_tokens = hidden_states[:, -num_patches:]
            if recorded:
                affinity = recorded[0][:, :, -num_patches:, -num_patches:].float().mean(1)
                return patch_tokens, affinity / affinity.sum(-1, keepdim=True), grid
            features = nn.functional.normalize(patch_tokens.float(), dim=-1)
            return patch_tokens, features @ features.transpose(1, 2), grid

    # ------------------------------------------------------------------ question -> level

    def describe_question(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """
        What the controller reads: the mean, over the tokens of each row's question, of the language model's first
        block E1 (paper Eq. 5, the mean of Eq. 6). `find_question` says which tokens those are.

        Returns:
            `(batch_size, hidden_size)` fp32; zeros for a row without a question.
        """
        question = question_mask(self.config, input_ids, attention_mask)
        # flush left: causal attention over the question needs no padding mask
        if torch.compiler.is_compiling():
            order = question.long().argsort(dim=1, descending=True, stable=True)
        else:
            order = flush(question, "left")
        weights = question.gather(1, order).unsqueeze(-1).float()  # (batch_size, longest_question, 1)
        language_model = self.language_model
        hidden_states = self.get_input_embeddings()(input_ids.gather(1, order))
        position_ids = torch.arange(order.shape[1], device=order.device)[None]
        mask = create_causal_mask(
            config=language_model.config,
            inputs_embeds=hidden_states,
            attention_mask=None,
            position_ids=position_ids,
            **{CACHE: None},  # type: ignore[arg-type]
        )
        hidden_states = language_model.layers[0](  # E1
            hidden_states,
            attention_mask=mask,
            position_ids=position_ids,
            position_embeddings=language_model.rotary_emb(hidden_states, position_ids),
            use_cache=False,
        )
        return (hidden_states.float() * weights).sum(1) / weights.sum(1).clamp_min(1)

    def choose_granularity(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, granularity: torch.Tensor | None = None
    ) -> GranularityChoice:
        """
        The level of each row: the given one, or, where none is given or it is -1, the controller's argmax.

        Args:
            input_ids: `(batch_size, num_tokens)`.
            attention_mask: `(batch_size, num_tokens)`.
            granularity: `(batch_size,)`.

        Raises:
            ValueError: a level out of range; or an open choice where the chat template does not mark the ends of
                turns.
        """
        has_image = self.is_visual(input_ids).any(1)
        num_rows, num_levels = len(input_ids), len(self.config.levels)
        if granularity is None:
            granularity = torch.full((num_rows,), -1, device=input_ids.device)
        granularity = granularity.to(input_ids.device)
        if not torch.compiler.is_compiling():
            if granularity.shape != (num_rows,) or not bool(((granularity >= -1) & (granularity < num_levels)).all()):
                raise ValueError(
                    f"`granularity` must hold one level index per row ({num_rows}), each from 0 to {num_levels - 1} "
                    f"({self.config.level_names}) or -1 for the controller's choice, got {granularity.tolist()}."
                )
            if not self.config.turn_end_token_ids and bool((has_image & (granularity < 0)).any()):
                raise ValueError(
                    "The controller cannot tell the question from the answer: this tokenizer's chat template does not "
                    "mark the ends of turns. Pass `granularity=` (a level), or compose the model with `turn_end=` "
                    "(the text that ends a user's turn)."
                )
        if self.config.turn_end_token_ids:
            logits, descriptor = self.granularity_controller(self.describe_question(input_ids, attention_mask))
        else:
            logits = torch.zeros(num_rows, num_levels, device=input_ids.device)
            descriptor = torch.zeros(num_rows, self.config.controller_hidden_size, device=input_ids.device)
        logits, descriptor = (
            torch.where(has_image[:, None], value.to(input_ids.device), 0) for value in (logits, descriptor)
        )
        is_chosen = has_image & (granularity < 0)
        level = torch.where(is_chosen, logits.argmax(-1), granularity)
        return GranularityChoice(torch.where(has_image, level, -1), logits, descriptor, is_chosen)

    @torch.no_grad()
    def get_granularity(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Probabilities of the levels, `(batch_size, num_levels)`, coarse to fine, without running the image. A prompt
        without an image is judged by its last user turn, closed or open.
        """
        if not self.config.turn_end_token_ids:
            raise ValueError(
                "The controller cannot find the question: this tokenizer's chat template does not mark the ends of "
                "turns. Compose the model with `turn_end=` (the text that ends a user's turn)."
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return self.granularity_controller(self.describe_question(input_ids, attention_mask))[0].softmax(-1)

    # ------------------------------------------------------------------ patches, level -> visual tokens

    def get_image_features(
        self, pixel_values: torch.Tensor, granularity: torch.Tensor, level_weights: torch.Tensor | None = None
    ) -> ImageFeatures:
        """
        [pixel tokens ; semantic tokens] of each image at its level, projected (paper Eq. 4).

        Args:
            pixel_values: `(num_images, num_channels, height, width)`.
            granularity: `(num_images,)`, levels of at least 0.
            level_weights: `(num_images, num_levels)`; one-hot at `granularity` by default.
        """
        patch_tokens, affinity, grid = self.encode_images(pixel_values)
        granularity = granularity.to(patch_tokens.device)
        if level_weights is None:
            level_weights = nn.functional.one_hot(granularity, len(self.config.levels)).float()
        aggregation = self.token_aggregator(patch_tokens, affinity, granularity, grid)  # Eq. 8-11
        pixel_tokens = self._pool_pixel_tokens(patch_tokens, granularity, grid)
        tokens = torch.cat([pixel_tokens, aggregation.tokens], dim=1)  # (num_images, num_patches + max_tokens, vision)
        hidden_states = self.multi_modal_projector(tokens, level_weights.to(tokens.device))
        return ImageFeatures(hidden_states, patch_tokens.shape[1], aggregation)

    def _pool_pixel_tokens(
        self, patch_tokens: torch.Tensor, granularity: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Pool each image's patches with its level's `pixel_pool`; the pooled tokens come first, zeros follow."""
        edges = [level["pixel_pool"] for level in self.config.levels]
        edge = torch.tensor(edges, device=granularity.device)[granularity]
        pooled = patch_tokens
        for value in sorted(set(edges) - {1}):
            tokens = pool_tokens(patch_tokens, grid, value)
            tokens = nn.functional.pad(tokens, (0, 0, 0, patch_tokens.shape[1] - tokens.shape[1]))
            pooled = torch.where((edge == value)[:, None, None], tokens, pooled)
        return pooled

    # ------------------------------------------------------------------ visual tokens -> slots

    def is_visual(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The mask of visual tokens: `(batch_size, num_tokens)` bool, True at `<image>` and `<semantic>` slots."""
        return visual_mask(input_ids, (self.config.image_token_id, self.config.semantic_token_id))

    def count_slots(self, granularity: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """`(batch_size, 2)`: `<image>` and `<semantic>` slots that each image of a row uses at the row's level."""
        counts = torch.tensor(slot_counts(self.config.levels, grid), device=granularity.device)
        return counts[granularity.clamp_min(0)]

    def locate_slots(
        self, input_ids: torch.Tensor, granularity: torch.Tensor, grid: tuple[int, int], num_images: int
    ) -> Slots:
        """Where the images of each row, of a `(rows, columns)` grid, stand at its level."""
        return locate_slots(
            input_ids,
            (self.config.image_token_id, self.config.semantic_token_id),
            self.count_slots(granularity, grid),
            num_images=num_images,
            num_patches=math.prod(grid),
            widest=slots_to_write(self.config.levels, grid, OPEN),
        )

    def embed_prompt(
        self, input_ids: torch.Tensor, pixel_values: torch.Tensor, choice: GranularityChoice
    ) -> tuple[torch.Tensor, Slots, torch.Tensor]:
        """
        Returns:
            embeddings of the prompt `(batch_size, num_tokens, hidden_size)` with the visual tokens in their slots; the
            slots; and the visual tokens of each image.
        """
        grid = self.config.grid_of(*pixel_values.shape[-2:])
        slots = self.locate_slots(input_ids, choice.granularity, grid, len(pixel_values))
        row = slots.row_of_image  # (num_images,)
        weights = straight_through(choice.logits, choice.granularity, choice.is_chosen)
        features = self.get_image_features(pixel_values, choice.granularity[row].clamp_min(0), weights[row])
        inputs_embeds = self.get_input_embeddings()(input_ids)
        return fill_slots(inputs_embeds, features.hidden_states, slots), slots, features.hidden_states

    # ------------------------------------------------------------------ the figure, from left to right

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        granularity: torch.Tensor | None = None,
        granularity_logits: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GranulonModelOutputWithPast:
        """
        Args:
            pixel_values: `(num_images, num_channels, height, width)`: the images of all rows, in the order of their
                slots.
            attention_mask: `(batch_size, num_tokens)`, or what `generate` made of it for a static cache.
            granularity: `(batch_size,)`, a level for each row, -1 for the controller's choice (the default).
            past_key_values, cache: the same thing, which transformers 5.24 renamed.
            granularity_logits, prompt_embeds: what `generate` decided and computed before the first step. The latter,
                `(batch_size, num_prompt_tokens, hidden_size)`, is in place of the first embeddings.

        Raises:
            ValueError: images and placeholders do not match, or neither or both of `input_ids` and `inputs_embeds`
                came.
        """
        self._check_inputs(input_ids, inputs_embeds, pixel_values, prompt_embeds)
        mask = attention_mask if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2 else None
        choice = slots = image_hidden_states = None
        if prompt_embeds is not None and input_ids is not None:
            later = self.get_input_embeddings()(input_ids[:, prompt_embeds.shape[1] :])
            inputs_embeds = torch.cat([prompt_embeds.to(later), later], dim=1)
        elif pixel_values is not None and input_ids is not None:
            num_tokens = input_ids.shape[1]
            present = torch.ones_like(input_ids) if mask is None else mask[:, -num_tokens:]
            choice = self.choose_granularity(input_ids, present, granularity)  # Eq. 5-7
            inputs_embeds, slots, image_hidden_states = self.embed_prompt(
                input_ids, pixel_values, choice
            )  # Eq. 4, 8-11
            present = present * (slots.is_used | ~slots.is_visual)  # (batch_size, num_tokens)
            mask = attention_mask = present if mask is None else torch.cat([mask[:, :-num_tokens], present], dim=1)
            granularity, granularity_logits, position_ids = choice.granularity, choice.logits, None
        elif inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if position_ids is None and mask is not None:
            position_ids = (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -inputs_embeds.shape[1] :]

        cache = past_key_values if cache is None else cache
        outputs = self._run_language_model(inputs_embeds, attention_mask, position_ids, cache, slots, kwargs)
        if granularity_logits is None:  # no image: no level
            granularity = torch.full(inputs_embeds.shape[:1], OPEN, device=inputs_embeds.device)
            granularity_logits = torch.zeros(len(granularity), len(self.config.levels), device=inputs_embeds.device)
        return GranulonModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            granularity=granularity,
            granularity_logits=granularity_logits,
            question_descriptor=None if choice is None else choice.descriptor,
            image_hidden_states=image_hidden_states,
            attention_mask=mask,
        )

    def _check_inputs(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        pixel_values: torch.Tensor | None,
        prompt_embeds: torch.Tensor | None,
    ) -> None:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Specify exactly one of `input_ids` and `inputs_embeds`.")
        if input_ids is None:
            if pixel_values is not None:
                raise ValueError("Images need `input_ids`: their slots and the question are found from token ids.")
        elif pixel_values is None and prompt_embeds is None and input_ids.shape[1] > 1:
            is_left = not torch.compiler.is_compiling() and bool(self.is_visual(input_ids).any())
            if is_left:
                raise ValueError("The prompt has image placeholders, but no `pixel_values` came with it.")

    def _run_language_model(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: Any,
        position_ids: torch.Tensor | None,
        cache: Cache | None,
        slots: Slots | None,
        kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """
        In training, and wherever no cache is wanted, empty slots and padding are left out. Their hidden states come
        back as zeros; nothing reads them. (`generate` leaves slots out itself.)
        """
        is_watched = any(kwargs.get(name) for name in ("use_cache", "output_hidden_states", "output_attentions"))
        is_free = self.training or kwargs.get("use_cache") is False
        is_compiling, order = torch.compiler.is_compiling(), None
        if slots is not None and cache is None and is_free and not (is_watched or is_compiling):
            order = flush(attention_mask.bool(), "left")
        if order is None or order.shape[1] == inputs_embeds.shape[1]:
            return self.language_model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **{CACHE: cache},
                **kwargs,
            )
        rows = order.unsqueeze(-1).expand(-1, -1, inputs_embeds.shape[-1])
        outputs = self.language_model(
            inputs_embeds=inputs_embeds.gather(1, rows),
            attention_mask=attention_mask.gather(1, order),
            position_ids=position_ids.gather(1, order),
            **{**kwargs, "use_cache": False},
        )
        hidden_states = outputs.last_hidden_state
        outputs.last_hidden_state = torch.zeros_like(inputs_embeds, dtype=hidden_states.dtype).scatter(
            1, rows, hidden_states
        )
        return outputs


class GranulonForConditionalGeneration(GranulonPreTrainedModel, GranulonGenerationMixin):
    """Granulon with its language-model head: answers questions about images."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(
        self,
        config: GranulonConfig,
        vision_tower: PreTrainedModel | None = None,
        language_model: PreTrainedModel | None = None,
        lm_head: nn.Module | None = None,
    ):
        """
        `vision_tower`, `language_model` and `lm_head` are adopted as they are; without them the config makes them.
        """
        super().__init__(config)
        self.model = GranulonModel(config, vision_tower, language_model)
        if lm_head is None:
            lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.lm_head = lm_head
        self.post_init()

    @classmethod
    def from_backbones(
        cls,
        vision: str | Path | PreTrainedModel,
        text: str | Path | PreTrainedModel,
        *,
        tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
        dtype: str | torch.dtype = "auto",
        **config: Any,
    ) -> tuple["GranulonForConditionalGeneration", ProcessorMixin]:
        """
        Compose a model and its processor from pretrained parts; see `granulon.backbones.compose`, which does the work.

        Args:
            vision: directory, Hub id or model of a DINOv3, DINOv2, CLIP, SigLIP or SigLIP2 encoder.
            text: directory, Hub id, `.gguf` file or model of a Qwen2, Qwen3 or Llama language model.
            tokenizer: directory, Hub id or tokenizer; by default the one of `text`.
            dtype: of the loaded weights; "auto" keeps theirs, the language model's where they differ.
            config: fields of `GranulonConfig`, and `chat_template=`, `turn_end=`, `controller=` for the parts around
                it.

        Returns:
            `(model, processor)`, the model in eval mode.
        """
        try:
            composing = importlib.import_module("granulon.backbones")
        except ImportError as error:
            raise ImportError("Composing a model from backbones needs the package: pip install granulon.") from error
        return composing.compose(cls, vision, text, tokenizer=tokenizer, dtype=dtype, **config)

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def get_granularity(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """See `GranulonModel.get_granularity`."""
        return self.model.get_granularity(input_ids, attention_mask)

    def get_image_features(
        self, pixel_values: torch.Tensor, granularity: torch.Tensor, **kwargs: Any
    ) -> ImageFeatures:
        """See `GranulonModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, granularity, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        granularity: torch.Tensor | None = None,
        granularity_logits: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        cache: Cache | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> GranulonCausalLMOutputWithPast:
        """
        See `GranulonModel.forward`.

        Args:
            labels: `(batch_size, num_tokens)`, -100 where no token is to be predicted: prompt, slots and padding.
            logits_to_keep: number of last positions, or indices of positions, to compute logits for; 0 for all.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values if cache is None else cache,
            inputs_embeds=inputs_embeds,
            granularity=granularity,
            granularity_logits=granularity_logits,
            prompt_embeds=prompt_embeds,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return GranulonCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **{CACHE: outputs.get(CACHE)},
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            granularity=outputs.granularity,
            granularity_logits=outputs.granularity_logits,
            question_descriptor=outputs.question_descriptor,
            image_hidden_states=outputs.image_hidden_states,
            attention_mask=outputs.attention_mask,
        )

    def save_pretrained(self, save_directory, *args, **kwargs):
        """
        As `PreTrainedModel.save_pretrained`; every Auto class that people may load the directory with is written.
        """
        reference = "modeling_granulon.GranulonForConditionalGeneration"
        names = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM")
        self.config.auto_map = {
            **(getattr(self.config, "auto_map", None) or {}),
            **dict.fromkeys(names, reference),
        }
        return super().save_pretrained(save_directory, *args, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any):
        """As `PreTrainedModel.push_to_hub`; where the package is installed, with the card that it renders."""
        try:
            cards = importlib.import_module("granulon.hub_cards")
        except ImportError:
            return super().push_to_hub(repo_id, **kwargs)  # type: ignore[arg-type]
        return cards.push_pretrained(self, repo_id, **kwargs)


GranulonModel.register_for_auto_class("AutoModel")
GranulonForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
# pipelines look the class up here, also for a model object that came from another Auto class
AutoModelForImageTextToText.register(GranulonConfig, GranulonForConditionalGeneration, exist_ok=True)

__all__ = ["GranulonPreTrainedModel", "GranulonModel", "GranulonForConditionalGeneration"]
