"""Recipes: mistakes are found before anything is loaded, a dry run writes nothing, and a run leaves a whole model."""

import json
import math
import shutil
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from data_tools import chat_row, simple_rows, write_chat
from tiny import make_granulon, make_image, save_backbones

from transformers import AutoModelForImageTextToText, AutoProcessor

import granulon.training.recipe
from granulon.training.checkpoints import STAGING
from granulon.training.recipes import RECIPES, build_arguments, dry_run, load_recipe, run_recipe, shipped_recipes
from granulon.training.run_lock import LOCK_FILE


TRAINING = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_steps": 2,
    "activation_checkpointing": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "report_to": "none",
}
PLAIN = {"model": "m", "data": "d", "output": "o"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model, processor = make_granulon()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def values(tmp_path, saved_model) -> dict:
    data = write_chat(tmp_path / "photos", simple_rows(10))
    return {"model": str(saved_model), "data": str(data), "output": str(tmp_path / "run"), "training": dict(TRAINING)}


# ---------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainning": {}}, r"the recipe has the unknown key `trainning`. Did you mean `training`\?"),
        ({"training": {"learning_rat": 1}}, r"`training` has .*`learning_rat`. Did you mean `learning_rate`\?"),
        ({"data": {"source": "d", "on_bad_rows": "skip"}}, r"Did you mean `on_bad_row`\?"),
        ({"model": {"vison": "v", "text": "t"}}, r"Did you mean `vision`\?"),
        ({"callbacks": {"sample": {}}}, r"Did you mean `samples`\?"),
        ({"stage": "conector"}, r"`stage` is 'conector', .*Did you mean 'connector'\?"),
        ({"dtype": "float8"}, "`dtype` is 'float8'"),
        ({"data": {"source": "d", "on_bad_row": "ignore"}}, "`data.on_bad_row` is 'ignore'"),
        ({"output": None}, "no `output`"),
        ({"training": {"warmup_ratio": 0.1}}, "now `warmup_steps`"),
        ({"training": {"seed": 1}}, "recipe's own `seed`"),
        ({"training": {"output_dir": "x"}}, "recipe's own `output`"),
        ({"model": {"path": "m", "vision": "v", "text": "t"}}, "expected either `path`"),
        ({"model": {"vision": "v"}}, "expected either `path`"),
        ({"lora": {"r": 4}, "stage": "connector"}, "`lora` is given, but the stage is 'connector'"),
        ({"data": {"source": "d", "streaming": True}}, "set `training.max_steps`"),
        (
            {"data": {"source": "d", "streaming": True}, "training": {"max_steps": 2}, "eval_data": 0.1},
            "cannot be held out",
        ),
        ({"eval_data": {"share": 1.5}}, "between 0 and 1"),
        ({"callbacks": {"samples": {"every": 5}}}, "no `questions`"),
    ],
)
def test_contradictions_and_unknown_keys(changes, words):
    with pytest.raises(ValueError, match=words):
        load_recipe({**PLAIN, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": "zero"}, "`seed` is 'zero', a str, expected a whole number"),
        ({"output": 3}, "`output` is 3, a int, expected a text"),
        ({"training": [1]}, "`training` is .* expected a mapping"),
        ({"training": {"learning_rate": "fast"}}, "`training.learning_rate` is 'fast', .*expected a number"),
        ({"training": {"max_steps": 2.5}}, "`training.max_steps` is 2.5, .*whole number"),
        ({"training": {"bf16": "yes please"}}, r"`training.bf16` is 'yes please'.*true or false"),
        ({"data": 3}, "`data` holds 3"),
        ({"data": {"source": "d", "max_rows": "all"}}, "`data.max_rows`"),
    ],
)
def test_values_of_the_wrong_type(changes, words):
    with pytest.raises((TypeError, ValueError), match=words):
        load_recipe({**PLAIN, **changes})


