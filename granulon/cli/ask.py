"""`granulon ask`: answer a question about an image, and say at which granularity the model looked."""

from pathlib import Path
from typing import Any

import click

from ._libraries import quieten
from ._types import DTYPE, MODEL, Device, Figure, Picture


_EXAMPLE = """\b
Example:
  granulon ask photo.jpg "What colour is the car?" --model my-granulon --save-figure look.png"""


@click.command(short_help="Ask a question about an image.", epilog=_EXAMPLE)
@click.argument("image", type=Picture())
@click.argument("question")
@click.option("--model", "source", required=True, type=MODEL, help="Directory or Hub id of a Granulon.")
@click.option("--granularity", default="auto", help="Level, by name or index; auto is the controller's choice.")
@click.option("--save-figure", type=Figure(), help="Draw the clusters that became semantic tokens.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, help="Length limit of the answer.")
@click.option("--dtype", type=DTYPE, default="auto", help="Of the weights; auto is as saved.")
@click.option("--device", type=Device(), help="Such as cuda or cpu; cuda where there is one, if left out.")
def command(
    image: str,
    question: str,
    source: str,
    granularity: str,
    save_figure: Path | None,
    max_new_tokens: int,
    dtype: str,
    device: str | None,
) -> None:
    """Answer a QUESTION about an IMAGE (a path, URL or data URI), and say at which granularity the model looked."""
    import torch

    from transformers import AutoModelForImageTextToText, AutoProcessor, TextStreamer

    from granulon.chats import chat_inputs
    from granulon.modeling_granulon.slots_granulon import level_index
    from granulon.processing import GranulonProcessor

    quieten()
    processor = AutoProcessor.from_pretrained(source)
    if not isinstance(processor, GranulonProcessor):
        raise click.ClickException(f"{source} is no Granulon: it brings a {type(processor).__name__}.")
    try:
        wanted = level_index(granularity, processor.level_names)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--granularity") from error
    inputs: Any = chat_inputs(
        processor, question, image, granularity=wanted
    )  # faults of the image, before the weights
    model: Any = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    inputs = inputs.to(model.device)
    choice = model.model.choose_granularity(inputs["input_ids"], inputs["attention_mask"], inputs.get("granularity"))
    inputs["granularity"] = choice.granularity  # so that what is printed is what happens
    names, probabilities = model.config.level_names, choice.logits.softmax(-1)[0].tolist()
    listed = ", ".join(f"{name} {value:.0%}" for name, value in zip(names, probabilities, strict=True))
    how = "chosen by the controller" if bool(choice.is_chosen) else "as asked"
    click.echo(f"granularity: {names[int(choice.granularity)]} ({how}; {listed})")
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    if save_figure:
        answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        figure = _draw(model, processor, inputs, question, answer.strip(), probabilities)
        _save(figure, save_figure)
        click.echo(f"figure: {save_figure}", err=True)


def _draw(model: Any, processor: Any, inputs: Any, question: str, answer: str, probabilities: list[float]) -> Any:
    """The picture of what the model looked at."""
    import torch

    from granulon.figures import draw_granularity, restore_image

    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"], inputs["granularity"])
    pixels, settings = inputs["pixel_values"][0], processor.image_processor
    return draw_granularity(
        restore_image(pixels, settings.image_mean, settings.image_std),
        features.aggregation.assignments[0].cpu(),
        features.aggregation.selected[0].cpu(),
        model.config.grid_of(*pixels.shape[-2:]),
        question,
        model.config.level_names,
        probabilities,
        int(inputs["granularity"]),
        answer=answer,
    )


def _save(figure: Any, path: Path) -> None:
    from PIL import Image

    from granulon.files import new_file

    with new_file(path, "wb") as file:
        figure.save(file, format=Image.registered_extensions()[path.suffix.lower()])
