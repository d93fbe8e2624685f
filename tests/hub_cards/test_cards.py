"""Model cards: valid metadata, nothing private, and what the checkpoint says of itself."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from transformers import CLIPVisionConfig, LlamaConfig

from granulon import GranulonConfig
from granulon.cli import main
from granulon.hub_cards import licences_of_parts, plan_push, render_card
from granulon.hub_cards.cards import read_results, result_entries
from granulon.hub_cards.checkpoint import read_checkpoint
from granulon.hub_cards.foreign import read_metadata
from granulon.modeling_granulon.encoders_granulon import ENCODERS, Licence


def test_the_metadata_reads_back_and_names_the_parts(tmp_path: Path):
    bases = ["facebook/dinov3-vits16-pretrain-lvd1689m", "Qwen/Qwen2.5-0.5B-Instruct"]
    render_card(GranulonConfig(), base_models=bases).save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "transformers" and data.pipeline_tag == "image-text-to-text"
    assert data.base_model == bases and data.base_model_relation == "finetune"
    assert data.license == "other" and data.license_name == "dinov3-license"


def test_local_paths_stay_private(tmp_path: Path):
    (tmp_path / "vision").mkdir()
    text = str(render_card(GranulonConfig(), base_models=[str(tmp_path / "vision"), "./text", "C:\\text"]))
    assert str(tmp_path) not in text and "base_model" not in text


def test_levels_results_and_licences_follow_the_checkpoint():
    config = GranulonConfig(vision_config=CLIPVisionConfig(), text_config=LlamaConfig())
    untrained, trained = str(render_card(config)), str(render_card(config, results="| easy-vqa | 96.4 |"))
    for level in config.levels:
        assert f"| {level['name']} | {level['pool']} | {level['clusters']} | {level['tokens']} |" in untrained
    assert "train this model before" in untrained and "train this model before" not in trained
    assert "| easy-vqa | 96.4 |" in trained
    assert "dinov3-license" not in untrained and "Built with Llama" in untrained


HOSTILE = (
    "x\n---\nlicense: mit\n```\n<script>alert(1)</script> | `rm` {{ 7 * 7 }} {% raw %}\u2028# Title\r\n[a](http://b)"
)


def test_hostile_text_stays_text(tmp_path: Path):
    level = {"name": HOSTILE, "pool": 1, "clusters": 4, "tokens": 3}
    run = {
        "stage": HOSTILE,
        "seed": HOSTILE,
        "recipe": {"model": HOSTILE, "training": {"learning_rate": HOSTILE}},
        "data": [{"name": HOSTILE, "num_rows": 3, "fingerprint": HOSTILE, "dataset_id": HOSTILE}, "not a dict"],
        "results": {HOSTILE: {"accuracy": 0.5, HOSTILE: 0.25, "dataset_id": HOSTILE, "nan": float("nan")}},
        "log_history": [{"loss": 1.0, f"level/{HOSTILE}": 0.5}, None],
        "versions": {HOSTILE: HOSTILE},
        "language": "en",
    }
    card = render_card(GranulonConfig(levels=[level]), title=HOSTILE, repo_id=HOSTILE, base_models=[HOSTILE], run=run)
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    clean = render_card(
        GranulonConfig(levels=[{**level, "name": "a"}]), run={**run, "results": {"d": {"accuracy": 1}}}
    )
    assert set(loaded.data.to_dict()) == set(clean.data.to_dict()), "no key has been added"
    assert loaded.data.license == clean.data.license and loaded.data.base_model is None
    assert "license: mit" not in [line.strip() for line in loaded.text.splitlines()]
    assert "<script" not in loaded.text.replace("`", "") or "&lt;script" in loaded.text
    assert "7 \\* 7" in loaded.text and "49" not in loaded.text, "templates in foreign text are not run"
    outside, is_code = [], False
    for line in loaded.text.splitlines():
        is_code = not is_code if line.startswith("```") else is_code
        outside += [] if is_code else [line]
    assert not is_code, "code fences are closed"
    assert sum(line.startswith("# ") for line in outside) == 1 and not any(line == "---" for line in outside)
    rows = [line for line in outside if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} <= {4, 5, 6}, "no cell was split"


def test_weights_that_are_a_pickle_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture):
    GranulonConfig().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
    for command in (["card", str(tmp_path)], ["push", str(tmp_path), "me/x", "--dry-run"]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert "pytorch_model-00001-of-00002.bin" in error and "only safetensors are read" in error, error
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    faults = plan_push(tmp_path, "me/x").faults
    assert any("model.safetensors is damaged" in fault for fault in faults), faults


def test_a_card_s_metadata_is_read_within_limits(tmp_path: Path):
    card = tmp_path / "README.md"
    aliases = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)), "tags: *a59"])
    for block, reason in (
        (aliases, "aliases"),
        ("a: " + "[" * 100_000, "nests deeper"),
        ("\n".join(" " * n + "a:" for n in range(100)), "nests deeper"),
        ("a: " + "x" * 300_000, "characters"),
        ("- a list", "expected names and values"),
        ("a: [", "no valid YAML"),
    ):
        card.write_text(f"---\n{block}\n---\n# Title\n")
        with pytest.raises(ValueError, match=reason):
            read_metadata(card)
    card.write_text("---\nbase_model: [me/a, me/b]\nn: 7\nrun: !!python/object/apply:os.system [x]\n---\n---\na: b\n")
    assert read_metadata(card) == {"base_model": ["me/a", "me/b"], "n": "7", "run": ["x"]}
    card.write_text("# No metadata\n---\na: b\n---\n")
    assert read_metadata(card) == {}


def test_an_earlier_card_s_origins_outlive_a_config_that_forgot_them(tmp_path: Path):
    GranulonConfig().save_pretrained(tmp_path)
    assert read_checkpoint(tmp_path).bases == []
    (tmp_path / "granulon_training.json").write_text('{"recipe": {"model": "me/recipe"}}')
    assert read_checkpoint(tmp_path).bases == ["me/recipe"]
    (tmp_path / "granulon_training.json").write_text('{"base_models": ["me/log", "/home/me/x"], "recipe": {}}')
    assert read_checkpoint(tmp_path).bases == ["me/log"]
    (tmp_path / "README.md").write_text("---\nbase_model: Qwen/Qwen2.5-3B-Instruct\n---\n")
    assert read_checkpoint(tmp_path).bases == ["Qwen/Qwen2.5-3B-Instruct"]
    warnings = plan_push(tmp_path, "me/x").warnings
    assert any("no commercial use" in warning for warning in warnings), "the push knows what the card knows"


def test_results_reach_the_metadata_and_the_hub_s_own_file(tmp_path: Path):
    results = {
        "easy-vqa": {
            "dataset_id": "someone/easy-vqa",
            "split": "test",
            "all": {"questions": 9673, "accuracy": [0.95, 0.94, 0.96]},
        },
        "scenes": {"accuracy": {"value": 0.8, "interval": [0.7, 0.9]}},
    }
    entries = yaml.safe_load(result_entries(read_results(results)))
    assert entries[0]["dataset"]["id"] == "someone/easy-vqa" and entries[0]["value"] == 0.95 and len(entries) == 1
    card = render_card(GranulonConfig(), title="nano", run={"results": results})
    card.save(tmp_path / "README.md")
    loaded = ModelCard.load(tmp_path / "README.md")
    found = {(r.dataset_type, r.dataset_split, r.metric_type): r.metric_value for r in loaded.data.eval_results}
    assert found == {("someone/easy-vqa", "test", "accuracy"): 0.95, ("scenes", None, "accuracy"): 0.8}
    assert (
        loaded.data.metrics == ["accuracy"]
        and "| easy-vqa / all | accuracy | 0.95 [0.94, 0.96] | 9673 |" in loaded.text
    )


def test_training_data_and_its_licences_are_named_and_paths_are_not():
    data = [{"name": "/home/me/secret/chat.json", "num_rows": 12}, {"name": "lmms-lab/SEED-Bench", "num_rows": 5}]
    card = render_card(GranulonConfig(), run={"data": data, "stage": "connector", "seed": 3})
    assert card.data.datasets == ["lmms-lab/SEED-Bench"]
    assert "chat.json" in card.text and "/home/me" not in str(card)
    assert "CC-BY-NC-4.0" in card.text and "forbids commercial use" in card.text


@pytest.mark.parametrize(
    ("vision", "text", "expected"),
    [
        ("facebook/dinov3-vitl16-pretrain-lvd1689m", "Qwen/Qwen2.5-1.5B-Instruct", ("other", "dinov3-license", False)),
        ("openai/clip-vit-large-patch14", "Qwen/Qwen2.5-1.5B-Instruct", ("apache-2.0", None, False)),
        ("google/siglip-large", "meta-llama/Llama-3.2-3B-Instruct", ("llama3.2", None, False)),
        ("openai/clip-vit", "Qwen/Qwen2.5-3B-Instruct", ("other", "qwen-research", True)),
        (
            "facebook/dinov3-vitl16-pretrain-lvd1689m",
            "meta-llama/Llama-3.2-3B-Instruct",
            ("other", "dinov3-license-and-llama3.2", False),
        ),
        ("scratch", "scratch", ("apache-2.0", None, False)),
        ("someone/vit", "someone/lm", (None, None, False)),
    ],
)
def test_licences_follow_from_where_the_parts_came(vision: str, text: str, expected: tuple):
    parts = {"vision_encoder": vision, "language_model": text}
    card = render_card(GranulonConfig(), parts=parts)
    terms = licences_of_parts(GranulonConfig(), parts=parts)
    is_noncommercial = any(term.is_noncommercial for term in terms)
    assert (card.data.license, card.data.license_name, is_noncommercial) == expected
    assert {term.name_prefix for term in terms} == ({"", "Llama"} if "Llama" in text else {""})


@pytest.mark.parametrize("model_type", sorted(ENCODERS))
def test_an_encoder_s_terms_are_those_of_its_row(model_type: str, monkeypatch: pytest.MonkeyPatch):
    licence = Licence("new-terms", link="https://example.org/terms", title="New Terms", notice="Built with New.")
    row = dataclasses.replace(ENCODERS[model_type], hub_ids="lab/new", licence=licence)
    monkeypatch.setitem(ENCODERS, model_type, row)
    part = SimpleNamespace(model_type=model_type, _name_or_path="")
    config: Any = SimpleNamespace(vision_config=part, text_config=part)
    for origins in ({"vision_encoder": "Lab/New-B"}, {}):
        terms = licences_of_parts(config, parts=origins)[0]
        assert (terms.licence, terms.name, terms.text, terms.notice) == (
            "other",
            licence.name,
            licence.title,
            licence.notice,
        )
        assert licence.link in terms.terms and ("where its weights" in terms.terms) == (not origins)
    assert licences_of_parts(config, parts={"vision_encoder": "someone/else"})[0].licence == ""
    monkeypatch.setitem(ENCODERS, model_type, dataclasses.replace(row, licence=Licence("mit")))
    assert licences_of_parts(config, parts={"vision_encoder": "lab/new"})[0].licence == "mit"
    assert licences_of_parts(config)[0].licence == "", "nothing is claimed of an origin that is not known"


def test_an_adapter_s_card_says_how_to_load_it():
    adapter = {"base_model_name_or_path": "me/base", "r": 8, "lora_alpha": 16, "modules_to_save": ["a"]}
    card = render_card(GranulonConfig(), adapter=adapter, repo_id="me/lora")
    assert card.data.base_model == ["me/base"] and card.data.base_model_relation == "adapter"
    assert 'PeftModel.from_pretrained(base, "me/lora")' in card.text and "granulon merge me/lora" in card.text
    compile("".join(re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)), "card", "exec")


def test_the_command_writes_checks_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture):
    GranulonConfig().save_pretrained(tmp_path)
    assert main(["card", str(tmp_path), "--check"]) == 1 and "There is no card" in capsys.readouterr().err
    assert main(["card", str(tmp_path), "--print"]) == 0 and "pipeline_tag" in capsys.readouterr().out
    assert not (tmp_path / "README.md").exists()
    assert main(["card", str(tmp_path), "--part", "vision_encoder=scratch", "--repo-id", "me/model"]) == 0
    assert main(["card", str(tmp_path), "--check"]) == 0
    assert "trained from scratch" in (tmp_path / "README.md").read_text()
    assert json.loads((tmp_path / "granulon_training.json").read_text())["parts"] == {"vision_encoder": "scratch"}
    (tmp_path / "README.md").write_text("---\nlibrary_name: peft\n---\n# stub\n")
    capsys.readouterr()
    assert main(["card", str(tmp_path), "--check"]) == 1
    error = capsys.readouterr().err
    assert "`library_name` is 'peft'" in error and "lacks `pipeline_tag`" in error and "custom_code" in error
    assert main(["card", str(tmp_path), "--part", "ears=scratch"]) == 1 and "ears" in capsys.readouterr().err
    (tmp_path / "granulon_training.json").write_text('{"cut')
    assert main(["card", str(tmp_path)]) == 1 and "not valid JSON" in capsys.readouterr().err
