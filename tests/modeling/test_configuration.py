"""The configuration: which levels it accepts, how it fits the default ones, and that a saved one comes back."""

import copy
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassError

from transformers import AutoConfig, CLIPTextConfig, DINOv3ViTConfig, LlamaConfig, Siglip2VisionConfig

from granulon import GranulonConfig
from granulon.modeling_granulon import configuration_granulon
from granulon.modeling_granulon.configuration_granulon import (
    DEFAULT_LEVELS,
    TRANSFORMERS_RANGE,
    check_levels_fit,
    check_transformers_version,
    fit_levels,
    pooled_size,
)


LEVELS = [
    {"name": "low", "pool": 3, "clusters": 4, "tokens": 2, "pixel_pool": 2},
    {"name": "high", "pool": 1, "clusters": 9, "tokens": 9, "pixel_pool": 1},
]


def make_vision_config(image_size: int = 64, patch_size: int = 8) -> DINOv3ViTConfig:
    return DINOv3ViTConfig(hidden_size=32, num_attention_heads=4, image_size=image_size, patch_size=patch_size)


def make_config(**fields: Any) -> GranulonConfig:
    fields.setdefault("vision_config", make_vision_config())
    return GranulonConfig(text_config=LlamaConfig(hidden_size=32, vocab_size=100), **fields)


def change_level(**fields: Any) -> list[dict[str, Any]]:
    """`LEVELS` with other fields in the first level."""
    return [{**LEVELS[0], **fields}, LEVELS[1]]


# ---------------------------------------------------------------------- fitting the default levels


@pytest.mark.parametrize(
    ("grid", "name", "expected"),
    [
        ((7, 7), "pool", [3, 2, 1, 1]),
        ((7, 7), "clusters", [5, 10, 20, 49]),
        ((4, 4), "pool", [1, 1, 1, 1]),
        ((4, 4), "clusters", [5, 10, 16, 16]),
        ((4, 4), "tokens", [5, 10, 16, 16]),
        ((14, 14), "pool", [4, 2, 2, 1]),
        ((14, 14), "tokens", [5, 10, 20, 40]),
        ((1, 1), "clusters", [1, 1, 1, 1]),
    ],
)
def test_default_levels_on_known_grids(grid: tuple[int, int], name: str, expected: list[int]):
    assert [level[name] for level in fit_levels(grid)] == expected


@pytest.mark.parametrize("rows", range(1, 17))
def test_fitting_lowers_no_more_than_it_must(rows: int):
    for columns in range(1, 17):
        fitted = fit_levels((rows, columns))
        check_levels_fit(fitted, (rows, columns))
        for level, default in zip(fitted, DEFAULT_LEVELS, strict=True):
            room = math.prod(pooled_size((rows, columns), level["pool"]))
            assert level["clusters"] == min(default["clusters"], room)
            assert level["tokens"] == min(default["tokens"], level["clusters"])
            for coarser in range(level["pool"] + 1, default["pool"] + 1):
                assert math.prod(pooled_size((rows, columns), coarser)) < default["clusters"]


@pytest.mark.parametrize(("image_size", "edge"), [(56, 7), (60, 7), (64, 8)])
def test_missing_levels_are_fitted_to_the_encoders_grid(image_size: int, edge: int):
    config = make_config(vision_config=make_vision_config(image_size))
    assert config.grid_size == (edge, edge)
    assert config.levels == fit_levels((edge, edge))


def test_an_encoder_without_patches_is_refused():
    with pytest.raises(ValueError, match="0 x 0 grid"):
        make_config(vision_config=make_vision_config(image_size=7))


# ---------------------------------------------------------------------- given levels


def test_given_levels_are_never_altered():
    given = copy.deepcopy(LEVELS)
    assert make_config(levels=given).levels == LEVELS
    assert given == LEVELS


def test_defaults_that_are_given_raise_where_they_would_be_fitted():
    levels = [dict(level) for level in DEFAULT_LEVELS]
    with pytest.raises(ValueError, match="`coarse`.*5 clusters.*8 x 8.*edge 4.*only 4 pooled patches"):
        make_config(levels=levels)


def test_pixel_pool_may_be_left_out():
    levels = [{key: value for key, value in level.items() if key != "pixel_pool"} for level in LEVELS]
    assert [level["pixel_pool"] for level in make_config(levels=levels).levels] == [1, 1]


def test_one_level_is_enough():
    assert make_config(levels=LEVELS[1:]).level_names == ["high"]


