"""Ranking feedback: the loss worked by hand, scores against a slow loop, and a model for which levels truly matter."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from transformers import AutoModelForImageTextToText

from granulon.cli import main
from granulon.training.controller.feedback import (
    LevelScores,
    evaluate_choices,
    fit_ranking,
    learn_from_feedback,
    ranking_loss,
    score_levels,
)


LEVELS = [
    {"name": "far", "pool": 2, "clusters": 4, "tokens": 3, "pixel_pool": 4},
    {"name": "near", "pool": 1, "clusters": 6, "tokens": 6, "pixel_pool": 2},
]
TOKENS = [4 + 3, 16 + 6]


def make_row(question: str, answer: str, seed: int = 0) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": answer}]}],
        "images": [tiny.make_image(seed)],
    }


def make_model() -> tuple[Any, Any]:
    """A Granulon whose visual tokens are one vector at `far` and another at `near`, whatever the image."""
    model, processor = tiny.make_granulon(levels=LEVELS)
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.zero_()
        projector.linear_1.bias.fill_(1.0)
        projector.gate.copy_(torch.eye(2, projector.gate.shape[1]))
        torch.nn.init.normal_(projector.linear_2.weight, std=1.0)
    return model, processor


@pytest.fixture(scope="module")
def task() -> tuple[Any, Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """A model, and rows to train and to evaluate on: `a` questions are best answered at `far`, `z` ones at `near`."""
    model, processor = make_model()
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    scores = score_levels(model, processor, [make_row("aaaa?", letter) for letter in letters], batch_size=26)
    gain = scores.losses[:, 1] - scores.losses[:, 0]
    answers = {"a": letters[int(gain.argmax())], "z": letters[int(gain.argmin())]}

    def rows(offset: int, number: int) -> list[dict[str, Any]]:
        kinds = ["az"[place % 2] for place in range(number)]
        questions = [f"{kind * 4} {chr(98 + (place + offset) % 20)}{kind * 3}?" for place, kind in enumerate(kinds)]
        return [make_row(q, answers[kind]) for q, kind in zip(questions, kinds, strict=True)]

    return model, processor, rows(0, 24), rows(5, 12)


# ---------------------------------------------------------------------- the loss


def test_the_loss_worked_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.2]])
    costs = torch.tensor([[2.0, 1.0, 1.5]])  # ascending: levels 1, 2, 0
    best = -math.log(0.3)
    neighbours = (0 + (math.log(0.5) - math.log(0.2) + 0.1 * 1 * 0.5)) / 2  # log .2 - log .3 + .05 is below 0
    ends = math.log(0.5) - math.log(0.3) + 0.1 * 2 * 1.0
    assert ranking_loss(probabilities.log(), costs).item() == pytest.approx(0.1 * best + neighbours + ends, abs=1e-6)


def test_the_gradient_worked_by_hand():
    scores = torch.tensor([[0.5, 0.3, 0.2]]).log().requires_grad_()
    ranking_loss(scores, torch.tensor([[2.0, 1.0, 1.5]])).backward()
    # level 0 is too high in two pairs, level 1 too low in one and the best, level 2 too low in one
    torch.testing.assert_close(scores.grad, torch.tensor([[0.5 + 1.0, -1.0 - 0.1, -0.5]]))


def test_a_ranking_with_its_margins_costs_nothing():
    costs = torch.tensor([[0.2, 0.4, 1.0], [3.0, 2.0, 1.0]])
    assert ranking_loss(-10 * costs, costs, best_weight=0.0).item() == 0
    assert ranking_loss(10 * costs, costs, best_weight=0.0).item() > 1


# ---------------------------------------------------------------------- scores


def test_scores_are_those_of_a_slow_loop():
    model, processor = tiny.make_granulon(levels=LEVELS)
    rows = [make_row("What is it?", "a cat", 1), make_row("Where?", "there, on the left", 2), make_row("Who?", "x", 3)]
    model.train()
    scores = score_levels(model, processor, rows, batch_size=2)
    assert model.training, "the mode is restored"
    model.eval()
    assert scores.tokens.tolist() == [TOKENS] * 3
    for number, row in enumerate(rows):
        for level in range(2):
            chat = [row["prompt"][0], row["completion"][0]]
            chat[0] = {**chat[0], "content": [{"type": "image", "image": row["images"][0]}, chat[0]["content"][1]]}
            whole, prompt = (
                processor.apply_chat_template(
                    part,
                    tokenize=True,
                    return_dict=True,
                    return_tensors="pt",
                    add_generation_prompt=len(part) == 1,
                    processor_kwargs={"granularity": level},
                )
                for part in (chat, chat[:1])
            )
            with torch.no_grad():
                logits = model(**whole).logits[0]
            start = prompt["input_ids"].shape[1]
            answer = whole["input_ids"][0, start:]
            # the answer ends with its end token; the line break that the template writes after it is not scored
            answer = answer[: answer.tolist().index(processor.tokenizer.eos_token_id) + 1]
            expected = torch.nn.functional.cross_entropy(logits[start - 1 : start - 1 + len(answer)], answer)
            torch.testing.assert_close(scores.losses[number, level], expected, atol=1e-4, rtol=1e-4)


def test_a_cost_per_token_prefers_the_cheaper_level():
    scores = LevelScores(torch.zeros(2, 4), torch.tensor([[1.0, 0.99], [1.0, 0.5]]), torch.tensor([TOKENS] * 2))
    assert scores.costs().argmin(1).tolist() == [1, 1]
    assert scores.costs(0.01).argmin(1).tolist() == [0, 1], "a gain of 0.01 is not worth 15 tokens, one of 0.5 is"


# ---------------------------------------------------------------------- learning


def test_the_controller_learns_which_level_answers_best(task):
    model, processor, train, evaluation = task
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "controller" not in name}
    report = learn_from_feedback(model, processor, train, evaluation, dev_share=0.25, steps=100, num_evaluations=4)
    after, policies = report["after"], report["after"]["policies"]
    assert after["oracle_histogram"] == [6, 6], "the task is what it was made to be"
    assert after["agreement"][0] == 1 and after["regret"][0] == 0 and after["histogram"] == [6, 6]
    assert policies["controller"] == policies["oracle"]
    for name in ("far", "near"):
        assert policies["controller"]["loss"] < policies[f"always {name}"]["loss"]
    assert after["best_fixed_regret"] > 0.01
    assert policies["controller"]["visual_tokens"] == sum(TOKENS) / 2
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())
    assert all(parameter.requires_grad for parameter in model.model.granularity_controller.parameters())


def test_an_expensive_token_sends_all_to_the_coarsest(task):
    model, processor, train, _ = task
    scores = score_levels(model, processor, train)
    log = fit_ranking(model.model.granularity_controller, scores, scores, cost_per_token=10.0, steps=60)
    assert log[-1]["dev_agreement"] == 1
    assert scores.costs(10.0).argmin(1).eq(0).all()


def test_choices_of_a_case_worked_by_hand():
    scores = LevelScores(torch.zeros(2, 4), torch.tensor([[1.0, 3.0], [4.0, 2.0]]), torch.tensor([[10, 20], [10, 20]]))
    report = evaluate_choices(scores, torch.tensor([[0.9, 0.1], [0.8, 0.2]]), ["far", "near"])
    losses = {name: policy["loss"] for name, policy in report["policies"].items()}
    assert losses == {"controller": 2.5, "oracle": 1.5, "always far": 2.5, "always near": 2.5, "random": 2.5}
    assert report["policies"]["oracle"]["visual_tokens"] == 15
    assert report["regret"][0] == 1 and report["best_fixed_regret"] == 1 and report["agreement"][0] == 0.5
    assert report["histogram"] == [2, 0] and report["oracle_histogram"] == [1, 1]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "`rows` is empty"),
        ([{**make_row("a?", "b"), "images": []}], {}, "Row 0 has no `images`"),
        ([{"messages": []}], {}, "Row 0 has no `prompt`, `completion`, `images`"),
        ([make_row("a?", "b")] * 3, {}, "has 3 rows"),
        ([make_row("a?", "b")] * 3, {"dev_share": 1.0}, "`dev_share` is 1.0"),
        ([make_row("a?", "b")] * 12, {"cost_per_token": -1.0}, "`cost_per_token` is -1.0"),
    ],
)
def test_rows_and_options_that_cannot_work(rows: list, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        learn_from_feedback(*make_model(), rows, **options)


def test_the_command_learns_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture):
    model, processor = make_model()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "data" / "images").mkdir(parents=True)
    tiny.make_image(1).save(tmp_path / "data" / "images" / "one.png")
    chats = [
        {
            "id": str(number),
            "image": "one.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is {number}?"},
                {"from": "gpt", "value": f"It is {number}."},
            ],
        }
        for number in range(12)
    ]
    (tmp_path / "data" / "chat.json").write_text(json.dumps(chats))
    options = ["--feedback", str(tmp_path / "data"), "--steps", "20", "--cost-per-token", "0.001"]
    where = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "new")]
    assert main(["train-controller", *where, *options]) == 0
    printed = capsys.readouterr().out
    assert "before: loss" in printed and "after: loss" in printed and "visual tokens; far" in printed
    report = json.loads((tmp_path / "new" / "feedback.json").read_text())
    assert report["settings"]["cost_per_token"] == 0.001 and report["data"]["num_rows"] == 12
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "new").state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, again[name])}
    assert moved and all("granularity_controller" in name for name in moved)
