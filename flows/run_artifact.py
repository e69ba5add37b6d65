"""What the runs of a job came to, as the page of the Prefect UI shows it."""

from __future__ import annotations

from collections.abc import Sequence

from flows.fuse_archive import RunSummary
from flows.heartbeat import duration
from tasks.codes import Status


def runs_markdown(summaries: Sequence[RunSummary]) -> str:
    """Counts of each run, what was not fused by its code, and where the rest is found.

    Args:
        summaries: of one job, at least one.
    """
    titles = ["run", "pairs", *Status, "took"]
    lines = [f"| {' | '.join(titles)} |", "|" + " --- |" * len(titles)]
    for summary in summaries:
        counts = (f"{summary.count(status):,}" for status in Status)
        cells = [summary.settings.run.run_id, f"{summary.reconciliation.pairs:,}", *counts, duration(summary.seconds)]
        lines.append(f"| {' | '.join(cells)} |")
    codes = [
        f"- {count:,} {code}, in run {summary.settings.run.run_id}"
        for summary in summaries
        for code, count in summary.reconciliation.codes.items()
    ]
    # Where they lie is among the flow run's parameters; pages that outlive it name no places.
    where = f"Method `{summaries[-1].settings.job.method_name}`. `ddfm report DEST` writes the page of the newest run."
    return "\n".join([*lines, "", *codes, "", where, ""])
