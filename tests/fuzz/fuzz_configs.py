"""Configurations: whatever stands in a config.json, it is refused with a reason, or makes a model that runs."""

import copy
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import tiny
import torch
from huggingface_hub.errors import StrictDataclassError

from transformers import PreTrainedConfig

from granulon import GranulonConfig, GranulonModel


ALLOWED = (TypeError, ValueError, OSError, StrictDataclassError)  # the last names field, type and value
COUNT = 60

_LEVEL = {"name": "a", "pool": 2, "clusters": 4, "tokens": 3, "pixel_pool": 2}
GOOD = GranulonConfig(
    vision_config=tiny.make_vision().config.to_dict(),
    text_config=tiny.make_text().config.to_dict(),
    levels=[_LEVEL, {**_LEVEL, "name": "b", "pool": 1, "clusters": 9, "tokens": 9, "pixel_pool": 1}],
    image_token_id=258,
    semantic_token_id=259,
    turn_end_token_ids=[[260]],
    controller_hidden_size=8,
    contribution_hidden_size=8,
).to_dict()
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 10**20, 0.5, -0.0, 1e300, float("nan"), float("inf")),
    *("", "auto", "a", "1", "\0", "\ud800", "attention", "relu", "x" * 3000, "__class__", "../../etc"),
    *([], {}, [[]], [None], [1, 2], ["a"], [{}], {"a": 1}, {"name": "auto"}, [_LEVEL], [_LEVEL, _LEVEL]),
)
OURS = sorted(set(GOOD) - set(PreTrainedConfig().to_dict()) - {"vision_config", "text_config"})


def _other(value: Any, rng: random.Random) -> Any:
    """Another value, most often of the same type, so that it gets past the first check."""
    alike = [other for other in VALUES if type(other) is type(value)]
    return rng.choice(alike if alike and rng.random() < 0.7 else VALUES)


def make(rng: random.Random) -> str:
    config = copy.deepcopy(GOOD)
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.random()
        name = rng.choice([name for name in OURS if name in config])
        if kind < 0.5:
            config[name] = _other(config[name], rng)
        elif kind < 0.8 and isinstance(config.get("levels"), list) and config["levels"]:
            level = rng.choice(config["levels"])
            if isinstance(level, dict):
                key = rng.choice([*_LEVEL, "other"])
                level[key] = _other(level.get(key), rng)
        elif kind < 0.9:
            config.pop(name)
        else:
            config[rng.choice(("vision_config", "text_config"))] = rng.choice(VALUES)
    text = json.dumps(config)
    if rng.random() < 0.1:
        text = text[: rng.randrange(len(text))]
    elif rng.random() < 0.05:
        text = text.replace("2", "[" * 3000 + "]" * 3000, 1)
    return text


def run(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        config = GranulonConfig.from_pretrained(folder)
    if max(config.controller_hidden_size, config.contribution_hidden_size, config.kmeans_iterations) > 1000:
        return
    if config.vision_config.hidden_size != 32 or config.text_config.hidden_size != 32:
        return  # the library's default of another size
    assert config.max_semantic_tokens <= 64 and config.image_seq_length <= 64
    assert GranulonConfig(**config.to_dict()).to_dict() == config.to_dict()
    model = GranulonModel(config).eval()
    with torch.no_grad():
        model.get_image_features(torch.zeros(1, 3, tiny.SIZE, tiny.SIZE), torch.tensor([0]))