def test_overrides(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("model: m\ndata: d\noutput: o\ntraining: {learning_rate: 1e-4, max_steps: 5}\n")
    recipe = load_recipe(
        file, ["training.learning_rate=3e-5", "data.on_bad_row=skip", "output=runs/two", "stage=lora", "lora.r=4"]
    )
    assert recipe.training == {"learning_rate": 3e-5, "max_steps": 5}
    assert recipe.data == [{"source": "d", "on_bad_row": "skip"}]
    assert (recipe.output, recipe.lora) == ("runs/two", {"r": 4})
    assert recipe.source["output"] == "runs/two" and recipe.source["training"]["max_steps"] == 5
    with pytest.raises(ValueError, match="key=value"):
        load_recipe(file, ["training.max_steps"])
    with pytest.raises(ValueError, match="Did you mean `training`"):
        load_recipe(file, ["trainig.max_steps=3"])
    with pytest.raises(ValueError, match="cannot enter `seed`"):
        load_recipe({**PLAIN, "seed": 3}, ["seed.value=1"])


def test_numbers_in_scientific_notation_are_numbers_everywhere(tmp_path):
    file = tmp_path / "recipe.yaml"
    rates = "{granularity_controller: 1e-3, token_aggregator: 2.5E-4}"
    file.write_text(
        f"model: m\ndata: d\noutput: {tmp_path}\ntraining: {{use_cpu: true, module_learning_rates: {rates}}}\n"
    )
    recipe = load_recipe(file, ["training.module_learning_rates.multi_modal_projector=3e-5"])
    assert build_arguments(recipe).module_learning_rates == {
        "granularity_controller": 1e-3,
        "token_aggregator": 2.5e-4,
        "multi_modal_projector": 3e-5,
    }


def test_the_example_in_the_docstring_is_a_recipe():
    example = granulon.training.recipe.__doc__.split("```yaml\n")[1].split("```")[0]
    recipe = load_recipe({**yaml.safe_load(example), "stage": "lora"})  # `lora` is in it, too
    assert recipe.eval_data == 0.05 and recipe.callbacks["samples"]["questions"][0]["question"] == "What is this?"


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'connector'\?"):
        load_recipe("conector")
    file = tmp_path / "recipe.yaml"
    file.write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_recipe(file)
    file.write_text("- a\n")
    with pytest.raises(ValueError, match="holds list"):
        load_recipe(file)


def test_shipped_recipes_can_be_read(tmp_path):
    assert shipped_recipes() == sorted(file.stem for file in RECIPES.glob("*.yaml")) != []
    for name in shipped_recipes():
        recipe = load_recipe(name, [f"output={tmp_path}", "training.use_cpu=true", "training.bf16=false"])
        arguments = build_arguments(recipe)
        assert arguments.stage == recipe.stage and arguments.output_dir == str(tmp_path)
        assert arguments.learning_rate == recipe.training["learning_rate"]


def test_accelerate_configs_load():
    folder = Path(granulon.training.__file__).parent / "accelerate"
    kinds = {file.stem: load_config_from_file(str(file)) for file in sorted(folder.glob("*.yaml"))}
    assert {name: config.distributed_type.value for name, config in kinds.items()} == {
        "ddp": "MULTI_GPU",
        "fsdp": "FSDP",
        "zero2": "DEEPSPEED",
    }
    assert kinds["zero2"].deepspeed_config["zero_stage"] == 2
    assert kinds["fsdp"].fsdp_config["fsdp_version"] == 2


# ---------------------------------------------------------------------------------------------------------- dry runs


def everything_under(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_dry_run_reports_and_writes_nothing(tmp_path, values, saved_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values["training"] |= {"gradient_accumulation_steps": 2, "warmup_steps": 0.5, "max_steps": -1}
    recipe = load_recipe({**values, "eval_data": {"share": 0.3}})
    before = everything_under(tmp_path)
    report = dry_run(recipe, processes=2)
    new = everything_under(tmp_path) - before
    cache = tmp_path / "cache"  # it speeds the real run up, and is none of its output
    assert not [path for path in new if cache not in (path, *path.parents)]

    model = AutoModelForImageTextToText.from_pretrained(saved_model)
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith(("model.vision_tower", "model.language_model", "lm_head"))
    )
    assert (report.trainable, report.total) == (trainable, total)
    held = len([line for line in report.data if line.startswith("eval: ")])
    assert held == 1 and "train: photos (train)" in report.data[0]
    rows = int(report.data[0].split(" rows")[0].rpartition(" ")[2])
    assert report.effective_batch == 8 and report.steps_per_epoch == math.ceil(rows / 8)
    assert report.steps == 3 * report.steps_per_epoch and report.warmup_steps == math.ceil(report.steps / 2)

    processor = AutoProcessor.from_pretrained(saved_model)
    content = [{"type": "image"}, {"type": "text", "text": "What is 0?"}]
    answer = [{"type": "text", "text": "it is 0"}]
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    text = processor.apply_chat_template(chat, tokenize=False)
    length = processor(images=[make_image(0)], text=[text], return_tensors="pt")["input_ids"].shape[1]
    assert report.tokens[0] == length and report.tokens[2] - length <= 4
    assert 7 <= report.answer_tokens <= 9  # bytes of "it is xx0"

    assert set(report.memory) == {"ddp", "zero2", "fsdp"}
    ddp, zero2, fsdp = (report.memory[name] for name in ("ddp", "zero2", "fsdp"))
    assert (ddp["weights"], ddp["gradients"], ddp["optimizer"]) == (4 * total, 4 * trainable, 8 * trainable)
    assert (zero2["weights"], zero2["optimizer"]) == (4 * total, 4 * trainable)
    assert (fsdp["weights"], fsdp["activations"]) == (2 * total, ddp["activations"])
    shown = str(report)
    for words in ("tokens per row", "stage connector", "effective batch 8", "Memory per process", "weights", "FLOP"):
        assert words in shown
    assert not Path(recipe.output).exists()


def test_dry_run_names_what_is_missing(tmp_path, values):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        dry_run(load_recipe({**values, "data": str(tmp_path / "absent")}))
    with pytest.raises(FileNotFoundError, match="`model` .*does not exist"):
        dry_run(load_recipe({**values, "model": str(tmp_path / "absent")}))
    with pytest.raises(ValueError, match="is not a Granulon"):
        dry_run(load_recipe({**values, "model": str(tmp_path)}))
    with pytest.raises(ValueError, match="no `eval_data`"):
        dry_run(load_recipe({**values, "training": {**TRAINING, "eval_strategy": "epoch"}}))
    (tmp_path / "run" / "checkpoint-2").mkdir(parents=True)
    report = dry_run(load_recipe(values))
    assert any("checkpoints of an earlier run" in note for note in report.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"per_device_train_batch_size": -4}}, "`per_device_train_batch_size` is -4"),
        ({"training": {"learning_rate": math.nan}}, "`learning_rate` is nan"),
        ({"training": {"gradient_accumulation_steps": 0}}, "`gradient_accumulation_steps` is 0"),
        ({"seed": -1}, "`seed` is -1"),
        ({"training": {"module_learning_rates": {"vision_tower": 1e-3}}}, "which stage 'connector' freezes"),
        ({"training": {"completion_only_loss": False}}, "would train on"),
    ],
)
def test_what_training_refuses_the_dry_run_refuses_alike(values, changes, words):
    changed = {**values, **changes, "training": {**TRAINING, **changes.get("training", {})}}
    said = []
    for attempt in (dry_run, run_recipe):
        with pytest.raises(ValueError, match=words) as caught:
            attempt(load_recipe(changed))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert not Path(values["output"], "final").exists()


