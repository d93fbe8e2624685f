"""Laws of re-binning and splitting, the errors of a broken corpus, and what the corpora in the repository promise."""

import json
import re
from pathlib import Path

import pytest

from granulon.training.granularity_corpus import (
    GranularityExample,
    class_histogram,
    load_corpus,
    preferred_level,
    rebin_weights,
    split_by_family,
    validate_weights,
)


CORPORA = Path(__file__).parents[2] / "training" / "corpora"
WEIGHTS = [[1.0], [0.25, 0.75], [0.5, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0, 0.0], [1 / 7] * 7]


def words_of(question: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", question.lower()))


@pytest.fixture(scope="module")
def train() -> list[GranularityExample]:
    return load_corpus(CORPORA / "questions_train.jsonl", num_steps=4)


@pytest.fixture(scope="module")
def heldout() -> list[GranularityExample]:
    return load_corpus(CORPORA / "questions_heldout.jsonl", num_steps=4)


# Re-binning


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("num_levels", [1, 2, 3, 4, 5, 8, 13])
def test_rebinning_agrees_with_counting_tiny_pieces(weights, num_levels):
    num_pieces = len(weights) * num_levels  # each piece lies in one step and in one level
    expected = [0.0] * num_levels
    for piece in range(num_pieces):
        expected[piece * num_levels // num_pieces] += weights[piece * len(weights) // num_pieces] / num_levels
    levels = rebin_weights(weights, num_levels)
    assert levels == pytest.approx(expected)
    assert sum(levels) == pytest.approx(sum(weights))
    assert min(levels) >= 0


@pytest.mark.parametrize("weights", WEIGHTS)
def test_rebinning_to_the_same_number_is_the_identity(weights):
    assert rebin_weights(weights, len(weights)) == weights


@pytest.mark.parametrize("weights", WEIGHTS)
def test_rebinning_commutes_with_reversing_the_scale(weights):
    assert rebin_weights(weights[::-1], 3) == pytest.approx(rebin_weights(weights, 3)[::-1])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_refining_and_coarsening_again_changes_nothing(weights):
    assert rebin_weights(rebin_weights(weights, 6 * len(weights)), len(weights)) == pytest.approx(weights)


def test_finer_mass_never_moves_to_a_coarser_level():
    means = [
        sum(level * weight for level, weight in enumerate(rebin_weights(one_hot, 3)))
        for one_hot in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1])
    ]
    assert means == sorted(means)


@pytest.mark.parametrize(("weights", "num_levels"), [([], 3), ([1.0], 0), ([1.0], -1)])
def test_rebinning_nothing_raises(weights, num_levels):
    with pytest.raises(ValueError, match="at least 1"):
        rebin_weights(weights, num_levels)


def test_ties_go_to_the_coarsest_level():
    assert preferred_level([0.1, 0.45, 0.45]) == 1


# Reading


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


GOOD = '{"question": "Is the door open?", "weights": [0.1, 0.2, 0.7]}'


def test_a_corpus_is_read_in_order_and_normalised(tmp_path):
    second = '{"question": "Wie spät ist es?\u2028", "weights": [0, 0, 0.9995], "family": "f", "split": "dev", "x": 1}'
    examples = load_corpus(write(tmp_path / "corpus.jsonl", "\ufeff" + GOOD, "", second))
    assert [example.question for example in examples] == ["Is the door open?", "Wie spät ist es?\u2028"]
    assert examples[1].weights == (0, 0, 1)
    assert (examples[1].family, examples[1].task, examples[1].split) == ("f", "", "dev")
    assert load_corpus(tmp_path / "corpus.jsonl", split="dev") == examples[1:]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Why?", "weights": [0.5, 0.5]}', r"holds 2 numbers, but 3 are expected"),
        ('{"question": "Why?", "weights": [0.5, -0.5, 1]}', r"`weights\[1\]` is -0.5"),
        ('{"question": "Why?", "weights": [NaN, 0, 1]}', r"`weights\[0\]` is nan"),
        ('{"question": "Why?", "weights": [Infinity, 0, 1]}', r"`weights\[0\]` is inf"),
        ('{"question": "Why?", "weights": [0.5, 0.3, 0.3]}', r"sum to 1.1, but must sum to 1 within 0.001"),
        ('{"question": "Why?", "weights": [80, 10, 10]}', r"sum to 100"),
        ('{"question": "Why?", "weights": [true, 0, 0]}', r"`weights\[0\]` must be a number, but got True"),
        ('{"question": "Why?", "weights": "fine"}', r"must be a list .* got 'fine'"),
        ('{"question": "Why?", "weights": []}', r"must be a list"),
        ('{"question": " ", "weights": [1, 0, 0]}', r"`question` must be a text that is not empty, but got ' '"),
        ('{"question": 7, "weights": [1, 0, 0]}', r"`question` must be a text"),
        ('{"weights": [1, 0, 0]}', r"`question` is missing. The keys are \['weights'\]"),
        ('{"question": "Why?", "weights": [1, 0, 0], "family": 3}', r"`family` must be a text, but got 3"),
        ('{"question": "Why?", "weights": [1, 0, 0]', r"not JSON .*Each line is one object such as"),
        ("[1, 2]", r"one JSON object, but got a list"),
    ],
)
def test_a_broken_line_is_named_and_explained(tmp_path, line, message):
    path = write(tmp_path / "corpus.jsonl", GOOD, GOOD, line, GOOD)
    with pytest.raises(ValueError, match=rf"corpus.jsonl, line 3: .*{message}"):
        load_corpus(path)


