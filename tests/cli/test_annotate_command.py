"""`granulon annotate`: that nothing is asked without an endpoint."""

import sys
from pathlib import Path

import pytest

from granulon.cli import main


def test_without_an_endpoint_it_says_what_is_needed(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    (tmp_path / "questions.txt").write_text("What is it?")
    assert main(["annotate", str(tmp_path / "questions.txt"), str(tmp_path / "out.jsonl")]) == 2
    assert "there is no endpoint to ask" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_cache_that_is_not_used_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "questions.txt").write_text("What is it?")
    words = [str(tmp_path / "questions.txt"), str(tmp_path / "out.jsonl"), "--cache", str(tmp_path), "--no-cache"]
    assert main(["annotate", *words]) == 2
    assert "--cache does not apply with --no-cache" in capsys.readouterr().err


def test_without_openai_it_says_what_to_install(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    (tmp_path / "questions.txt").write_text("What is it?")
    words = [str(tmp_path / "questions.txt"), str(tmp_path / "out.jsonl"), "--base-url", "http://localhost/v1"]
    assert main(["annotate", *words]) == 1
    assert "this needs openai. Run `pip install 'granulon[chat]'`" in capsys.readouterr().err
