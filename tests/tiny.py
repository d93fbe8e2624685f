"""Tiny backbones with random weights, made on the spot: two layers, width 32, a byte-level vocabulary of about 300."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)


PATCH, SIZE = 8, 64
SPECIAL_TOKENS = {
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>", "<|image_pad|>"],
    "llama": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
        "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>",
    ],
    "smollm2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"],
}
_ENDS = {
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "smollm2": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
}
TEMPLATES = {
    "qwen2": (
        "{%- if messages[0]['role'] == 'system' %}\n"
        "    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
        "{%- else %}\n"
        "    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n"
        "{%- endif %}\n"
        "{%- for message in messages %}\n"
        '    {%- if (message.role == "user") or (message.role == "system" and not loop.first)'
        ' or (message.role == "assistant" and not message.tool_calls) %}\n'
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
    ),
    "llama": (
        "{{- bos_token }}\n{%- for message in messages %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim"
        " + '<|eot_id|>' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    "
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
    ),
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}


def make_tokenizer(family: str = "qwen2", template: str | None = "own") -> PreTrainedTokenizerFast:
    """Byte-level tokenizer with the special tokens and the chat template of a family."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_tokens(SPECIAL_TOKENS.get(family, ["<s>", "</s>"]), special_tokens=True)
    for name, token in _ENDS.get(family, {"bos_token": "<s>", "eos_token": "</s>"}).items():
        setattr(fast, name, token)
    fast.chat_template = TEMPLATES.get(family) if template == "own" else template
    return fast


def make_vision(kind: str = "dinov3") -> PreTrainedModel:
    """A vision encoder for 64 px images; DINOv3 cuts them into 8 x 8 patches and has two registers."""
    torch.manual_seed(0)
    common = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": PATCH,
    }
    if kind == "dinov3":
        model = DINOv3ViTModel(DINOv3ViTConfig(**common, intermediate_size=64, num_register_tokens=2))
    elif kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**common, mlp_ratio=2))
    elif kind == "clip":
        model = CLIPVisionModel(CLIPVisionConfig(**common, intermediate_size=64))
    elif kind == "siglip":
        model = SiglipVisionModel(SiglipVisionConfig(**common, intermediate_size=64))
    else:
        common.pop("image_size")
        model = Siglip2VisionModel(Siglip2VisionConfig(**common, intermediate_size=64, num_patches=64))
    for parameter in model.parameters():  # far from the near-constant outputs of a fresh encoder
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    return model.eval()


def make_text(kind: str = "qwen2", vocab_size: int = 300, tied: bool = True) -> PreTrainedModel:
    torch.manual_seed(1)
    common = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
    }
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**common)).eval()
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**common, head_dim=8)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**common)).eval()


def make_granulon(text: str = "qwen2", vision: str = "dinov3", family: str | None = None, **config):
    """`(model, processor)` with a controller whose choices differ clearly between questions."""
    from granulon import GranulonForConditionalGeneration

    torch.manual_seed(2)
    tokenizer = make_tokenizer(family or ("llama" if text == "llama" else "qwen2"))
    model, processor = GranulonForConditionalGeneration.from_backbones(
        make_vision(vision), make_text(text), tokenizer=tokenizer, **config
    )
    torch.manual_seed(3)
    for layer in model.model.granularity_controller.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=1.0)
    for name, parameter in model.model.multi_modal_projector.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2) if name != "gate" else torch.nn.init.normal_(parameter, 1.0, 0.3)
    return model, processor


def make_image(seed: int = 0, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """
    A smooth random image of `(width, height)`: blocks of colour, so that neighbouring patches resemble each other.
    """
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BILINEAR)


def save_backbones(
    directory: Path, text: str = "qwen2", tied: bool = True, dtype: torch.dtype = torch.float32
) -> tuple:
    """Directories of a vision encoder and a language model with its tokenizer."""
    vision, language = directory / "vision", directory / "text"
    make_vision().to(dtype).save_pretrained(vision)
    make_text(text, tied=tied).to(dtype).save_pretrained(language)
    make_tokenizer("llama" if text == "llama" else "qwen2").save_pretrained(language)
    return vision, language
