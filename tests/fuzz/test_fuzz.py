"""Every fuzzer in its bounded form; `make fuzz` runs the long one."""

import random
from types import SimpleNamespace

import fuzz
import pytest


@pytest.mark.parametrize("name", fuzz.find_fuzzers())
def test_no_input_ends_in_a_wrong_error(name: str) -> None:
    fuzzer = fuzz.load_fuzzer(name)
    report = fuzz.run_fuzzer(name, fuzzer, count=fuzzer.COUNT)
    assert report.tried == fuzzer.COUNT
    assert not report.faults, f"\n{report}"


def judge(case: int) -> None:
    if case % 3 == 0:
        raise ValueError("three")
    assert case % 7, "seven"


JUDGE = SimpleNamespace(ALLOWED=(ValueError,), make=lambda rng: rng.randrange(1000), run=judge)


def test_the_driver_counts_what_is_refused_and_what_is_wrong() -> None:
    cases = [random.Random(seed).randrange(1000) for seed in range(5, 205)]
    report = fuzz.run_fuzzer("judge", JUDGE, seed=5, count=200)
    wrong = [5 + index for index, case in enumerate(cases) if case % 3 and case % 7 == 0]
    assert report.tried == 200 and report.refused == sum(case % 3 == 0 for case in cases)
    assert [fault.seed for fault in report.faults] == wrong and wrong
    assert f"{len(wrong)} x AssertionError in test_fuzz.py" in str(report)


def test_a_faults_seed_alone_shows_it_again() -> None:
    first = fuzz.run_fuzzer("judge", JUDGE, count=200).faults[0]
    again = fuzz.run_fuzzer("judge", JUDGE, seed=first.seed, count=1)
    assert [(fault.seed, fault.case) for fault in again.faults] == [(first.seed, first.case)]
    assert f"--only judge --seed {first.seed} --count 1" in str(again)


def test_time_ends_a_run_without_a_count() -> None:
    assert fuzz.run_fuzzer("judge", JUDGE, seconds=0.05).tried > 10
