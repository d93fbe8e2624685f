"""
Directories of unknown origin: every file that cards and pushes read, damaged, absurd or malicious.

Whatever is inside, nothing of it is run, the answer is a card or a ValueError, and foreign text is shown as text.
"""

import json
import os
import random
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")

from granulon.hub_cards import check_card, plan_push, render_directory, write_card
from granulon.hub_cards.cards import RESULTS_FILE
from granulon.hub_cards.foreign import read_metadata


ALLOWED = (ValueError,)
COUNT = 100

EVIL_CODE = "from pathlib import Path\nPath(__file__).with_name('RAN').touch()\nclass Config: pass\n"
TEXTS = [
    "<img src=x onerror=alert(1)>",
    "x\n---\nlicense: evil\n---\n# Evil\n",
    "```\n</script><script>alert(1)</script>\n```",
    "`<script>evil()</script>`",
    "[evil](http://evil.example) ![](http://evil.example/p.png)",
    "http://evil.example www.evil.example @evil evil@evil.example",
    "| evil | cells |",
    "{{ 7 * 7 }} {% for i in range(10**9) %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "\x1b[2J\x1b]0;evil\x07 \x00 \u202eevil\u2066 \ud800 \u2028# Evil",
    "&lt;script&gt;evil&lt;/script&gt; &#60;script&#62;",
    "!!python/object/apply:os.system ['touch RAN']",
    "../../../../etc/passwd",
    "evil/" + "a" * 90,
    "1. evil",
    "",
    "e" * 5000,
]
NUMBERS = [0, -1, 10**30, 10**400, 1e308, -1e-308, float("nan"), float("inf"), True, 2**63]
YAML = [
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nbase_model: *c",
    "a: &a\n  b: *a",
    "- a\n- list",
    "just text",
    "? [a, b]\n: c",
    "pipeline_tag: !!python/object/apply:os.system ['touch RAN']",
    "base_model: [" + "[" * 3000,
    "tags: " + "{a: " * 500 + "1" + "}" * 500,
    "x: " + "1:" * 5000 + "1",
    "model-index: 7",
    "model-index: [{name: x, results: [{}]}]",
    "tags: custom_code\nlibrary_name: [a]\npipeline_tag: {b: c}",
    "\t: tab",
    "a: '" + "x" * 300_000 + "'",
    "",
]
ADAPTER = {"base_model_name_or_path": "base", "peft_type": "LORA", "r": 4, "lora_alpha": 8, "modules_to_save": ["a"]}
LOG = {
    "stage": "connector",
    "seed": 3,
    "title": "Mine",
    "recipe": {"model": "me/base", "training": {"learning_rate": 1e-4}},
    "data": [{"name": "me/data", "num_rows": 3, "fingerprint": "ab"}],
    "results": {"scenes": {"accuracy": [0.5, 0.4, 0.6], "questions": 10, "dataset_id": "me/scenes"}},
    "log_history": [{"loss": 1.0, "level/fine": 0.5, "step": 3}],
    "versions": {"torch": "2.13"},
    "base_models": ["me/one"],
    "parts": {"vision_encoder": "scratch"},
    "license": "apache-2.0",
    "language": "en",
    "merged_adapter": True,
}
INDEX = {"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors"}}


def _config() -> dict[str, Any]:
    from tiny import make_granulon

    return make_granulon()[0].config.to_dict()


_CONFIG: dict[str, Any] = {}


