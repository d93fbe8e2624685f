"""
Build `questions_train.jsonl`: questions with weights over four granularity levels, from families of phrasings.

    python -m granulon.training.prepare.build_corpus            # writes the corpus and prints its report
    python -m granulon.training.prepare.build_corpus --check    # only the report; fails if the file is out of date

A *family* is one way of needing an image: "which part of this object is damaged". It has a task, weights over coarse,
medium, fine and finest, and several phrasings with slots. A question is a phrasing with its slots filled, then dressed
without regard to its level: context sentences, politeness, multiple choice, "Answer in one word.", typos. So only its
meaning gives the level away. Families, not questions, are split into train and dev.

All words are in `training/corpora/sources/`, in text files that say themselves how they are written; README.md beside
them is the data card. The sources come with the repository and the sdist, not with the wheel.
"""

import argparse
import json
import random
import re
import string
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from granulon.files import new_file

from .corpus_sources import CORPORA, LEVELS, Family, Sources, Vocabulary, read_sources, split_choices, words


SEED = 20
QUESTIONS_PER_LEVEL = 1500
DEV_SHARE = 0.15
OUTPUT, HELDOUT = CORPORA / "questions_train.jsonl", CORPORA / "questions_heldout.jsonl"
Record = dict[str, Any]  # a line of the corpus


# ------------------------------------------------------------------------------------------------- one plain question


class Filler(string.Formatter):
    """Draws a word for each slot that a phrasing asks for, never the same word twice in one question."""

    def __init__(self, vocabulary: Vocabulary, rng: random.Random):
        self.vocabulary, self.rng = vocabulary, rng
        self.drawn: dict[str, str] = {}

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Any) -> str:
        slot = str(key)
        if slot not in self.drawn:
            self.drawn.update(self._draw(slot))
        return self.drawn[slot]

    def format_field(self, value: str, format_spec: str) -> str:
        return self.vocabulary.inflect(value, format_spec)

    def _draw(self, slot: str) -> dict[str, str]:
        for slots, rows in self.vocabulary.pairs.items():
            if slot in slots:
                return dict(zip(slots, self.rng.choice(rows), strict=True))
        choices = self.vocabulary.slots[slot.rstrip("23")]
        return {slot: self.rng.choice([word for word in choices if word not in self.drawn.values()])}


# -------------------------- dress, without a look at the level (but an aside names a level that is not asked for)

QUESTION_WORDS = words(
    """what, what's, which, who, whose, whom, where, when, why, how, is, are, was, were, do, does, did, has, have, can,
    could, would, will, should, may, am, in, at, to, on, with, of, by, between, up, until, as"""
)
YES_NO_WORDS = words("is, are, was, were, do, does, did, has, have, can, could, would, will, should, may, am")


def dress(question: str, family: Family, choices: str, sources: Sources, rng: random.Random) -> str:
    """
    A question as somebody might put it.

    Args:
        choices: a slot whose words may become options, or "".
    """
    dressing = sources.dressing
    first = question.split()[0].lower().strip(",")
    is_question = question.rstrip().endswith("?") or first in QUESTION_WORDS
    kind = "order" if not is_question else "yes_no" if first in YES_NO_WORDS and " or " not in question else "question"
    if choices and rng.random() < 0.3:
        question = add_choices(question, sources.vocabulary.slots[choices], rng)
    elif rng.random() < 0.16 and not re.search(r"[.?:,] ", question):
        question = add_lead(question, rng.choice(dressing["lead", "question" if is_question else "order"]))
    if rng.random() < 0.16:
        question = f"{question} {rng.choice(dressing['ending', kind if rng.random() < 0.75 else 'any'])}"
    if rng.random() < 0.14:
        is_own = family.domain and rng.random() < 0.7
        context = rng.choice(dressing["context", family.domain] if is_own else dressing["context",])
        question = f"{context} {question}"
    elif rng.random() < 0.05:
        other = rng.choice([level for level in LEVELS if level != LEVELS[family.level]])
        aside = rng.choice(dressing["aside", other])
        question = f"{aside} {question}" if rng.random() < 0.7 else f"{question} {aside}"
    if rng.random() < 0.05:
        question = misspell(question, rng)
    if rng.random() < 0.07:
        question = question.lower()
    if rng.random() < 0.06:
        question = question.rstrip("?.! ")
    return question


def add_lead(question: str, lead: str) -> str:
    is_name = re.match(r"I\b|[A-Z]{2}", question)
    question = lead.format(question if is_name else question[0].lower() + question[1:])
    return question.rstrip(".") + "?" if lead.startswith("C") else question  # Can you, Could you


