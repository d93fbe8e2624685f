"""
Keep the copies of the code in step: `make fix-copies` writes them, `make check` (`--check`) only compares.

Code travels to the Hub flat, so the repository holds some files twice: what both the model and the processor import
is written in `modeling_granulon/` and copied to `processing/`; and the shipped nano model has its code beside its
weights. Which files these are follows from its `auto_map` and from the relative imports, as in `save_pretrained`.
"""

import json
import sys
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_imports


ROOT = Path(__file__).parents[2]
MODELING, PROCESSING, SHIPPED = "modeling_granulon", "processing", "examples/nano/granulon-nano"


def auto_modules(tree: object, inside: bool = False) -> set[str]:
    """Names of the modules that the `auto_map`s of a parsed JSON file point to."""
    if isinstance(tree, str):
        return {tree.split("--")[-1].rpartition(".")[0]} if inside else set()
    if isinstance(tree, list):
        return set().union(*(auto_modules(item, inside) for item in tree))
    if isinstance(tree, dict):
        return set().union(*(auto_modules(item, inside or key == "auto_map") for key, item in tree.items()))
    return set()


def imported(names: set[str], root: Path) -> set[str]:
    """`names` and every module that they import by a dot, from whichever room holds it."""
    found, waiting = set(), set(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        for room in (MODELING, PROCESSING):
            if (path := root / room / f"{name}.py").exists():
                waiting |= set(get_relative_imports(path)) - found
    return found


def expected_copies(root: Path = ROOT) -> dict[Path, Path]:
    """Each copy that belongs into the repository, and its original."""
    own = {path.stem for path in (root / PROCESSING).glob("*_granulon.py")}
    shared = {name for name in imported(own, root) if (root / MODELING / f"{name}.py").exists()}
    copies = {root / PROCESSING / f"{name}.py": root / MODELING / f"{name}.py" for name in shared}
    roots = auto_modules([json.loads(path.read_text("utf-8")) for path in sorted((root / SHIPPED).glob("*.json"))])
    for name in imported(roots, root):
        room = MODELING if (root / MODELING / f"{name}.py").exists() else PROCESSING
        copies[root / SHIPPED / f"{name}.py"] = root / room / f"{name}.py"
    return copies


def differences(root: Path = ROOT) -> dict[Path, Path | None]:
    """Copies that are absent or differ, each with its original; those that nothing imports any more, with None."""
    copies = expected_copies(root)
    differ = {
        copy: original
        for copy, original in copies.items()
        if not copy.exists() or copy.read_bytes() != original.read_bytes()
    }
    return differ | {path: None for path in (root / SHIPPED).glob("*.py") if path not in copies}


def fix(root: Path = ROOT) -> list[Path]:
    """Make the copies again, those of `processing/` first; returns what changed."""
    changed = []
    while differ := differences(root):  # a new copy may bring imports of its own
        for copy, original in differ.items():
            if original is None:
                copy.unlink()
            else:
                copy.write_bytes(original.read_bytes())
            changed.append(copy)
    return changed


def main() -> None:
    if sys.argv[1:] != ["--check"]:
        for path in fix():
            print(f"{path.relative_to(ROOT)}: {'copied' if path.exists() else 'removed'}")
    elif differ := differences():
        lines = [
            f"{copy.relative_to(ROOT)} {f'is not a copy of {original.relative_to(ROOT)}' if original else 'is unused'}"
            for copy, original in sorted(differ.items())
        ]
        sys.exit("\n".join([*lines, "Run `make fix-copies`."]))


if __name__ == "__main__":
    main()
