"""The sources of the corpus of questions: words, families of phrasings and what dresses them, read and checked."""

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


LEVELS = ("coarse", "medium", "fine", "finest")
# of the four families of a domain
DOMAIN_WEIGHTS = (
    (0.82, 0.13, 0.04, 0.01),
    (0.06, 0.80, 0.12, 0.02),
    (0.03, 0.11, 0.80, 0.06),
    (0.03, 0.05, 0.10, 0.82),
)
CORPORA = Path(__file__).parents[1] / "corpora"


class Block(NamedTuple):
    """A line at the margin and the indented lines below it: what all source files are made of."""

    where: str  # file and line, for messages
    header: str
    lines: list[str]

    @property
    def fields(self) -> list[str]:
        return [field.strip() for field in self.header.split("|")]


class Vocabulary(NamedTuple):
    slots: dict[str, list[str]]
    pairs: dict[tuple[str, ...], list[tuple[str, ...]]]  # slots that are drawn together, and what they become
    plurals: dict[str, str]

    def is_plural(self, word: str) -> bool:
        return word in self.plurals.values() or (word.endswith("s") and not word.endswith(("ss", "us", "lens")))

    def inflect(self, word: str, form: str) -> str:
        """A word with its article ("a"), in the plural ("s"), or the verb that agrees with it ("be", "do")."""
        if form in ("be", "do"):
            return {"be": ("is", "are"), "do": ("does", "do")}[form][self.is_plural(word)]
        if form == "a" and not self.is_plural(word):
            is_vowel = word.lower().startswith(tuple("aeiou")) or word in ("X-ray", "MRI", "hour")
            return f"{'an' if is_vowel and not word.startswith(('uni', 'use', 'URL')) else 'a'} {word}"
        if form == "s":
            if word in self.plurals:
                return self.plurals[word]
            if word.endswith(("s", "x", "ch", "sh")):
                return f"{word}es"
            return f"{word[:-1]}ies" if word.endswith("y") and word[-2] not in "aeiou" else f"{word}s"
        return word

    def knows(self, slot: str) -> bool:
        return slot.rstrip("23") in self.slots or any(slot in slots for slots in self.pairs)


class Family(NamedTuple):
    where: str
    name: str
    level: int
    task: str
    weights: tuple[float, ...]
    domain: str
    phrasings: list[str]

    @property
    def topic(self) -> str:
        """The families of one topic, such as the four of a domain, are all for training or all for dev."""
        return self.name.split("/")[0]


class Sources(NamedTuple):
    vocabulary: Vocabulary
    families: list[Family]
    dressing: dict[tuple[str, ...], list[str]]  # such as ("context", "surgery"): what may be added


def read_sources(folder: Path = CORPORA / "sources") -> Sources:
    """
    Raises:
        FileNotFoundError: the sources are not here.
        ValueError: a block that is not well-formed, with its file and line.
    """
    if not (folder / "words.txt").is_file():
        raise FileNotFoundError(
            f"{folder} does not hold the sources of the corpus. They come with the repository and the sdist, not with "
            "the wheel: run this in a clone."
        )
    vocabulary = Vocabulary(
        read_slots(folder / "words.txt"),
        {tuple(slots): rows for slots, rows in read_pairs(folder / "pairs.txt")},
        dict(split_at_colon(block.where, block.header) for block in read_blocks(folder / "plurals.txt")),
    )
    dressing = {tuple(block.fields): block.lines for block in read_blocks(folder / "dressing.txt")}
    families = [family for level in range(len(LEVELS)) for family in read_families(folder, level)]
    families += read_domains(folder / "domains.txt")
    domains = {key[1] for key in dressing if key[0] == "context" and len(key) == 2}
    names: dict[str, str] = {}
    for family in families:
        check_family(family, vocabulary, domains)
        if family.name in names:
            raise ValueError(f"{family.where}: the name `{family.name}` is taken ({names[family.name]}).")
        names[family.name] = family.where
    return Sources(vocabulary, families, dressing)


