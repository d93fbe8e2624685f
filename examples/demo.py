"""
Granulon's main job, starting from the trained nano model that lies in `examples/nano/granulon-nano`:

    python examples/demo.py                    about four minutes on two CPU cores
    python examples/demo.py --short            a minute less: fewer held-out questions

1. The pipeline loads the model and answers questions about held-out pictures at each granularity; the level is the
controller's choice, and the clusters that became semantic tokens are drawn. 2. The model is evaluated on held-out
data, beside a baseline that sees only the question. 3. A LoRA adapter is trained for 150 steps on a task that the
model has not seen (what to pack for the place shown), saved, loaded again, and evaluated beside the model that it
started from.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch


HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "nano"))  # the nano model's scenes and evaluation are scripts beside this one

from measure import measure_all  # noqa: E402
from scenes import ask_packing  # noqa: E402

from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline, set_seed  # noqa: E402
from transformers.utils import logging  # noqa: E402

from granulon.chats import chat_inputs, question_chat  # noqa: E402
from granulon.evaluation.answers import answer_questions  # noqa: E402
from granulon.evaluation.intervals import bootstrap_interval  # noqa: E402
from granulon.evaluation.scenes import GRANULARITIES, TEST_START, make_scene, paint, scene_questions  # noqa: E402
from granulon.training.recipes import load_recipe, run_recipe  # noqa: E402


STEPS = 150  # of fine-tuning; a number, not a time, so that the gain shows on slow machines, too
EXAMPLES = (TEST_START + 26, TEST_START + 21)  # scenes whose things are all of different nouns


def ask_examples(model: str, output: Path) -> None:
    """Two questions of each granularity about held-out scenes, through the pipeline; one picture of the clusters."""
    pipe = pipeline("image-text-to-text", model=model)
    names = pipe.model.config.level_names
    for granularity in GRANULARITIES:
        for index in EXAMPLES:
            row = next(r for r in scene_questions("compositions", index) if r["granularity"] == granularity)
            image = paint(make_scene("compositions", index))[0]
            answer = pipe(
                question_chat(row["question"], image), return_full_text=False, generate_kwargs={"do_sample": False}
            )[0]["generated_text"]
            inputs = chat_inputs(pipe.processor, row["question"], image)
            level = names[int(pipe.model.get_granularity(inputs["input_ids"], inputs["attention_mask"]).argmax())]
            print(f"   {row['question']:40s} {answer.strip():28s} looked: {level:8s} (truth: {row['answer']})")
    scene, question = make_scene("compositions", EXAMPLES[0]), scene_questions("compositions", EXAMPLES[0])[-1]
    output.mkdir(parents=True, exist_ok=True)
    paint(scene)[0].save(output / "scene.png")
    granulon = [sys.executable, "-m", "granulon", "ask", output / "scene.png", question["question"], "--model", model]
    subprocess.run([*granulon, "--save-figure", output / "look.png"], check=True, stdout=subprocess.DEVNULL)


def answers_of(model_directory: str | Path, rows: list[dict], name: str) -> list[str]:
    model = AutoModelForImageTextToText.from_pretrained(model_directory, dtype=torch.float32)
    return answer_questions(model, AutoProcessor.from_pretrained(model_directory), rows, name=name)[0]


def packing_rows(count: int) -> list[dict]:
    rows = []
    for index in range(TEST_START + 10_000, TEST_START + 10_000 + count):
        scene = make_scene("compositions", index)
        rows += [{**row, "image": paint(scene)[0], "group": index} for row in ask_packing(scene)]
    return rows


def fine_tune(model_directory: str, output: Path, steps: int, seed: int) -> None:
    """`granulon train nano-lora` on a folder of images with a chat.json, as a user would do it."""
    data = output / "packing"
    script = [sys.executable, HERE / "nano" / "scenes.py", "--output", data, "--task", "packing", "--count", "1000"]
    subprocess.run([*script, "--start", "60000000"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    heldout = packing_rows(150)
    before = answers_of(model_directory, heldout, "before")
    settings = {"max_steps": steps, "logging_steps": 25, "save_strategy": '"no"', "dataloader_pin_memory": "false"}
    adapter = run_recipe(
        load_recipe(
            "nano-lora",
            [f"model={model_directory}", f"data={data}", f"output={output / 'lora'}", f"seed={seed}"]
            + [f"training.{name}={value}" for name, value in settings.items()],
        )
    )
    after = answers_of(adapter, heldout, "after")
    groups = [row["group"] for row in heldout]
    hits = [
        [float(said == row["answer"]) for said, row in zip(answers, heldout, strict=True)]
        for answers in (before, after)
    ]
    gains = [new - old for old, new in zip(*hits, strict=True)]
    print(f"\n   {len(heldout)} held-out questions of the new task, such as: {heldout[0]['question']}")
    print(f"   before  {bootstrap_interval(hits[0], groups)} %   (the model answers: {before[0]!r})")
    print(f"   after   {bootstrap_interval(hits[1], groups)} %   (the model answers: {after[0]!r})")
    print(f"   gain    {bootstrap_interval(gains, groups):+}   adapter: {adapter}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=str(HERE / "nano" / "granulon-nano"), help="directory (default: the nano model)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of fine-tuning (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="evaluate on fewer questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    set_seed(arguments.seed)
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    print("1. Questions at each granularity; the controller reads the question and chooses the level")
    ask_examples(arguments.model, arguments.output)
    print(f"   picture of the clusters: {arguments.output / 'look.png'}")
    print("\n2. Held-out data: accuracy in percent, with 95 % intervals resampled by picture")
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(arguments.model)
    num_scenes, num_easy = (40, 300) if arguments.short else (200, 2000)
    measure_all(model, processor, num_scenes, num_easy)
    print(f"\n3. LoRA on a task that the model has not seen, {arguments.steps} steps")
    fine_tune(arguments.model, arguments.output, arguments.steps, arguments.seed)


if __name__ == "__main__":
    main()
