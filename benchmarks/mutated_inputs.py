"""What becomes of 1,000 damaged and hostile pictures: outcome by format, and what they cost.

    python -m benchmarks.mutated_inputs [--json FILE]

Each is read by `read_raster` in a child process that may take 1 GiB beyond what it held and 10 s of processor time,
with the job's default of `max_pixels`. The exit status is 1 when one of them ends otherwise than in a picture or a
code of a rejected pair.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.codes import Code, Status
from tests.mutant_trial import IMAGE, Trial, try_mutants
from tests.mutants import TOTAL

ALLOWED = {IMAGE, *(code.value for code in Code if code.status == Status.REJECTED)}
WORST = 8


def outcome_table(trials: Sequence[Trial]) -> Table:
    """Counts of outcomes by format, with the worst time and memory."""
    totals = Counter(trial.outcome for trial in trials)
    outcomes = [outcome for outcome, _ in totals.most_common()]
    table = Table("format", *outcomes, "all", "slowest (s)", "largest (MiB)")
    formats = sorted({trial.kind.split()[0] for trial in trials}, key=str.lower)
    for name in [*formats, ""]:
        chosen = [trial for trial in trials if name in ("", trial.kind.split()[0])]
        counts = Counter(trial.outcome for trial in chosen)
        table.add_row(
            name or "all",
            *(str(counts[outcome] or "") for outcome in outcomes),
            str(len(chosen)),
            f"{max(trial.seconds for trial in chosen):.1f}",
            str(max(trial.peak for trial in chosen) >> 20),
        )
    return table


def worst_table(title: str, trials: Sequence[Trial]) -> Table:
    """Some trials, one by one."""
    table = Table("number", "format", "change", "outcome", "seconds", "MiB", title=title)
    for trial in trials:
        figures = f"{trial.seconds:.2f}", str(trial.peak >> 20)
        table.add_row(str(trial.number), trial.kind, trial.change, trial.outcome, *figures)
    return table


def main() -> int:
    """Read them all and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every trial to this file")
    arguments = parser.parse_args()
    trials = try_mutants(range(TOTAL))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(trial) for trial in trials], indent=1))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(outcome_table(trials))
    console.print(worst_table("slowest", sorted(trials, key=lambda trial: -trial.seconds)[:WORST]))
    console.print(worst_table("largest", sorted(trials, key=lambda trial: -trial.peak)[:WORST]))
    faults = [trial for trial in trials if trial.outcome not in ALLOWED]
    if faults:
        console.print(worst_table("faults", faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
