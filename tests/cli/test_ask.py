"""`granulon ask`: what it prints and draws, and what it says before the weights are read."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from granulon.cli import main


def test_ask_prints_the_level_and_draws_it(composed: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    figure = tmp_path / "look.png"
    arguments = ["ask", str(composed / "photo.png"), "What is it?", "--model", str(composed / "model")]
    assert main([*arguments, "--max-new-tokens", "3", "--save-figure", str(figure)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "chosen by the controller" in first and all(name in first for name in ("coarse", "medium", "fine"))
    with Image.open(figure) as picture:
        assert picture.width > picture.height
    assert main([*arguments, "--max-new-tokens", "3", "--granularity", "fine"]) == 0
    assert capsys.readouterr().out.startswith("granularity: fine (as asked")
    assert main([*arguments, "--max-new-tokens", "3", "--granularity", "0"]) == 0
    assert capsys.readouterr().out.startswith("granularity: coarse (as asked")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos.png", "?"], "no such file. Did you mean photo.png?"),
        (["model", "?"], "'model' is a directory, not an image"),
        (["photo.png", "?", "--model", "modle"], "there is no directory modle. Did you mean model?"),
        (["photo.png", "?", "--model", "./modle"], "there is no directory ./modle. Did you mean model?"),
        (["photo.png", "?", "--model", "runs/a/final"], "there is no directory runs/a/final"),
        (["photo.png", "?", "--model", "photo.png"], "is a file, expected a directory or a Hub id"),
        (
            ["photo.png", "?", "--model", "."],
            "holds no config.json or adapter_config.json. Did you mean model or text",
        ),
        (["photo.png", "?", "--granularity", "huge"], "'huge', expected one of"),
        (["photo.png", "?", "--granularity", "4"], "expected one of"),
        (["photo.png", "?", "--dtype", "fp16"], "is not one of 'auto', 'float32'"),
        (["photo.png", "?", "--device", "gpu"], "'gpu' is no device to compute on. Use cpu"),
        (["photo.png", "?", "--device", "meta"], "'meta' is no device to compute on. Use cpu"),
        (["photo.png", "?", "--device", "cuda:99"], "'cuda:99' is not there"),
        (["photo.png", "?", "--save-figure", "look"], "Name it look.png, say"),
        (["photo.png", "?", "--save-figure", "model"], "model is a directory, expected a file such as model/look.png"),
        (["photo.png", "?", "--save-figure", "photo.png/look.png"], "cannot be written, since"),
        (["photo.png", "?", "--save-figure", "/proc/look.png"], "cannot be written, since /proc does not take a file"),
        (["photo.png", "?", "--max-new-tokens", "0"], "0 is not in the range x>=1"),
    ],
)
def test_a_wrong_command_is_told_before_the_weights_are_read(
    composed: Path, monkeypatch: pytest.MonkeyPatch, capsys, words: list[str], message: str
):
    def read(*args: object, **options: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", read)
    monkeypatch.chdir(composed)
    assert main(["ask", *words, *([] if "--model" in words else ["--model", "model"])]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_picture_that_is_none_is_told_before_the_weights_are_read(
    composed: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr("transformers.AutoModelForImageTextToText.from_pretrained", None)
    (tmp_path / "photo.png").write_bytes(b"no picture")
    assert main(["ask", str(tmp_path / "photo.png"), "?", "--model", str(composed / "model")]) == 1
    assert "photo.png" in capsys.readouterr().err


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize(
    "damage", [_cut, lambda path: path.write_text("[1, 2]"), lambda path: path.write_bytes(b"\xff")]
)
def test_a_damaged_file_is_named(composed: Path, tmp_path: Path, capsys, file: str, damage):
    shutil.copytree(composed / "model", tmp_path / "model")
    damage(tmp_path / "model" / file)
    assert main(["ask", str(composed / "photo.png"), "?", "--model", str(tmp_path / "model")]) == 1
    said = capsys.readouterr()
    assert f"{file} is damaged (" in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json", "config.json", "generation_config.json"])
def test_a_file_of_another_shape_is_no_fault_of_the_program(composed: Path, tmp_path: Path, capsys, file: str):
    shutil.copytree(composed / "model", tmp_path / "model")
    path = tmp_path / "model" / file
    path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "x")))
    assert main(["ask", str(composed / "photo.png"), "?", "--model", str(tmp_path / "model")]) == 1
    assert f"granulon ask: {tmp_path / 'model'} cannot be loaded" in capsys.readouterr().err


def test_a_slip_in_code_of_our_own_has_a_traceback(composed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("granulon.modeling_granulon.modeling_granulon.GranulonModel", None)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        main(["ask", str(composed / "photo.png"), "?", "--model", str(composed / "model")])


def test_another_kind_of_model_is_named(composed: Path, capsys: pytest.CaptureFixture):
    assert main(["ask", str(composed / "photo.png"), "?", "--model", str(composed / "text")]) == 1
    assert "text is no Granulon" in capsys.readouterr().err


def test_a_model_that_the_hub_does_not_have(composed: Path, capsys: pytest.CaptureFixture):
    assert main(["ask", str(composed / "photo.png"), "?", "--model", "nobody/nothing"]) == 1
    assert "nobody/nothing is no directory here, and could not be loaded" in capsys.readouterr().err
