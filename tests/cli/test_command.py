"""The command as a whole: quick where nothing is to be done, and one line for each fault that is not its own."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import granulon
from granulon.cli import _VERBS, main


VERBS = sorted(_VERBS)


def run(*arguments: str, module: str = "granulon_cli") -> subprocess.CompletedProcess:
    """The command in a process of its own, which ends with the heavy modules that it has imported."""
    code = (
        f"import sys; from {module} import main; status = main(sys.argv[1:]);"
        "print(sorted({'torch', 'transformers', 'granulon'} & set(sys.modules))); sys.exit(status)"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_every_verb_is_a_file():
    folder = Path(granulon.__file__).parent / "cli"
    assert sorted(path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py")) == VERBS
    assert {"annotate", "ask", "card", "init", "merge", "push", "train", "train-controller"} <= set(VERBS)


def test_every_verb_is_on_its_page():
    page = Path(__file__).parents[2] / "docs" / "command.md"
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", page.read_text("utf-8"), re.M)) == VERBS


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_no_heavy_library(arguments: list[str]):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_wrong_option_is_answered_as_quickly():
    done = run("ask", "--modle", "x")
    assert done.returncode == 2 and done.stdout == "[]\n"
    assert done.stderr == (
        "granulon ask: No such option '--modle'. Did you mean '--model'? See `granulon ask --help`.\n"
    )


def test_without_arguments_it_helps(capsys: pytest.CaptureFixture):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


def test_the_version(capsys: pytest.CaptureFixture):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"granulon {granulon.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_that_parses(verb: str):
    """What an example names need not be there, but its options are those of the verb."""
    command = _VERBS[verb]
    lines = command.epilog.replace("\\\n", " ").splitlines()
    examples = [line.split()[2:] for line in lines if line.strip().startswith(f"granulon {verb} ")]
    assert examples
    for words in examples:
        known = {name for param in command.params for name in param.opts} | {"KEY=VALUE"}
        assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("module", ["granulon", "granulon.cli"])
def test_it_is_a_module_too(module: str):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert done.stdout == f"granulon {granulon.__version__}\n" and done.returncode == 0


def test_an_unknown_verb_is_told_by_its_neighbour(capsys: pytest.CaptureFixture):
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


# ---------------------------------------------------------------------- faults


@pytest.fixture
def verb_that_raises(monkeypatch: pytest.MonkeyPatch):
    """Makes `granulon card DIR` raise this."""

    def install(error: BaseException) -> None:
        def fail(*args: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("granulon.hub_cards.write_card", fail)

    return install


@pytest.mark.parametrize("error", [ValueError("a\n  b"), OSError(28, "No space left on device"), Exception("a b")])
def test_known_faults_are_one_line(verb_that_raises, tmp_path: Path, capsys, error: Exception):
    verb_that_raises(error)
    assert main(["card", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("granulon card: ") and said.err.count("\n") == 1


@pytest.mark.parametrize("error", [TypeError("x"), AttributeError("x"), KeyError("x"), AssertionError()])
def test_faults_of_the_program_are_raised(verb_that_raises, tmp_path: Path, error: Exception):
    verb_that_raises(error)
    with pytest.raises(type(error)):
        main(["card", str(tmp_path)])


def test_a_traceback_can_be_had(verb_that_raises, tmp_path: Path):
    verb_that_raises(ValueError("x"))
    with pytest.raises(ValueError):
        main(["--traceback", "card", str(tmp_path)])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_control_c_ends_quietly(verb_that_raises, tmp_path: Path, capsys, error: BaseException):
    verb_that_raises(error)
    assert main(["card", str(tmp_path)]) == 130
    assert capsys.readouterr().err.strip() == ""
