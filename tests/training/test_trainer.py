"""The trainer: loss terms, accumulation, labels, evaluation, and what bad input gets."""

import json
import math
import sys
from pathlib import Path
from subprocess import run

import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from safetensors.torch import load_file
from tiny import make_image
from training_tools import logged, make_rows, make_tame_granulon, make_trainer, parameters_of
from trl import SFTConfig, SFTTrainer

from granulon import GranulonSFTTrainer
from granulon.training.loss_terms import Term
from granulon.training.losses import count_images


TERMS = ("loss_task", "loss_pixel", "loss_semantic", "loss_controller")
WEIGHTS = (1.0, 0.1, 0.1, 1.0)


def test_importing_granulon_does_not_import_trl():
    code = "import granulon, sys; assert 'trl' not in sys.modules and 'peft' not in sys.modules"
    assert run([sys.executable, "-c", code]).returncode == 0


def test_terms_are_logged_and_add_up(tmp_path: Path):
    rows = make_rows()
    options = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    trainer = make_trainer(tmp_path, rows, trainer={"eval_dataset": rows.select(range(5))}, **options)
    trainer.train()
    first, *later = logged(trainer, "loss", *TERMS)
    assert math.isnan(first[2]) and math.isnan(first[3])  # no negatives yet
    assert first[0] == pytest.approx(first[1] + first[4], rel=1e-5)
    for total, *terms in later:
        assert total == pytest.approx(sum(w * t for w, t in zip(WEIGHTS, terms, strict=True) if t == t), rel=1e-5)
    for entry in trainer.state.log_history:
        if "loss" in entry:
            shares = [value for name, value in entry.items() if name.startswith("level/")]
            assert len(shares) == 4 and sum(shares) == pytest.approx(1)
    evaluated = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert all(f"eval_{name}" in evaluated for name in TERMS)
    assert sum(value for name, value in evaluated.items() if "_level/" in name) == pytest.approx(1)
    # one batch: the evaluation's total is the sum of its terms
    assert evaluated["eval_loss"] == pytest.approx(
        sum(w * evaluated[f"eval_{t}"] for w, t in zip(WEIGHTS, TERMS, strict=True)), rel=1e-4
    )


@pytest.mark.parametrize("contribution", ["contrastive", "literal"])
def test_accumulation_changes_nothing(tmp_path: Path, contribution: str):
    """8 x 1 and 1 x 8: the same terms, and after three steps the same parameters; labels and lengths are uneven."""
    runs = []
    for micro, steps in ((1, 8), (8, 1)):
        trainer = make_trainer(
            tmp_path,
            make_rows(24),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=steps,
            max_steps=3,
            contribution=contribution,
            contribution_queue_size=11,
            optim="sgd",
            learning_rate=0.05,
            max_grad_norm=0.0,
        )
        trainer.train()
        runs.append((logged(trainer, "loss", *TERMS), parameters_of(trainer), trainer.loss_terms.queue))
    (loss_a, parameters_a, queue_a), (loss_b, parameters_b, queue_b) = runs
    torch.testing.assert_close(torch.tensor(loss_a), torch.tensor(loss_b), rtol=1e-4, atol=1e-5, equal_nan=True)
    assert queue_a.keys.tolist() == queue_b.keys.tolist()
    for name, value in parameters_a.items():
        torch.testing.assert_close(value, parameters_b[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_the_head_scores_labels_only_and_the_step_is_that_of_all_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, activation_checkpointing: bool
):
    """Beside TRL's own loss, which scores every position on a CPU."""
    kernel, results = trl.trainer.utils._ChunkedLogProbFunction, []
    scored: list[int] = []
    apply = kernel.apply
    monkeypatch.setattr(kernel, "apply", lambda hidden, *args: scored.append(len(hidden)) or apply(hidden, *args))
    for is_stock in (False, True):
        scored.clear()
        trainer = make_trainer(
            tmp_path,
            contribution="none",
            activation_checkpointing=activation_checkpointing,
            controller_loss_weight=0.0,
        )
        inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        inputs = {name: value for name, value in inputs.items() if name not in ("granularity_labels", "row_ids")}
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        loss = (SFTTrainer if is_stock else GranulonSFTTrainer).compute_loss(trainer, trainer.model, dict(inputs))
        loss.backward()
        gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
        results.append((loss.detach(), gradients, scored[0]))
    (loss, gradients, num_scored), (expected_loss, expected, num_all) = results
    assert num_scored == int((inputs["labels"][:, 1:] != -100).sum()) < num_all
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()), msg=name)


