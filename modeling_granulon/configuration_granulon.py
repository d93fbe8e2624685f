"""Granulon's configuration: every number of the model, and the laws that those numbers obey."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from packaging.version import Version

import transformers


TRANSFORMERS_RANGE = ("5.23.0", "6.0.0")


def check_transformers_version(version: str | None = None) -> None:
    """
    Raises:
        ValueError: `version` (the installed one by default) lies outside the range this code was tested with.
    """
    version = version or transformers.__version__
    oldest, first_unsupported = TRANSFORMERS_RANGE
    if not Version(oldest) <= Version(Version(version).base_version) < Version(first_unsupported):
        raise ValueError(
            f"Granulon needs transformers >= {oldest} and < {first_unsupported}, but {version} is installed. "
            f'Run `pip install "transformers>={oldest},<{first_unsupported}"`.'
        )


check_transformers_version()  # before the imports below, which an older release does not have

from transformers import AutoConfig, PreTrainedConfig  # noqa: E402
from transformers.activations import ACT2FN  # noqa: E402
from transformers.configuration_utils import SubConfigSpec  # noqa: E402

from .encoders_granulon import encoder_of  # noqa: E402
from .slots_granulon import OPEN, pooled_size, slots_to_write  # noqa: E402


# Coarse to fine (paper Eq. 1): alpha = `pool`, beta = `clusters`; gamma is a weight of the projector.
DEFAULT_LEVELS: tuple[dict[str, Any], ...] = (
    {"name": "coarse", "pool": 4, "clusters": 5, "tokens": 5, "pixel_pool": 1},
    {"name": "medium", "pool": 2, "clusters": 10, "tokens": 10, "pixel_pool": 1},
    {"name": "fine", "pool": 2, "clusters": 20, "tokens": 20, "pixel_pool": 1},
    {"name": "finest", "pool": 1, "clusters": 50, "tokens": 40, "pixel_pool": 1},
)
_LEVEL_KEYS = ("name", "pool", "clusters", "tokens", "pixel_pool")


def fit_levels(grid: tuple[int, int]) -> list[dict[str, Any]]:
    """
    The default levels, made to fit a `(rows, columns)` grid of patches: the pooling edge falls until the pooled grid
    holds the level's clusters, then clusters and tokens are capped at the pooled patches.
    """
    if min(grid) < 1:
        raise ValueError(
            f"The vision config's image holds a {grid[0]} x {grid[1]} grid of patches; it needs at least one."
        )
    fitted = []
    for level in DEFAULT_LEVELS:
        pool = level["pool"]
        while pool > 1 and math.prod(pooled_size(grid, pool)) < level["clusters"]:
            pool -= 1
        clusters = min(level["clusters"], math.prod(pooled_size(grid, pool)))
        fitted.append({**level, "pool": pool, "clusters": clusters, "tokens": min(level["tokens"], clusters)})
    return fitted


def check_levels_fit(levels: list[dict[str, Any]], grid: tuple[int, int]) -> None:
    """
    Raises:
        ValueError: a level forms more clusters than a `(rows, columns)` grid of patches has pooled patches.
    """
    for level in levels:
        pooled = pooled_size(grid, level["pool"])
        if level["clusters"] > math.prod(pooled):
            raise ValueError(
                f"Level `{level['name']}` forms {level['clusters']} clusters, but pooling a {grid[0]} x {grid[1]} "
                f"grid of patches with edge {level['pool']} leaves only {math.prod(pooled)} pooled patches. Lower "
                "`clusters` or `pool`, or use a larger image."
            )


def _checked_levels(levels: Any) -> list[dict[str, Any]]:
    if not isinstance(levels, list | tuple):
        raise TypeError(f"`levels` must be a list of dicts, coarse to fine, got {levels!r}.")
    if not levels:
        raise ValueError(
            "`levels` must be a non-empty list of levels, coarse to fine. Leave it out for the default four."
        )
    checked = []
    for index, level in enumerate(levels):
        if not isinstance(level, dict):
            raise TypeError(f"Level {index} must be a dict with the keys {_LEVEL_KEYS}, got {type(level).__name__}.")
        level = {"pixel_pool": 1, **level}
        if set(level) != set(_LEVEL_KEYS):
            raise ValueError(
                f"Level {index} has the keys {sorted(level)}, expected {list(_LEVEL_KEYS)} (`pixel_pool` may be left "
                "out)."
            )
        if not isinstance(level["name"], str) or not level["name"] or level["name"] == "auto":
            raise ValueError(
                f'Level {index} has the name {level["name"]!r}; give it a non-empty string other than "auto".'
            )
        for key in _LEVEL_KEYS[1:]:
            if isinstance(level[key], bool) or not isinstance(level[key], int) or level[key] < 1:
                raise ValueError(
                    f"`{key}` of level `{level['name']}` must be an integer of at least 1, got {level[key]!r}."
                )
        if level["tokens"] > level["clusters"]:
            raise ValueError(
                f"Level `{level['name']}` keeps {level['tokens']} tokens but forms only {level['clusters']} clusters. "
                "Raise `clusters` or lower `tokens`."
            )
        checked.append({key: level[key] for key in _LEVEL_KEYS})
    names = [level["name"] for level in checked]
    if len(set(names)) != len(names):
        raise ValueError(f"Level names must differ, got {names}.")
    return checked


@strict
class GranulonConfig(PreTrainedConfig):
    """
    Configuration of a Granulon model: a vision encoder, a language model and what joins them.

    Args:
        levels: granularities, coarse to fine (paper Eq. 1), each a dict of `name`, `pool` (alpha: pooling edge in
            patches), `clusters` (beta), `tokens` (K of Eq. 11: the clusters that become semantic tokens) and
            `pixel_pool` (edge with which this level's *pixel* tokens are pooled; 1, the paper's setting, keeps all).
            `None` fits the default four to the encoder's grid; levels that are given are never altered.
        image_token_id: marks the place of one pixel token in the prompt.
        semantic_token_id: marks the place of one semantic token in the prompt.
        turn_end_token_ids: token sequences that end a turn of the chat. With them the controller finds the question.
        assistant_start_token_ids: the token sequence that opens an assistant's turn, after a turn end.
        controller_hidden_size: width of the question descriptor h (Eq. 6) and of the controller's MLP (Eq. 7).
        projector_hidden_act: activation of the projector.
        gate_init_std: standard deviation of the levels' gates gamma around 1 at initialisation.
        affinity: relation between patches, A: `attention` of the encoder's last layer, or `similarity` (cosine).
        cluster_features: what a_i in Eq. 9 is: the unit-norm pooled `features`, or the row of the pooled `affinity`.
        relation_weight: lambda_f of Eq. 9.
        kmeans_iterations: assignment steps of the clustering.
        size_weight: eta_1 of Eq. 10.
        cohesion_weight: eta_2 of Eq. 10.
        dispersion_weight: eta_3 of Eq. 10.
        contribution_hidden_size: d of the contribution heads (Eq. 2).
    """

    model_type = "granulon"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov3_vit"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    vision_config: Any = None
    text_config: Any = None
    levels: Any = None
    image_token_id: int = -1  # in no prompt
    semantic_token_id: int = -2
    turn_end_token_ids: list[list[int]] | None = None
    assistant_start_token_ids: list[int] | None = None
    controller_hidden_size: int = 256
    projector_hidden_act: str = "gelu"
    gate_init_std: float = 0.02
    affinity: Literal["attention", "similarity"] = "attention"
    cluster_features: Literal["features", "affinity"] = "features"
    relation_weight: float | int = 0.5
    kmeans_iterations: int = 8
    size_weight: float | int = 1.0
    cohesion_weight: float | int = 1.0
    dispersion_weight: float | int = 1.0
    contribution_hidden_size: int = 256
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        for name in ("vision_config", "text_config"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, dict | PreTrainedConfig)):
                raise TypeError(f"`{name}` must be a dict or a config, got {type(value).__name__} {value!r:.80}.")
        super().__post_init__(**kwargs)
        if self.levels is None:
            self.levels = fit_levels(self.grid_size)
        else:
            self.levels = _checked_levels(self.levels)
            check_levels_fit(self.levels, self.grid_size)
        if self.projector_hidden_act not in ACT2FN:
            raise ValueError(
                f"`projector_hidden_act` got {self.projector_hidden_act!r:.80}, expected one of {sorted(ACT2FN)}."
            )
        for name in ("controller_hidden_size", "kmeans_iterations", "contribution_hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in (
            "relation_weight",
            "size_weight",
            "cohesion_weight",
            "dispersion_weight",
            "gate_init_std",
            "initializer_range",
        ):
            if not math.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be a finite number of at least 0, got {getattr(self, name)}.")
        if self.image_token_id == self.semantic_token_id:
            raise ValueError(f"`image_token_id` and `semantic_token_id` must differ, both are {self.image_token_id}.")
        if any(not sequence for sequence in self.turn_end_token_ids or []):
            raise ValueError(f"`turn_end_token_ids` holds an empty sequence: {self.turn_end_token_ids}.")
        # text configs saved before composition carry the tie themselves
        self.tie_word_embeddings = self.tie_word_embeddings or bool(self.text_config.tie_word_embeddings)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        size = self.vision_config.patch_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the encoder's own image size."""
        size = getattr(self.vision_config, "image_size", None)
        if size is None:  # SigLIP2 counts patches instead
            edge = math.isqrt(self.vision_config.num_patches)
            return edge * self.patch_size[0], edge * self.patch_size[1]
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches at the encoder's own image size."""
        return self.grid_of(*self.image_size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image of so many pixels."""
        return height // self.patch_size[0], width // self.patch_size[1]

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens in front of the patches in the encoder's output."""
        encoder = encoder_of(self.vision_config.model_type)
        return encoder.class_tokens + getattr(self.vision_config, "num_register_tokens", 0)

    @property
    def level_names(self) -> list[str]:
        """Names of the levels, coarse to fine."""
        return [level["name"] for level in self.levels]

    @property
    def image_seq_length(self) -> int:
        """`<image>` slots per image at the encoder's own image size, in a prompt whose level is still open."""
        return slots_to_write(self.levels, self.grid_size, OPEN)[0]

    @property
    def max_semantic_tokens(self) -> int:
        """`<semantic>` slots per image: the largest budget of any level."""
        return max(level["tokens"] for level in self.levels)


GranulonConfig.register_for_auto_class()

__all__ = ["GranulonConfig"]
