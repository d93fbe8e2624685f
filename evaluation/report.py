"""What predictions amount to: each benchmark's own metric with its interval, beside a baseline; and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from granulon.evaluation import metrics
from granulon.evaluation.benchmarks import Item, Questions
from granulon.evaluation.intervals import Interval, bootstrap_interval


def summarise(
    questions: Questions, granularity: str, lines: Sequence[Mapping[str, Any]], level_names: Sequence[str] = ()
) -> dict[str, Any]:
    """
    One benchmark at one granularity.

    Args:
        lines: the prediction of each item, in order.

    Returns:
        `benchmark`, `granularity`, `data`, `questions` of so many (`of`), the `metric` with its `options` and all
        `scores`; `score`, the first of them, as [mean, low, high] with its 95 % interval; mean `visual_tokens`; how
        often each of `levels` was used; `baseline` with `name`, `score` and `gain` over it; `cuts`, `questions` and
        `score` of each kind of question.
    """
    benchmark, items = questions.benchmark, questions.items
    answers = [benchmark.clean(line["prediction"]) for line in lines]
    scores, rows = _score(questions, answers)
    groups = [item.id if item.group is None else item.group for item in items]
    tokens = [line["visual_tokens"] for line in lines]
    result = {
        "benchmark": benchmark.name,
        "granularity": granularity,
        "data": questions.data,
        "questions": len(items),
        "of": questions.num_all,
        "metric": benchmark.metric,
        "options": dict(benchmark.options),
        "scores": scores,
        "score": list(bootstrap_interval(rows, groups)),
        "visual_tokens": None if None in tokens else sum(tokens) / len(tokens),
        "levels": {name: sum(line["level"] == name for line in lines) for name in level_names},
        "baseline": None,
        "cuts": _cuts(items, rows, groups),
    }
    if benchmark.baseline is not None:
        _, guessed = _score(questions, benchmark.baseline.answers(items))
        gains = [mine - theirs for mine, theirs in zip(rows, guessed, strict=True)]
        result["baseline"] = {
            "name": benchmark.baseline.name,
            "score": list(bootstrap_interval(guessed, groups)),
            "gain": list(bootstrap_interval(gains, groups)),
        }
    return result


def _score(questions: Questions, answers: list[str]) -> tuple[dict[str, float], list[float]]:
    """All results of the benchmark's metric, and each answer's share in the first of them."""
    benchmark, items = questions.benchmark, questions.items
    columns = {name: [item.expected[name] for item in items] for name in items[0].expected}
    metric = metrics.load(benchmark.metric)
    results = metric.compute(predictions=answers, per_row=True, **columns, **benchmark.options)
    return results, results.pop("per_row")


def _cuts(items: Sequence[Item], rows: Sequence[float], groups: Sequence[Any]) -> dict[str, dict[str, Any]]:
    cuts: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        for name, value in item.cuts.items():
            cuts.setdefault(f"{name}: {value}", []).append(place)
    return {
        cut: {
            "questions": len(places),
            "score": list(bootstrap_interval([rows[p] for p in places], [groups[p] for p in places])),
        }
        for cut, places in sorted(cuts.items())
    }


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The report of a whole summary, as `evaluate` returns it; scores in percent."""
    results = summary["results"]
    lines = [
        f"# {summary['model']}",
        "",
        f"Revision `{summary['revision']}`, {summary['dtype']}, seed {summary['seed']}. Scores in percent with 95 % "
        "intervals, resampled by image.",
        "",
        "| benchmark | granularity | questions | metric | score | baseline | gain | visual tokens | levels |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(_row, results),
        "",
        "| benchmark | granularity | all results |",
        "|---|---|---|",
        *(f"| {one['benchmark']} | {one['granularity']} | {_scores(one['scores'])} |" for one in results),
    ]
    if any(one["cuts"] for one in results):
        lines += ["", "| benchmark | granularity | of | questions | score |", "|---|---|---|---|---|"]
    for one in results:
        for cut, row in one["cuts"].items():
            score = Interval(*row["score"])
            lines.append(f"| {one['benchmark']} | {one['granularity']} | {cut} | {row['questions']:,} | {score} |")
    return "\n".join(lines) + "\n"


def _row(one: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in one["options"].items())
    metric = f"{next(iter(one['scores']))} of {one['metric']}" + (f" ({options})" if options else "")
    baseline = gain = ""
    if one["baseline"]:
        baseline = f"{Interval(*one['baseline']['score'])} ({one['baseline']['name']})"
        gain = f"{Interval(*one['baseline']['gain']):+}"
    tokens = "" if one["visual_tokens"] is None else f"{one['visual_tokens']:.1f}"
    levels = ", ".join(f"{name} {count}" for name, count in one["levels"].items() if count)
    cells = [
        one["benchmark"],
        one["granularity"],
        f"{one['questions']:,} of {one['of']:,}",
        metric,
        f"{Interval(*one['score'])}",
        baseline,
        gain,
        tokens,
        levels,
    ]
    return "| " + " | ".join(cells) + " |"


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.1f}" for name, value in scores.items())