def add_choices(question: str, choices: list[str], rng: random.Random) -> str:
    options = rng.sample(choices, 4)
    style = rng.randrange(4)
    if style == 0:
        return question + "".join(f"\n{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    if style == 1:
        return f"{question} Options: {', '.join(options)}."
    if style == 2:
        listed = " ".join(f"({letter}) {option}" for letter, option in zip("ABCD", options, strict=True))
        return f"{question} {listed} Answer with the option's letter."
    return f"{question} {', '.join(options[:-1])} or {options[-1]}?"


def misspell(text: str, rng: random.Random) -> str:
    """Swap two inner letters of one long word, or drop one."""
    long_words = list(re.finditer(r"[a-z]{5,}", text))
    if not long_words:
        return text
    match = rng.choice(long_words)
    i = rng.randrange(match.start() + 1, match.end() - 2)
    return text[:i] + (text[i + 1] + text[i] if rng.random() < 0.5 else text[i]) + text[i + 2 :]


# -------------------------------------------------------------------------------------------------------------- build


def build(sources: Sources, heldout: Path = HELDOUT) -> list[Record]:
    """The corpus, without repetitions and without questions that resemble one of `heldout`, a corpus file."""
    split = split_families(sources.families, random.Random(SEED))
    forbidden = [set(normalise(json.loads(line)["question"])) for line in heldout.read_text("utf-8").splitlines()]
    seen: set[tuple[str, ...]] = set()
    records = []
    for level in range(len(LEVELS)):
        own = [family for family in sources.families if family.level == level]
        num_taken = 0
        # round robin over the families, so that each gets as many questions as the others until it runs dry
        for turn in range(10 * QUESTIONS_PER_LEVEL):
            if num_taken == QUESTIONS_PER_LEVEL:
                break
            family = own[turn % len(own)]
            plain, question = draw_question(family, turn // len(own), sources)
            tokens = normalise(question)
            if tokens in seen or resembles(plain, forbidden) or resembles(question, forbidden):
                continue
            seen.add(tokens)
            num_taken += 1
            records.append(
                {
                    "question": question,
                    "weights": family.weights,
                    "family": family.name,
                    "task": family.task,
                    "split": split[family.name],
                }
            )
    return records


def draw_question(family: Family, number: int, sources: Sources) -> tuple[str, str]:
    """The question of a family with this number, plain and dressed."""
    rng = random.Random(f"{SEED}/{family.name}/{number}")
    phrasing, choices = split_choices(family.phrasings[number % len(family.phrasings)])
    plain = Filler(sources.vocabulary, rng).vformat(phrasing, (), {})
    plain = plain[0].upper() + plain[1:] if rng.random() < 0.97 else plain
    return plain, dress(plain, family, choices, sources, rng)


def split_families(families: list[Family], rng: random.Random) -> dict[str, str]:
    """Family -> train or dev: the same share of each level, and the four families of a domain go the same way."""
    levels: dict[str, list[int]] = {}
    for family in families:
        levels.setdefault(family.topic, []).append(family.level)
    groups = defaultdict(list)
    for topic, own in levels.items():
        groups[tuple(own)].append(topic)
    dev = {topic for topics in groups.values() for topic in rng.sample(topics, round(DEV_SHARE * len(topics)))}
    return {family.name: "dev" if family.topic in dev else "train" for family in families}


def normalise(question: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", question.lower()))


def resembles(question: str, others: list[set[str]]) -> bool:
    """More than 0.7 of the words that either has are in both (the corpus promises at most 0.8)."""
    own = set(normalise(question))
    return any(len(own & other) > 0.7 * len(own | other) for other in others)


# ------------------------------------------------------------------------------------- report: what do shortcuts know?


def report(records: list[Record]) -> str:
    lines = [f"{len(records)} questions, {len({record['family'] for record in records})} families"]
    for key in ("split", "task"):
        lines += _table(key, records, lambda record, key=key: record[key])
    first_words = Counter(_first_word(record) for record in records)
    lines += _table("first word", records, _first_word, [word for word, _ in first_words.most_common(14)])
    by_level = [
        sorted(len(normalise(record["question"])) for record in records if level_of(record) == level)
        for level in range(len(LEVELS))
    ]
    medians = ", ".join(f"{name} {own[len(own) // 2]}" for name, own in zip(LEVELS, by_level, strict=True))
    lines.append(f"median length in words: {medians}")
    share = {
        "length alone": shortcut_accuracy(records, lambda r: min(len(normalise(r["question"])), 30) // 2),
        "first word alone": shortcut_accuracy(records, _first_word),
        "first two words": shortcut_accuracy(records, lambda r: normalise(r["question"])[:2]),
    }
    lines += [f"{name} predicts {value:.1%} of the dev levels (chance 25 %)" for name, value in share.items()]
    return "\n".join(lines)


def _table(
    title: str, records: list[Record], cue: Callable[[Record], str], values: list[str] | None = None
) -> list[str]:
    """Questions by a value (`values`, or all in order) and by level."""
    counts = Counter((cue(record), level_of(record)) for record in records)
    rows = [f"{title:12s} " + " ".join(f"{level:>7s}" for level in LEVELS)]
    for value in values or sorted({value for value, _ in counts}):
        rows.append(f"{value:12s} " + " ".join(f"{counts[value, level]:7d}" for level in range(len(LEVELS))))
    return rows


def _first_word(record: Record) -> str:
    return normalise(record["question"])[0]


def level_of(record: Record) -> int:
    return record["weights"].index(max(record["weights"]))


def shortcut_accuracy(records: list[Record], cue: Callable[[Record], object]) -> float:
    """Accuracy on the dev families of guessing the level most frequent in the train families for a value of `cue`."""
    votes: defaultdict[object, Counter[int]] = defaultdict(Counter)
    overall: Counter[int] = Counter()
    for record in records:
        if record["split"] == "train":
            votes[cue(record)][level_of(record)] += 1
            overall[level_of(record)] += 1
    dev = [record for record in records if record["split"] == "dev"]
    guesses = [(votes.get(cue(record)) or overall).most_common(1)[0][0] for record in dev]
    return sum(guess == level_of(record) for guess, record in zip(guesses, dev, strict=True)) / len(dev)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m granulon.training.prepare.build_corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the corpus on disk differs")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write or check (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        records = build(read_sources())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    print(report(records))
    if arguments.check:
        is_current = arguments.output.exists() and arguments.output.read_bytes() == content
        print(f"{arguments.output} is {'up to date' if is_current else 'out of date: run this without --check'}")
        return 0 if is_current else 1
    with new_file(arguments.output, "wb") as file:
        file.write(content)
    print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
