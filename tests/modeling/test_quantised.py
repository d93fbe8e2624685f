"""Whatever the quantiser, controller, projector, aggregation and the encoder's last attention keep their precision."""

import functools
from pathlib import Path

import pytest
import tiny
import torch

from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from granulon import GranulonForConditionalGeneration
from granulon.chats import chat_inputs


NANO = Path(__file__).parents[2] / "examples/nano/granulon-nano"
KEPT = tuple(
    f"model.{name}"
    for name in ("granularity_controller", "multi_modal_projector", "token_aggregator", "contribution_heads")
)


@functools.cache
def plain() -> tuple[GranulonForConditionalGeneration, dict[str, torch.Tensor]]:
    """The nano model as it is, and a question about an image."""
    model = GranulonForConditionalGeneration.from_pretrained(NANO, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(NANO)
    return model, dict(chat_inputs(processor, "what color is the shape?", tiny.make_image()))


def check(model: torch.nn.Module, quantised: type) -> None:
    """The right layers are of the quantised kind, and the model answers as it did."""
    original, inputs = plain()
    last = original.config.vision_config.num_hidden_layers - 1
    kept = (*KEPT, f"model.vision_tower.model.layer.{last}.attention")
    for name, module in original.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":  # quantisers differ about that one
            assert isinstance(model.get_submodule(name), quantised) != name.startswith(kept), name
    with torch.no_grad():
        found, expected = model(**inputs), original(**inputs)
    assert found.granularity_logits.dtype == torch.float32
    assert found.granularity.tolist() == expected.granularity.tolist()
    assert not torch.equal(found.logits, expected.logits)
    answers = [each.generate(**inputs, max_new_tokens=3, do_sample=False) for each in (model, original)]
    assert torch.equal(*answers)


def test_pytorchs_dynamic_quantisation():
    model = GranulonForConditionalGeneration.from_pretrained(NANO, dtype=torch.float32)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    check(quantised, torch.ao.nn.quantized.dynamic.Linear)


@pytest.mark.parametrize(
    "options", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}]
)
def test_bitsandbytes(options: dict):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = AutoModelForImageTextToText.from_pretrained(NANO, quantization_config=BitsAndBytesConfig(**options))
    check(model, bitsandbytes.nn.Linear8bitLt if "load_in_8bit" in options else bitsandbytes.nn.Linear4bit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_is_as_asked_but_for_the_controller(dtype: torch.dtype):
    model = GranulonForConditionalGeneration.from_pretrained(NANO, dtype=dtype)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "granularity_controller" in name else dtype), name