def read_blocks(path: Path) -> list[Block]:
    """Blank lines, and lines with `#` at the margin, say nothing."""
    blocks: list[Block] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            blocks.append(Block(f"{path.name}, line {number}", line.strip(), []))
        elif blocks:
            blocks[-1].lines.append(line.strip())
        else:
            raise ValueError(f"{path.name}, line {number} is indented, but there is no header above it.")
    return blocks


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def read_slots(path: Path) -> dict[str, list[str]]:
    slots: dict[str, list[str]] = {}
    for where, slot, lines in read_blocks(path):
        slots[slot] = []
        for word in words(" ".join(lines)):
            other = word.strip("{}")
            if word == f"{{{other}}}" and other not in slots:
                raise ValueError(f"{where}: `{word}` names no slot above this one.")
            slots[slot] += slots[other] if word.startswith("{") else [word]
    return slots


def read_pairs(path: Path) -> Iterator[tuple[list[str], list[tuple[str, ...]]]]:
    """Each owner with each of its values, or with all of them where the pair is a triple."""
    for block in read_blocks(path):
        slots = [slot.strip() for slot in block.header.split("+")]
        rows: list[tuple[str, ...]] = []
        for line in block.lines:
            owner, text = split_at_colon(block.where, line)
            values = words(text)
            rows += [(owner, *values)] if len(slots) == 3 else [(owner, value) for value in values]
        if wrong := [row for row in rows if len(row) != len(slots)]:
            raise ValueError(f"{block.where}: {wrong[0]} is not one word for each of {slots}.")
        yield slots, rows


def split_at_colon(where: str, line: str) -> tuple[str, str]:
    before, colon, after = (part.strip() for part in line.partition(":"))
    if not (before and colon and after):
        raise ValueError(f"{where}: expected `word: other words`, but got {line!r}.")
    return before, after


def read_families(folder: Path, level: int) -> Iterator[Family]:
    for block in read_blocks(folder / f"{LEVELS[level]}.txt"):
        try:
            name, task, percents, *domain = block.fields
            weights = tuple(int(percent) / 100 for percent in percents.split())
        except ValueError as error:
            raise ValueError(
                f"{block.where}: expected `name | task | weights in per cent`, such as `weather | scene | 90 6 4 0`, "
                f"but got {block.header!r}."
            ) from error
        yield Family(block.where, name, level, task, weights, "".join(domain), block.lines)


def read_domains(path: Path) -> Iterator[Family]:
    for block in read_blocks(path):
        if len(block.fields) != 2:
            raise ValueError(f"{block.where}: expected `name | task`, but got {block.header!r}.")
        name, task = block.fields
        phrasings: dict[str, list[str]] = {level: [] for level in LEVELS}
        for line in block.lines:
            level, _, phrasing = line.partition(" ")
            if level not in LEVELS:
                raise ValueError(f"{block.where}: {line!r} begins with none of {', '.join(LEVELS)}.")
            phrasings[level].append(phrasing)
        for number, (level, own) in enumerate(phrasings.items()):
            yield Family(block.where, f"{name}/{level}", number, task, DOMAIN_WEIGHTS[number], "", own)


def check_family(family: Family, vocabulary: Vocabulary, domains: set[str]) -> None:
    is_sound = len(family.weights) == len(LEVELS) and abs(sum(family.weights) - 1) < 1e-9
    if not is_sound or family.weights.index(max(family.weights)) != family.level:
        raise ValueError(
            f"{family.where}: the weights {family.weights} of `{family.name}` must be {len(LEVELS)}, sum to 1, and be "
            f"largest at {LEVELS[family.level]}."
        )
    if not family.phrasings:
        raise ValueError(f"{family.where}: `{family.name}` has no phrasing.")
    if family.domain and family.domain not in domains:
        raise ValueError(f"{family.where}: the domain is `{family.domain}`, expected one of {sorted(domains)}.")
    for line in family.phrasings:
        phrasing, choices = split_choices(line)
        try:
            slots = [slot for _, slot, _, _ in string.Formatter().parse(phrasing) if slot is not None]
        except ValueError as error:
            raise ValueError(f"{family.where}: {line!r}: {error}.") from error
        unknown = [slot for slot in slots if not vocabulary.knows(slot)]
        if choices and choices not in vocabulary.slots:
            unknown.append(choices)
        if unknown:
            raise ValueError(f"{family.where}: {line!r} asks for `{unknown[0]}`, which words.txt and pairs.txt lack.")


def split_choices(line: str) -> tuple[str, str]:
    """A phrasing, and the slot whose words it may offer as a choice ("" if none): `What place is it? [place]`."""
    match = re.fullmatch(r"(.*?)(?: \[([a-z]+)\])?", line)
    assert match is not None
    return match[1], match[2] or ""
