"""A run over benchmarks: resumed without a question asked twice, refused where a folder is of something else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import replicas
import tiny
import torch

from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from granulon.evaluation import benchmarks
from granulon.evaluation.report import as_markdown
from granulon.evaluation.runner import evaluate
from granulon.evaluation.subjects import Subject, fingerprint
from granulon.modeling_granulon.slots_granulon import slot_counts


NANO = Path(__file__).parents[2] / "examples" / "nano" / "granulon-nano"


class Watched(Subject):
    """Remembers what it is asked, and stops when it has been asked for so many batches."""

    stop_after: int | None = None

    def answer(self, prompts, images, *options):
        self.batches = getattr(self, "batches", 0)
        if self.batches == self.stop_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.asked = [*getattr(self, "asked", []), *prompts]
        return super().answer(prompts, images, *options)


@pytest.fixture(scope="module")
def granulon():
    return tiny.make_granulon(dtype="float32")


@pytest.fixture
def subject(granulon) -> Watched:
    return Watched(*granulon, "tiny", "r1")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[benchmarks.Questions]:
    root = tmp_path_factory.mktemp("data")
    sources = {name: str(replicas.write(name, root / name)) for name in ("pope", "mmvp")}
    return [benchmarks.load(name, 6, source=source) for name, source in sources.items()]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]


def test_every_answer_is_a_line_that_says_how_it_came_about(subject, drawn, tmp_path: Path):
    summary = evaluate(subject, drawn, tmp_path, batch_size=4)
    written = lines(tmp_path)
    assert [line["prompt"] for line in written] == subject.asked == [i.prompt for q in drawn for i in q.items]
    first = written[0] | {"prediction": ...}
    levels, grid = subject.model.config.levels, subject.model.config.grid_of(tiny.SIZE, tiny.SIZE)
    index = subject.level_names.index(first["level"])
    assert first == {
        "benchmark": "pope",
        "granularity": "auto",
        "id": drawn[0].items[0].id,
        "prompt": drawn[0].items[0].prompt,
        "reference": drawn[0].items[0].reference,
        "prediction": ...,
        "level": subject.level_names[index],
        "visual_tokens": sum(slot_counts(levels, grid)[index]),
        "model": "tiny",
        "revision": "r1",
        "dtype": "float32",
        "seed": 0,
    }
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert (tmp_path / "report.md").read_text() == as_markdown(summary)


@pytest.mark.parametrize("num_batches", [0, 1, 3])
def test_a_run_that_was_stopped_goes_on_and_asks_nothing_twice(granulon, subject, drawn, tmp_path, num_batches: int):
    whole = evaluate(subject, drawn, tmp_path / "whole", batch_size=4)
    first, second = (Watched(*granulon, "tiny", "r1") for _ in range(2))
    first.stop_after = num_batches
    with pytest.raises(KeyboardInterrupt):
        evaluate(first, drawn, tmp_path / "parts", batch_size=4)
    assert evaluate(second, drawn, tmp_path / "parts", batch_size=4) == whole
    assert sorted(getattr(first, "asked", []) + second.asked) == sorted(subject.asked)
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    third = Watched(*granulon, "tiny", "r1")
    assert evaluate(third, drawn, tmp_path / "parts") == whole and not hasattr(third, "asked")


def test_a_line_that_a_crash_cut_is_asked_again(granulon, subject, drawn, tmp_path: Path):
    whole = evaluate(subject, drawn, tmp_path)
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = Watched(*granulon, "tiny", "r1")
    assert evaluate(again, drawn, tmp_path) == whole
    assert again.asked == [drawn[1].items[-1].prompt]


def test_a_larger_limit_asks_only_what_is_new_and_a_smaller_one_counts_only_its_own(granulon, tmp_path: Path):
    few, many = (benchmarks.load("easy-vqa", limit) for limit in (3, 8))
    evaluate(Watched(*granulon, "tiny", "r1"), [few], tmp_path)
    subject = Watched(*granulon, "tiny", "r1")
    assert evaluate(subject, [many], tmp_path)["results"][0]["questions"] == 8
    assert subject.asked == [item.prompt for item in many.items[3:]]
    assert evaluate(subject, [few], tmp_path)["results"][0]["questions"] == 3 and len(lines(tmp_path)) == 8


def test_all_levels_in_turn(subject, drawn, tmp_path: Path):
    summary = evaluate(subject, drawn[:1], tmp_path, granularity="all")
    names = list(subject.level_names)
    assert [one["granularity"] for one in summary["results"]] == ["auto", *names]
    for one in summary["results"][1:]:
        assert one["levels"] == {name: 6 * (name == one["granularity"]) for name in names}
    tokens = [one["visual_tokens"] for one in summary["results"][1:]]
    assert tokens == sorted(set(tokens))
    assert evaluate(subject, drawn[:1], tmp_path, granularity=1)["results"] == [summary["results"][2]]


def test_scores_are_the_metrics_beside_the_baselines(drawn, tmp_path: Path, granulon):
    class Parrot(Subject):
        """Says yes or (b), so that what it should score is known."""

        def answer(self, prompts, images, *options):
            answers = super().answer(prompts, images, *options)
            said = ["B" if "A." in prompt else "Yes" for prompt in prompts]
            return [answer._replace(text=text) for answer, text in zip(answers, said, strict=True)]

    pope, mmvp = evaluate(Parrot(*granulon, "parrot", ""), drawn, tmp_path)["results"]
    share = sum(item.reference == "yes" for item in drawn[0].items) / 6
    assert pope["scores"]["accuracy"] == pope["score"][0] == share and pope["scores"]["yes_ratio"] == 1
    assert pope["baseline"] == {"name": "always yes", "score": pope["score"], "gain": [0, 0, 0]}
    assert mmvp["scores"] == {"pair_accuracy": 0, "accuracy": 0.5, "unread": 0}
    assert sum(cut["questions"] for cut in pope["cuts"].values()) == 6
    report = (tmp_path / "report.md").read_text()
    assert "| pope | auto | 6 of 12 | accuracy of pope |" in report and "pair_accuracy 0.0, accuracy 50.0" in report


# ---------------------------------------------------------------------- other models


def test_a_llava_is_measured_likewise(tmp_path: Path):
    """Its tokenizer has no padding of its own, and the questions are of unequal length."""
    tokenizer = tiny.make_tokenizer("llama")
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    vision, text = tiny.make_vision("clip").config, tiny.make_text("llama").config
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=64,
    )
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} A:"
    )
    size = {"height": tiny.SIZE, "width": tiny.SIZE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size),
        tokenizer,
        patch_size=tiny.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    subject = Subject(model, processor, "llava")
    questions = benchmarks.load("easy-vqa", 6)
    assert len({len(item.prompt) for item in questions.items}) > 1
    (result,) = evaluate(subject, [questions], tmp_path, batch_size=4)["results"]
    assert result["visual_tokens"] == (tiny.SIZE // tiny.PATCH) ** 2
    assert {line["level"] for line in lines(tmp_path)} == {None}
    alone = [subject.answer([item.prompt], [questions.image(item)])[0].text for item in questions.items]
    assert alone == [line["prediction"] for line in lines(tmp_path)]
    assert subject.granularities("all") == ["auto"]
    with pytest.raises(ValueError, match="llava is no Granulon and has no levels"):
        subject.granularities("fine")


def test_a_model_that_takes_no_images():
    with pytest.raises(ValueError, match="which takes no images"):
        Subject(tiny.make_text(), tiny.make_tokenizer(), "text")


def test_a_fingerprint_follows_the_weights_and_not_the_card(tmp_path: Path):
    for name in ("model.safetensors", "config.json", "README.md", "granulon_training.json"):
        (tmp_path / name).write_text("{}")
    before = fingerprint(tmp_path)
    for name in ("README.md", "granulon_training.json"):
        (tmp_path / name).write_text("other")
        assert fingerprint(tmp_path) == before
    (tmp_path / "model.safetensors").write_text("other")
    assert fingerprint(tmp_path) != before


# ---------------------------------------------------------------------- folders that are of something else


@pytest.fixture
def finished(granulon, drawn, tmp_path: Path) -> Path:
    evaluate(Subject(*granulon, "tiny", "r1"), drawn[:1], tmp_path / "out")
    return tmp_path / "out"


def test_a_folder_of_another_model_or_seed(granulon, drawn, finished: Path):
    before = (finished / "predictions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="line 1: an answer of tiny with the revision r1, but .*revision r2"):
        evaluate(Subject(*granulon, "tiny", "r2"), drawn, finished)
    with pytest.raises(ValueError, match="the seed 0, but .* the seed 1"):
        evaluate(Subject(*granulon, "tiny", "r1"), [benchmarks.load("easy-vqa", 2, seed=1)], finished)
    assert (finished / "predictions.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text + text.splitlines()[2] + "\n", "lines 3 and 7 both answer question .* Delete one"),
        (lambda text: "{]\n" + text, "line 1: this is not JSON"),
        (lambda text: text + "[]\n", "line 7 is no prediction: it is no JSON object"),
        (lambda text: text + '{"id": 3}\n', "line 7 is no prediction: it has no benchmark"),
        (lambda text: text.replace("Is there", "Was there"), "was 'Was there .* and is now 'Is there .* data changed"),
    ],
)
def test_predictions_that_were_tampered_with(granulon, drawn, finished: Path, spoil, said: str):
    path = finished / "predictions.jsonl"
    path.write_text(spoil(path.read_text("utf-8")), "utf-8")
    with pytest.raises(ValueError, match=said):
        evaluate(Subject(*granulon, "tiny", "r1"), drawn, finished)


def test_two_runs_do_not_write_to_one_folder(granulon, drawn, finished: Path):
    code = (
        "import sys; from granulon.training.run_lock import RunLock\n"
        "with RunLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, finished], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is the output of a run that is still going"):
            evaluate(Subject(*granulon, "tiny", "r1"), drawn, finished)
        other.stdin.close()


def test_a_folder_that_holds_something_else(subject, drawn, tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something, but no predictions.jsonl"):
        evaluate(subject, drawn, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        evaluate(subject, drawn, tmp_path / "thesis.tex")


@pytest.mark.slow
def test_killed_and_resumed_it_equals_a_run_in_one_piece(tmp_path: Path):
    command = [sys.executable, "-m", "granulon", "evaluate", str(NANO), "--benchmarks", "easy-vqa,scenes"]
    command += ["--limit", "100", "--batch-size", "8", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(tmp_path / "parts")], stdout=subprocess.DEVNULL)
    predictions = tmp_path / "parts" / "predictions.jsonl"
    while not (predictions.exists() and predictions.read_bytes().count(b"\n") > 40):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(lines(tmp_path / "parts")) < 200
    subprocess.run([*command, str(tmp_path / "parts")], check=True, capture_output=True)
    for name in ("predictions.jsonl", "summary.json", "report.md"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
