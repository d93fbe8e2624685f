"""The command line: what it writes, what it prints, and that bad input leaves nothing behind."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import make_image, save_backbones

from transformers import AutoModelForImageTextToText, AutoProcessor

from granulon.cli import main
from granulon.figures import draw_granularity, restore_image


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that `granulon init` wrote."""
    root = tmp_path_factory.mktemp("cli")
    vision, text = save_backbones(root)
    assert main(["init", "--vision", str(vision), "--text", str(text), "--out", str(root / "model")]) == 0
    make_image(1).save(root / "photo.png")
    return root


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
    ("levels", "message"),
    [("[{]", "neither a file nor JSON"), ('[{"name": "a", "pool": 1, "clusters": 99, "tokens": 9}]', "99 clusters")],
)
def test_init_with_bad_levels_leaves_nothing(composed: Path, tmp_path: Path, capsys, levels: str, message: str):
    out = tmp_path / "new"
    arguments = ["init", "--vision", str(composed / "vision"), "--text", str(composed / "text"), "--out", str(out)]
    assert main([*arguments, "--levels", levels]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_init_takes_its_levels_from_a_file(composed: Path, tmp_path: Path):
    levels = tmp_path / "levels.json"
    levels.write_text('[{"name": "only", "pool": 2, "clusters": 4, "tokens": 3}]')
    arguments = ["init", "--vision", str(composed / "vision"), "--text", str(composed / "text")]
    assert main([*arguments, "--out", str(tmp_path / "model"), "--levels", str(levels)]) == 0
    assert AutoProcessor.from_pretrained(tmp_path / "model").level_names == ["only"]


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
    ("image", "options", "message"),
    [("gone.png", [], "gone.png"), ("photo.png", ["--granularity", "huge"], "'huge', expected one of")],
)
def test_ask_explains_itself(composed: Path, capsys, image: str, options: list[str], message: str):
    assert main(["ask", str(composed / image), "What?", "--model", str(composed / "model"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_restored_pixels_are_the_image():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    pixels = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    normalised = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    restored = torch.tensor(list(restore_image(normalised, mean, std).tobytes())).reshape(8, 8, 3)
    assert torch.equal(restored.permute(2, 0, 1), pixels)


def test_the_figure_tints_selected_clusters_and_dims_the_others():
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    assignments = torch.tensor([0, 0, 1, 2])  # two rows of two patches
    picture = draw_granularity(image, assignments, torch.tensor([0, 2, -1]), (2, 2), "?", ["a"], [1.0], 0, edge=256)
    left = picture.width - 16 - 256  # the overlay is the right one of the two
    top_left, bottom_left, bottom_right = (
        picture.getpixel((left + x, 16 + y)) for x, y in ((20, 20), (20, 236), (236, 236))
    )
    assert max(bottom_left) < 110 and max(bottom_left) - min(bottom_left) < 10, "not selected: grey and darker"
    assert max(top_left) - min(top_left) > 40 and max(bottom_right) - min(bottom_right) > 40
    assert top_left != bottom_right