def test_the_caller_can_fix_the_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match="line 1: `weights` holds 3 numbers, but 4 are expected"):
        load_corpus(write(tmp_path / "corpus.jsonl", GOOD), num_steps=4)


def test_an_empty_corpus_or_split_raises(tmp_path):
    with pytest.raises(ValueError, match="holds no questions"):
        load_corpus(write(tmp_path / "empty.jsonl", "", " "))
    with pytest.raises(ValueError, match=r"no question with `split` 'test'. Its splits are \[''\]"):
        load_corpus(write(tmp_path / "corpus.jsonl", GOOD), split="test")
    (tmp_path / "latin.jsonl").write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(ValueError, match="line 2: this is not UTF-8"):
        load_corpus(tmp_path / "latin.jsonl")


def test_weights_within_the_tolerance_are_normalised():
    assert sum(validate_weights([0.3334, 0.3333, 0.3336])) == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="sum to 1.002"):
        validate_weights([0.502, 0.5])


# Splitting


def test_no_family_is_on_both_sides_and_nothing_is_lost(train):
    first, second = split_by_family(train, dev_share=0.2, seed=3)
    assert sorted(first + second, key=repr) == sorted(train, key=repr)
    assert not {e.family.split("/")[0] for e in first} & {e.family.split("/")[0] for e in second}
    share = [count / 1500 for count in class_histogram(second)]
    assert all(0.1 < value < 0.3 for value in share), share


def test_the_split_depends_on_the_seed_alone(train):
    assert split_by_family(train, seed=1) == split_by_family(train, seed=1)
    assert split_by_family(train, seed=1) != split_by_family(train, seed=2)
    by_family = {e.family: e for e in split_by_family(train[::-1], seed=1)[1]}
    assert by_family.keys() == {e.family for e in split_by_family(train, seed=1)[1]}


def test_the_whole_range_of_shares(train):
    assert split_by_family(train, dev_share=0) == (train, [])
    assert split_by_family(train, dev_share=1) == ([], train)
    with pytest.raises(ValueError, match="`dev_share` is 1.5"):
        split_by_family(train, dev_share=1.5)


def test_questions_without_family_are_split_one_by_one():
    examples = [GranularityExample(f"question {i}", (1.0, 0.0)) for i in range(10)]
    first, second = split_by_family(examples, dev_share=0.3)
    assert (len(first), len(second)) == (7, 3)


def test_the_histogram_counts_each_question_once(train):
    for num_levels in (None, 1, 2, 3, 4, 6):
        counts = class_histogram(train, num_levels)
        assert len(counts) == (num_levels or 4)
        assert sum(counts) == len(train)
    assert class_histogram([], 3) == [0, 0, 0]


# The corpora in the repository


def test_the_training_corpus_is_large_balanced_and_diverse(train):
    assert len(train) >= 2400
    assert len({example.family for example in train}) >= 150
    counts = class_histogram(train)
    assert max(counts) <= 1.2 * min(counts), counts
    normalised = [" ".join(re.findall(r"[^\W_]+", example.question.lower())) for example in train]
    assert len(set(normalised)) == len(train)


def test_train_and_dev_share_no_family(train):
    families = {split: {e.family.split("/")[0] for e in train if e.split == split} for split in ("train", "dev")}
    assert families["train"] and families["dev"]
    assert not families["train"] & families["dev"]
    assert {example.split for example in train} == {"train", "dev"}


@pytest.mark.parametrize("opening", ["what", "how", "is", "describe", "which"])
def test_an_opening_word_does_not_give_the_level_away(train, opening):
    of_opening = [example for example in train if example.question.lower().split()[0] == opening]
    counts = class_histogram(of_opening)
    assert min(counts) > 0 and max(counts) < 0.7 * sum(counts), counts


def test_the_heldout_questions_are_balanced_and_written_by_hand(heldout):
    assert min(class_histogram(heldout)) >= 60
    assert {example.family for example in heldout} == {"handwritten"}


def test_no_heldout_question_resembles_a_training_question(train, heldout):
    training = [(words_of(example.question), example.question) for example in train]
    for example in heldout:
        own = words_of(example.question)
        for other, question in training:
            if len(own & other) > 0.8 * len(own | other):
                pytest.fail(f"{example.question!r} is nearly {question!r}")


def test_every_line_has_the_documented_keys():
    for path in sorted(CORPORA.glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            assert set(json.loads(line)) == {"question", "weights", "family", "task", "split"}
