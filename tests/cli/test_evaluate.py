"""`granulon evaluate`: what the command adds to the runner, which has tests of its own."""

import json
from pathlib import Path

import pytest

from granulon.cli import main
from granulon.cli.evaluate import command
from granulon.evaluation.benchmarks import BENCHMARKS


def evaluate(composed: Path, out: Path, *options: str) -> int:
    known = [] if "--benchmarks" in options else ["--benchmarks", "easy-vqa"]
    return main(["evaluate", str(composed / "model"), "--out", str(out), *known, *options])


def test_the_help_names_every_benchmark():
    listed = command.epilog.partition("Benchmarks:\n")[2].partition("\n\n")[0]
    assert all(name in listed.replace(",", " ").split() for name in BENCHMARKS)


def test_it_prints_the_report_and_leaves_the_files(composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "results"
    assert evaluate(composed, out, "--benchmarks", "easy-vqa,scenes", "--limit", "3", "--granularity", "all") == 0
    assert capsys.readouterr().out == (out / "report.md").read_text("utf-8")
    results = json.loads((out / "summary.json").read_text())["results"]
    assert [one["benchmark"] for one in results] == ["easy-vqa"] * 5 + ["scenes"] * 5
    assert sorted(path.name for path in out.iterdir()) == ["predictions.jsonl", "report.md", "summary.json"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--benchmarks", "easy-vqa,popes"], "no benchmark popes; there are a-okvqa, "),
        (["--benchmarks", ","], "expected names such as easy-vqa,scenes"),
        (["--granularity", "finer", "--limit", "2"], "expected one of ['coarse', 'medium', 'fine', 'finest']"),
        (["--data", "pope"], "'pope' is not NAME=ID"),
        (["--data", "pope=x"], "--data names pope, which --benchmarks does not"),
    ],
)
def test_a_wrong_command_is_told(composed: Path, tmp_path: Path, capsys, options: list[str], said: str):
    assert evaluate(composed, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "thesis.tex").touch()
    assert evaluate(composed, tmp_path) == 1
    assert "holds something, but no predictions.jsonl to go on from" in capsys.readouterr().err


def test_a_language_model_is_refused_before_its_weights(composed: Path, tmp_path: Path, capsys):
    arguments = ["evaluate", str(composed / "text"), "--benchmarks", "easy-vqa", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "which takes no images" in capsys.readouterr().err


def test_the_source_of_data_may_name_a_revision(tmp_path: Path, monkeypatch, composed: Path):
    asked = []
    monkeypatch.setattr("granulon.evaluation.benchmarks.load", lambda *given: asked.append(given) or 1 / 0)
    (tmp_path / "a@b").mkdir()
    for source in ("me/POPE@v1", "me/POPE", str(tmp_path / "a@b")):
        with pytest.raises(ZeroDivisionError):
            evaluate(composed, tmp_path / "out", "--benchmarks", "pope", "--data", f"pope={source}", "--limit", "7")
    assert [given[3:] for given in asked] == [("me/POPE", "v1"), ("me/POPE", None), (str(tmp_path / "a@b"), None)]
    assert all(given[:3] == ("pope", 7, 0) for given in asked)


def test_stopped_by_hand_it_says_how_to_go_on(composed: Path, tmp_path: Path, capsys, monkeypatch):
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("granulon.evaluation.runner.evaluate", stop)
    assert evaluate(composed, tmp_path / "out") == 130
    assert "The same command goes on from here" in capsys.readouterr().err
