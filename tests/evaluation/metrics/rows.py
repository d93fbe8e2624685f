"""Two rows that each metric takes."""

from typing import Any


TWO: dict[str, dict[str, list[Any]]] = {
    "acc_iou": {"predictions": ["[0, 0, 2, 2]", "nowhere"], "references": [[0, 0, 2, 2], [0, 0, 1, 1]]},
    "anls": {"predictions": ["42", "Main Street"], "references": [["42"], ["Main St", "Main Street 1"]]},
    "aokvqa_direct": {
        "predictions": ["ski", "cat"],
        "references": [["ski"] * 10, ["dog"] * 10],
        "difficult": [False, False],
    },
    "bertscore": {"predictions": ["a red bus", "two cats"], "references": ["the red bus", ["a dog", "two cats"]]},
    "bleu": {"predictions": ["a red bus stops here", "two cats"], "references": ["a red bus stops", ["cats", "cat"]]},
    "cider": {"predictions": ["a red bus", "two cats"], "references": ["the red bus", ["a dog", "two black cats"]]},
    "mmvp": {"predictions": ["(a)", "(a)"], "references": [0, 1], "pairs": [7, 7]},
    "multiple_choice": {
        "predictions": ["A", "(a)"],
        "references": [0, 1],
        "choices": [["red", "blue"], ["1", "2", "3"]],
    },
    "pope": {"predictions": ["Yes, it is.", "No"], "references": ["yes", "yes"]},
    "relaxed_accuracy": {"predictions": ["104", "blue"], "references": ["100", "red"]},
    "rouge_l": {"predictions": ["a red bus", "two cats"], "references": ["the red bus", ["a dog", "two cats"]]},
    "token_recall": {"predictions": ["a red bus", "two cats"], "references": ["the red bus", "two cats"]},
    "vqa_accuracy": {"predictions": ["ski", "cat"], "references": [["ski"] * 10, ["cat"] * 2 + ["dog"] * 8]},
}
