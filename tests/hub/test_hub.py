"""Over real HTTP: push a model, an adapter and a training run; load them where the project cannot be seen."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from minihub import MiniHub, Repo
from peft import get_peft_model
from test_trl_peft import make_rows
from tiny import make_granulon, make_image

from granulon import GranulonForConditionalGeneration
from granulon.chats import chat_inputs
from granulon.training.adapters import lora_config, save_adapter


AGREEMENT = "DINOv3 License\n" + "Last Updated. The terms of this agreement. " * 40
GENERATION = {"max_new_tokens": 6, "do_sample": False}

# Runs with the package: pushes by every road, and notes what the command line said.
PUSHING = """
import contextlib, io, json, sys
from pathlib import Path
from granulon import GranulonForConditionalGeneration, GranulonProcessor
from granulon.cli import main

work = Path(sys.argv[1])
found = {}

def command(name, *arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    found[name] = {"status": status, "out": out.getvalue(), "err": err.getvalue()}

model = GranulonForConditionalGeneration.from_pretrained(work / "model")
model.push_to_hub("org/pushed", tags=["mine"])
GranulonProcessor.from_pretrained(work / "model").push_to_hub("org/pushed")
command("model", "push", work / "model", "org/sent", "--private", "--revision", "v1")
command("again", "push", work / "model", "org/sent", "--revision", "v1")
command("dry", "push", work / "model", "org/dry", "--dry-run")
command("local_base", "push", work / "adapter", "org/adapter")
command("adapter", "push", work / "adapter", "org/adapter", "--base-model", "org/pushed")
command("mixed", "push", work / "adapter", "org/pushed", "--base-model", "org/pushed")
command("no_base", "push", work / "adapter", "org/other", "--base-model", "org/nowhere")
command("dino", "push", work / "dino", "org/dino")
command("llama", "push", work / "llama", "org/granulon-llama")
command("broken_upload", "push", work / "model", "org/broken-upload")
command("broken_commit", "push", work / "other", "org/sent", "--revision", "v1")
(work / "pushed.json").write_text(json.dumps(found))
"""

# Runs with the package and TRL: a short training run that pushes itself.
TRAINING = """
import sys
from pathlib import Path
from datasets import load_from_disk
from granulon import GranulonForConditionalGeneration, GranulonProcessor
from granulon.training.config import GranulonSFTConfig
from granulon.training.trainer import GranulonSFTTrainer

work = Path(sys.argv[1])
trainer = GranulonSFTTrainer(
    model=GranulonForConditionalGeneration.from_pretrained(work / "model"),
    args=GranulonSFTConfig(
        str(work / "run"), stage="connector", max_steps=2, per_device_train_batch_size=2, report_to="none", bf16=False,
        save_steps=1, save_total_limit=1, logging_steps=1, disable_tqdm=True, use_cpu=True,
        push_to_hub=True, hub_model_id="org/trained", hub_strategy="every_save", hub_always_push=True,
    ),
    train_dataset=load_from_disk(str(work / "rows")),
    processing_class=GranulonProcessor.from_pretrained(work / "model"),
)
trainer.train()
trainer.push_to_hub()
"""

# Runs where the project cannot be seen.
LOADING = """
import json, sys, traceback
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "granulon":
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, Blocker())
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

work, found = Path(sys.argv[1]), {}
chat = [{"role": "user", "content": [
    {"type": "image", "image": Image.open(work / "image.png")}, {"type": "text", "text": "What is it?"},
]}]
generation = {"max_new_tokens": 6, "do_sample": False}
trust = {"trust_remote_code": True}

def answer(auto, repo_id, **kwargs):
    processor = AutoProcessor.from_pretrained(repo_id, **trust, **kwargs)
    model = auto.from_pretrained(repo_id, **trust, **kwargs)
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    output = model.generate(**inputs, **generation)[0, inputs["input_ids"].shape[1]:]
    return processor.decode(output, skip_special_tokens=True), type(model).__module__.partition(".")[0]

def piped(repo_id):
    pipe = pipeline("image-text-to-text", model=repo_id, **trust)
    return pipe(text=chat, generate_kwargs=generation, return_full_text=False)[0]["generated_text"]

def note(name, function, *args, **kwargs):
    try:
        found[name] = function(*args, **kwargs)
    except Exception:
        found[name] = traceback.format_exc()

