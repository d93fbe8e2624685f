"""`granulon train` and `granulon train-controller`: what they pass on, and options that do not apply."""

import inspect
from pathlib import Path

import pytest

from granulon.cli import main


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What reaches `run_recipe`, which does not run."""
    seen: dict = {}
    monkeypatch.setattr(
        "granulon.training.recipe.run_recipe", lambda recipe, **options: seen.update(recipe=recipe, **options)
    )
    return seen


@pytest.mark.parametrize("words", [["--resume", "seed=4", "data=d"], ["seed=4", "data=d", "--resume"]])
def test_overrides_stand_anywhere(seen: dict, words: list[str]):
    assert main(["train", "lora", "model=m", *words, "training.bf16=false", "--output", "runs/1e-4"]) == 0
    recipe = seen["recipe"]
    assert (seen["resume"], recipe.seed, recipe.data) == (True, 4, [{"source": "d"}])
    assert recipe.training["bf16"] is False and recipe.output == "runs/1e-4"


def test_a_checkpoint_is_passed_on(seen: dict):
    assert main(["train", "lora", "model=m", "data=d", "--resume", "runs/checkpoint-2", "--max-steps", "3"]) == 0
    assert (seen["resume"], seen["max_steps"]) == ("runs/checkpoint-2", 3)
    assert main(["train", "lora", "model=m", "data=d"]) == 0
    assert (seen["resume"], seen["max_steps"]) == (False, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nano-lora", "--learning-rate", "0.5"], "No such option '--learning-rate'"),
        (["nano-lora", "--wrong=1"], "No such option '--wrong'"),
        (["nano-lora", "--max-rows", "3"], "No such option '--max-rows'"),
        (["nano-lora", "--seeds", "9"], "No such option '--seeds'"),
        (["nano-lora", "--model", "/nowhere"], "No such option '--model'"),
        (["nano-lora", "--processes", "2"], "--processes does not apply without --dry-run"),
        (["nano-lora", "--list"], "RECIPE does not apply with --list"),
        (["--list", "--max-steps", "2"], "--max-steps does not apply with --list"),
        (["nano-lroa"], "Did you mean 'nano-lora'?"),
        (["nano-lora", "data=d", "seed=x"], "`seed` is 'x'"),
        (["nano-lora", "data=d", "sead=1"], "Did you mean `seed`?"),
        ([], "Name a recipe"),
    ],
)
def test_what_does_not_apply_is_refused(seen: dict, capsys, words: list[str], message: str):
    assert main(["train", *words]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == "" and not seen


def test_recipes_are_listed(capsys: pytest.CaptureFixture):
    assert main(["train", "--list"]) == 0
    assert "nano-lora" in capsys.readouterr().out.splitlines()


# ---------------------------------------------------------------------- train-controller


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What reaches `train_controller`, which does not run."""
    trained: dict = {}

    def train_controller(source: str, out: Path, **options: object) -> dict:
        trained.update(source=source, out=out, **options)
        return {"training": {"seed": 0}, "seconds": 0.0}

    monkeypatch.setattr("granulon.training.controller.train_controller", train_controller)
    return trained


@pytest.mark.parametrize("verb", [["train-controller"], ["train", "--stage", "controller"]])
def test_both_names_train_a_controller(composed: Path, tmp_path: Path, trained: dict, verb: list[str]):
    options = ["--text", str(composed / "text"), "--out", str(tmp_path / "new"), "--seeds", "1,2", "--steps", "5"]
    assert main([*verb, *options, "--no-refit", "--level-names", "far, near"]) == 0
    assert trained["source"] == str(composed / "text") and trained["out"] == tmp_path / "new"
    assert (trained["seeds"], trained["steps"], trained["refit"]) == ([1, 2], 5, False)
    assert trained["levels"] == ["far", "near"] and "learning_rate" not in trained, "left out: the function's default"


def test_the_help_names_the_functions_defaults(capsys: pytest.CaptureFixture):
    from granulon.training.controller import optimise_controller

    main(["train-controller", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, parameter in inspect.signature(optimise_controller).parameters.items():
        if name in ("steps", "learning_rate", "noise"):
            assert f"[default: ({parameter.default})" in shown[shown.index(f"--{name.replace('_', '-')} ") :][:120]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --text LANGUAGE_MODEL or --model GRANULON"),
        (["--text", "TEXT", "--model", "MODEL"], "either --text LANGUAGE_MODEL or --model GRANULON"),
        (["--text", "TEXT", "--feedback", "d"], "--feedback needs --model"),
        (["--text", "TEXT", "--seeds", "one"], "expected integers"),
        (["--text", "TEXT", "--max-rows", "3"], "--max-rows does not apply without --feedback"),
        (["--text", "TEXT", "--cost-per-token", "0"], "--cost-per-token does not apply without --feedback"),
        (["--model", "MODEL", "--turn-end", "x"], "--turn-end does not apply with --model"),
        (["--model", "MODEL", "--feedback", "d", "--no-refit"], "--no-refit does not apply with --feedback"),
        (["--model", "MODEL", "--feedback", "d", "--seeds", "1,2"], "--seeds names several"),
        (["--text", "TEXT", "--learning-rate", "-1"], "-1.0 is not in the range x>0"),
        (["--text", "TEXT", "--corpus", "gone.jsonl"], "'gone.jsonl' does not exist"),
    ],
)
def test_options_of_a_controller_that_contradict(
    composed: Path, tmp_path: Path, trained: dict, capsys, options: list[str], message: str
):
    places = {"TEXT": str(composed / "text"), "MODEL": str(composed / "model")}
    words = [places.get(word, word) for word in options]
    assert main(["train-controller", "--out", str(tmp_path / "new"), *words]) == 2
    assert message in capsys.readouterr().err and not trained
