"""Benchmarks: prompts to the letter, seeded samples, and data sets that are not what they were."""

import re
from pathlib import Path

import pytest
import replicas

from granulon.evaluation import benchmarks, metrics


LETTER = "Answer with the option's letter from the given choices directly."
PROMPTS = {
    "easy-vqa": ("0", "what is the red shape?", "triangle"),
    "scenes": ("compositions/0/0", "what kind of things are shown?", "mixed"),
    "pope": (
        "popular/1",
        "Is there a thing 0 in the image?\nAnswer the question using a single word or phrase.",
        "yes",
    ),
    "mmvp": ("95", f"Is the dog of pair 47 asleep?\nA. Yes\nB. No, awake\n{LETTER}", "A. Yes"),
    "seed-bench": ("101", f"What is thing 1?\nA. dog 1\nB. cat 1\nC. cow 1\nD. owl 1\n{LETTER}", "B. cat 1"),
    "seed-bench-text": (
        "101",
        "What is thing 1?\nA. dog 1\nB. cat 1\nC. cow 1\nD. owl 1\n(Answer with the option content)",
        "B. cat 1",
    ),
    "a-okvqa": ("q1", f"What do people do at place 1?\nA. ski\nB. swim\nC. read\nD. sleep\n{LETTER}", "B. swim"),
    "a-okvqa-direct": (
        "q1",
        "What do people do at place 1?\nAnswer the question using a single word or phrase.",
        "ski, snowboard",
    ),
}
RIGHT = {  # where an answer is not what a reader is told
    "seed-bench-text": lambda item: item.expected["choices"][item.expected["references"]],
    "a-okvqa-direct": lambda item: item.expected["references"][0],
}
SIZES = {"pope": 12, "mmvp": 10, "seed-bench": 8, "seed-bench-text": 8, "a-okvqa": 6, "a-okvqa-direct": 5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    root = tmp_path_factory.mktemp("data")
    local = {name: str(replicas.write(name, root / name)) for name in replicas.REPLICAS}
    return {name: local.get(name) for name in benchmarks.BENCHMARKS}


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_prompts_and_answers_to_the_letter(name: str, folders):
    questions = benchmarks.load(name, limit=None, source=folders[name])
    assert len(questions.items) == questions.num_all == SIZES.get(name, questions.num_all)
    identifier, prompt, reference = PROMPTS[name]
    item = next(item for item in questions.items if item.id == identifier)
    assert (item.prompt, item.reference) == (prompt, reference)


@pytest.mark.parametrize("name", benchmarks.BENCHMARKS)
def test_right_answers_score_one_and_images_open(name: str, folders):
    questions = benchmarks.load(name, limit=6, source=folders[name])
    columns = {column: [item.expected[column] for item in questions.items] for column in questions.items[0].expected}
    right = [RIGHT[name](item) if name in RIGHT else item.reference for item in questions.items]
    options = questions.benchmark.options
    results = metrics.load(questions.benchmark.metric).compute(predictions=right, **columns, **options)
    assert next(iter(results.values())) == 1
    assert all(questions.image(item).mode == "RGB" for item in questions.items)
    if questions.benchmark.baseline:
        assert len(questions.benchmark.baseline.answers(questions.items)) == len(questions.items)


def test_a_smaller_sample_begins_a_larger_one_and_follows_the_seed():
    few, many, other = (benchmarks.load("easy-vqa", limit, seed) for limit, seed in ((20, 0), (90, 0), (20, 1)))
    assert few.items == many.items[:20] and few.items != other.items
    assert len({item.id for item in many.items}) == 90 < many.num_all


def test_pairs_are_drawn_whole(folders):
    drawn = benchmarks.load("mmvp", limit=5, source=folders["mmvp"]).items
    assert len(drawn) == 4 and len({item.group for item in drawn}) == 2
    with pytest.raises(ValueError, match="a limit of 1 is less than one group of 2 questions"):
        benchmarks.load("mmvp", limit=1, source=folders["mmvp"])


def test_labels_that_the_first_release_of_mmvp_swaps(folders):
    items = {item.id: item for item in benchmarks.load("mmvp", source=folders["mmvp"]).items}
    assert [items[number].expected["references"] for number in ("97", "98", "99", "100")] == [0, 1, 1, 0]


@pytest.mark.parametrize("name", replicas.REPLICAS)
def test_a_missing_column_is_named(name: str, tmp_path: Path):
    gone = benchmarks.BENCHMARKS[name].columns[-2]
    folder = replicas.write(name, tmp_path / "data", **{gone: None})
    with pytest.raises(ValueError, match=f"{name}: .* has no column {gone}; it has .*name a revision"):
        benchmarks.load(name, source=str(folder))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pope", {"answer": "maybe"}),
        ("mmvp", {"Options": "yes or no"}),
        ("mmvp", {"Correct Answer": "(c)"}),
        ("seed-bench", {"answer": "E"}),
        ("a-okvqa", {"correct_choice_idx": 4}),
        ("a-okvqa-direct", {"direct_answers": "ski, swim"}),
    ],
)
def test_a_row_that_is_not_as_expected_is_named(name: str, change: dict, tmp_path: Path):
    folder = replicas.write(name, tmp_path / "data", **change)
    with pytest.raises(ValueError, match=f"{name}: row 0 of .* is not as expected .*was changed"):
        benchmarks.load(name, source=str(folder))


def test_rows_that_share_an_id(tmp_path: Path):
    folder = replicas.write("a-okvqa", tmp_path / "data", question_id="q")
    with pytest.raises(ValueError, match="rows 0 and 1 of .* share the id q"):
        benchmarks.load("a-okvqa", source=str(folder))


def test_a_data_set_that_cannot_be_had_names_every_place_that_was_tried(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load_dataset(name: str, **options):
        asked.append((name, options["revision"]))
        raise ConnectionError(f"cannot reach {name}.")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ValueError, match="lmms-lab-encoder/POPE .*nor from lmms-lab/POPE .*hf auth login"):
        benchmarks.load("pope", revision="abc")
    assert asked == [("lmms-lab-encoder/POPE", "abc"), ("lmms-lab/POPE", "abc")]


def test_the_second_place_serves_where_the_first_is_gone(folders, monkeypatch: pytest.MonkeyPatch):
    import datasets

    load = datasets.load_dataset

    def load_dataset(name: str, **options):
        if name == "lmms-lab-encoder/POPE":
            raise datasets.exceptions.DatasetNotFoundError("moved")
        return load(folders["pope"], split=options["split"])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert benchmarks.load("pope", revision="v1").data == "lmms-lab/POPE@v1"


def test_every_benchmark_is_on_its_page():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    table = re.findall(r"^\| `([a-z-]+)` \|.*\| `([a-z_]+)` \|$", page, re.M)
    assert sorted(table) == sorted((name, one.metric) for name, one in benchmarks.BENCHMARKS.items())
    assert all(f"`{source}`" in page for one in benchmarks.BENCHMARKS.values() for source in one.sources)


def test_an_unknown_benchmark_lists_the_known_ones():
    with pytest.raises(ValueError, match="no benchmark 'popes'. The benchmarks are a-okvqa, .*easy-vqa.* seed-bench"):
        benchmarks.load("popes")


def test_a_source_for_what_needs_none():
    with pytest.raises(ValueError, match="easy-vqa needs no data set"):
        benchmarks.load("easy-vqa", source="me/easy")