def test_dry_run_of_no_processes(values):
    with pytest.raises(ValueError, match="`processes` is 0"):
        dry_run(load_recipe(values), processes=0)


def test_dry_run_counts_what_the_terms_leave_to_train(values):
    values["training"] |= {"contribution": "none"}
    report, whole = dry_run(load_recipe(values)), dry_run(load_recipe({**values, "training": TRAINING}))
    assert report.trainable < whole.trainable  # nothing teaches the contribution heads
    assert report.total == whole.total


def test_dry_run_of_a_model_to_compose(tmp_path, values):
    vision, text = save_backbones(tmp_path)
    composed = {**values, "model": {"vision": str(vision), "text": str(text)}, "stage": "lora", "lora": {"r": 2}}
    report = dry_run(load_recipe(composed))
    assert 0 < report.trainable < report.total
    assert "stage lora" in report.counts
    with pytest.raises(FileNotFoundError, match=r"no controller\.json"):
        dry_run(load_recipe({**composed, "model": {**composed["model"], "controller": str(tmp_path)}}))


# -------------------------------------------------------------------------------------------------------------- runs


def test_run_writes_a_whole_model_once_and_resumes(tmp_path, values, capfd):
    questions = [{"question": "What?", "image": str(tmp_path / "photos" / "images" / "0.png")}]
    values["callbacks"] = {"samples": {"every": 3, "max_new_tokens": 2, "questions": questions}}
    recipe = load_recipe({**values, "eval_data": 0.3}, ["training.eval_strategy=steps", "training.eval_steps=3"])
    final = run_recipe(recipe)
    shown = capfd.readouterr().err
    assert final == tmp_path / "run" / "final"
    assert shown.count("stage connector") == 1, shown  # the table of counts
    assert "all 10 rows are usable" in shown and "step 3/3 | " in shown and "[step 3]" in shown

    model, processor = AutoModelForImageTextToText.from_pretrained(final), AutoProcessor.from_pretrained(final)
    original = AutoModelForImageTextToText.from_pretrained(values["model"])
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, original.get_parameter(name))}
    assert any("multi_modal_projector" in name for name in moved)
    assert not any("language_model" in name or "vision_tower" in name for name in moved)
    assert processor.level_names
    assert "granulon" in (final / "README.md").read_text().lower()
    run = json.loads((final / "granulon_training.json").read_text())
    assert run["recipe"] == recipe.source and run["stage"] == "connector" and run["seed"] == 0
    assert [entry["name"] for entry in run["data"]] == ["photos (train)", "photos (held out)"]
    assert all(len(entry["fingerprint"]) == 64 for entry in run["data"])
    assert sum(entry["num_rows"] for entry in run["data"]) == 10
    assert any("eval_loss" in entry for entry in run["log_history"])

    with pytest.raises(ValueError, match="holds checkpoints of an earlier run"):
        run_recipe(recipe)
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        run_recipe(recipe, resume=str(tmp_path / "absent"))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in final.iterdir()}
    run_recipe(recipe, resume=True)
    shown = capfd.readouterr().err
    assert "nothing left to train" in shown and "stays as it is" in shown
    assert before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in final.iterdir()}
    run_recipe(recipe, resume=True, max_steps=5)
    assert not (final.parent / STAGING).exists() and not (final.parent / LOCK_FILE).exists()
    resumed = json.loads((final / "granulon_training.json").read_text())["log_history"]
    assert [entry["step"] for entry in resumed if "loss" in entry] == [1, 2, 3, 4, 5]


