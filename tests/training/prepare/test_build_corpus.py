"""The corpus is what its sources say, byte for byte, and a mistake in a source is named where it stands."""

import json
import random
import shutil
from pathlib import Path

import pytest

from granulon.training.prepare.build_corpus import OUTPUT, Filler, build, draw_question, main
from granulon.training.prepare.corpus_sources import CORPORA, LEVELS, Sources, Vocabulary, read_sources


VOCABULARY = Vocabulary(
    {"animal": ["ox", "wolf", "hen"], "wear": ["scissors", "glass"]},
    {("owner", "part"): [("dog", "ears"), ("cup", "rim")]},
    {"wolf": "wolves", "ox": "oxen"},
)


@pytest.fixture(scope="module")
def sources() -> Sources:
    return read_sources()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the sources, to change."""
    return Path(shutil.copytree(CORPORA / "sources", tmp_path / "sources"))


def test_the_corpus_of_the_repository_is_what_the_builder_builds(tmp_path: Path, capsys: pytest.CaptureFixture):
    file = tmp_path / "questions.jsonl"
    assert main(["--output", str(file)]) == 0
    assert file.read_bytes() == OUTPUT.read_bytes()
    assert "6000 questions, 518 families" in capsys.readouterr().out


def test_check_notices_another_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("granulon.training.prepare.build_corpus.QUESTIONS_PER_LEVEL", 20)
    file = tmp_path / "questions.jsonl"
    assert main(["--check", "--output", str(file)]) == 1 and not file.exists()
    main(["--output", str(file)])
    assert main(["--check", "--output", str(file)]) == 0
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["--check", "--output", str(file)]) == 1


@pytest.mark.parametrize(
    ("phrasing", "question"),
    [
        ("{animal:a}", {"an ox", "a wolf", "a hen"}),
        ("{animal:s}", {"oxen", "wolves", "hens"}),
        ("{wear:a} {wear:be}", {"scissors are", "a glass is"}),
        ("{part:do} the {owner}'s {part}", {"do the dog's ears", "does the cup's rim"}),
        ("{animal:s}4", {"oxen4", "wolves4", "hens4"}),
    ],
)
def test_slots_agree_with_their_words(phrasing: str, question: set[str]):
    drawn = {Filler(VOCABULARY, random.Random(seed)).vformat(phrasing, (), {}) for seed in range(40)}
    assert drawn == question


def test_a_numbered_slot_is_another_word():
    for seed in range(40):
        drawn = Filler(VOCABULARY, random.Random(seed)).vformat("{animal} {animal2} {animal}", (), {}).split()
        assert drawn[0] == drawn[2] != drawn[1]


def test_a_new_family_is_one_block_of_text(folder: Path, sources: Sources):
    with (folder / "fine.txt").open("a") as file:
        file.write("\nlamp_cord | part | 2 7 86 5\n    Is the {device}'s cord {wear}?\n    What colour is the cord?\n")
    with (folder / "words.txt").open("a") as file:
        file.write("\nwear\n    frayed, coiled,\n    new\n")
    changed = read_sources(folder)
    family = next(family for family in changed.families if family.name == "lamp_cord")
    assert (family.level, family.task, family.weights) == (2, "part", (0.02, 0.07, 0.86, 0.05))
    assert changed.vocabulary.slots["wear"] == ["frayed", "coiled", "new"]
    assert [draw_question(family, number, changed)[0].lower()[:7] for number in range(2)] == ["is the ", "what co"]
    assert len(changed.families) == len(sources.families) + 1


def test_no_question_of_the_heldout_file_is_built(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("granulon.training.prepare.build_corpus.QUESTIONS_PER_LEVEL", 5)
    nothing, own = tmp_path / "nothing.jsonl", tmp_path / "own.jsonl"
    nothing.write_text("")
    first = build(sources, nothing)[0]["question"]
    own.write_text(json.dumps({"question": first}) + "\n")
    assert first not in {record["question"] for record in build(sources, own)}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("fine.txt", "x | part | 2 7 86 5\n  A {gizmo}?", r"fine.txt, line \d+: .*`gizmo`, which words.txt"),
        ("fine.txt", "x | part | 2 7 86 5\n  Which? [gizmo]", r"asks for `gizmo`"),
        ("fine.txt", "x | part | 2 7 86 5\n  A {animal?", r"fine.txt, line \d+: 'A {animal\?': "),
        ("fine.txt", "x | part | 2 7 86 5", r"`x` has no phrasing"),
        ("fine.txt", "x | part | 86 7 2 5\n  A?", r"largest at fine"),
        ("fine.txt", "x | part | 2 7 86 6\n  A?", r"sum to 1"),
        ("fine.txt", "x | part\n  A?", r"expected `name \| task \| weights in per cent`"),
        ("fine.txt", "x | part | 2 7 86 5 | sea\n  A?", r"domain is `sea`, expected one of \['chart', "),
        ("fine.txt", "colour_thing | part | 2 7 86 5\n  A?", r"`colour_thing` is taken \(fine.txt, line \d+\)"),
        ("domains.txt", "x | vqa\n  huge How?", r"domains.txt, line \d+: 'huge How\?' begins with none of coarse, "),
        ("domains.txt", "x | vqa\n  coarse How?", r"`x/medium` has no phrasing"),
        ("words.txt", "x\n  a, {y}", r"`{y}` names no slot"),
        ("pairs.txt", "x + y + z\n  a: b", r"not one word for each of \['x', 'y', 'z'\]"),
        ("pairs.txt", "x + y\n  a", r"pairs.txt, line \d+: expected `word: other words`"),
        ("plurals.txt", "ox", r"plurals.txt, line \d+: expected `word: other words`"),
    ],
)
def test_a_mistake_is_named_where_it_stands(folder: Path, file: str, text: str, message: str):
    with (folder / file).open("a") as stream:
        stream.write(f"\n{text}\n")
    with pytest.raises(ValueError, match=message):
        read_sources(folder)


def test_an_indented_line_without_a_header(folder: Path):
    (folder / "coarse.txt").write_text("# a comment\n    What place is this?\n")
    with pytest.raises(ValueError, match="coarse.txt, line 2 is indented"):
        read_sources(folder)


def test_sources_that_are_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="come with the repository"):
        read_sources(tmp_path)


def test_every_level_has_families(sources: Sources):
    assert {family.level for family in sources.families} == set(range(len(LEVELS)))