def test_a_new_term_is_a_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The example of docs/training.md joins loss, logs and evaluation, whatever the micro-batches."""
    block = Path(__file__).parents[2].joinpath("docs", "training.md").read_text().partition("### Add a loss term")[2]
    names: dict = {}
    exec(block.split("```python\n")[1].split("```")[0], names)
    term = Term(
        "entropy",
        weight="semantic_loss_weight",  # a field that is there
        trains="granularity_controller",
        compute=names["entropy_term"],
        count=names["count_rows_with_images"],
    )
    monkeypatch.setattr("granulon.training.loss_terms.TERMS", (term,))
    runs = []
    for micro, steps in ((2, 2), (4, 1)):
        options = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": steps, "optim": "sgd"}
        rows = make_rows(with_labels=False)
        trainer = make_trainer(tmp_path, rows, **options, semantic_loss_weight=0.5, max_steps=2)
        trainer.train()
        runs.append(torch.tensor(logged(trainer, "loss", "loss_task", "loss_entropy")))
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-5)
    total, task, entropy = runs[0].T
    torch.testing.assert_close(total, task + 0.5 * entropy)
    assert bool((entropy > 0).all() and (entropy <= math.log(4)).all())
    assert trainer.evaluate(rows)["eval_loss_entropy"] > 0


def test_terms_are_means_over_images_not_micro_batches(tmp_path: Path):
    """A loop over the model's own output: every image counts once, empty slots not at all, equal questions not."""
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8, max_steps=2, learning_rate=0.0)
    trainer.train()
    model, queue = trainer.model, trainer.loss_terms.queue
    assert len(queue) == 16
    batch = next(iter(trainer.get_eval_dataloader(make_rows(8))))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        output = model.model(**inputs)
        pixel, semantic = [], []
        grid = model.config.grid_of(*inputs["pixel_values"].shape[-2:])
        assert count_images(model.config, inputs["input_ids"]).tolist() == [1] * 8
        for row in range(8):
            tokens, level = output.image_hidden_states[row], model.config.levels[output.granularity[row]]
            h = output.question_descriptor[row]
            others = [d for d in queue.descriptors if not torch.allclose(d, h, atol=1e-5)]
            assert len(others) == 14  # each question was met twice in two steps
            for name, part, values in (
                ("pixel", tokens[: math.prod(grid)], pixel),
                ("semantic", tokens[math.prod(grid) :][: level["tokens"]], semantic),
            ):
                p = model.model.contribution_heads[name](part[None], torch.stack([h, *others])).sigmoid()[0]
                values.append((-p[:, 0].log() - (1 - p[:, 1:]).log().mean(1)).mean().item())
    trainer.model.eval()
    metrics = trainer.evaluate(make_rows(8))
    assert metrics["eval_loss_pixel"] == pytest.approx(sum(pixel) / 8, rel=1e-4)
    assert metrics["eval_loss_semantic"] == pytest.approx(sum(semantic) / 8, rel=1e-4)


def test_checkpointed_activations_give_the_same_gradients(tmp_path: Path):
    found = []
    for is_on in (False, True):
        trainer = make_trainer(tmp_path, activation_checkpointing=is_on, max_steps=3, optim="sgd", learning_rate=0.02)
        trainer.train()
        found.append(parameters_of(trainer))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_mixed_precision_keeps_what_trains_in_full(tmp_path: Path):
    model, processor = make_tame_granulon()
    model.to(torch.bfloat16)
    trainer = GranulonSFTTrainer(
        model=model,
        args=make_trainer(tmp_path, bf16=True, max_steps=3, learning_rate=1e-4).args,
        train_dataset=make_rows(),
        processing_class=processor,
    )
    before = parameters_of(trainer)
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert value.dtype == (torch.float32 if value.requires_grad else before[name].dtype), name
    assert trainer.model.model.language_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    gate = "model.multi_modal_projector.linear_2.weight"  # steps of 1e-4 survive
    assert not torch.equal(parameters_of(trainer)[gate], before[gate])
    assert all(math.isfinite(value) for row in logged(trainer, "loss", "loss_task") for value in row)


@pytest.mark.parametrize("is_split", [True, False])
def test_labels_hold_the_answer_alone(tmp_path: Path, is_split: bool):
    trainer = make_trainer(tmp_path, make_rows(is_split=is_split))
    batch = next(iter(trainer.get_train_dataloader()))
    tokenizer = trainer.processing_class.tokenizer
    for labels in batch["labels"]:
        assert tokenizer.decode(labels[labels != -100]).strip().startswith("answer")
    assert not set(trainer.processing_class.image_token_ids) & set(batch["labels"].unique().tolist())
    assert batch["granularity_labels"].shape == (2, 4)
    trainer.train()


@pytest.mark.parametrize("is_split", [True, False])
def test_a_row_may_fix_its_level(tmp_path: Path, is_split: bool):
    rows = make_rows(4, is_split, granularity=["coarse", None, "finest", "coarse"])
    trainer = make_trainer(tmp_path, rows, per_device_train_batch_size=4, max_steps=1)
    batch = next(iter(trainer.get_eval_dataloader(rows)))
    assert batch["granularity"].tolist() == [0, -1, 3, 0]
    semantic = batch["input_ids"].eq(trainer.model.config.semantic_token_id).sum(1).tolist()
    levels = trainer.model.config.levels
    widest = trainer.model.config.max_semantic_tokens
    assert semantic == [levels[0]["tokens"], widest, levels[3]["tokens"], levels[0]["tokens"]]
    # the row trains as it would alone, whatever the padding
    batch.pop("row_ids"), batch.pop("granularity_labels")
    model = trainer.model.eval()
    output = model.model(**{name: value for name, value in batch.items() if name != "labels"})
    assert output.granularity.tolist()[0::2] == [0, 3]
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["level/coarse"] >= 0.5


