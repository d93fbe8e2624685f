"""`granulon train`: a run as a recipe says."""

import json
from pathlib import Path
from typing import Any

import click

from . import train_controller
from ._libraries import needs_extra, quieten
from ._types import refuse_options


_EXAMPLES = """\b
Examples:
  granulon train nano-lora data=my-photos output=runs/my-photos --dry-run
  granulon train my-recipe.yaml training.learning_rate=1e-4 --resume
  accelerate launch --config_file ddp.yaml -m granulon train my-recipe.yaml"""
_NEWEST = ""  # `--resume` that names no checkpoint


class _Train(click.Command):
    """`train --stage controller ...` is the earlier name of `train-controller ...`."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        for at in range(len(args)):
            for length, stage in ((1, ["--stage=controller"]), (2, ["--stage", "controller"])):
                if args[at : at + length] == stage:
                    rest = args[:at] + args[at + length :]
                    return train_controller.command.make_context("train-controller", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=_Train, short_help="Train a model by a recipe.", epilog=_EXAMPLES)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--list", "show_recipes", is_flag=True, help="Name the recipes of the package.")
@click.option("--dry-run", is_flag=True, help="Check paths, columns, tokens, memory and schedule; train nothing.")
@click.option(
    "--processes", type=click.IntRange(min=1), help="With --dry-run: processes of the planned run (1 if left out)."
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=_NEWEST,
    metavar="[CHECKPOINT]",
    help="Go on from the newest complete checkpoint in the recipe's output, if there is one, or from this one.",
)
@click.option("--output", metavar="DIR", help="In place of the recipe's `output`.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop after so many optimizer steps.")
@click.pass_context
def command(
    context: click.Context,
    recipe: str | None,
    overrides: tuple[str, ...],
    show_recipes: bool,
    dry_run: bool,
    processes: int | None,
    resume: str | None,
    output: str | None,
    max_steps: int | None,
) -> None:
    """
    Train as RECIPE says: model, data, stage, schedule. It is a YAML file, or the name of a recipe that comes with the
    package (--list). KEY=VALUE stands in place of a value of the recipe; dots reach inner keys. Paths are relative to
    the folder where the command runs.
    """
    with needs_extra("train"):
        from granulon.training.recipe import load_recipe, run_recipe, shipped_recipes

    quieten()
    if show_recipes:
        refuse_options(context, set(context.params) - {"show_recipes"}, "with --list")
        click.echo("\n".join(shipped_recipes()))
        return
    if recipe is None:
        raise click.UsageError(f"Name a recipe: a YAML file, or one of {', '.join(shipped_recipes())}.")
    if not dry_run:
        refuse_options(context, ["processes"], "without --dry-run")
    changes = list(overrides)
    if resume and "=" in resume and not Path(resume).exists():
        changes.append(resume)  # `--resume KEY=VALUE` names no checkpoint
        resume = _NEWEST
    if output is not None:
        changes.append(f"output={json.dumps(output)}")
    try:
        plan = load_recipe(recipe, changes)
    except (ValueError, TypeError, OSError) as error:
        raise click.UsageError(str(error)) from error
    if dry_run:
        from granulon.training.dry_run import dry_run as foresee

        click.echo(foresee(plan, processes=processes, max_steps=max_steps))
        return
    final = run_recipe(plan, resume=True if resume == _NEWEST else resume or False, max_steps=max_steps)
    click.echo(f"Wrote {final}")
