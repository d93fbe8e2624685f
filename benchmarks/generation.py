"""
Granulon against transformers' own LLaVA class: the same encoder, language model, image and prompt, in one process.

Weights are random: they change what is said, not how long it takes. Both models hold the same language model, and each
an encoder of the same architecture, without register tokens, so that LLaVA's stock selection (all but the class token)
yields as many pixel tokens as Granulon has. Granulon runs at each level twice: `fixed` by `granularity=`, and `routed`
by the controller (its last bias is set so that it chooses this level). Every run is a `generate()`, its parts timed
inside:

  vision      the encoder, and for Granulon the relation of its patches
  controller  finding the question, the language model's first block over it, the controller's MLP
  AdaTA       the token aggregator
  LM prefill  the language model over the embedded prompt
  prefill     everything until the first token, the above included
  decode      the median time from one token to the next
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import (
    Stopwatch,
    cell,
    in_fresh_process,
    interleave,
    log,
    now,
    origin,
    paired_ratio,
    parse_run_arguments,
    peak_memory,
    print_table,
    summary,
    target,
    write_rows,
)
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from granulon import GranulonConfig, GranulonForConditionalGeneration
from granulon.chats import chat_inputs
from granulon.modeling_granulon.configuration_granulon import DEFAULT_LEVELS


SCALES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nano": (  # about 6M parameters
        {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3}
        | {"image_size": 64, "patch_size": 8},
        {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "vocab_size": 4096},
    ),
    "small": (  # DINOv3 ViT-S/16 and SmolLM2-135M
        {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
        | {"image_size": 224, "patch_size": 16},
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
        | {"num_key_value_heads": 3, "vocab_size": 49152},
    ),
}
QUESTION = "What is to the left of the red bicycle, and which of the two is closer?"
IMAGE_TOKEN, SEMANTIC_TOKEN = "<repo_name>", "<file_sep>"  # what SmolLM2 reserves
EPILOG = """
Targets, from scale small up, as ratios within a round: the language model's prefill per token at most 1.05 of LLaVA's;
decoding at least 0.97 of LLaVA's; a routed generate() at most 1.05 of the same level fixed; controller and AdaTA
together at most 0.05 of the prefill. JSON lines go to stdout; progress and the table to stderr.

A first look, in about a minute:
  python benchmarks/generation.py --scale nano --repeats 3
Granularity as speed, pixel tokens pooled 4 x 4 and 2 x 2 at the coarser levels:
  python benchmarks/generation.py --pixel-pool 4 2 1 1
"""
PARTS = ("vision", "controller", "aggregation", "lm_prefill")


class Kind(NamedTuple):
    """What runs: `llava`, or Granulon at a level that is `fixed` or `routed`."""

    choice: str
    level: str | None = None


class Run(NamedTuple):
    """Seconds of one `generate()`."""

    parts: dict[str, float]
    prefill: float
    token: float  # from one token to the next
    total: float


# ---------------------------------------------------------------------- models


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, ChatML and two reserved tokens: prompts are as long on every machine, and nothing is downloaded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_tokens(["<|im_start|>", IMAGE_TOKEN, SEMANTIC_TOKEN], special_tokens=True)
    return fast


def make_backbones(options: argparse.Namespace) -> tuple[DINOv3ViTModel, LlamaForCausalLM]:
    vision, text = SCALES[options.scale]
    torch.manual_seed(0)
    encoder = DINOv3ViTModel(DINOv3ViTConfig(**vision))
    language_model = LlamaForCausalLM(LlamaConfig(**text, tie_word_embeddings=True))
    return tuple(model.to(options.device, options.dtype).eval() for model in (encoder, language_model))


def make_levels(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The default levels of the encoder's grid, with the pixel pooling asked for."""
    vision, text = SCALES[options.scale]
    levels = GranulonConfig(vision_config=DINOv3ViTConfig(**vision), text_config=LlamaConfig(**text)).levels
    return [{**level, "pixel_pool": edge} for level, edge in zip(levels, options.pixel_pool, strict=True)]


def make_granulon(encoder: DINOv3ViTModel, language_model: LlamaForCausalLM, options: argparse.Namespace):
    """`(model, processor)`."""
    model, processor = GranulonForConditionalGeneration.from_backbones(
        encoder, language_model, tokenizer=make_tokenizer(), levels=make_levels(options)
    )
    model.generation_config.eos_token_id = None  # every run generates as many tokens
    return model.to(options.device), processor


def make_llava(encoder: DINOv3ViTModel, language_model: LlamaForCausalLM) -> LlavaForConditionalGeneration:
    """LLaVA as transformers builds it, around the given modules."""
    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=encoder.config,
        text_config=language_model.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1,
    )
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    llava.model.vision_tower, llava.model.language_model = encoder, language_model.base_model
    llava.lm_head = language_model.lm_head
    projector = LlavaMultiModalProjector(config)
    llava.model.multi_modal_projector = projector.to(language_model.device, language_model.dtype)
    llava.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    return llava.eval()