def test_rows_without_an_image_and_with_two(tmp_path: Path):
    rows = []
    for index in range(6):
        images = [make_image(index), make_image(index + 9)][: index % 3]
        rows.append(
            {
                "prompt": [{"role": "user", "content": f"Question {index}?"}],
                "completion": [{"role": "assistant", "content": "yes"}],
                "images": images,
            }
        )
    rows = [rows[2], *rows[:2], *rows[3:]]  # the first row tells the type of `images`
    runs = []
    for micro, steps in ((1, 6), (6, 1)):
        trainer = make_trainer(
            tmp_path,
            Dataset.from_list(rows),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=steps,
            optim="sgd",
            max_steps=3,
        )
        trainer.train()
        runs.append(torch.tensor(logged(trainer, "loss", *TERMS[:3])))
    torch.testing.assert_close(*runs, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_streamed_rows_train(tmp_path: Path):
    rows = make_rows()
    stream = IterableDataset.from_generator(lambda: iter(rows))
    trainer = make_trainer(tmp_path, stream, max_steps=2)
    trainer.train()
    assert len(logged(trainer, "loss")) == 2


# ---------------------------------------------------------------------- bad input


def test_masked_labels_name_the_row(tmp_path: Path):
    trainer = make_trainer(tmp_path, max_length=110)  # cuts every answer, and no image
    with pytest.raises(ValueError, match=r"row 'row-\d+'.*all labels are masked.*max_length"):
        trainer.train()


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0.5, 0.5], "2 weights, expected one for each of the 4"), ([0.5, 0.5, 0.5, 0.5], "sum 2"), ([2, -1, 0, 0], "0")],
)
def test_wrong_weights_name_the_row(tmp_path: Path, labels: list, message: str):
    rows = make_rows(2, with_labels=False, granularity_labels=[labels, labels])
    with pytest.raises(ValueError, match=rf"row 'row-\d'.*{message}"):
        make_trainer(tmp_path, rows).train()


def test_data_that_cannot_train_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no `images`"):
        make_trainer(tmp_path, make_rows().remove_columns("images"))
    with pytest.raises(ValueError, match="expected `prompt` and `completion`"):
        make_trainer(tmp_path, Dataset.from_list([{"text": "a", "images": [make_image()]}]))
    with pytest.raises(ValueError, match="would train on"):
        make_trainer(tmp_path, completion_only_loss=False)
    with pytest.raises(ValueError, match="empty"):
        make_trainer(tmp_path, make_rows().select([]))
    model, processor = make_tame_granulon()
    processor.chat_template = processor.chat_template.replace("generation", "filter upper", 1).replace(
        "endgeneration", "endfilter"
    )
    args = make_trainer(tmp_path).args
    with pytest.raises(ValueError, match="does not mark what the assistant says"):
        GranulonSFTTrainer(model=model, args=args, train_dataset=make_rows(is_split=False), processing_class=processor)
    with pytest.raises(TypeError, match="GranulonProcessor"):
        GranulonSFTTrainer(model=model, args=args, train_dataset=make_rows(), processing_class=processor.tokenizer)
    with pytest.raises(TypeError, match="GranulonSFTConfig"):
        GranulonSFTTrainer(
            model=model,
            args=SFTConfig(str(tmp_path), use_cpu=True, bf16=False),
            train_dataset=make_rows(),
            processing_class=processor,
        )


@pytest.mark.parametrize(
    "options",
    [{"contribution": "both"}, {"pixel_loss_weight": -1.0}, {"contribution_queue_size": 0}, {"packing": True}],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict):
    with pytest.raises(ValueError, match=next(iter(options))):
        make_trainer(tmp_path, **options)


@pytest.mark.parametrize("culprit", ["parameter", "gradient"])
def test_nan_stops_with_the_batch_saved(tmp_path: Path, culprit: str):
    trainer = make_trainer(tmp_path, max_steps=3)
    weight = trainer.model.model.multi_modal_projector.linear_2.weight
    if culprit == "parameter":
        weight.data[0, 0] = math.nan
    else:
        weight.register_hook(lambda gradient: gradient * math.inf)
    before = parameters_of(trainer)
    with pytest.raises(ValueError, match=r"not finite at step 0.*nan_batch-0"):
        trainer.train()
    report = json.loads((tmp_path / "nan_batch-0" / "batch.json").read_text())
    assert all(name.startswith("row-") for name in report["row_ids"]) and "answer" in report["texts"][0]
    assert report["non_finite_parameters"] == (
        ["model.multi_modal_projector.linear_2.weight"] if culprit == "parameter" else []
    )
    tensors = load_file(tmp_path / "nan_batch-0" / "batch-0.safetensors")
    assert {"input_ids", "pixel_values", "labels", "attention_mask"} <= set(tensors)
    for name, value in parameters_of(trainer).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
