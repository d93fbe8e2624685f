"""Errors told in one line: faults of files, of the Hub, of the machine. Others are our own, with a traceback."""

import json
import re
import sys
import traceback
from pathlib import Path
from types import FrameType


# Kinds that tell what is at fault, beside ValueError and OSError; by module and name, since none of these is imported
# before a verb has failed in it. What the library says comes after our words.
_KNOWN = {
    ("huggingface_hub.errors", "EntryNotFoundError"): "",
    ("huggingface_hub.errors", "HTTPError"): "",  # of whichever client the library uses
    ("jinja2", "TemplateError"): "the chat template is damaged: ",
    ("safetensors", "SafetensorError"): "a safetensors file is damaged: ",
    ("torch", "OutOfMemoryError"): "the device has too little memory; --dtype bfloat16 takes half of float32: ",
}


def explain(error: Exception) -> str | None:
    """
    An error in one line: what is wrong with a file, the Hub, the disk or the machine, or with what the user wrote.
    `None` for a fault of this program.
    """
    reason = _reason(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    reading = [at for at, frame in enumerate(frames) if _source(frame)]
    if not reading:
        return reason
    source = _source(frames[reading[-1]])
    if Path(source).is_dir():
        if damage := find_damage(Path(source)):
            return f"{damage} Download it again, or make it again."
    elif reason:
        return f"{source} is no directory here, and could not be loaded from the Hub: {reason}"
    if reason is None and not any(_is_ours(frame) for frame in frames[reading[-1] :]):  # a library's reader gave up
        return f"{source} cannot be loaded: a file is not what it should be ({type(error).__name__}: {error})."
    return reason


def _reason(error: Exception) -> str | None:
    """In one line what is at fault, or `None` where the kind of the error does not tell that something else is."""
    text = one_line(str(error)) or type(error).__name__
    for (module, name), words in _KNOWN.items():
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return words + text
    # `tokenizers` raises a plain Exception for what it cannot read; a slip of ours has a kind
    return text if isinstance(error, ValueError | OSError | MemoryError) or type(error) is Exception else None


def find_damage(directory: Path) -> str | None:
    """A sentence on the first file of a model that cannot be what it is named, or `None`."""
    for path in sorted(directory.iterdir()):
        try:
            if path.suffix == ".json" and not isinstance(json.loads(path.read_text("utf-8")), dict):
                raise ValueError("it holds no JSON object")
            if path.suffix == ".jinja":
                path.read_text("utf-8")
            if path.suffix == ".safetensors":
                from granulon.hub_cards.weights import find_damage as find_damage_of_weights

                if fault := find_damage_of_weights(path):
                    return one_line(fault)
        except Exception as error:  # of whatever kind the reader raises
            return f"{path} is damaged ({one_line(str(error))})."
    return None


def one_line(text: str) -> str:
    """A message without the lines that libraries break it into; only lists keep theirs."""
    return re.sub(r"\s*\n(?!- )\s*", " ", text.strip())


def _source(frame: FrameType) -> str:
    """What is loaded, where the frame is that of a library's `from_pretrained`."""
    is_reader = frame.f_code.co_name == "from_pretrained" and _module(frame).startswith(("transformers.", "peft."))
    return str(frame.f_locals.get("pretrained_model_name_or_path") or "") if is_reader else ""


def _is_ours(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] in ("granulon", "granulon_cli", "transformers_modules")


def _module(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "")