@pytest.mark.parametrize(
    ("levels", "error", "message"),
    [
        ([], ValueError, "`levels`"),
        (change_level(tokens=5), ValueError, "Level `low` keeps 5 tokens but forms only 4 clusters.*Raise `clusters`"),
        (change_level(clusters=10), ValueError, "`low` forms 10 clusters.*only 9 pooled patches"),
        (change_level(pool=0), ValueError, "`pool` of level `low`.*at least 1, got 0"),
        (change_level(pixel_pool=-1), ValueError, "`pixel_pool` of level `low`"),
        (change_level(clusters=4.0), ValueError, "`clusters` of level `low` must be an integer.*got 4.0"),
        (change_level(tokens=True), ValueError, "`tokens` of level `low`.*got True"),
        (change_level(name="high"), ValueError, "names must differ.*'high', 'high'"),
        (change_level(name="auto"), ValueError, '"auto"'),
        (change_level(name=""), ValueError, "non-empty string"),
        (change_level(name=3), ValueError, "non-empty string"),
        (change_level(beta=3), ValueError, "Level 0 has the keys.*beta.*expected"),
        ([{"name": "low", "pool": 1, "clusters": 4}], ValueError, "Level 0 has the keys.*expected.*tokens"),
    ],
)
def test_levels_that_cannot_work_are_refused(levels: list[Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_config(levels=levels)


@pytest.mark.parametrize("levels", [["low"], "low", 3])
def test_levels_of_another_kind_are_refused(levels: Any):
    with pytest.raises((TypeError, StrictDataclassError), match="levels|Level"):
        make_config(levels=levels)


# ---------------------------------------------------------------------- the other numbers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kmeans_iterations": 0}, "`kmeans_iterations` must be at least 1, got 0"),
        ({"controller_hidden_size": 0}, "`controller_hidden_size`"),
        ({"contribution_hidden_size": -2}, "`contribution_hidden_size`"),
        ({"relation_weight": -0.5}, "`relation_weight`.*got -0.5"),
        ({"dispersion_weight": math.inf}, "`dispersion_weight`.*finite"),
        ({"cohesion_weight": math.nan}, "`cohesion_weight`.*finite"),
        ({"image_token_id": 7, "semantic_token_id": 7}, "must differ, both are 7"),
        ({"turn_end_token_ids": [[5], []]}, "`turn_end_token_ids` holds an empty sequence"),
        ({"affinity": "cosine"}, "affinity"),
        ({"cluster_features": "rows"}, "cluster_features"),
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make_config(**fields)


def test_derived_counts_follow_the_levels():
    config = make_config(levels=LEVELS)
    assert config.image_seq_length == 64
    assert config.max_semantic_tokens == 9
    assert make_config(levels=LEVELS[:1]).image_seq_length == 16
    assert make_config(levels=LEVELS[:1]).max_semantic_tokens == 2


def test_prefix_tokens_are_counted_from_the_encoders_config():
    assert make_config(vision_config=make_vision_config()).num_prefix_tokens == 1
    vision = make_vision_config()
    vision.num_register_tokens = 4
    assert make_config(vision_config=vision).num_prefix_tokens == 5
    siglip = Siglip2VisionConfig(hidden_size=32, num_attention_heads=4, patch_size=8, num_patches=64)
    assert make_config(vision_config=siglip).num_prefix_tokens == 0
    assert make_config(vision_config=siglip).grid_size == (8, 8)


def test_an_unknown_encoder_is_named_with_the_known_ones():
    config = make_config()
    config.vision_config = CLIPTextConfig()
    with pytest.raises(ValueError, match="`clip_text_model`, expected one of.*dinov3_vit.*siglip_vision_model"):
        _ = config.num_prefix_tokens


def test_a_tied_language_model_ties_the_whole():
    tied = LlamaConfig(hidden_size=32, vocab_size=100, tie_word_embeddings=True)
    assert GranulonConfig(vision_config=make_vision_config(), text_config=tied).tie_word_embeddings
    assert not make_config().tie_word_embeddings


# ---------------------------------------------------------------------- saving


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_a_saved_configuration_comes_back(tmp_path: Path, levels: list[dict[str, Any]] | None):
    config = make_config(
        levels=levels,
        image_token_id=3,
        semantic_token_id=4,
        turn_end_token_ids=[[5], [5, 6]],
        assistant_start_token_ids=[7, 8],
        affinity="similarity",
        relation_weight=0.25,
    )
    config.save_pretrained(tmp_path)
    for loaded in (GranulonConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is GranulonConfig
        for name in ("levels", "turn_end_token_ids", "assistant_start_token_ids", "affinity", "relation_weight"):
            assert getattr(loaded, name) == getattr(config, name), name
        assert loaded.vision_config.to_dict() == config.vision_config.to_dict()
        assert loaded.text_config.to_dict() == config.text_config.to_dict()
        assert loaded.to_diff_dict().keys() == config.to_diff_dict().keys()


def test_levels_are_written_out_so_that_a_later_default_cannot_change_a_model(tmp_path: Path):
    config = make_config()
    config.save_pretrained(tmp_path)
    assert '"levels"' in (tmp_path / "config.json").read_text()
    assert config.to_dict()["levels"] == fit_levels((8, 8))


# ---------------------------------------------------------------------- the library's version


@pytest.mark.parametrize("version", [TRANSFORMERS_RANGE[0], "5.99.1", "5.30.0.dev0"])
def test_supported_versions_pass(version: str):
    check_transformers_version(version)


@pytest.mark.parametrize("version", ["4.57.1", "5.22.9", "6.0.0", "6.1.0.dev0"])
def test_another_version_names_itself_and_the_remedy(version: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(configuration_granulon.transformers, "__version__", version)
    with pytest.raises(ValueError, match=f"{version} is installed.*pip install"):
        check_transformers_version()


def test_another_version_is_refused_before_anything_else_is_imported(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("fresh_configuration", configuration_granulon.__file__)
    monkeypatch.setattr(configuration_granulon.transformers, "__version__", "4.57.1")
    with pytest.raises(ValueError, match="4.57.1 is installed"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
