"""`granulon merge`: a standalone model of a base model and an adapter."""

from pathlib import Path

import click

from ._libraries import needs_extra, quieten
from ._types import DTYPE, MODEL, NewDirectory, Source


_EXAMPLE = """\b
Example:
  granulon merge runs/lora/final --out my-merged-granulon"""


@click.command(short_help="Make a standalone model of a base model and an adapter.", epilog=_EXAMPLE)
@click.argument("adapter", type=Source("adapter_config.json"))
@click.option("--out", required=True, type=NewDirectory(), help="Directory to write; it must not exist or be empty.")
@click.option("--base", type=MODEL, help="Directory or Hub id of the base model, in place of what the adapter says.")
@click.option("--dtype", type=DTYPE, default="auto", help="Of the weights; auto is the base's.")
def command(adapter: str, out: Path, base: str | None, dtype: str) -> None:
    """
    Add the update of ADAPTER, a directory or Hub id, to its base model's weights, and write a standalone model with
    processor, code and card. An adapter that was trained on another model is refused.
    """
    with needs_extra("train"):
        from granulon.training.adapters import merge_adapter

    quieten()
    click.echo(f"Reading {adapter} and its base model ...", err=True)
    merge_adapter(adapter, out, base=base, dtype=dtype)
    click.echo(f"Wrote {out}: a standalone model, with processor, code and card")