for auto in (AutoModel, AutoModelForImageTextToText):
    note(auto.__name__, answer, auto, "org/pushed")
    note(f"adapter {auto.__name__}", answer, auto, "org/adapter")
note("branch", answer, AutoModelForImageTextToText, "org/sent", revision="v1")
note("pipeline", piped, "org/pushed")
note("adapter pipeline", piped, "org/adapter")
note("trained", answer, AutoModelForImageTextToText, "org/trained")
(work / "loaded.json").write_text(json.dumps(found))
"""


def run(script: str, work: Path, hub: MiniHub, home: str, *flags: str) -> None:
    path = work / f"{home}.py"
    path.write_text(script)
    process = subprocess.run(
        [sys.executable, *flags, str(path), str(work)],
        cwd=work,
        env=hub.environment(work / home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:]


def answer(model: Any, processor: Any) -> str:
    inputs = chat_inputs(processor, "What is it?", make_image(1))
    output = model.generate(**inputs, **GENERATION)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(output, skip_special_tokens=True)


@pytest.fixture(scope="module")
def hub() -> Iterator[MiniHub]:
    hub = MiniHub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def pushed(hub: MiniHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was on disk, what the command line said, and what the clean interpreter found on the Hub."""
    work = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    make_image(1).save(work / "image.png")

    def save(name: str, model: Any, processor: Any) -> None:
        model.save_pretrained(work / name)
        processor.save_pretrained(work / name)

    save("model", *make_granulon())
    (work / "model" / "optimizer.pt").write_bytes(b"not for others")
    (work / "model" / "notes").mkdir()
    (work / "model" / "notes" / "diary.md").write_text("private")
    model = GranulonForConditionalGeneration.from_pretrained(work / "model")
    _, processor = make_granulon()
    plain = answer(model, processor)
    adapted = get_peft_model(model, lora_config(model, "all-linear", r=4)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(adapted, work / "adapter", processor)

    dino, processor = make_granulon()
    dino.config.vision_config._name_or_path = "facebook/dinov3-vits16-pretrain-lvd1689m"
    save("dino", dino, processor)
    llama, processor = make_granulon("llama")
    llama.config.text_config._name_or_path = "meta-llama/Llama-3.2-3B-Instruct"
    save("llama", llama, processor)
    other, processor = make_granulon()
    torch.nn.init.normal_(other.lm_head.weight)
    save("other", other, processor)

    add_meta_repository(hub)
    hub.refusals = lambda method, path: refuse(hub, method, path)
    run(PUSHING, work, hub, "pushing")
    hub.refusals = lambda method, path: None
    make_rows(True).save_to_disk(str(work / "rows"))
    run(TRAINING, work, hub, "training")
    run(LOADING, work, hub, "loading", "-I")
    return {
        "work": work,
        "said": json.loads((work / "pushed.json").read_text()),
        "found": json.loads((work / "loaded.json").read_text()),
        "plain": plain,
        "adapted": answer(adapted, processor),
    }


def add_meta_repository(hub: MiniHub) -> None:
    """Meta's repository, with the agreement that a copy of the weights must bring along."""
    repo = hub.repos["facebook/dinov3-vits16-pretrain-lvd1689m"] = Repo()
    repo.commits["a" * 40] = {"LICENSE.md": AGREEMENT.encode()}
    repo.branches["main"] = "a" * 40


def refuse(hub: MiniHub, method: str, path: str) -> int | None:
    """Uploads to one repository fail half-way, and so does the second commit to another."""
    if "org/broken-upload" in path and path.endswith("/objects/batch"):
        return 403
    if "org/sent/commit" in path and len(hub.repos["org/sent"].messages) >= 2:
        return 403
    return None


def test_the_server_knew_every_request(hub: MiniHub, pushed: dict[str, Any]):
    assert hub.unknown == []


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForImageTextToText"])
def test_models_and_adapters_answer_where_the_project_cannot_be_seen(pushed: dict[str, Any], auto: str):
    assert pushed["plain"] != pushed["adapted"]  # the comparisons below say something
    assert pushed["found"][auto] == [pushed["plain"], "transformers_modules"]
    assert pushed["found"][f"adapter {auto}"] == [pushed["adapted"], "transformers_modules"]


def test_pipelines_and_branches_answer_alike(pushed: dict[str, Any]):
    assert pushed["found"]["pipeline"] == pushed["plain"]
    assert pushed["found"]["adapter pipeline"] == pushed["adapted"]
    assert pushed["found"]["branch"] == [pushed["plain"], "transformers_modules"]


def test_the_library_s_push_brings_weights_code_processor_and_our_card(hub: MiniHub, pushed: dict[str, Any]):
    files = hub.repos["org/pushed"].files()
    assert {"model.safetensors", "modeling_granulon.py", "processing_granulon.py", "tokenizer.json"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "image-text-to-text" and card.data.library_name == "transformers"
    assert {"custom_code", "mine"} <= set(card.data.tags)
    assert 'model="org/pushed"' in card.text


def test_the_command_lists_and_sends_what_others_need_and_nothing_else(hub: MiniHub, pushed: dict[str, Any]):
    said = pushed["said"]["model"]
    assert said["status"] == 0, said["err"]
    repo = hub.repos["org/sent"]
    assert repo.is_private and "org/sent" not in repo.files("main") and not repo.files("main")
    names = set(repo.files("v1"))
    assert {"model.safetensors", "config.json", "README.md", "modeling_granulon.py", "LICENSE.md", "NOTICE"} <= names
    assert "optimizer.pt" not in names and not any("diary" in name for name in names)
    assert "optimizer.pt" in said["out"] and "model.safetensors" in said["out"]
    assert "org/dry" not in hub.repos and pushed["said"]["dry"]["status"] == 0


def test_an_adapter_needs_a_base_that_others_can_load(hub: MiniHub, pushed: dict[str, Any]):
    said = pushed["said"]
    assert said["local_base"]["status"] == 1 and "--base-model" in said["local_base"]["err"]
    assert said["no_base"]["status"] == 1 and "org/nowhere" in said["no_base"]["err"]
    assert said["mixed"]["status"] == 1 and "would mix the two" in said["mixed"]["err"]
    assert "org/other" not in hub.repos
    assert said["adapter"]["status"] == 0, said["adapter"]["err"]
    files = hub.repos["org/adapter"].files()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/pushed"
    data = ModelCard(files["README.md"].decode()).data
    assert data.base_model == ["org/pushed"] and data.base_model_relation == "adapter"
    assert not any(str(pushed["work"]) in content.decode(errors="ignore") for content in files.values())


def test_licences_of_the_parts_are_met_or_the_push_is_refused(hub: MiniHub, pushed: dict[str, Any]):
    said = pushed["said"]
    assert said["dino"]["status"] == 0, said["dino"]["err"]
    files = hub.repos["org/dino"].files()
    assert files["LICENSE-vision.md"] == AGREEMENT.encode() and b"Built with DINOv3" in files["NOTICE"]
    assert said["llama"]["status"] == 1 and "org/granulon-llama" not in hub.repos
    assert 'begin with "Llama"' in said["llama"]["err"] and "hf download" in said["llama"]["err"]


def test_a_failure_in_the_middle_leaves_what_was_there(hub: MiniHub, pushed: dict[str, Any]):
    for name in ("broken_upload", "broken_commit"):
        said = pushed["said"][name]
        assert said["status"] == 1 and "Traceback" not in said["err"] and "committed" in said["err"], said
    assert not hub.repos["org/broken-upload"].files()
    sent = hub.repos["org/sent"].files("v1")["model.safetensors"]
    assert sent == (pushed["work"] / "model" / "model.safetensors").read_bytes()


def test_a_training_run_pushes_itself(hub: MiniHub, pushed: dict[str, Any]):
    files = hub.repos["org/trained"].files()
    assert {"model.safetensors", "modeling_granulon.py", "tokenizer.json", "granulon_training.json"} <= set(files)
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in files)
    text = files["README.md"].decode()
    assert ModelCard(text).data.pipeline_tag == "image-text-to-text" and "Stage `connector`" in text
    text, module = pushed["found"]["trained"]
    assert module == "transformers_modules"


def test_each_save_of_a_run_is_pushed_like_its_end(hub: MiniHub, pushed: dict[str, Any]):
    repo = hub.repos["org/trained"]
    assert repo.messages == ["Training in progress, step 1", "Training in progress, step 2", "End of training"]
    states = [files for files in repo.commits.values() if files]
    for files in states:
        assert set(files) == set(states[-1]) and not any(
            "optimizer" in name or "training_args" in name for name in files
        )
        assert ModelCard(files["README.md"].decode()).data.pipeline_tag == "image-text-to-text"
    assert not list((pushed["work"] / "run").glob(".push-*"))
