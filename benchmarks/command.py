"""
The command while nothing is to be done: CPU time (user and system) of processes that only help, against one that
imports torch and transformers, as a command does that imports what it might need.
"""

import argparse
import resource
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import torch
from measure import (
    cell,
    interleave,
    origin,
    paired_ratio,
    parse_run_arguments,
    print_table,
    summary,
    target,
    write_rows,
)


GRANULON = str(Path(sysconfig.get_path("scripts"), "granulon"))
COMMANDS = {
    "imports": [sys.executable, "-c", "import torch, transformers"],
    "granulon --help": [GRANULON, "--help"],
    "granulon ask --help": [GRANULON, "ask", "--help"],
    "granulon --version": [GRANULON, "--version"],
}
AT_MOST = 0.15  # of the CPU time of the imports


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parse_run_arguments(parser, repeats=9)
    seconds = interleave({name: partial(cpu_seconds, words) for name, words in COMMANDS.items()}, options.repeats)
    rows, table = [], []
    for name, values in seconds.items():
        row = {"benchmark": "command", "command": name, "cpu_milliseconds": summary(values, 1000)}
        if name != "imports":
            row["targets"] = {"of_the_imports": target(paired_ratio(values, seconds["imports"]), at_most=AT_MOST)}
        rows.append(row | origin(torch.device("cpu"), torch.float32))
        judged = row.get("targets", {}).get("of_the_imports")
        table.append(
            {"command": name, "CPU ms": f"{row['cpu_milliseconds']['median']:.0f}", "of the imports": cell(judged)}
        )
    write_rows(rows, options.output)
    print_table(table)


if __name__ == "__main__":
    main()
