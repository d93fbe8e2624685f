"""`granulon init`: what it writes, and that bad input leaves nothing behind."""

from pathlib import Path

import pytest

from transformers import AutoModelForImageTextToText, AutoProcessor

from granulon.cli import main


def test_init_writes_a_directory_that_loads(composed: Path):
    model = AutoModelForImageTextToText.from_pretrained(composed / "model")
    processor = AutoProcessor.from_pretrained(composed / "model")
    assert model.config.levels == processor.levels
    assert not [path for path in composed.iterdir() if path.name.startswith(".")], "the staging directory is gone"


def test_init_never_writes_over_something(composed: Path, capsys: pytest.CaptureFixture):
    arguments = ["init", "--vision", str(composed / "vision"), "--text", str(composed / "text")]
    before = sorted(path.name for path in (composed / "model").iterdir())
    assert main([*arguments, "--out", str(composed / "model")]) == 2
    assert "not an empty directory" in capsys.readouterr().err
    assert sorted(path.name for path in (composed / "model").iterdir()) == before


@pytest.mark.parametrize(
    ("levels", "status", "message"),
    [
        ("[{]", 2, "neither a file nor JSON"),
        ('[{"name": "a", "pool": 1, "clusters": 99, "tokens": 9}]', 1, "99 clusters"),
    ],
)
def test_init_with_bad_levels_leaves_nothing(
    composed: Path, tmp_path: Path, capsys, levels: str, status: int, message: str
):
    out = tmp_path / "new"
    arguments = ["init", "--vision", str(composed / "vision"), "--text", str(composed / "text"), "--out", str(out)]
    assert main([*arguments, "--levels", levels]) == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_init_takes_its_levels_from_a_file(composed: Path, tmp_path: Path):
    levels = tmp_path / "levels.json"
    levels.write_text('[{"name": "only", "pool": 2, "clusters": 4, "tokens": 3}]')
    arguments = ["init", "--vision", str(composed / "vision"), "--text", str(composed / "text")]
    assert main([*arguments, "--out", str(tmp_path / "model"), "--levels", str(levels)]) == 0
    assert AutoProcessor.from_pretrained(tmp_path / "model").level_names == ["only"]
