"""`granulon evaluate`: a model's answers on benchmarks, with scores and intervals."""

from pathlib import Path
from typing import Any

import click

from ._libraries import needs_extra, quieten
from ._types import DTYPE, MODEL, Device, check_writable


_EXAMPLES = """\b
Examples:
  granulon evaluate examples/nano/granulon-nano --benchmarks easy-vqa,scenes --limit 200 --out results
  granulon evaluate llava-hf/llava-1.5-7b-hf --benchmarks pope --data pope=my-folder --out llava

\b
Benchmarks:
  easy-vqa, scenes            need no download
  pope, mmvp                  hallucinated objects; pairs that CLIP confuses
  seed-bench, a-okvqa         multiple choice, answered by letter
  seed-bench-text             the same, by the option's text, as the Granulon paper
  a-okvqa-direct              answered in a word

\b
Files: DIR gets predictions.jsonl, a line for each answer, summary.json and report.md. When a run
is stopped, the same command goes on from there; no question is asked twice. With a larger
--limit or more benchmarks, it asks only what is new."""


class Folder(click.ParamType):
    """A folder for results: a new one, or that of an earlier run."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value).expanduser()
        if path.exists() and not path.is_dir():
            self.fail(f"{value} is a file, expected a directory for results.", param, ctx)
        check_writable(path, self, param, ctx)
        return path


def _names(context: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("expected names such as easy-vqa,scenes.", context, param)
    return list(dict.fromkeys(names))


def _sources(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple]:
    """Benchmark -> its source and revision."""
    sources = {}
    for value in values:
        name, equals, source = value.partition("=")
        if not (name and equals and source):
            raise click.BadParameter(f"{value!r} is not NAME=ID, such as pope=me/POPE@v1.", context, param)
        place, at, revision = source.rpartition("@")
        is_revision = at and place and not Path(source).exists()
        sources[name] = (place, revision) if is_revision else (source, None)
    return sources


@click.command(short_help="Measure a model on benchmarks.", epilog=_EXAMPLES)
@click.argument("model", type=MODEL)
@click.option(
    "--benchmarks", "names", required=True, callback=_names, metavar="A,B", help="Comma-separated names, see below."
)
@click.option("--out", required=True, type=Folder(), help="Folder for results, new or of an earlier run.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, help="Questions of each, drawn uniformly by --seed."
)
@click.option(
    "--granularity",
    default="auto",
    help="Level of a Granulon, by name or index; auto is the controller's choice; all is auto and each level in turn.",
)
@click.option(
    "--data",
    "sources",
    multiple=True,
    callback=_sources,
    metavar="NAME=ID",
    help="Another copy of a benchmark's data: a folder of parquet files, a Hub id, or ID@REVISION; repeatable.",
)
@click.option("--seed", type=int, default=0, help="Of the sample.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, help="Questions asked at once.")
@click.option("--revision", help="Of the model on the Hub: a commit, tag or branch.")
@click.option("--dtype", type=DTYPE, default="auto", help="Of the weights; auto is as saved.")
@click.option("--device", type=Device(), help="Such as cuda or cpu; cuda where there is one, if left out.")
@click.pass_context
def command(
    context: click.Context,
    model: str,
    names: list[str],
    out: Path,
    limit: int,
    granularity: str,
    sources: dict[str, tuple],
    seed: int,
    batch_size: int,
    revision: str | None,
    dtype: str,
    device: str | None,
) -> int:
    """
    Ask MODEL, a Granulon or any image-text-to-text model of transformers (directory or Hub id), the questions of
    benchmarks, and score its answers as the benchmarks' authors do, with 95 % intervals and beside baselines.
    """
    if unused := sources.keys() - set(names):
        raise click.UsageError(f"--data names {', '.join(sorted(unused))}, which --benchmarks does not.", context)
    with needs_extra("eval"):
        from granulon.evaluation import benchmarks
        from granulon.evaluation.report import as_markdown
        from granulon.evaluation.runner import check_folder, evaluate
        from granulon.evaluation.subjects import load_subject

        quieten()
        if unknown := [name for name in names if name not in benchmarks.BENCHMARKS]:
            known = ", ".join(benchmarks.BENCHMARKS)
            raise click.BadParameter(f"no benchmark {unknown[0]}; there are {known}.", param_hint="--benchmarks")
        check_folder(out)
        drawn = [benchmarks.load(name, limit, seed, *sources.get(name, ())) for name in names]
        subject = load_subject(model, revision, dtype, device)
        try:
            subject.granularities(granularity)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--granularity") from error
        try:
            summary = evaluate(subject, drawn, out, granularity, batch_size)
        except KeyboardInterrupt:
            click.echo("interrupted. The same command goes on from here.", err=True)
            return 130
    click.echo(as_markdown(summary), nl=False)
    return 0
