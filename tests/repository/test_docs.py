"""What the pages say is so: their Python runs in order and prints what they promise, and their links lead on."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml


ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```python\n(?P<code>.*?)^```$", re.M | re.S)
ELSEWHERE = re.compile(r"[a-z]+:")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@cache
def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[re.Match[str]]:
    return list(BLOCK.finditer(read(page)))


def program(page: str) -> str:
    """The page's Python, with all else blank, so that the line numbers of a traceback are the page's."""
    lines = [""] * len(read(page).splitlines())
    for block in blocks(page):
        if not block["reason"]:
            first = read(page).count("\n", 0, block.start("code"))
            code = block["code"].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines)


def promised(page: str) -> list[str]:
    """What the page says that its Python prints: the comments that follow a `print`."""
    return re.findall(r"^print\(.*\n# (.*)$", program(page), re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages assume it: the repository's, with a `my-granulon` and a few pictures in `my-photos`."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("docs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "my-granulon").symlink_to(ROOT / "examples" / "nano" / "granulon-nano")
    scenes = [sys.executable, "examples/nano/scenes.py", "--output", "my-photos", "--task", "packing", "--count", "16"]
    subprocess.run(scenes, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if program(page).strip()])
def test_the_python_of_a_page_runs_in_order(page: str, folder: Path):
    script = folder / f"{Path(page).stem}.py"
    script.write_text(program(page), encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, script.name], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, f"{page} (the line numbers are the page's)\n{result.stderr[-3000:]}"
    printed = iter(line.strip() for line in result.stdout.splitlines())
    assert [line for line in promised(page) if line in printed] == promised(page)


NOT_RUN = [(page, block["reason"]) for page in PAGES for block in blocks(page) if block["reason"]]


@pytest.mark.parametrize(("page", "reason"), NOT_RUN, ids=[page for page, _ in NOT_RUN])
def test_python_that_is_not_run(page: str, reason: str):
    """Each block that the pages mark `<!-- not run: why -->` is counted as one skipped test."""
    pytest.skip(f"{page}: {reason}")


@pytest.mark.slow
def test_the_readmes_fine_tuning_works_word_for_word(tmp_path: Path):
    for name, target in (("docs", ROOT / "docs"), ("examples", ROOT / "examples"), (".venv", Path(sys.prefix))):
        (tmp_path / name).symlink_to(target)
    section = read("README.md").partition("## Fine-tune it on your own images")[2]
    commands = re.search(r"^```bash\n(.*?)^```$", section, re.M | re.S)[1]
    result = subprocess.run(["bash", "-euxc", commands], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    first = json.loads((tmp_path / "my-photos" / "chat.json").read_text())[0]
    assert first["image"] in commands and first["conversations"][1]["value"] in result.stdout


def anchors(page: Path) -> set[str]:
    """The headings of a page as code hosts address them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


MARKDOWN = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", ".github/**/*.md", "docs/**/*.md", "examples/**/*.md", "training/**/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("page", MARKDOWN)
def test_links_lead_to_files_and_headings_that_are_there(page: str):
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    for link in LINK.findall(text):
        path, _, anchor = link.partition("#")
        if ELSEWHERE.match(link):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page} links to {link}, but {path} has no such heading"


def test_every_page_has_its_place_in_the_site():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = {page for entry in navigation for page in entry.values()}
    assert {f"docs/{page}" for page in named} == set(PAGES) - {"README.md"}
