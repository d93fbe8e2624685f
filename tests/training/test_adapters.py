"""Adapters: what they touch, that every road loads them alike, and that merging changes nothing but the file count."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import make_granulon, make_image

from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

from granulon.chats import chat_inputs
from granulon.cli import main
from granulon.hub_cards import check_card
from granulon.training import adapters
from granulon.training.adapters import PRESETS, lora_config, merge_adapter, save_adapter


CONNECTOR = {
    "multi_modal_projector",
    "granularity_controller",
    "token_aggregator",
    "contribution_heads.pixel",
    "contribution_heads.semantic",
}


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("text", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("vision", ["dinov3", "clip"])
def test_presets_wrap_exactly_the_language_model_after_its_first_block(text: str, vision: str, preset: str):
    model, _ = make_granulon(text, vision)
    adapted = get_peft_model(model, lora_config(model, preset))
    parents = {name: "self_attn" if name[0] in "qkvo" else "mlp" for name in PRESETS[preset]}
    parents["o_proj"] = "self_attn"
    expected = {
        f"model.language_model.layers.{layer}.{parents[name]}.{name}" for layer in (1, 2) for name in PRESETS[preset]
    }
    assert set(adapted.targeted_module_names) == expected
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name or ".modules_to_save." in name for name in trained)
    kept = {name.split(".modules_to_save.")[0] for name in trained if ".modules_to_save." in name}
    assert {name.removeprefix("base_model.model.model.") for name in kept} == CONNECTOR


def test_without_the_connector_only_the_update_is_trained():
    model, _ = make_granulon()
    adapted = get_peft_model(model, lora_config(model, train_connector=False, r=2, lora_dropout=0.1))
    assert all("lora_" in name for name, parameter in adapted.named_parameters() if parameter.requires_grad)
    assert adapted.active_peft_config.lora_alpha == 4 and adapted.active_peft_config.lora_dropout == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "all"}, "expected one of"),
        ({"r": 0}, "at least 1, got 0"),
        ({"lora_dropuot": 0.1}, "Did you mean `lora_dropout`"),
        ({"target_modules": "all-linear"}, "use `preset`"),
        ({"modules_to_save": ["lm_head"]}, "use `train_connector`"),
    ],
)
def test_bad_settings_are_explained(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        lora_config(**arguments)


def test_a_model_in_memory_is_warned_of_and_not_saved_without_a_name(tmp_path: Path, caplog):
    model, processor = make_granulon()
    adapted = get_peft_model(model, lora_config(model, r=2))
    assert "composed in memory" in caplog.text
    with pytest.raises(ValueError, match="base="):
        save_adapter(adapted, tmp_path / "adapter", processor)
    assert not (tmp_path / "adapter").exists()


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base and an adapter on disk, with what the adapted model says."""
    work = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    model, processor = make_granulon()
    model.to(request.param).model.granularity_controller.float()
    model.save_pretrained(work / "base")
    processor.save_pretrained(work / "base")
    model = AutoModelForImageTextToText.from_pretrained(work / "base")
    plain = ask(model, processor)
    adapted = get_peft_model(model, lora_config(model, "all-linear", r=4)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
        elif parameter.requires_grad:  # by an odd factor that bfloat16 cannot hold
            parameter.data.mul_(1.0123)
    save_adapter(adapted, work / "adapter", processor)
    said = ask(adapted, processor)
    assert (said["logits"] - plain["logits"]).abs().max() > 0.1
    controller = adapted.base_model.model.model.granularity_controller.modules_to_save["default"].state_dict()
    return {"work": work, "dtype": request.param, "said": said, "controller": controller}


@torch.no_grad()
def ask(model: Any, processor: Any) -> dict[str, torch.Tensor]:
    inputs = chat_inputs(processor, "Which letters are these?", make_image(1))
    core = model.get_base_model() if isinstance(model, PeftModel) else model
    return {
        "logits": model(**inputs).logits.float(),
        "tokens": model.generate(**inputs, max_new_tokens=6, do_sample=False),
        "granularity": core.get_granularity(inputs["input_ids"], inputs["attention_mask"]),
    }


def test_the_controller_is_saved_in_fp32_whatever_the_model_is(trained: dict[str, Any]):
    from safetensors.torch import load_file

    saved = load_file(trained["work"] / "adapter" / "adapter_model.safetensors")
    weights = {name.split("granularity_controller.")[1]: v for name, v in saved.items() if "granularity_contr" in name}
    assert set(weights) == set(trained["controller"])
    for name, value in weights.items():
        assert value.dtype == torch.float32 and torch.equal(value, trained["controller"][name])


@pytest.mark.parametrize("road", ["AutoModelForImageTextToText", "AutoModel", "PeftModel", "pipeline"])
def test_every_road_loads_the_adapter(trained: dict[str, Any], road: str):
    directory, base = trained["work"] / "adapter", trained["work"] / "base"
    if road == "PeftModel":
        model: Any = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), directory).eval()
    elif road == "pipeline":
        model = pipeline("image-text-to-text", model=str(directory)).model
    else:
        auto = AutoModel if road == "AutoModel" else AutoModelForImageTextToText
        model = auto.from_pretrained(directory)
    said = ask(model, AutoProcessor.from_pretrained(directory))
    torch.testing.assert_close(said["granularity"], trained["said"]["granularity"], rtol=0, atol=1e-6)
    # the Auto classes round the update itself to the base's dtype, PEFT keeps it in fp32
    exact = road == "PeftModel" or trained["dtype"] == torch.float32
    tolerance = 1e-5 if exact else 0.15
    torch.testing.assert_close(said["logits"], trained["said"]["logits"], rtol=0, atol=tolerance)


