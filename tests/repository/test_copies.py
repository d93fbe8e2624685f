"""The copies of the code are byte for byte the code, and the tool that makes them finds which they are by itself."""

import json
from pathlib import Path

import copies
import pytest


def test_the_copies_in_the_repository_are_in_step():
    assert copies.differences() == {}, "run `make fix-copies`"


def test_the_shipped_model_has_the_code_that_the_library_would_save():
    shipped = {path.name for path in (copies.ROOT / copies.SHIPPED).glob("*.py")}
    assert {"modeling_granulon.py", "processing_granulon.py", "image_processing_granulon.py"} <= shipped
    assert shipped == {copy.name for copy in copies.expected_copies() if copy.parent.name == "granulon-nano"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The model imports `a`; the processor imports `b`, which the model's room holds, and which imports `c`."""
    for name, text in {
        "modeling_granulon/modeling_granulon.py": "from .a_granulon import (\n    x,\n)\n",
        "modeling_granulon/a_granulon.py": "x = 1\n",
        "modeling_granulon/b_granulon.py": "from .c_granulon import y\n",
        "modeling_granulon/c_granulon.py": "y = 1\n",
        "modeling_granulon/unused_granulon.py": "z = 1\n",
        "processing/processing_granulon.py": "from .b_granulon import y\n",
        "processing/unused_here.py": "",
        f"{copies.SHIPPED}/old_granulon.py": "",
        f"{copies.SHIPPED}/config.json": json.dumps({"auto_map": {"AutoModel": "modeling_granulon.Model"}}),
        f"{copies.SHIPPED}/processor_config.json": json.dumps(
            {"auto_map": {"AutoProcessor": {"pil": "processing_granulon.Processor"}}}
        ),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_which_files_are_copied_follows_from_the_imports(repository):
    copies.fix(repository)
    assert {path.stem for path in (repository / "processing").glob("*.py")} == {
        "processing_granulon",
        "unused_here",
        "b_granulon",
        "c_granulon",
    }
    assert {path.stem for path in (repository / copies.SHIPPED).glob("*.py")} == {
        "modeling_granulon",
        "processing_granulon",
        "a_granulon",
        "b_granulon",
        "c_granulon",
    }
    assert copies.differences(repository) == {}


@pytest.mark.parametrize("copy", ["processing/b_granulon.py", f"{copies.SHIPPED}/a_granulon.py"])
def test_a_copy_that_differs_is_found_and_made_again(repository, copy):
    copies.fix(repository)
    original = (repository / copy).read_bytes()
    (repository / copy).write_text("x = 2\n")
    assert set(copies.differences(repository)) == {repository / copy}
    assert copies.fix(repository) == [repository / copy]
    assert (repository / copy).read_bytes() == original
