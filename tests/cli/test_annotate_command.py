"""`granulon annotate`: that nothing is asked without an endpoint."""

from pathlib import Path

import pytest

from granulon.cli import main


def test_without_an_endpoint_it_says_what_is_needed(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    (tmp_path / "questions.txt").write_text("What is it?")
    assert main(["annotate", str(tmp_path / "questions.txt"), str(tmp_path / "out.jsonl")]) == 2
    assert "there is no endpoint to ask" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
