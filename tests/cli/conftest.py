"""A folder with a model that `granulon init` wrote, its parts and a picture."""

from pathlib import Path

import pytest
from tiny import make_image, save_backbones

from granulon.cli import main


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    vision, text = save_backbones(root)
    assert main(["init", "--vision", str(vision), "--text", str(text), "--out", str(root / "model")]) == 0
    make_image(1).save(root / "photo.png")
    return root
