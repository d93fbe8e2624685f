"""The picture of the clusters that became semantic tokens."""

import torch
from PIL import Image

from granulon.figures import draw_granularity, restore_image


def test_restored_pixels_are_the_image():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    pixels = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    normalised = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    restored = torch.tensor(list(restore_image(normalised, mean, std).tobytes())).reshape(8, 8, 3)
    assert torch.equal(restored.permute(2, 0, 1), pixels)


def test_the_figure_tints_selected_clusters_and_dims_the_others():
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    assignments = torch.tensor([0, 0, 1, 2])  # two rows of two patches
    picture = draw_granularity(image, assignments, torch.tensor([0, 2, -1]), (2, 2), "?", ["a"], [1.0], 0, edge=256)
    left = picture.width - 16 - 256  # the overlay is the right one of the two
    top_left, bottom_left, bottom_right = (
        picture.getpixel((left + x, 16 + y)) for x, y in ((20, 20), (20, 236), (236, 236))
    )
    assert max(bottom_left) < 110 and max(bottom_left) - min(bottom_left) < 10, "not selected: grey and darker"
    assert max(top_left) - min(top_left) > 40 and max(bottom_right) - min(bottom_right) > 40
    assert top_left != bottom_right
