"""Answers: asked for in any batches alike, and counted by the question's level and kind beside the question alone."""

import pytest
import tiny

from granulon.evaluation.answers import answer_questions, as_table, question_only, summarise


NAMES = ("coarse", "fine")


def row(question: str, answer: str, granularity: str = "coarse", kind: str = "yes / no", group: int = 0) -> dict:
    return {"question": question, "answer": answer, "granularity": granularity, "kind": kind, "group": group}


def test_the_commonest_answer_of_training_to_the_question_else_to_its_kind():
    training = [row("is it red?", "no"), row("is it red?", "no"), row("is it red?", "yes")]
    training += [row("is it big?", "yes")] * 4 + [row("which?", "dog", kind="noun")]
    asked = [row("is it red?", "yes"), row("is it new?", "no"), row("what?", "cat", kind="noun")]
    assert question_only(asked, training) == ["no", "yes", "dog"]
    assert question_only([row("is it red?", "yes", kind="other")], [row("which?", "dog", kind="")]) == ["dog"]


def test_rows_are_counted_by_level_and_kind():
    rows = [row("a", "yes", group=0), row("b", "no", group=1), row("c", "red", "fine", "colour", group=2)]
    summary = summarise(rows, ["yes", "yes", "red"], [0, 1, 1], ["yes", "no", "blue"], NAMES)
    assert list(summary) == ["all", "coarse", "fine", "kind: colour", "kind: yes / no"]
    assert [summary[cut]["questions"] for cut in summary] == [3, 2, 1, 1, 2]
    assert summary["coarse"]["accuracy"][0] == 0.5 and summary["coarse"]["question_only"][0] == 1
    assert summary["coarse"]["gain"][0] == -0.5 and summary["fine"]["gain"] == [1, 1, 1]
    assert summary["all"]["levels"] == {"coarse": 1, "fine": 2}
    assert summary["all"]["level_as_asked"] == pytest.approx(2 / 3)
    table = as_table(summary)
    assert "| fine | 1 | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] | +100.0 [+100.0, +100.0] | fine 1 |" in table


def test_another_number_of_answers_is_refused():
    with pytest.raises(ValueError):
        summarise([row("a", "yes")], ["yes", "no"], [0, 0], ["yes", "no"], NAMES)


def test_answers_do_not_depend_on_the_batch(tmp_path):
    model, processor = tiny.make_granulon(dtype="float32")
    images = [tiny.make_image(seed) for seed in range(3)]
    images[0].save(tmp_path / "0.png")
    rows = [{"image": image, "question": f"what is number {n}?"} for n, image in enumerate(images)]
    rows[0]["image"] = str(tmp_path / "0.png")
    answers, levels = answer_questions(model, processor, rows, batch_size=2)
    assert (answers, levels) == answer_questions(model, processor, rows, batch_size=1)
    assert answer_questions(model, processor, rows, granularity="fine")[1] == [2, 2, 2]
