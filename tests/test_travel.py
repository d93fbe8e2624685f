"""Travel: a saved directory works in an interpreter that cannot see this project, and damaged ones are refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    pipeline,
)

from granulon import (
    GranulonConfig,
    GranulonForConditionalGeneration,
    GranulonImageProcessorPil,
    GranulonModel,
    GranulonProcessor,
)


KINDS = ("qwen2", "llama")
AUTO_MODELS = ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
GENERATION = {"max_new_tokens": 8, "do_sample": False}

# Runs in the clean interpreter: everything it finds out goes into a JSON file, and nothing may be printed.
SCRIPT = """
import hashlib, json, logging, shutil, sys, traceback, warnings
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "granulon":
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, Blocker())
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

work = Path(sys.argv[1])
torch.set_num_threads(1)
found, logged = {}, []

class Collect(logging.Handler):
    def emit(self, record):
        logged.append(f"{record.name}: {record.getMessage()}")

for name in ("", "transformers", "huggingface_hub"):
    logging.getLogger(name).addHandler(Collect(logging.WARNING))
transformers.utils.logging.disable_progress_bar()
warnings.simplefilter("error")

saved = load_file(work / "saved.safetensors")
chats = json.loads((work / "chats.json").read_text())
trust = {"trust_remote_code": True}
generation = {"max_new_tokens": 8, "do_sample": False}

def check(function):
    try:
        found[function.__name__] = function()
    except Exception:
        found[function.__name__] = {"error": traceback.format_exc()}

def encode(processor, chat, **kwargs):
    return processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, processor_kwargs=kwargs
    )

def fingerprint(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + str(value.dtype).encode() + value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

@torch.no_grad()
def describe(model, processor):
    inputs = encode(processor, chats, padding=True)
    logits = model(**inputs).logits
    return {
        "module": type(model).__module__.partition(".")[0],
        "class": type(model).__name__,
        "fingerprint": fingerprint(model),
        "same_ids": torch.equal(inputs["input_ids"], saved["input_ids"]),
        "same_pixels": torch.equal(inputs["pixel_values"], saved["pixel_values"]),
        "logits_differ_by": float((logits - saved["logits"]).abs().max()),
        "answers": processor.batch_decode(model.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1]:]),
    }

@check
def package():
    try:
        import granulon
    except ImportError:
        return "hidden"

@check
def untrusted():
    try:
        transformers.AutoConfig.from_pretrained(work / "model", trust_remote_code=False)
    except ValueError as error:
        return str(error)

@check
def config():
    loaded = transformers.AutoConfig.from_pretrained(work / "model", **trust)
    return {"class": type(loaded).__name__, "levels": loaded.level_names, "slots": loaded.image_seq_length}

@check
def image_processor():
    loaded = transformers.AutoImageProcessor.from_pretrained(work / "model", **trust)
    pixels = loaded(Image.open(work / "0.png"), return_tensors="pt")["pixel_values"]
    return {"class": type(loaded).__name__, "same": torch.equal(pixels, saved["pixel_values"][:1])}

@check
def tokenizer():
    loaded = transformers.AutoTokenizer.from_pretrained(work / "model", **trust)
    return {"ids": loaded("What is it?")["input_ids"], "side": loaded.padding_side, "size": len(loaded)}

@check
def processor():
    loaded = transformers.AutoProcessor.from_pretrained(work / "model", **trust)
    inputs = encode(loaded, chats, padding=True, granularity=["fine", "coarse"])
    fixed = {name: inputs[name].tolist() for name in ("granularity",)}
    mask = loaded.apply_chat_template(
        [*chats[0], {"role": "assistant", "content": "Yes."}], tokenize=True, return_dict=True,
        return_tensors="pt", return_assistant_tokens_mask=True,
    )
    said = mask["input_ids"][0][torch.as_tensor(mask["assistant_masks"])[0].bool()]
    fixed["length"] = inputs["input_ids"].shape[1]
    return {"class": type(loaded).__name__, "said": loaded.decode(said), **fixed}

@check  # before AutoModelForImageTextToText has seen the class
def from_objects():
    model = transformers.AutoModel.from_pretrained(work / "model", **trust)
    processor = transformers.AutoProcessor.from_pretrained(work / "model", **trust)
    pipe = transformers.pipeline("image-text-to-text", model=model, processor=processor)
    return pipe(text=chats[1], generate_kwargs=generation, return_full_text=False)[0]["generated_text"]

for auto in ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
    def load(auto=auto):
        model = getattr(transformers, auto).from_pretrained(work / "model", **trust)
        return describe(model, transformers.AutoProcessor.from_pretrained(work / "model", **trust))
    load.__name__ = auto
    check(load)

