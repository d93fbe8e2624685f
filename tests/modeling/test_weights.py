"""Checkpoints that must not load: pickles, damaged files, weights that are not finite."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from transformers import AutoModel, AutoModelForImageTextToText

from granulon import GranulonForConditionalGeneration, GranulonModel


CLASSES = (GranulonForConditionalGeneration, GranulonModel, AutoModel, AutoModelForImageTextToText)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny.make_granulon()[0].save_pretrained(tmp_path)
    return tmp_path


def test_a_pickle_is_not_read(saved: Path):
    torch.save(load_file(saved / "model.safetensors"), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    for loader in CLASSES:
        with pytest.raises(OSError, match="safetensors"):
            loader.from_pretrained(saved)
        with pytest.raises(ValueError, match="pickle"):
            loader.from_pretrained(saved, use_safetensors=False)


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999])
def test_a_damaged_file_is_named(share: float, saved: Path):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(ValueError, match=r"are damaged .*download it again"):
        AutoModelForImageTextToText.from_pretrained(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["granularity_controller.head.4.bias", "multi_modal_projector.gate", "token_aggregator.refinement.weight"]
)
def test_weights_that_are_not_finite_are_refused_by_name(name: str, value: float, saved: Path):
    state = load_file(saved / "model.safetensors")
    state[f"model.{name}"].view(-1)[0] = value
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    for loader in CLASSES:
        with pytest.raises(ValueError, match=name):
            loader.from_pretrained(saved)
