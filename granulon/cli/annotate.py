"""`granulon annotate`: label questions with granularities by asking a chat model."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ._libraries import needs_extra
from ._types import JSON, refuse_options


_EXAMPLE = """\b
Example:
  granulon annotate questions.txt annotated.jsonl --base-url http://localhost:8000/v1 \\
      --model my-model --price-input 0 --price-output 0 --yes

\b
Files: OUTPUT grows by one line per question, at once, and is never rewritten. Questions that it
holds already are skipped. Failures and their reasons go to OUTPUT's stem + .failed.jsonl; the
next run tries them again.
Exit status: 0 all annotated, 1 some failed or the run was stopped, 2 a wrong command,
130 interrupted."""


@click.command(short_help="Label questions with granularities by asking a chat model.", epilog=_EXAMPLE)
@click.argument("questions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option(
    "--base-url",
    envvar="OPENAI_BASE_URL",
    show_envvar=True,
    help="Up to and with /v1: https://api.openai.com/v1, http://localhost:8000/v1.",
)
@click.option("--model", default="gpt-4o", help="Name that the endpoint knows.")
@click.option(
    "--api-key",
    help="In place of $OPENAI_API_KEY, which others on this machine cannot see in the list of processes.",
)
@click.option(
    "--body",
    type=JSON(),
    default="{}",
    help="Merged into each request; null removes a key, such as '{\"response_format\": null}' for servers without "
    "JSON mode.",
)
@click.option(
    "--level",
    multiple=True,
    metavar="NAME=MEANING",
    help="One level; repeat from coarse to fine. The four if left out.",
)
@click.option("--requests-per-minute", type=float, default=60.0, help="At most.")
@click.option("--timeout", type=float, default=60.0, help="Seconds per request, to the end of its reply.")
@click.option(
    "--max-retries",
    type=int,
    default=5,
    help="Further attempts after HTTP 429, 5xx, a time-out or a broken connection.",
)
@click.option("--backoff", type=float, default=1.0, help="First pause in seconds, doubling each time.")
@click.option("--price-input", type=float, help="US dollars per million input tokens (gpt-4o: 2.50).")
@click.option("--price-output", type=float, help="US dollars per million output tokens (gpt-4o: 10.00).")
@click.option(
    "--max-cost",
    type=float,
    metavar="DOLLARS",
    help="Start without asking if the estimate is at most this, else refuse; a run stops before a request that would "
    "exceed it.",
)
@click.option("--yes", is_flag=True, help="Start without asking.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("~/.cache/granulon/annotations"),
    help="Folder with the answers of earlier runs.",
)
@click.option("--no-cache", is_flag=True, help="Neither read nor write the cache.")
def command(
    questions: Path,
    output: Path,
    level: Sequence[str],
    max_cost: float | None,
    yes: bool,
    no_cache: bool,
    **options: Any,
) -> int:
    """
    Ask a chat model, at an endpoint that speaks the OpenAI protocol, which granularity each of the QUESTIONS needs, as
    the paper asked GPT-4o. They are a text with one question a line, or a .jsonl with `question`; OUTPUT, a .jsonl,
    is a corpus for `granulon train-controller --corpus`.
    """
    from granulon.training.prepare.annotate import NotStarted, RunStopped, annotate_file, failed_path, parse_levels

    if no_cache:
        refuse_options(click.get_current_context(), ["cache"], "with --no-cache")
    cache = options.pop("cache")
    try:
        if level:
            options["levels"] = parse_levels(level)
        with needs_extra("chat"):
            num_annotated, num_failed = annotate_file(
                questions,
                output,
                max_cost=max_cost,
                cache=None if no_cache else cache.expanduser(),
                confirm=lambda: yes or (sys.stdin.isatty() and click.confirm("start?")),
                report=click.echo,
                **options,
            )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except NotStarted as error:
        click.echo(f"not started: {error}", err=True)
        return 1
    except RunStopped as error:
        click.echo(f"stopped: {error}\nThe same command goes on from here.", err=True)
        return 1
    except KeyboardInterrupt:
        click.echo("interrupted. The same command goes on from here.", err=True)
        return 130
    click.echo(f"{num_annotated} annotated to {output}")
    if num_failed:
        click.echo(f"{num_failed} failed: {failed_path(output)} says why; the same command tries them again.")
    return 1 if num_failed else 0
