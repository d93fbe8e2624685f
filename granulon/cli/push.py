"""`granulon push`: publish a model or an adapter on the Hub."""

from pathlib import Path
from typing import Any

import click


_EXAMPLE = """\b
Example:
  granulon push runs/connector/final me/my-granulon --private --dry-run"""
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(short_help="Publish a model or an adapter on the Hub.", epilog=_EXAMPLE)
@click.argument("directory", type=_DIRECTORY)
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, default=None, help="Make a new repository private.")
@click.option("--revision", help="Branch to push to; main if left out.")
@click.option("--base-model", help="For an adapter: Hub id of its base, where it was loaded from a directory.")
@click.option("--include", multiple=True, help="Pattern of further files to send; repeatable.")
@click.option("--message", "commit_message", help="Of the commit.")
@click.option("--dry-run", is_flag=True, help="Check and list, but send nothing.")
def command(
    directory: Path,
    repo_id: str,
    base_model: str | None,
    include: tuple[str, ...],
    dry_run: bool,
    **options: Any,
) -> None:
    """
    Check card, files, name and licences of a model's or an adapter's DIRECTORY, list what is sent, and send it in one
    commit to the repository OWNER/NAME, which is made where it does not exist. Optimizer state, pickles and logs stay
    here.
    """
    from granulon.hub_cards import plan_push, push_directory

    plan = plan_push(directory, repo_id, base_model=base_model, include=include)
    _show(plan)
    if plan.faults:
        raise click.ClickException("nothing was sent.\n- " + "\n- ".join(plan.faults))
    if dry_run:
        click.echo("Nothing to complain about. Nothing was sent (--dry-run).")
    else:
        commit = push_directory(directory, repo_id, plan=plan, **options)
        click.echo(f"Pushed: {commit.commit_url}")


def _show(plan: Any) -> None:
    total = sum(map(plan.size_of, plan.files))
    click.echo(f"To {plan.repo_id}: {len(plan.files)} files, {total / 1e6:.1f} MB")
    for name in sorted(plan.files):
        click.echo(f"  {name:44s}{plan.size_of(name) / 1e6:10.2f} MB")
    if plan.left_out:
        click.echo(f"Not sent: {', '.join(plan.left_out[:12])}{' ...' if len(plan.left_out) > 12 else ''}")
    for warning in plan.warnings:
        click.echo(f"Mind: {warning}")
