"""Granulon under the libraries that people train it with: stock TRL and PEFT."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import make_granulon, make_image
from trl import SFTConfig, SFTTrainer


QUESTIONS = ["What colour is it?", "How many dogs are there?", "Is it a cat?", "Read the sign."]


def make_rows(is_split: bool) -> Dataset:
    rows: list[dict[str, Any]] = []
    for seed, question in enumerate(QUESTIONS):
        asked, said = {"role": "user", "content": question}, {"role": "assistant", "content": f"answer {seed}"}
        turns = {"prompt": [asked], "completion": [said]} if is_split else {"messages": [asked, said]}
        rows.append({**turns, "images": [make_image(seed)]})
    return Dataset.from_list(rows)


@pytest.mark.parametrize("is_split", [True, False])
def test_the_stock_trainer_trains_on_answers_alone(tmp_path: Path, is_split: bool):
    model, processor = make_granulon()
    model.model.vision_tower.requires_grad_(False)
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-2,
        max_length=None,
        assistant_only_loss=not is_split,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=make_rows(is_split), processing_class=processor)
    batch = next(iter(trainer.get_train_dataloader()))
    learnt = [row[row != -100] for row in batch["labels"]]
    for row in learnt:
        assert processor.tokenizer.decode(row).strip().startswith("answer") and row.numel() < 14
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    for child in ("multi_modal_projector", "token_aggregator", "granularity_controller", "language_model"):
        assert any(f".{child}." in name for name in moved), child
    assert not any(".vision_tower." in name for name in moved)


def test_an_adapter_round_trips_and_merges(tmp_path: Path):
    model, processor = make_granulon()
    inputs = processor(images=make_image(), text=f"{processor.image_token}Hello", granularity=1, return_tensors="pt")
    before = model(**inputs).logits
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=r".*language_model\.layers\.(?!0\.)\d+\.(self_attn|mlp)\.\w+_proj",
        modules_to_save=["multi_modal_projector", "granularity_controller", "token_aggregator"],
    )
    adapted = get_peft_model(model, lora)
    assert not any("layers.0." in name for name, p in adapted.named_parameters() if p.requires_grad)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1) if "lora_" in name else parameter.data.mul_(1.1)
    expected = adapted(**inputs).logits
    assert not torch.allclose(expected, before)
    adapted.save_pretrained(tmp_path)

    fresh, _ = make_granulon()
    loaded = PeftModel.from_pretrained(fresh, tmp_path).eval()
    torch.testing.assert_close(loaded(**inputs).logits, expected, rtol=0, atol=0)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(merged.generate(**inputs, **options), adapted.generate(**inputs, **options))