@check
def chatting():
    pipe = transformers.pipeline("image-text-to-text", model=str(work / "model"), **trust)
    options = {"generate_kwargs": generation, "return_full_text": False}
    opened = [[{"role": "user", "content": [
        {"type": "image", "image": Image.open(item["path"])} if item["type"] == "image" else item
        for item in chat[0]["content"]
    ]}] for chat in chats]
    reserved = json.loads((work / "reserved.json").read_text())
    full = pipe(text=chats[0], generate_kwargs=generation)[0]["generated_text"]
    return {
        "class": type(pipe.model).__name__,
        "path": pipe(text=chats[0], **options)[0]["generated_text"],
        "finest": pipe(text=chats[0], processor_kwargs={"granularity": "finest"}, **options)[0]["generated_text"],
        "coarse": pipe(text=chats[0], processor_kwargs={"granularity": 0}, **options)[0]["generated_text"],
        "collated": [record[0]["generated_text"] for record in pipe(text=chats, batch_size=2, **options)],
        "batch": [record[0]["generated_text"] for record in pipe(text=chats, **options)],
        "pil": [record[0]["generated_text"] for record in pipe(text=opened, **options)],
        "full": [full[-1]["role"], full[-1]["content"], len(full)],
        "words": pipe(text=[{"role": "user", "content": "Only words."}], **options)[0]["generated_text"],
        "reserved": pipe(text=reserved, **options)[0]["generated_text"],
    }

@check
def saved_again():
    shutil.copytree(work / "model", work / "first")
    model = transformers.AutoModelForImageTextToText.from_pretrained(work / "first", **trust)
    processor = transformers.AutoProcessor.from_pretrained(work / "first", **trust)
    for part in (model, processor):
        part.save_pretrained(work / "second")
    shutil.rmtree(work / "first")
    model = transformers.AutoModel.from_pretrained(work / "second", **trust)
    processor = transformers.AutoProcessor.from_pretrained(work / "second", **trust)
    pipe = transformers.pipeline("image-text-to-text", model=str(work / "second"), **trust)
    answer = pipe(text=chats[0], generate_kwargs=generation, return_full_text=False)[0]["generated_text"]
    return {**describe(model, processor), "answer": answer}

