"""
Benchmarks by name. A family of them is a file of this folder with its `BENCHMARKS`; a new one joins `_FAMILIES`.

```python
from granulon.evaluation import benchmarks

questions = benchmarks.load("easy-vqa", limit=100)
print(questions.items[0].prompt, questions.image(questions.items[0]).size)
```
"""

from granulon.evaluation.benchmarks import aokvqa, easy_vqa, mmvp, pope, scenes, seed_bench
from granulon.evaluation.benchmarks.base import Baseline, Benchmark, Item, Questions, draw


_FAMILIES = (aokvqa, easy_vqa, mmvp, pope, scenes, seed_bench)
BENCHMARKS: dict[str, Benchmark] = {one.name: one for family in _FAMILIES for one in family.BENCHMARKS}


def load(
    name: str, limit: int | None = 1000, seed: int = 0, source: str | None = None, revision: str | None = None
) -> Questions:
    """
    Questions of the benchmark `name`, one of `BENCHMARKS`, drawn as `draw` draws them.

    Raises:
        ValueError: an unknown name, and what `draw` raises.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"There is no benchmark {name!r}. The benchmarks are {', '.join(BENCHMARKS)}.")
    return draw(BENCHMARKS[name], limit, seed, source, revision)


__all__ = ["BENCHMARKS", "Baseline", "Benchmark", "Item", "Questions", "draw", "load"]
