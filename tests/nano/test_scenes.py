"""Scenes: exact answers, splits that share nothing, pictures that follow from split, index and seed alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pretrain_encoder import ALL_COLOURS, CLASSES, UNKNOWN, scene_targets
from scenes import ask_packing

from granulon.evaluation import scenes


COUNT = 150


def test_the_taxonomy_is_what_the_card_says():
    assert len(scenes.TAXONOMY) == 8 and {len(nouns) for nouns in scenes.TAXONOMY.values()} == {6}
    codes = [code for noun in scenes.NOUNS for part in (False, True) for code in scenes.pictograms_of(noun, part)]
    assert len(codes) == len(set(codes))  # no pictogram serves two nouns, or both parts
    assert all(scenes.pictograms_of(noun, False) for noun in scenes.NOUNS)
    for code in codes:
        assert np.asarray(scenes.load_pictogram(code).getchannel("A")).max() == 255


def test_a_scene_follows_from_split_index_and_seed():
    first, second = scenes.make_scene("train", 7), scenes.make_scene("train", 7)
    assert first == second and scenes.paint(first)[0].tobytes() == scenes.paint(second)[0].tobytes()
    assert scenes.scene_questions("train", 7) == scenes.scene_questions("train", 7)
    assert scenes.make_scene("train", 7, seed=1) != first and scenes.make_scene("train", 8) != first


def test_training_shows_neither_the_pairs_nor_the_pictograms_of_the_other_splits():
    heldout = {code for noun in scenes.NOUNS for code in scenes.pictograms_of(noun, True)}
    for index in range(COUNT):
        for crowded in (False, True):
            for thing in scenes.make_scene("train", index, is_crowded=crowded).things:
                assert not scenes.is_heldout_pair(thing.noun, thing.colour) and thing.code not in heldout
        for thing in scenes.make_scene("compositions", index).things:
            assert scenes.is_heldout_pair(thing.noun, thing.colour) and thing.code not in heldout
        for thing in scenes.make_scene("pictograms", index).things:
            assert not scenes.is_heldout_pair(thing.noun, thing.colour) and thing.code in heldout
    pairs = [scenes.is_heldout_pair(noun, colour) for noun in scenes.NOUNS for colour in scenes.COLOURS]
    assert sum(pairs) == len(pairs) // 8


def test_boxes_lie_in_the_picture_and_apart():
    for index in range(COUNT):
        things = scenes.make_scene("train", index).things
        taken = np.zeros((scenes.SIZE, scenes.SIZE), dtype=int)
        for thing in things:
            left, top, right, bottom = thing.box
            assert min(thing.box) >= 0 and max(thing.box) <= scenes.SIZE
            taken[top:bottom, left:right] += 1
        assert taken.max() == 1


def expected_answer(scene: scenes.Scene, row: dict[str, str]) -> str:
    """The answer, derived a second time from the words of the question and the things of the scene."""
    words = row["question"].rstrip("?.").split()
    nouns = [thing.noun for thing in scene.things]
    by_noun = {thing.noun: thing for thing in scene.things}
    asked = [word for word in words if word in scenes.NOUNS]
    time = "night" if scene.is_night else "day"

    def yes(truth: bool) -> str:
        return "yes" if truth else "no"

    match row["kind"]:
        case "place":
            return scene.place
        case "time":
            return yes(words[-1] == time) if words[0] == "is" and "or" not in words else time
        case "kind":
            return scene.kind
        case "description":
            return f"{'mixed things' if scene.kind == 'mixed' else scene.kind}, {scene.place}, {time}"
        case "presence":
            return yes(asked[0] in nouns)
        case "count all":
            return scenes.COUNT_WORDS[len(nouns)]
        case "count noun":
            singular = {scenes.plural(noun): noun for noun in scenes.NOUNS}
            return scenes.COUNT_WORDS[nouns.count(next(singular[word] for word in words if word in singular))]
        case "identity":
            axis = 0 if {"left", "right"} & set(words) else 1
            best = max if {"right", "bottom"} & set(words) else min
            return best(scene.things, key=lambda thing: thing.centre[axis]).noun
        case "relation":
            (x, y), (other_x, other_y) = by_noun[asked[0]].centre, by_noun[asked[-1]].centre
            return yes(
                {"left": x < other_x, "right": x > other_x, "above": y < other_y, "below": y > other_y}[words[3]]
            )
        case "colour":
            return by_noun[asked[0]].colour
        case "colour check":
            return yes(by_noun[asked[0]].colour == words[-1])
        case "size":
            return "large" if by_noun[asked[0]].is_large else "small"
        case "upside down":
            return yes(by_noun[asked[0]].is_upside_down)
    raise AssertionError(row["kind"])


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_every_answer_is_true(split: str):
    kinds = set()
    for index in range(COUNT):
        scene = scenes.make_scene(split, index)
        rows = scenes.scene_questions(split, index)
        assert [row["granularity"] for row in rows].count("coarse") == 2
        assert len({row["question"] for row in rows}) == len(rows)
        for row in rows:
            kinds.add(row["kind"])
            assert row["answer"] == expected_answer(scene, row), row
    assert len(kinds) == 13


def test_answers_by_yes_and_no_are_balanced():
    answers = [row["answer"] for index in range(400) for row in scenes.scene_questions("train", index, 3)]
    share = answers.count("yes") / (answers.count("yes") + answers.count("no"))
    assert 0.4 < share < 0.6


def test_dense_targets_name_the_thing_that_covers_a_patch_most():
    for index in range(20):
        scene = scenes.make_scene("train", index, is_crowded=index % 2 == 1)
        _, coverage = scenes.paint(scene)
        targets = scene_targets(scene, coverage)
        for patch in range(64):
            covers = coverage.reshape(len(scene.things), -1)[:, patch]
            if covers.max() < 0.08:
                assert targets["class"][patch] == targets["colour"][patch] == 0
                assert targets["large"][patch] == UNKNOWN
            else:
                thing = scene.things[int(covers.argmax())]
                assert CLASSES[int(targets["class"][patch])] == thing.noun
                assert ALL_COLOURS[int(targets["colour"][patch])] == thing.colour
                assert targets["large"][patch] == thing.is_large
        assert 1 <= targets["is_middle"].sum() <= len(scene.things)


def test_packing_depends_on_place_and_time_alone():
    answers = {}
    for index in range(COUNT):
        scene = scenes.make_scene("train", index)
        (row,) = ask_packing(scene)
        assert answers.setdefault((scene.place, scene.is_night), row["answer"]) == row["answer"]
        assert row["answer"].endswith("torch") == scene.is_night
    assert len(set(answers.values())) == len(answers) == 16


def test_the_script_writes_what_llava_readers_read(tmp_path: Path):
    script = Path(__file__).parents[2] / "examples" / "nano" / "scenes.py"
    subprocess.run([sys.executable, script, "--output", tmp_path, "--count", "3"], check=True, capture_output=True)
    rows = json.loads((tmp_path / "chat.json").read_text())
    assert {row["image"] for row in rows} == {"train-0.png", "train-1.png", "train-2.png"}
    for row in rows:
        assert Image.open(tmp_path / "images" / row["image"]).size == (scenes.SIZE, scenes.SIZE)
        assert row["conversations"][0]["value"].startswith("<image>\n") and row["conversations"][1]["from"] == "gpt"
        assert sum(row["granularity_labels"]) == pytest.approx(1)
