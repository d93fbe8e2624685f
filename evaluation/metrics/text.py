"""How the metrics read answers: each benchmark's normalisation, letters and options, and words."""

import re
from collections.abc import Sequence

from nltk.tokenize import TreebankWordTokenizer


# What VQA's evaluation restores apostrophes to. A word is found without any one of its own; it looks at lower-cased
# words, so its entries of I ("Im", "Ive") never apply and are left out.
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
    you've
""".split()  # noqa: SIM905
CONTRACTIONS = {
    word[: at.start()] + word[at.end() :]: word for word in CONTRACTED for at in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}  # as VQA has it
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}
ARTICLES = {"a", "an", "the"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": " ... ", "*": " * "}
)
CAPTION_PUNCTUATION = {*"'`.?!,:-;()[]{}", "''", "``", "--", "..."}


def words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and underscores, in order."""
    return re.findall(r"\w+", text.lower())


def one_line(text: str) -> str:
    """As VQA's evaluation tidies every answer: no line breaks, no tabs, nothing around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_answer(text: str) -> str:
    """An answer as VQA compares it: no punctuation or articles, numbers as digits, apostrophes restored."""
    number_with_comma = re.search(r"\d,\d", text)
    bare = text
    for mark in PUNCTUATION:
        glued = not (mark + " " in text or " " + mark in text or number_with_comma)
        bare = bare.replace(mark, " " if glued else "")
    bare = re.sub(r"\.(?!\d)", "", bare)
    kept = [DIGITS.get(word, word) for word in bare.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept if word not in ARTICLES)


def evalai_answer(text: str) -> str:
    """An answer as TextVQA compares it: VQA's form of it without commas and question marks, and with 's set apart."""
    return vqa_answer(one_line(text.lower().replace(",", "").replace("?", "").replace("'s", " 's")))


def plain_answer(text: str) -> str:
    """An answer as A-OKVQA writes its own: lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def caption_words(text: str) -> list[str]:
    """
    A caption's words as COCO's captions are compared: Penn Treebank tokens, lower-cased, without punctuation.

    NLTK's Treebank rules take the place of Stanford's tokenizer, which needs Java. NLTK's expect one sentence, so the
    full stop of each sentence is set apart first.
    """
    separated = re.sub(r"(?<=\w\w)\.(?=\s)", " .", text.lower().translate(TYPOGRAPHY))
    return [token for token in TreebankWordTokenizer().tokenize(separated) if token not in CAPTION_PUNCTUATION]


def letter_index(text: str, num_choices: int = 26) -> int | None:
    """
    The index of the option whose letter an answer gives: "B", "(b)", "B. a cat", "The answer is B", "It is (B)".

    The first of these forms that occurs decides. None where none does, where it names several letters, or one beyond
    the first `num_choices`. Neither "A cat" nor "the answer is a cat" gives a letter.
    """
    capital = f"[A-{chr(ord('A') + num_choices - 1)}]"
    either = f"(?:{capital}|{capital.lower()})"
    forms = (
        rf"^\W*({either})\W*$",  # nothing else
        rf"^\W*({either})(?:[.):,]|\s*\n)",  # at the start, then punctuation
        rf"(?i:\b(?:answer|option|choice)(?: is)?(?:\s*:\s*|\s+))\W*({capital}\b|{capital.lower()}\b(?!,?\s+\w))",
        rf"\(({either})\)",  # in brackets
    )
    for form in forms:
        found = {match.upper() for match in re.findall(form, text.strip())}
        if found:
            return ord(found.pop()) - ord("A") if len(found) == 1 else None
    return None


def option_index(text: str, choices: Sequence[str]) -> int | None:
    """
    The index of the option whose text an answer gives: that of the same words, or else the only one that occurs.

    An option within a longer one that occurs (red, red bus) does not count. None where no option is left, or several.
    """
    answer, options = words(text), [words(choice) for choice in choices]
    if answer in options:
        return options.index(answer)
    found = [option for option in options if option and _within(option, answer)]
    longest = [option for option in found if not any(option != other and _within(option, other) for other in found)]
    return options.index(longest[0]) if len(longest) == 1 else None


def _within(part: list[str], whole: list[str]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))