def make(rng: random.Random) -> dict[str, bytes]:
    """File names and contents: sound ones with a few values replaced, and sometimes a file that is no such thing."""
    if not _CONFIG:
        _CONFIG.update(_config())
    objects = {"granulon_training.json": LOG, "model.safetensors.index.json": INDEX, "processor_config.json": {}}
    objects["config.json"] = {**_CONFIG, "auto_map": {"AutoConfig": "evil.Config"}}
    if rng.random() < 0.3:
        objects["adapter_config.json"] = ADAPTER
        objects["base/config.json"] = objects.pop("config.json")
    files = {name: json.dumps(value).encode() for name, value in objects.items() if rng.random() < 0.95}
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        name = rng.choice(["config.json", "granulon_training.json", *files])
        if name in objects:
            value = json.loads(json.dumps(objects[name]))
            for _ in range(rng.choice([1, 1, 3])):
                value = _mutated(rng, value)
            objects[name] = value
            files[name] = json.dumps(value).encode()
    if rng.random() < 0.3:
        name = rng.choice(sorted(files))
        files[name] = _damaged(rng, files[name])
    if rng.random() < 0.6:
        block = rng.choice(YAML) if rng.random() < 0.6 else f"base_model: {json.dumps(rng.choice(TEXTS))}"
        files["README.md"] = f"---\n{block}\n---\n# {rng.choice(TEXTS)}\n".encode(errors="surrogatepass")
    if rng.random() < 0.1:
        files["README.md"] = _damaged(rng, files.get("README.md", b"---\n"))
    if rng.random() < 0.2:
        files[rng.choice(["pytorch_model.bin", "adapter_model.bin", "model.safetensors"])] = rng.randbytes(30)
    return files


def _mutated(rng: random.Random, value: Any) -> Any:
    """With one value, anywhere inside, replaced, added or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {**value, rng.choice(TEXTS): _hostile(rng)}
        return {**value, key: _mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        return [*value[:index], _mutated(rng, value[index]), *value[index + 1 :]]
    return _hostile(rng)


def _hostile(rng: random.Random) -> Any:
    kind = rng.randrange(7)
    if kind < 3:
        return rng.choice(TEXTS)
    if kind == 3:
        return rng.choice(NUMBERS)
    if kind == 4:
        return rng.choice([None, [], {}, [None], [[]], {"a": {}}])
    if kind == 5:
        deep: Any = "evil"
        for _ in range(rng.choice([3, 50, 300])):
            deep = [deep] if rng.random() < 0.5 else {rng.choice(TEXTS): deep}
        return deep
    return [rng.choice(TEXTS + NUMBERS) for _ in range(rng.choice([1, 3, 200]))]


def _damaged(rng: random.Random, content: bytes) -> bytes:
    cut = rng.randrange(len(content) + 1)
    return rng.choice(
        [
            content[:cut],
            content[:cut] + rng.randbytes(8) + content[cut:],
            b"[" * 100_000,
            b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
            b"null",
            b"",
            b"\xff\xfe" + content,
            b"9" * 10_000,
            content.replace(b"granulon", b"llama"),
        ]
    )


def run(case: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "checkpoint"
        for path, content in {**case, "evil.py": EVIL_CODE.encode()}.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)
        before = Path.cwd()
        os.chdir(directory)  # where an adapter finds its base
        try:
            _read_everything(directory)
        finally:
            os.chdir(before)
            assert not list(Path(name).rglob("RAN")), "foreign code was run"


def _read_everything(directory: Path) -> None:
    refused = []
    for function in (check_card, render_directory, _plan, _write):
        try:
            function(directory)
        except ValueError as error:
            message = str(error)
            assert message and len(message) < 2000 and not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", message), message
            refused.append(error)
    if refused:
        raise refused[0]


def _plan(directory: Path) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("offline")

    plan = plan_push(directory, "me/model", api=SimpleNamespace(model_info=refuse, hf_hub_download=refuse))  # type: ignore[arg-type]
    assert "README.md" in plan.files and "evil.py" not in plan.files
    assert len("".join(plan.faults)) < 5000


def _write(directory: Path) -> None:
    path = write_card(directory, "me/model")
    data, text = read_metadata(path), path.read_text(encoding="utf-8").split("\n---\n", 1)[1]
    assert data["library_name"] == "transformers" and data.get("license") != "evil"
    outside, is_code = [], False
    for line in text.splitlines():
        is_code = not is_code if line.startswith("```") else is_code
        outside += [] if is_code else [re.sub(r"`[^`]*`", "", line)]
    assert not is_code, "a code fence is open"
    assert sum(line.startswith("# ") for line in outside) == 1, "a second title"
    shown = "\n".join(outside)
    assert not re.search(r"(?<!\\)<(img|script)|(?<!\\)\]\(http://evil|http://evil|www\.evil|evil@|\s@evil", shown), (
        shown
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text) and "49" not in re.findall(r"\b49\b", shown)
    assert not (directory / RESULTS_FILE).exists() or (directory / RESULTS_FILE).stat().st_size
