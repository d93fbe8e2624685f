"""Pictures of what the model looked at: the clusters that became semantic tokens, laid over the image."""

import colorsys
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont


_MARGIN, _BAR, _INK, _PALE = 16, 18, (30, 30, 34), (222, 222, 228)


def restore_image(pixel_values: torch.Tensor, image_mean: Sequence[float], image_std: Sequence[float]) -> Image.Image:
    """The picture that the encoder saw: `(3, height, width)` normalised pixels, back to RGB."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (image_mean, image_std))
    pixels = (pixel_values.cpu().float() * std + mean).clamp(0, 1) * 255
    return Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy())


def draw_granularity(
    image: Image.Image,
    assignments: torch.Tensor,
    selected: torch.Tensor,
    grid: tuple[int, int],
    question: str,
    level_names: Sequence[str],
    probabilities: Sequence[float],
    level: int,
    answer: str = "",
    edge: int = 448,
) -> Image.Image:
    """
    The image; beside it the same with each selected cluster in a colour of its own, numbered by rank, and with the
    others dimmed; below it the question, the answer and the controller's probabilities, the level used in dark.

    Args:
        assignments: `(rows * columns,)`, the cluster of each patch.
        selected: `(max_tokens,)`, clusters in descending score, -1 where unused.
        grid: rows and columns of patches.
        probabilities: one for each level name.
        level: index of the level used.
        edge: height of the image in the picture, in pixels.
    """
    rows, columns = grid
    size = (round(edge * image.width / image.height), edge)
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    overlay = _overlay(picture, assignments.reshape(rows, columns).tolist(), [int(c) for c in selected if c >= 0])

    font, small = ImageFont.load_default(20), ImageFont.load_default(15)
    width = 2 * size[0] + 3 * _MARGIN
    lines = _wrap(question, font, width - 2 * _MARGIN) + (
        _wrap(f"Answer: {answer}", font, width - 2 * _MARGIN) if answer else []
    )
    height = edge + 3 * _MARGIN + 26 * len(lines) + (_BAR + 6) * len(level_names) + _MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(picture, (_MARGIN, _MARGIN))
    canvas.paste(overlay, (size[0] + 2 * _MARGIN, _MARGIN))
    draw, top = ImageDraw.Draw(canvas), edge + 2 * _MARGIN
    for line in lines:
        draw.text((_MARGIN, top), line, _INK, font)
        top += 26
    top += _MARGIN // 2
    left = _MARGIN + max(round(small.getlength(name)) for name in level_names) + 12
    for index, (name, probability) in enumerate(zip(level_names, probabilities, strict=True)):
        draw.text((_MARGIN, top), name, _INK, small)
        full = width - left - _MARGIN - 60
        draw.rectangle((left, top, left + full, top + _BAR), fill=(244, 244, 247))
        draw.rectangle((left, top, left + full * probability, top + _BAR), fill=_INK if index == level else _PALE)
        draw.text((left + full + 10, top), f"{probability:.0%}", _INK, small)
        top += _BAR + 6
    return canvas


def _overlay(picture: Image.Image, clusters: list[list[int]], selected: list[int]) -> Image.Image:
    """Selected clusters tinted and numbered at the patch nearest to their middle; borders drawn between clusters."""
    rows, columns = len(clusters), len(clusters[0])
    xs = [round(column * picture.width / columns) for column in range(columns + 1)]
    ys = [round(row * picture.height / rows) for row in range(rows + 1)]
    tint = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(tint)
    colours = {
        cluster: tuple(round(255 * value) for value in colorsys.hsv_to_rgb((rank * 0.618034) % 1, 0.85, 0.95))
        for rank, cluster in enumerate(selected)
    }
    places: dict[int, list[tuple[int, int]]] = {}
    for row in range(rows):
        for column in range(columns):
            cluster = clusters[row][column]
            places.setdefault(cluster, []).append((row, column))
            box = (xs[column], ys[row], xs[column + 1] - 1, ys[row + 1] - 1)
            draw.rectangle(box, fill=(*colours[cluster], 105) if cluster in colours else (60, 60, 66, 170))
    for row in range(rows):
        for column in range(columns):
            if column + 1 < columns and clusters[row][column] != clusters[row][column + 1]:
                draw.line((xs[column + 1], ys[row], xs[column + 1], ys[row + 1]), (255, 255, 255, 230), 2)
            if row + 1 < rows and clusters[row][column] != clusters[row + 1][column]:
                draw.line((xs[column], ys[row + 1], xs[column + 1], ys[row + 1]), (255, 255, 255, 230), 2)
    font = ImageFont.load_default(14)
    for rank, cluster in enumerate(selected):
        middle = [sum(axis) / len(places[cluster]) for axis in zip(*places[cluster], strict=True)]
        row, column = min(places[cluster], key=lambda place: (place[0] - middle[0]) ** 2 + (place[1] - middle[1]) ** 2)
        centre = ((xs[column] + xs[column + 1]) / 2, (ys[row] + ys[row + 1]) / 2)
        draw.text(
            centre, str(rank + 1), (255, 255, 255, 255), font, anchor="mm", stroke_width=2, stroke_fill=(*_INK, 255)
        )
    return Image.alpha_composite(picture.convert("RGBA"), tint).convert("RGB")


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
