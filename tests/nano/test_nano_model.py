"""The nano model that the repository ships: an ordinary Hub directory that does what its card says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from measure import easy_vqa_rows, scene_rows

from transformers import AutoModelForImageTextToText, AutoProcessor

from granulon.evaluation.answers import answer_questions, as_table
from granulon.evaluation.scenes import TEST_START, make_scene, paint


DIRECTORY = Path(__file__).parents[2] / "examples" / "nano" / "granulon-nano"


@pytest.fixture(scope="module")
def nano():
    model = AutoModelForImageTextToText.from_pretrained(DIRECTORY, dtype=torch.float32)
    return model, AutoProcessor.from_pretrained(DIRECTORY)


def test_it_is_a_small_and_complete_hub_directory():
    files = [path for path in DIRECTORY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    names = {path.name for path in files}
    assert {"model.safetensors", "config.json", "modeling_granulon.py", "processing_granulon.py", "README.md"} <= names
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in files)
    card = ModelCard.load(DIRECTORY / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-text-to-text"
    assert "OpenMoji" in card.text and "CC BY-SA 4.0" in card.text
    log = json.loads((DIRECTORY / "granulon_training.json").read_text())
    assert log["stage"] == "connector" and log["log_history"] and log["seed"] == 0


def test_its_card_shows_what_its_log_has_measured():
    results = json.loads((DIRECTORY / "training_logs" / "results.json").read_text())
    card = (DIRECTORY / "README.md").read_text()
    assert results and all(as_table(summary) in card for summary in results.values())


def test_it_has_at_most_ten_million_parameters(nano):
    assert sum(parameter.numel() for parameter in nano[0].parameters()) < 10e6


@pytest.mark.parametrize(
    ("split", "at_least"), [("compositions", 0.8), ("pictograms", 0.6)]
)  # thirty scenes: well below what the card reports of five hundred
def test_it_answers_questions_about_scenes_that_it_has_not_seen(nano, split: str, at_least: float):
    rows = scene_rows(split, 30)
    answers, levels = answer_questions(*nano, rows)
    assert sum(answer == row["answer"] for answer, row in zip(answers, rows, strict=True)) / len(rows) >= at_least
    names = nano[0].config.level_names
    as_asked = [names[level] == row["granularity"] for level, row in zip(levels, rows, strict=True)]
    assert sum(as_asked) / len(as_asked) >= 0.95


def test_it_answers_easy_vqa(nano):
    rows = easy_vqa_rows(200)
    answers, _ = answer_questions(*nano, rows)
    assert sum(answer == row["answer"] for answer, row in zip(answers, rows, strict=True)) / len(rows) >= 0.9


def test_it_looks_at_the_image(nano):
    """The same question about two scenes, by day and by night, gets two answers."""
    indices = [
        next(i for i in range(TEST_START, TEST_START + 50) if make_scene("train", i).is_night == night)
        for night in (False, True)
    ]
    images = [paint(make_scene("train", index))[0] for index in indices]
    answers, levels = answer_questions(*nano, [{"image": i, "question": "Is it day or night?"} for i in images])
    assert answers == ["day", "night"] and levels == [0, 0]


def test_a_coarse_look_costs_fewer_tokens(nano):
    model, _ = nano
    slots = model.model.count_slots(torch.arange(3), model.config.grid_size).sum(1).tolist()
    assert slots[0] * 2 < slots[1] < slots[2]


def test_it_answers_in_an_interpreter_that_cannot_see_the_project(tmp_path: Path):
    paint(make_scene("train", TEST_START))[0].save(tmp_path / "scene.png")
    script = f"""
import torch
from transformers import pipeline
pipe = pipeline("image-text-to-text", model={str(DIRECTORY)!r}, trust_remote_code=True)
assert "granulon.modeling_granulon" not in __import__("sys").modules
content = [{{"type": "image", "path": "scene.png"}}, {{"type": "text", "text": "how many things are there?"}}]
print(pipe([{{"role": "user", "content": content}}], return_full_text=False, max_new_tokens=4)[0]["generated_text"])
"""
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() in ("one", "two", "three", "four")
