"""`granulon card`: write or check the model card of a directory."""

from pathlib import Path

import click

from ._types import refuse_options


_EXAMPLE = """\b
Example:
  granulon card runs/lora/final --repo-id me/my-granulon-lora"""
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


def _parts(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    if wrong := [text for text in values if "=" not in text]:
        raise click.BadParameter(f"{wrong[0]!r} is not PART=ORIGIN, such as vision_encoder=scratch.", context, param)
    return dict(text.split("=", 1) for text in values) or None


@click.command(short_help="Write or check the model card of a directory.", epilog=_EXAMPLE)
@click.argument("directory", type=_DIRECTORY)
@click.option("--check", is_flag=True, help="Check the card that is there and change nothing.")
@click.option("--print", "show", is_flag=True, help="Print the card and change nothing.")
@click.option("--repo-id", metavar="OWNER/NAME", help="What the usage examples load.")
@click.option("--base-model", multiple=True, help="Hub id that the weights were taken from; repeatable.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    callback=_parts,
    metavar="PART=ORIGIN",
    help="Where a part's weights come from: vision_encoder=ORIGIN or language_model=ORIGIN, a Hub id or `scratch`.",
)
@click.option("--licence", help="Of the whole, such as apache-2.0, in place of what follows from the parts.")
@click.pass_context
def command(
    context: click.Context,
    directory: Path,
    check: bool,
    show: bool,
    repo_id: str | None,
    base_model: tuple[str, ...],
    parts: dict[str, str] | None,
    licence: str | None,
) -> None:
    """Write README.md of a model's or an adapter's DIRECTORY, from what it and its granulon_training.json say."""
    from granulon.hub_cards import check_card, render_directory, write_card

    if check:
        refuse_options(context, ["show", "repo_id", "base_model", "parts", "licence"], "with --check")
        if faults := check_card(directory):
            raise click.ClickException("the card has faults.\n- " + "\n- ".join(faults))
        click.echo(f"{directory / 'README.md'}: nothing to complain about")
    elif show:
        click.echo(
            render_directory(directory, repo_id, base_models=list(base_model) or None, parts=parts, licence=licence)
        )
    else:
        written = write_card(directory, repo_id, base_models=list(base_model) or None, parts=parts, licence=licence)
        click.echo(f"Wrote {written}")
