"""
Evaluate a Granulon on easy-vqa's official test split, beside two baselines that never see an image.

    python examples/evaluate_easy_vqa.py --model runs/demo/model
"""

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import easy_vqa
import torch
from tqdm.auto import tqdm

from transformers import pipeline
from transformers.utils import logging

import granulon  # noqa: F401  registers the Auto classes
from granulon.evaluation.intervals import bootstrap_interval


KINDS = {"yes": "yes / no", "no": "yes / no", "circle": "shape", "rectangle": "shape", "triangle": "shape"}


def read_split(split: str) -> list[dict]:
    """The questions of easy-vqa's "train" or "test" split: `question`, `answer` and the `image` path of each."""
    questions, answers, image_ids = getattr(easy_vqa, f"get_{split}_questions")()
    paths = getattr(easy_vqa, f"get_{split}_image_paths")()
    return [
        {"question": question, "answer": answer, "image": paths[image_id]}
        for question, answer, image_id in zip(questions, answers, image_ids, strict=True)
    ]


def as_chat(row: dict) -> list[dict]:
    content = [{"type": "image", "path": row["image"]}, {"type": "text", "text": row["question"]}]
    return [{"role": "user", "content": content}]


def answer_all(model, processor, rows: list[dict], batch_size: int) -> tuple[list[str], list[int]]:
    """Greedy answers to all questions, and the level chosen for each."""
    answers: list[str] = []
    levels: list[int] = []
    for start in tqdm(range(0, len(rows), batch_size), desc="test split"):
        inputs = processor.apply_chat_template(
            [as_chat(row) for row in rows[start : start + batch_size]],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        ).to(model.device)
        levels += model.get_granularity(inputs["input_ids"], inputs["attention_mask"]).argmax(-1).tolist()
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return answers, levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory or Hub id")
    parser.add_argument("--limit", type=int, help="only the first so many questions")
    parser.add_argument("--batch-size", type=int, default=100)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    pipe = pipeline("image-text-to-text", model=arguments.model)
    train, test = read_split("train"), read_split("test")[: arguments.limit]
    for row in {row["answer"]: row for row in test[:40]}.values():
        answer = pipe(as_chat(row), return_full_text=False, max_new_tokens=4)[0]["generated_text"].strip()
        print(f"   {Path(row['image']).name:>8s}  {row['question']:45s} {answer:10s} (truth: {row['answer']})")

    answers, levels = answer_all(pipe.model, pipe.processor, test, arguments.batch_size)
    names = pipe.model.config.level_names
    print(
        "levels chosen: " + ", ".join(f"{names[level]} {count:,}" for level, count in sorted(Counter(levels).items()))
    )

    majority = Counter(row["answer"] for row in train).most_common(1)[0][0]
    per_question: dict[str, Counter] = defaultdict(Counter)
    for row in train:
        per_question[row["question"]][row["answer"]] += 1
    question_only = {question: counts.most_common(1)[0][0] for question, counts in per_question.items()}
    correct = {
        "Granulon": [answer == row["answer"] for answer, row in zip(answers, test, strict=True)],
        "question only": [question_only.get(row["question"], majority) == row["answer"] for row in test],
        "majority answer": [majority == row["answer"] for row in test],
    }
    kinds = [KINDS.get(row["answer"], "colour") for row in test]
    print("\nAccuracy in percent on the official test split, with 95 % intervals (bootstrap over images)\n")
    print(f"{'':10s}{'questions':>10s}" + "".join(f"{name:>22s}" for name in [*correct, "gain over question"]))
    for kind in ("overall", "yes / no", "shape", "colour"):
        places = [place for place, found in enumerate(kinds) if kind in ("overall", found)]
        if not places:
            continue
        images = [test[place]["image"] for place in places]
        cells = [bootstrap_interval([float(scores[place]) for place in places], images) for scores in correct.values()]
        gains = [float(correct["Granulon"][place]) - float(correct["question only"][place]) for place in places]
        cells_text = "".join(f"{cell!s:>22s}" for cell in map("{}".format, cells))
        print(f"{kind:10s}{len(places):10,d}{cells_text}{f'{bootstrap_interval(gains, images):+}':>22s}")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