(work / "found.json").write_text(json.dumps({**found, "logged": logged}))
"""


def encode(processor: GranulonProcessor, chat: Any, **kwargs: Any) -> Any:
    return processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True, processor_kwargs=kwargs
    )


def fingerprint(model: torch.nn.Module) -> str:
    """Of the names, dtypes and bits of all weights; the script has its twin."""
    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + str(value.dtype).encode() + value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def answer(model: Any, processor: GranulonProcessor, chat: Any, **kwargs: Any) -> str:
    """What the model generates, as a pipeline decodes it."""
    inputs = encode(processor, chat, **kwargs)
    tokens = model.generate(**inputs, **GENERATION)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(tokens, skip_special_tokens=True)


@pytest.fixture(scope="module", params=KINDS)
def journey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A saved model, what it did before it was saved, and what a clean interpreter found in its directory."""
    work = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model, processor = tiny.make_granulon(request.param)
    model.save_pretrained(work / "model")
    processor.save_pretrained(work / "model")
    chats = []
    for index, question in enumerate(("What is it?", "Which letters stand in the smallest box on the left?")):
        tiny.make_image(index).save(work / f"{index}.png")
        items = [{"type": "image", "path": str(work / f"{index}.png")}, {"type": "text", "text": question}]
        chats.append([{"role": "user", "content": items}])
    (work / "chats.json").write_text(json.dumps(chats))
    text = {"type": "text", "text": f"Is {processor.image_token} or {processor.semantic_token} a word?"}
    reserved = [{"role": "user", "content": [chats[0][0]["content"][0], text]}]
    (work / "reserved.json").write_text(json.dumps(reserved))
    inputs = encode(processor, chats, padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits
    answers = model.generate(**inputs, **GENERATION)[:, inputs["input_ids"].shape[1] :]
    save_file({**inputs, "logits": logits}, work / "saved.safetensors")

    script, elsewhere = work / "script.py", work / "elsewhere"
    script.write_text(SCRIPT)
    elsewhere.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(work)}
    environment |= {"HF_MODULES_CACHE": str(work / "modules"), "HF_HOME": str(work / "home")}
    process = subprocess.run(
        [sys.executable, "-I", str(script), str(work)],
        cwd=elsewhere,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    yield {
        "model": model,
        "processor": processor,
        "work": work,
        "chats": chats,
        "reserved": reserved,
        "answers": processor.batch_decode(answers),
        "printed": process.stdout + process.stderr,
        "found": json.loads((work / "found.json").read_text()),
    }


# ---------------------------------------------------------------------- where the project cannot be seen


def test_the_interpreter_was_clean(journey: dict[str, Any]) -> None:
    assert journey["found"]["package"] == "hidden"
    assert "trust_remote_code" in journey["found"]["untrusted"]


def test_nothing_warned_and_nothing_was_printed(journey: dict[str, Any]) -> None:
    assert journey["found"]["logged"] == []
    assert journey["printed"] == ""


def test_config_tokenizer_and_processors_travel(journey: dict[str, Any]) -> None:
    model, processor, found = journey["model"], journey["processor"], journey["found"]
    slots, names = model.config.image_seq_length, model.config.level_names
    assert found["config"] == {"class": "GranulonConfig", "levels": names, "slots": slots}
    assert found["image_processor"] == {"class": type(processor.image_processor).__name__, "same": True}
    ids = processor.tokenizer("What is it?")["input_ids"]
    assert found["tokenizer"] == {"ids": ids, "side": "left", "size": len(processor.tokenizer)}
    expected = encode(processor, journey["chats"], padding=True, granularity=["fine", "coarse"])
    assert found["processor"] == {
        "class": "GranulonProcessor",
        "granularity": [2, 0],
        "length": expected["input_ids"].shape[1],
        "said": f"Yes.{processor.tokenizer.eos_token}",
    }


@pytest.mark.parametrize("auto", [*AUTO_MODELS, "saved_again"])
def test_models_travel_with_every_weight_and_logit(auto: str, journey: dict[str, Any]) -> None:
    found = journey["found"][auto]
    assert "error" not in found, found["error"]
    assert (found["module"], found["class"]) == ("transformers_modules", "GranulonForConditionalGeneration")
    assert found["fingerprint"] == fingerprint(journey["model"])
    assert found["same_ids"] and found["same_pixels"]
    assert found["logits_differ_by"] < 1e-5
    assert found["answers"] == journey["answers"]


def test_pipelines_travel(journey: dict[str, Any]) -> None:
    model, processor, chats, found = (journey[name] for name in ("model", "processor", "chats", "found"))
    assert "error" not in found["chatting"], found["chatting"]["error"]
    answers = [answer(model, processor, chat) for chat in chats]
    finest, coarse = (answer(model, processor, chats[0], granularity=level) for level in ("finest", "coarse"))
    assert len({finest, coarse}) == 2 and answers[0] != answers[1]  # the comparisons below say something
    assert found["chatting"] == {
        "class": "GranulonForConditionalGeneration",
        "path": answers[0],
        "finest": finest,
        "coarse": coarse,
        "batch": answers,
        "collated": answers,
        "pil": answers,
        "full": ["assistant", answers[0], 2],
        "words": answer(model, processor, [{"role": "user", "content": "Only words."}]),
        "reserved": answer(model, processor, journey["reserved"]),
    }
    assert found["saved_again"]["answer"] == answers[0]
    assert found["from_objects"] == answers[1]


def test_the_directory_is_self_contained(journey: dict[str, Any]) -> None:
    directory = journey["work"] / "model"
    names = {path.name for path in directory.iterdir()}
    code = {f"{stem}_granulon.py" for stem in ("adata", "configuration", "granularity", "modeling", "processing")}
    assert code | {"image_processing_granulon.py", "model.safetensors", "config.json", "chat_template.jinja"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    auto_map = json.loads((directory / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_granulon.GranulonConfig",
        **dict.fromkeys(AUTO_MODELS, "modeling_granulon.GranulonForConditionalGeneration"),
    }
    for path in directory.glob("*.py"):
        assert "import granulon" not in path.read_text() and "from granulon" not in path.read_text()
    again = journey["work"] / "second"
    assert {path.name for path in again.iterdir()} == names
    assert json.loads((again / "config.json").read_text())["auto_map"] == auto_map


# ---------------------------------------------------------------------- where the package is installed


@pytest.mark.parametrize("trust", [None, True])
def test_with_the_package_its_own_classes_are_used(trust: bool | None, journey: dict[str, Any]) -> None:
    directory, options = journey["work"] / "model", {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoConfig.from_pretrained(directory, **options)) is GranulonConfig
    assert type(AutoProcessor.from_pretrained(directory, **options)) is GranulonProcessor
    images = AutoImageProcessor.from_pretrained(directory, **options)
    assert isinstance(images, type(journey["processor"].image_processor))
    assert type(AutoImageProcessor.from_pretrained(directory, backend="pil", **options)) is GranulonImageProcessorPil
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        model = auto.from_pretrained(directory, **options)
        assert type(model) is GranulonForConditionalGeneration
        assert fingerprint(model) == fingerprint(journey["model"])
    inputs = encode(journey["processor"], journey["chats"], padding=True)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, journey["model"](**inputs).logits)


def test_with_the_package_pipelines_need_no_trust(journey: dict[str, Any]) -> None:
    pipe = pipeline("image-text-to-text", model=str(journey["work"] / "model"))
    assert type(pipe.model) is GranulonForConditionalGeneration
    options = {"generate_kwargs": GENERATION, "return_full_text": False, "processor_kwargs": {"granularity": "fine"}}
    text = pipe(text=journey["chats"][1], **options)[0]["generated_text"]
    assert text == answer(journey["model"], journey["processor"], journey["chats"][1], granularity="fine")


def test_without_the_code_the_package_still_loads_the_directory(journey: dict[str, Any], tmp_path: Path) -> None:
    for path in (journey["work"] / "model").iterdir():
        if path.suffix != ".py":
            shutil.copy(path, tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(model) is GranulonForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(tmp_path)) is GranulonProcessor


def test_the_headless_model_loads_the_same_directory(journey: dict[str, Any]) -> None:
    core = GranulonModel.from_pretrained(journey["work"] / "model")
    assert fingerprint(core) == fingerprint(journey["model"].model)
    inputs = encode(journey["processor"], journey["chats"], padding=True)
    with torch.no_grad():
        hidden, whole = core(**inputs).last_hidden_state, journey["model"](**inputs)
    assert hidden.shape == (*inputs["input_ids"].shape, 32)
    assert torch.equal(journey["model"].lm_head(hidden), whole.logits)


# ---------------------------------------------------------------------- damaged directories


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose head is a weight of its own."""
    directory = tmp_path_factory.mktemp("untied")
    model, _ = GranulonForConditionalGeneration.from_backbones(
        tiny.make_vision(), tiny.make_text(tied=False), tokenizer=tiny.make_tokenizer()
    )
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def damaged(untied: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(untied, tmp_path / "copy"))


def rewrite(directory: Path, drop: str | None = None, **added: torch.Tensor) -> None:
    state = load_file(directory / "model.safetensors")
    if drop is not None:
        del state[drop]
    save_file({**state, **added}, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "model.vision_tower.layer.1.norm1.weight",
        "model.language_model.layers.2.mlp.up_proj.weight",
        "model.granularity_controller",
        "model.multi_modal_projector.gate",
        "model.token_aggregator.refinement.bias",
        "model.contribution_heads.semantic.bias",
    ],
)
def test_a_missing_weight_raises_with_its_name(name: str, damaged: Path) -> None:
    full = next(key for key in load_file(damaged / "model.safetensors") if key.startswith(name))
    rewrite(damaged, drop=full)
    for auto in (GranulonForConditionalGeneration, AutoModelForImageTextToText):
        with pytest.raises(ValueError, match=rf"1 missing keys.*{full.rpartition('layer.')[2]}"):
            auto.from_pretrained(damaged)
    if name == "lm_head.weight":
        GranulonModel.from_pretrained(damaged)  # needs no head
    else:
        with pytest.raises(ValueError, match="missing keys"):
            GranulonModel.from_pretrained(damaged)


def test_an_unexpected_weight_raises_with_its_name(damaged: Path) -> None:
    rewrite(damaged, **{"model.something_else.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"1 unexpected keys.*something_else\.weight"):
        GranulonForConditionalGeneration.from_pretrained(damaged)


def test_a_weight_of_another_shape_raises(damaged: Path) -> None:
    gate = "model.multi_modal_projector.gate"
    rewrite(damaged, drop=gate, **{gate: torch.ones(3, 32)})
    with pytest.raises(ValueError, match=r"1 mismatched keys.*gate.*3, 32.*4, 32"):
        GranulonForConditionalGeneration.from_pretrained(damaged)
    model = GranulonForConditionalGeneration.from_pretrained(damaged, ignore_mismatched_sizes=True)
    assert model.model.multi_modal_projector.gate.shape == (4, 32)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_safetensors_raise(share: float, damaged: Path) -> None:
    path = damaged / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Exception, match=r"(?i)header|incomplete|invalid|safetensors|buffer"):
        GranulonForConditionalGeneration.from_pretrained(damaged)


def test_a_missing_shard_raises(untied: Path, tmp_path: Path) -> None:
    model = GranulonForConditionalGeneration.from_pretrained(untied)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(Exception, match=shards[1].name):
        GranulonForConditionalGeneration.from_pretrained(tmp_path)


def test_an_untied_model_reloads_whole(untied: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(untied)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight, load_file(untied / "model.safetensors")["lm_head.weight"])
    assert fingerprint(GranulonModel.from_pretrained(untied)) == fingerprint(model.model)  # passes over the head