def test_merging_gives_a_standalone_model_with_equal_answers(trained: dict[str, Any], tmp_path: Path, capsys):
    work, out = trained["work"], tmp_path / "merged"
    assert main(["merge", str(work / "adapter"), "--out", str(out)]) == 0, capsys.readouterr().err
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert not any("lora" in name or "modules_to_save" in name for name, _ in model.named_parameters())
    assert model.dtype == trained["dtype"]
    said = ask(model, AutoProcessor.from_pretrained(out))
    for name, value in model.model.granularity_controller.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, trained["controller"][name])
    torch.testing.assert_close(said["granularity"], trained["said"]["granularity"], rtol=0, atol=0)
    is_exact = trained["dtype"] == torch.float32
    torch.testing.assert_close(said["logits"], trained["said"]["logits"], rtol=0, atol=1e-4 if is_exact else 0.15)
    if is_exact:
        assert torch.equal(said["tokens"], trained["said"]["tokens"])
    names = {path.name for path in out.iterdir()}
    assert {"modeling_granulon.py", "processing_granulon.py", "tokenizer.json", "README.md"} <= names
    assert check_card(out) == [] and "train this model before" not in (out / "README.md").read_text()
    assert str(work) not in "".join(path.read_text(errors="ignore") for path in out.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["merged"], "the staging directory is gone"


def test_a_bf16_base_merged_in_fp32_is_exact(trained: dict[str, Any], tmp_path: Path):
    if trained["dtype"] == torch.float32:
        pytest.skip("the default")
    merge_adapter(trained["work"] / "adapter", tmp_path / "merged", dtype=torch.float32)
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    base = AutoModelForImageTextToText.from_pretrained(trained["work"] / "base", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, trained["work"] / "adapter").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "merged")
    expected, said = ask(adapted, processor), ask(merged, processor)
    torch.testing.assert_close(said["logits"], expected["logits"], rtol=0, atol=1e-4)


def save(directory: Path, model: Any, processor: Any) -> str:
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return str(directory)


def test_another_base_is_refused_and_nothing_is_left(trained: dict[str, Any], tmp_path: Path, capsys):
    retrained, processor = make_granulon()
    torch.nn.init.normal_(retrained.model.language_model.layers[0].mlp.up_proj.weight)
    wider = make_granulon(contribution_hidden_size=8)
    level = [{"name": "only", "pool": 1, "clusters": 4, "tokens": 3}]
    others = {
        "fingerprint": save(tmp_path / "retrained", retrained, processor),
        "of another shape": save(tmp_path / "wider", *wider),
        "vocabularies differ": save(tmp_path / "llama", *make_granulon("llama")),
        "levels": save(tmp_path / "levels", *make_granulon(levels=level)),
        "no directory": str(tmp_path / "gone"),
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    for message, base in others.items():
        command = ["merge", str(trained["work"] / "adapter"), "--out", str(tmp_path / "out"), "--base", base]
        assert main(command) in (1, 2)
        error = capsys.readouterr().err
        assert message in error and "--base" in error and "Traceback" not in error, error
        assert sorted(path.name for path in tmp_path.iterdir()) == before


WEIGHTS = ("lora_A", "granularity_controller", "contribution_heads")  # PEFT itself looks at the update only


def change_config(adapter: Path, **values: Any) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "damaged"),
        ("nameless", "does not name its base"),
        ("missing", "missing"),
        ("none", "no adapter"),
        ("pickle", r"a pickle \(adapter_model.bin\).*can run code"),
        ("no weights", "adapter_model.safetensors is missing"),
        ("no JSON", "no adapter that can be read"),
        ("unknown kind", "no adapter that can be read"),
        ("log", "`versions` is a list, expected a dict"),
        *((f"{value} in {name}", f"NaN or infinity: .*{name}") for value in ("nan", "inf") for name in WEIGHTS),
    ],
)
def test_a_damaged_adapter_is_refused(trained: dict[str, Any], tmp_path: Path, damage: str, message: str):
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    shutil.copytree(trained["work"] / "adapter", adapter)
    weights = adapter / "adapter_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        state = load_file(weights)
        state.pop(sorted(state)[0])
        save_file(state, weights)
    elif damage == "nameless":
        change_config(adapter, base_model_name_or_path=None)
    elif damage == "pickle":
        torch.save(load_file(weights), adapter / "adapter_model.bin")
        weights.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no JSON":
        (adapter / "adapter_config.json").write_text("[" * 100_000)
    elif damage == "unknown kind":
        change_config(adapter, peft_type="EVIL")
    elif damage == "log":
        (adapter / "granulon_training.json").write_text('{"versions": []}')
    elif damage == "none":
        (adapter / "adapter_config.json").unlink()
    else:
        value, name = damage.split(" in ")
        state = load_file(weights)
        next(tensor for key, tensor in state.items() if name in key).view(-1)[-1] = float(value)
        save_file(state, weights)
    with pytest.raises(ValueError, match=message):
        merge_adapter(adapter, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_full_disk_leaves_no_half_directory(trained: dict[str, Any], tmp_path: Path, monkeypatch):
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapters, "write_card", full)  # the last file to be written
    with pytest.raises(OSError, match="No space left"):
        merge_adapter(trained["work"] / "adapter", tmp_path / "out")
    assert not list(tmp_path.iterdir())
