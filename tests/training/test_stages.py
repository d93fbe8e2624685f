"""Stages: exactly the intended parameters move."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from training_tools import make_rows, make_tame_granulon, make_trainer, parameters_of

from granulon.training.adapters import lora_config
from granulon.training.stages import COMPONENTS, STAGES, set_stage


def component(name: str) -> str:
    """The component a parameter belongs to; a tied head is listed with the language model."""
    parts = name.split(".")
    return next(part for part in parts if part in COMPONENTS)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "lora"])
def test_exactly_the_stage_moves(tmp_path: Path, stage: str):
    rows = make_rows(with_labels=stage != "projector")
    # every level is chosen some time; the first step has no negatives, the second has
    trainer = make_trainer(tmp_path, rows, stage=stage, per_device_train_batch_size=8, max_steps=3)
    before = parameters_of(trainer)
    trainer.train()
    moved = {name for name, value in parameters_of(trainer).items() if not torch.equal(value, before[name])}
    meant = {name for name in before if component(name) in STAGES[stage]}
    # nothing reads these: a class token's mask, the hidden state behind the encoder's last norm
    unread = {name for name in meant - moved if name.endswith("mask_token")}
    assert moved == meant - unread
    assert moved


def test_lora_moves_adapters_and_connector(tmp_path: Path):
    trainer = make_trainer(tmp_path, stage="lora", per_device_train_batch_size=8, max_steps=3)
    before = parameters_of(trainer)
    trainer.train()
    moved = {name for name, value in parameters_of(trainer).items() if not torch.equal(value, before[name])}
    meant = {name for name in before if "lora_" in name or ".modules_to_save." in name}
    assert moved == meant
    assert {component(name) for name in moved} == {*STAGES["connector"], "language_model"}
    assert not any(".layers.0." in name for name in moved)


def test_lora_without_the_connector_leaves_the_connector(tmp_path: Path):
    adapters = lora_config(train_connector=False)
    trainer = make_trainer(tmp_path, stage="lora", trainer={"peft_config": adapters})
    before = parameters_of(trainer)
    trainer.train()
    moved = {name for name, value in parameters_of(trainer).items() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name for name in moved)


def test_unused_contribution_heads_are_frozen(tmp_path: Path):
    trainer = make_trainer(tmp_path, contribution="none")
    assert not any(p.requires_grad for p in trainer.model.model.contribution_heads.parameters())
    trainer = make_trainer(tmp_path, pixel_loss_weight=0.0)
    heads = trainer.model.model.contribution_heads
    assert not any(p.requires_grad for p in heads["pixel"].parameters())
    assert all(p.requires_grad for p in heads["semantic"].parameters())


def test_counts_are_exact_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, _ = make_tame_granulon()
    counts = set_stage(model, "connector")
    parameters = list(model.parameters())
    assert sum(count.trainable for count in counts.values()) == sum(p.numel() for p in parameters if p.requires_grad)
    assert sum(count.frozen for count in counts.values()) == sum(p.numel() for p in parameters if not p.requires_grad)
    assert counts["language_model"].trainable == 0 and counts["lm_head"] == (0, 0)  # tied: counted once
    make_trainer(tmp_path)
    table = capsys.readouterr().err
    assert f"{counts['multi_modal_projector'].trainable:,}" in table and "vision_tower" in table


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        ({"stage": "lora-plus"}, {}, "expected one of"),
        ({"stage": "full"}, {"peft_config": LoraConfig(target_modules=["q_proj"])}, "stage='lora'"),
        ({"stage": "connector"}, {"peft_config": LoraConfig(target_modules=["q_proj"])}, "stage='lora'"),
        ({"stage": "projector"}, {}, "freezes the controller"),
        ({"module_learning_rates": {"vision_tower": 1e-5}}, {}, "freezes"),
        ({"module_learning_rates": {"eyes": 1e-5}}, {}, "expected one of"),
    ],
)
def test_contradictions_raise(tmp_path: Path, options: dict, trainer: dict, message: str):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, trainer=trainer, **options)


def test_a_component_may_have_its_own_learning_rate(tmp_path: Path):
    trainer = make_trainer(tmp_path, module_learning_rates={"granularity_controller": 1e-3}, learning_rate=1e-2)
    optimizer = trainer.create_optimizer()
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    trained = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert len(rate) == len(trained)
    for name, parameter in trained:
        assert rate[id(parameter)] == (1e-3 if ".granularity_controller." in name else 1e-2), name