def make_inputs(kind: Kind, processor: Any, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """A batch of equal questions about different images. LLaVA's prompt is Granulon's without semantic slots."""
    edge = SCALES[options.scale][0]["image_size"]
    pixels = np.random.default_rng(0).integers(0, 256, (options.batch_size, 8, 8, 3), dtype=np.uint8)
    images = [Image.fromarray(blocks).resize((edge, edge)) for blocks in pixels]
    level = kind.level if kind.choice == "fixed" else None
    inputs = chat_inputs(processor, [QUESTION] * len(images), images, granularity=level)
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].to(options.dtype)}
    if kind.choice == "llava":
        input_ids = inputs["input_ids"]
        input_ids = input_ids[input_ids != processor.semantic_token_id].view(options.batch_size, -1)
        inputs |= {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    return inputs


# ---------------------------------------------------------------------- runs


@torch.no_grad()
def generate(model: Any, kind: Kind, inputs: dict[str, torch.Tensor], options: argparse.Namespace) -> Any:
    if kind.choice == "routed":  # steer the controller: it runs as ever, and chooses this level
        bias = model.model.granularity_controller.head[-1].bias
        bias.zero_()[model.config.level_names.index(kind.level)] = 1e4
    inputs = {name: tensor.to(options.device) for name, tensor in inputs.items()}
    return model.generate(**inputs, max_new_tokens=options.new_tokens, do_sample=False)


def time_run(run: Callable[[], Any], stopwatch: Stopwatch) -> Run:
    stopwatch.spans.clear()
    start = now(stopwatch.device)
    run()
    end = now(stopwatch.device)
    parts = {label: 0.0 for label in PARTS if label != "lm_prefill"}
    for span in stopwatch.spans:
        if span.label in parts:
            parts[span.label] += span.end - span.start
    steps = [span for span in stopwatch.spans if span.label == "language_model"]
    gaps = [later.start - earlier.start for earlier, later in zip(steps[1:], steps[2:], strict=False)]
    parts["lm_prefill"] = steps[0].end - steps[0].start
    return Run(parts, prefill=steps[1].start - start, token=statistics.median(gaps), total=end - start)


def count_prompt_tokens(language_model: Any, run: Callable[[], Any]) -> int:
    """What the language model is really given in its first call, per row."""
    lengths: list[int] = []
    handle = language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    run()
    handle.remove()
    return lengths[0]


def memory_of(kind: Kind, inputs: dict[str, torch.Tensor], options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of one run in a process that holds nothing but its model."""
    backbones = make_backbones(options)
    model = make_llava(*backbones) if kind.choice == "llava" else make_granulon(*backbones, options)[0]
    run = partial(generate, model, kind, inputs, options)
    run()  # libraries load, and buffers for good are made, on first use
    return peak_memory(run, options.device)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for LLaVA, then two for each level."""
    log(f"building the {options.scale} models with random weights on {options.device}")
    encoder, language_model = make_backbones(options)
    llava = make_llava(copy.deepcopy(encoder), language_model)
    granulon, processor = make_granulon(encoder, language_model, options)
    kinds = [Kind("llava"), *(Kind(choice, level) for level in options.levels for choice in ("fixed", "routed"))]
    inputs = {kind: make_inputs(kind, processor, options) for kind in kinds}
    runs = {
        kind: partial(generate, llava if kind.choice == "llava" else granulon, kind, inputs[kind], options)
        for kind in kinds
    }
    lengths = {kind: count_prompt_tokens(language_model.base_model, run) for kind, run in runs.items()}

    stopwatch = Stopwatch(options.device)
    stopwatch.watch(llava.model.vision_tower, "forward", "vision")
    stopwatch.watch(granulon.model, "encode_images", "vision")
    stopwatch.watch(granulon.model, "choose_granularity", "controller")
    stopwatch.watch(granulon.model.token_aggregator, "forward", "aggregation")
    stopwatch.watch(language_model.base_model, "forward", "language_model")
    timed = interleave({kind: partial(time_run, run, stopwatch) for kind, run in runs.items()}, options.repeats)

    baseline, rows = kinds[0], []
    slots = torch.tensor([processor.image_token_id, processor.semantic_token_id])
    num_text = int((~torch.isin(inputs[baseline]["input_ids"][0], slots)).sum())
    for kind in kinds:
        log(f"peak memory: {kind.choice} {kind.level or ''}")
        times = {name: [run.parts[name] for run in timed[kind]] for name in PARTS}
        times |= {"prefill": [run.prefill for run in timed[kind]], "generate": [run.total for run in timed[kind]]}
        rows.append(
            {
                "benchmark": "generation",
                "scale": options.scale,
                "weights": "random",
                "model": "llava" if kind == baseline else "granulon",
                "level": kind.level,
                "choice": None if kind == baseline else kind.choice,
                "batch_size": options.batch_size,
                "text_tokens": num_text,
                "visual_tokens": lengths[kind] - num_text,
                "new_tokens": options.new_tokens,
                "milliseconds": {name: summary(values, 1e3) for name, values in times.items()},
                "decode_tokens_per_second": summary([options.batch_size / run.token for run in timed[kind]]),
                "memory_mb": in_fresh_process(memory_of, kind, inputs[kind], options),
                "targets": judge(kind, baseline, timed, lengths, is_judged=options.scale != "nano"),
                "warmup": 1,
                "repeats": options.repeats,
                "seed": 0,
                **origin(options.device, options.dtype),
            }
        )
    return rows


def judge(
    kind: Kind, baseline: Kind, timed: dict[Kind, list[Run]], lengths: dict[Kind, int], is_judged: bool
) -> dict[str, Any]:
    """The ratios that targets are set for; at a scale without targets they are reported alone."""
    if kind == baseline:
        return {}
    runs = timed[kind]
    own = [run.parts["controller"] + run.parts["aggregation"] for run in runs]
    targets = {
        "own_parts_over_prefill": target(
            paired_ratio(own, [run.prefill for run in runs]), at_most=0.05 if is_judged else None
        ),
        "decode_speed_over_llava": target(
            paired_ratio([run.token for run in timed[baseline]], [run.token for run in runs]),
            at_least=0.97 if is_judged else None,
        ),
    }
    if kind.choice == "routed":
        fixed = [run.total for run in timed[Kind("fixed", kind.level)]]
        ratio = paired_ratio([run.total for run in runs], fixed)
        return {**targets, "routed_over_fixed": target(ratio, at_most=1.05 if is_judged else None)}
    ratio = paired_ratio(*([run.parts["lm_prefill"] for run in timed[key]] for key in (kind, baseline)))
    per_token = ratio * lengths[baseline] / lengths[kind]
    return {**targets, "lm_prefill_per_token_over_llava": target(per_token, at_most=1.05 if is_judged else None)}


# ---------------------------------------------------------------------- telling


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [level["name"] for level in DEFAULT_LEVELS]
    parser.add_argument(
        "--scale",
        choices=list(SCALES),
        default="small",
        help="small: DINOv3 ViT-S/16 at 224 px and SmolLM2-135M's architecture; nano: 6M parameters, 64 px, patch 8",
    )
    parser.add_argument("--levels", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument(
        "--pixel-pool",
        type=int,
        nargs=len(names),
        default=[1] * len(names),
        metavar="EDGE",
        help=f"pixel_pool of {', '.join(names)} (default: 1 1 1 1, all pixel tokens at every level)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="questions, each about its own image (default: 1)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens that each run generates (default: 32)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="default: bfloat16 on a GPU, float32 on a CPU",
    )
    options = parse_run_arguments(parser, repeats=10)
    if options.new_tokens < 3:
        parser.error(
            f"--new-tokens {options.new_tokens}: decoding is timed from the second token to the third; at least 3."
        )
    options.dtype = getattr(torch, options.dtype or ("bfloat16" if options.device.type == "cuda" else "float32"))
    return options


def table_row(row: dict[str, Any]) -> dict[str, str]:
    cells = {
        "model": "LLaVA" if row["model"] == "llava" else f"{row['level']}, {row['choice']}",
        "visual tokens": str(row["visual_tokens"]),
    }
    titles = {"vision": "vision", "controller": "controller", "aggregation": "AdaTA", "lm_prefill": "LM prefill"}
    for name, title in (titles | {"prefill": "prefill", "generate": "generate"}).items():
        cells[f"{title} ms"] = f"{row['milliseconds'][name]['median']:.1f}"
    cells["decode tok/s"] = f"{row['decode_tokens_per_second']['median']:.1f}"
    cells["memory MB"] = f"{row['memory_mb']['peak']:.0f}"
    targets = row["targets"]
    cells["LM prefill / LLaVA, per token"] = cell(targets.get("lm_prefill_per_token_over_llava"))
    cells["decode / LLaVA"] = cell(targets.get("decode_speed_over_llava"))
    cells["routed / fixed"] = cell(targets.get("routed_over_fixed"))
    cells["own / prefill"] = cell(targets.get("own_parts_over_prefill"))
    return cells


def main() -> None:
    options = parse_arguments()
    rows = measure(options)
    write_rows(rows, options.output)
    print_table([table_row(row) for row in rows])


if __name__ == "__main__":
    main()
