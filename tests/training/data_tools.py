"""A folder of training data as a user has it: `chat.json` and `images/`."""

import json
from pathlib import Path
from typing import Any

from tiny import make_image


def chat_row(*texts: str, image: Any = None, **extra: Any) -> dict[str, Any]:
    """A row of LLaVA's format: questions and answers in turn, its image in front of the first question."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    if image is not None:
        images = image if isinstance(image, list) else [image]
        turns[0]["value"] = "<image>\n" * len(images) + turns[0]["value"]
        extra["image"] = image
    return {"conversations": turns, **extra}


def write_chat(folder: Path, rows: list[dict[str, Any]], num_images: int = 6) -> Path:
    """`chat.json` with the rows, and images `0.png`, `1.png`, ..."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index in range(num_images):
        make_image(index).save(folder / "images" / f"{index}.png")
    (folder / "chat.json").write_text(json.dumps(rows))
    return folder


def simple_rows(count: int) -> list[dict[str, Any]]:
    return [
        chat_row(f"What is {index}?", f"it is {'x' * (index % 3)}{index}", image=f"{index % 6}.png")
        for index in range(count)
    ]


def texts(row: dict) -> list[tuple[str, list[str]]]:
    """Roles with the parts of their turns; an image as its mark."""
    chat = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
    return [
        (turn["role"], [part["text"] if part["type"] == "text" else "[image]" for part in turn["content"]])
        for turn in chat
    ]


def pixels(row: dict) -> list[bytes]:
    return [image.convert("RGB").tobytes() for image in row["images"]]
