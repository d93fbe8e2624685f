"""Scenes: exact answers, splits that share nothing, pictures that follow from split, index and seed alone."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scenes
from pretrain_encoder import ALL_COLOURS, CLASSES, UNKNOWN, scene_targets
from PIL import Image


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
    assert sum(pairs) == len(pairs) // 4


def test_boxes_lie_in_the_picture_and_apart():
    for index in range(COUNT):
        things = scenes.make_scene("train", index).things
        taken = np.zeros((scenes.SIZE, scenes.SIZE), dtype=int)
        for thing in things:
            left, top, right, bottom = thing.box
            assert min(thing.box) >= 0 and max(thing.box) <= scenes.SIZE
            taken[top:bottom, left:right] += 1
        assert taken.max() == 1


@pytest.mark.parametrize("split", scenes.SPLITS)
def test_every_answer_is_true(split: str):
    """Answers are derived a second time, from the words of the question and the things of the scene."""
    singular = {scenes.plural(noun): noun for noun in scenes.NOUNS}
    kinds = set()
    for index in range(COUNT):
        scene = scenes.make_scene(split, index)
        nouns = [thing.noun for thing in scene.things]
        by_noun = {thing.noun: thing for thing in scene.things}
        rows = scenes.scene_questions(split, index)
        assert [row["granularity"] for row in rows].count("coarse") == 2
        assert len({row["question"] for row in rows}) == len(rows)
        for row in rows:
            kinds.add(row["kind"])
            words = row["question"].rstrip("?.").replace("sea animals", "").split()
            asked = [word for word in words if word in nouns or word in scenes.NOUNS]
            expected = {
                "place": lambda: scene.place,
                "time": lambda: (
                    ("yes" if ("night" in words) == scene.is_night else "no")
                    if words[0] == "is" and "or" not in words
                    else ("night" if scene.is_night else "day")
                ),
                "kind": lambda: scene.kind,
                "description": lambda: (
                    f"{'mixed things' if scene.kind == 'mixed' else scene.kind}, {scene.place}, "
                    f"{'night' if scene.is_night else 'day'}"
                ),
                "presence": lambda: "yes" if asked[0] in nouns else "no",
                "count all": lambda: scenes.COUNT_WORDS[len(nouns)],
                "count noun": lambda: scenes.COUNT_WORDS[
                    nouns.count(next(singular[word] for word in words if word in singular))
                ],
                "relation": lambda: (
                    "yes"
                    if {
                        "left": by_noun[asked[0]].centre[0] < by_noun[asked[-1]].centre[0],
                        "right": by_noun[asked[0]].centre[0] > by_noun[asked[-1]].centre[0],
                        "above": by_noun[asked[0]].centre[1] < by_noun[asked[-1]].centre[1],
                        "below": by_noun[asked[0]].centre[1] > by_noun[asked[-1]].centre[1],
                    }[words[3]]
                    else "no"
                ),
                "colour": lambda: by_noun[asked[0]].colour,
                "colour check": lambda: "yes" if by_noun[asked[0]].colour == words[-1] else "no",
                "size": lambda: "large" if by_noun[asked[0]].is_large else "small",
                "upside down": lambda: "yes" if by_noun[asked[0]].is_upside_down else "no",
            }
            if row["kind"] == "identity":
                axis = 0 if {"left", "right"} & set(words) else 1
                best = max if {"right", "bottom"} & set(words) else min
                assert row["answer"] == best(scene.things, key=lambda thing, axis=axis: thing.centre[axis]).noun
            else:
                assert row["answer"] == expected[row["kind"]](), row
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


def test_where_asks_only_where_the_answer_is_clear():
    rows = [(i, row) for i in range(COUNT) for row in scenes.ask_where(scenes.make_scene("train", i), random.Random(i))]
    assert len({row["answer"] for _, row in rows}) == 4
    for index, row in rows:
        things = {thing.noun: thing for thing in scenes.make_scene("train", index).things}
        x, y = things[row["question"].split()[-1].rstrip("?")].centre
        assert row["answer"] == f"{'upper' if y < 64 else 'lower'} {'left' if x < 64 else 'right'}"


def test_the_script_writes_what_llava_readers_read(tmp_path: Path):
    script = Path(scenes.__file__)
    subprocess.run([sys.executable, script, "--output", tmp_path, "--count", "3"], check=True, capture_output=True)
    rows = json.loads((tmp_path / "chat.json").read_text())
    assert {row["image"] for row in rows} == {"train-0.png", "train-1.png", "train-2.png"}
    for row in rows:
        assert Image.open(tmp_path / "images" / row["image"]).size == (scenes.SIZE, scenes.SIZE)
        assert row["conversations"][0]["value"].startswith("<image>\n") and row["conversations"][1]["from"] == "gpt"
        assert sum(row["granularity_labels"]) == pytest.approx(1)