def test_held_out_rows_share_one_report(tmp_path, values):
    (tmp_path / "photos" / "images" / "0.png").write_bytes(b"x")
    data = {"source": values["data"], "on_bad_row": "skip"}
    shown = str(dry_run(load_recipe({**values, "data": data, "eval_data": 0.3})))
    assert shown.count("left out") == 1 and "BytesIO" not in shown and "eval: photos (held out)" in shown


def test_run_of_messages_and_an_adapter(tmp_path, values, capfd):
    rows = [chat_row("A?", "a", "B?", "b", image=f"{index}.png") for index in range(4)]
    write_chat(tmp_path / "photos", rows)
    values |= {"stage": "lora", "lora": {"preset": "attention", "r": 2}}
    values["data"] = {"source": values["data"], "on_bad_row": "skip"}
    final = run_recipe(load_recipe(values), resume=True, max_steps=1)
    assert "starts from the beginning" in capfd.readouterr().err  # there was no checkpoint to go on from
    weights = (final / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(final)  # as when the process dies between the last checkpoint and `final`
    run_recipe(load_recipe(values), resume=True, max_steps=1)
    assert (final / "adapter_model.safetensors").read_bytes() == weights
    assert [path.name for path in final.parent.glob("checkpoint-*")] == ["checkpoint-1"]
    assert AutoProcessor.from_pretrained(final).level_names
