"""`granulon merge`: what it says of an adapter's directory that it cannot read."""

import json
from pathlib import Path

import pytest

from granulon.cli import main


@pytest.mark.parametrize("content", [{"peft_type": None}, {"peft_type": "x"}, {}, [1, 2]])
def test_an_adapter_of_another_shape_is_no_fault_of_the_program(tmp_path: Path, capsys, content: object):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    assert main(["merge", str(adapter), "--out", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("granulon merge: ") and str(adapter) in said
    assert not (tmp_path / "new").exists()


def test_what_is_no_adapter_is_told_before_anything_is_read(composed: Path, tmp_path: Path, capsys):
    assert main(["merge", str(composed / "model"), "--out", str(tmp_path / "new")]) == 2
    assert "holds no adapter_config.json" in capsys.readouterr().err
