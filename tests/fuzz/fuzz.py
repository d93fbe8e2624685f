"""
Hostile inputs by the thousand: run every fuzzer beside this file, or some of them.

    python tests/fuzz/fuzz.py --seconds 60                        # each fuzzer for a minute
    python tests/fuzz/fuzz.py --only chats --seed 417 --count 1   # replay one fault

A fuzzer is a module `fuzz_NAME.py` with

    ALLOWED     the exceptions with which the code under test may answer, such as `(TypeError, ValueError)`
    COUNT       how many inputs `make test` tries (a few seconds' worth)
    make(rng)   an input, drawn from a `random.Random`
    run(case)   give it to the code under test; whatever else this raises is a fault, a failed `assert` included

An input is a function of its seed alone, so the seed of a fault is all that is needed to see it again.
"""

import argparse
import importlib
import logging
import random
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count as count_from
from pathlib import Path
from typing import Any


HERE = Path(__file__).parent


@dataclass
class Fault:
    """An exception that a fuzzer does not allow."""

    seed: int
    case: Any
    error: BaseException

    @property
    def place(self) -> str:
        """The exception's type and the line that raised it: faults with the same place are one bug."""
        frame = traceback.extract_tb(self.error.__traceback__)[-1]
        return f"{type(self.error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"

    def __str__(self) -> str:
        return f"{self.place}: {shorten(str(self.error))}\n    seed {self.seed}: {shorten(repr(self.case))}"


@dataclass
class Report:
    """What one fuzzer found."""

    name: str
    tried: int = 0
    refused: int = 0
    slowest: tuple[float, int] = (0.0, 0)  # seconds, seed
    faults: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.tried} inputs tried, {self.refused} refused, {len(self.faults)} faults "
            f"(slowest {self.slowest[0]:.2f} s: seed {self.slowest[1]})"
        ]
        by_place: dict[str, list[Fault]] = {}
        for fault in self.faults:
            by_place.setdefault(fault.place, []).append(fault)
        for faults in by_place.values():
            lines.append(f"  {len(faults)} x {faults[0]}")
            lines.append(f"    replay: python tests/fuzz/fuzz.py --only {self.name} --seed {faults[0].seed} --count 1")
        return "\n".join(lines)


def shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def find_fuzzers() -> list[str]:
    """Names of the fuzzers beside this file."""
    return sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))


def load_fuzzer(name: str) -> Any:
    """The module of a fuzzer; like the tests, it may `import tiny`."""
    for folder in (HERE.parent, HERE):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(f"fuzz_{name}")


def run_fuzzer(
    name: str, fuzzer: Any, *, seed: int = 0, count: int | None = None, seconds: float | None = None
) -> Report:
    """Try inputs of the seeds from `seed` on, until `count` are tried or `seconds` are over."""
    report = Report(name)
    begin = time.monotonic()
    seeds: Iterator[int] = count_from(seed) if count is None else iter(range(seed, seed + count))
    for each in seeds:
        if seconds is not None and time.monotonic() - begin > seconds:
            break
        case = fuzzer.make(random.Random(each))
        start = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.disable(logging.WARNING)
                fuzzer.run(case)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the tokenizer's is no Exception
            if isinstance(error, fuzzer.ALLOWED):
                report.refused += 1
            else:
                report.faults.append(Fault(each, case, error))
        finally:
            logging.disable(logging.NOTSET)
        report.tried += 1
        report.slowest = max(report.slowest, (time.monotonic() - start, each))
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Try hostile inputs and print those that end in a wrong error.")
    parser.add_argument("--only", choices=find_fuzzers(), nargs="+", help="these fuzzers (default: all)")
    parser.add_argument("--seconds", type=float, help="time for each fuzzer (default: 60, without --count)")
    parser.add_argument("--count", type=int, help="inputs for each fuzzer")
    parser.add_argument("--seed", type=int, default=0, help="the first input's seed; the next has the next number")
    options = parser.parse_args(arguments)
    seconds = 60.0 if options.seconds is None and options.count is None else options.seconds
    num_faults = 0
    for name in options.only or find_fuzzers():
        report = run_fuzzer(name, load_fuzzer(name), seed=options.seed, count=options.count, seconds=seconds)
        print(report, flush=True)
        num_faults += len(report.faults)
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
