"""Evaluate methods over data sets: an ordinary fusion run for each, then tables, contact sheets and plots.

:func:`run_evaluation` is the plain sequence; ``flows.prefect_flows`` runs it as a Prefect flow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from ddfm_core.priors import Prior
from flows.fuse_archive import CheckedJob, RunSummary, Watcher, finish, fuse_here, identify_prior, plan_runs
from flows.fuse_shard import PLAIN, Stages
from flows.open_prior import open_prior
from tasks.codes import ConfigurationError, PairError, Status
from tasks.evaluation.datasets import DataSet, SetPair, choose_data_sets, find_data_sets
from tasks.evaluation.evaluation import Evaluation, pairs_table
from tasks.evaluation.gather import Means, mean_figures, method_rows, write_evaluation
from tasks.evaluation.methods import Method, parse_grid
from tasks.evaluation.pictures import write_key, write_plot, write_sheets, write_trace
from tasks.evaluation.stretched import Twin, measure_twin, plan_twin
from tasks.evaluation.tables import ResultTable, harvard_table, set_table, tables_text
from tasks.job import Job
from tasks.lock import hold
from tasks.storage import absolute, join, write_atomic


@dataclass(frozen=True)
class SetJobs:
    """A data set with the job of each method, by the method's name, in the order of the tables."""

    data_set: DataSet
    jobs: Mapping[str, Job]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation came to.

    Attributes:
        tables: one per data set, and that of the Harvard sets together.
        files: what was written beside the data sets' folders.
        statuses: rows by status.
        left_out: of each sheet that could not be made, a sentence.
        failed: whether in a run of this process a larger share of the pairs failed than its job allows.
    """

    tables: tuple[ResultTable, ...]
    files: tuple[str, ...]
    statuses: Mapping[str, int]
    left_out: tuple[str, ...]
    failed: bool

    @property
    def clean(self) -> bool:
        """Whether every pair of every method is ok, or was skipped on purpose, and every sheet is there."""
        return not (self.statuses.get(Status.REJECTED) or self.statuses.get(Status.FAILED) or self.left_out)

    def sentence(self) -> str:
        """The rows in one line."""
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        told = f"{sum(self.statuses.values())} rows: {counts}"
        return f"{told}; sheets left out: {len(self.left_out)}" if self.left_out else told


@dataclass(frozen=True)
class SetOutcome:
    """What the methods over a data set came to: their runs, and by the names of methods the rows of their twins."""

    summaries: Sequence[RunSummary]
    twins: Mapping[str, pa.Table]


class EvaluationWatcher(Watcher, Protocol):
    """Who follows an evaluation, and with it the runs of its jobs."""

    def evaluated(self, outcome: Evaluated) -> None:
        """All runs are complete, and the tables are written."""

    def evaluating(self, data_set: DataSet, method: Method) -> None:
        """The run of a method over a data set comes next; when all its pairs are settled there will be none."""

    def measuring(self, twin: Twin) -> AbstractContextManager[Callable[[float], None]]:
        """The pending pictures of a twin are measured next; what this gives is told of each."""

    def measured(self, rows: pa.Table) -> None:
        """They are measured, and these are their rows; not told when there were none."""


def no_check() -> None:
    """Nobody stops this run."""


def run_evaluation(
    evaluation: Evaluation,
    watcher: EvaluationWatcher,
    stages: Stages = PLAIN,
    check: Callable[[], None] = no_check,
) -> Evaluated:
    """Do all that an evaluation needs, in this process.

    Every data set's folder is locked while its methods run. What is committed stays: the same evaluation goes on there.

    Args:
        check: called between chunks; what it raises ends the work in an orderly way.

    Raises:
        ConfigurationError: before any work.
        StorageError: a place cannot be read or written.
        ReconcileError: rows are missing or double.
    """
    methods = evaluation.chosen_methods()
    found = choose_data_sets(find_data_sets(evaluation.data), evaluation.sets)
    sets = [SetJobs(one, {method.name: evaluation.job(one, method) for method in methods}) for one in
            (one.every(evaluation.every) for one in found)]  # fmt: skip
    traced = _find_traced(evaluation, methods, found)
    priors = Priors([job for one in sets for job in one.jobs.values()])
    outcomes = [_fuse_set(evaluation, one, methods, priors, watcher, stages, check) for one in sets]
    outcome = _report(evaluation, sets, outcomes, traced, priors)
    watcher.evaluated(outcome)
    return outcome


class Priors:
    """The priors of the jobs: each identified before any work, and loaded once, when it is first needed.

    Raises:
        ConfigurationError: a prior cannot be used as a job names it.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        asked = {self._asked(job): job for job in jobs}
        self._identities = {prior: identify_prior(job) for prior, job in asked.items()}
        self._loaded: dict[tuple[str, str, str], Prior] = {}

    @staticmethod
    def _asked(job: Job) -> str:
        """The prior that a job asks, empty where its mode asks none."""
        return job.prior if job.fusion_config().draws else ""

    def identity(self, job: Job) -> str:
        """The SHA-256 of a job's prior, empty where its mode asks none."""
        return self._identities[self._asked(job)]

    def load(self, job: Job) -> Prior:
        """A job's prior on its device.

        Raises:
            ConfigurationError: as :func:`flows.open_prior.open_prior`.
        """
        kind = (self._asked(job), job.device, job.precision)
        if kind not in self._loaded:
            self._loaded[kind] = open_prior(job, self.identity(job))
        return self._loaded[kind]


def _fuse_set(
    evaluation: Evaluation,
    one: SetJobs,
    methods: Sequence[Method],
    priors: Priors,
    watcher: EvaluationWatcher,
    stages: Stages,
    check: Callable[[], None],
) -> SetOutcome:
    summaries: list[RunSummary] = []
    twins: dict[str, pa.Table] = {}
    with hold(evaluation.folder(one.data_set), evaluation.wait, check=check) as lock:

        def check_both() -> None:
            check()
            lock.check()

        write_atomic(evaluation.pairs_uri(one.data_set), pairs_table(one.data_set))
        for method in methods:
            job = one.jobs[method.name]
            watcher.evaluating(one.data_set, method)
            for planned in plan_runs(CheckedJob(job, priors.identity(job)), None, lock.token, watcher):
                fuse_here(planned, priors.load(job), watcher, stages, check_both)
                check_both()
                summaries.append(finish(planned))
                watcher.finish(summaries[-1])
            if evaluation.has_twin(method):
                twin = plan_twin(absolute(evaluation.out), one.data_set, method, job)
                with watcher.measuring(twin) as progress:
                    twins[method.name] = measure_twin(twin, progress, check_both)
                if twin.pending:
                    watcher.measured(twin.of_pending(twins[method.name]))
    return SetOutcome(summaries, twins)


def _find_traced(
    evaluation: Evaluation, methods: Sequence[Method], found: Sequence[DataSet]
) -> tuple[DataSet, SetPair, str] | None:
    """The pair whose steps are wanted, with its set and the method that is traced."""
    wanted = evaluation.trace
    if wanted is None:
        return None
    traceable = [method.name for method in methods if method.diffuses]
    if not traceable:
        raise ConfigurationError("trace: none of the methods has diffusion steps; add one such as adaptive")
    hits = [(one, pair) for one in found for pair in one.pairs if wanted in (pair.key, f"{one.name}/{pair.key}")]
    if len(hits) != 1:
        many = ", ".join(f"{one.name}/{pair.key}" for one, pair in hits)
        raise ConfigurationError(
            f"trace: {wanted!r} is {'no pair' if not hits else 'the key of several pairs'} of "
            f"{', '.join(one.name for one in found)}; write SET/KEY{f', such as {many}' * bool(hits)}"
        )
    data_set, pair = hits[0]
    missing = [name for name, uri in (("first", pair.first), ("second", pair.second)) if uri is None]
    if missing:
        raise ConfigurationError(f"trace: {data_set.name}/{pair.key} has no {missing[0]} source; name a whole pair")
    return data_set, pair, traceable[0]


def _report(
    evaluation: Evaluation,
    sets: Sequence[SetJobs],
    outcomes: Sequence[SetOutcome],
    traced: tuple[DataSet, SetPair, str] | None,
    priors: Priors,
) -> Evaluated:
    """Gather the rows; write Parquet and tables, and then the pictures, of which one that fails costs only itself."""
    out = absolute(evaluation.out)
    rows: list[pa.Table] = []
    means_of: list[tuple[DataSet, list[Means]]] = []
    for one, outcome in zip(sets, outcomes, strict=True):
        tables = [
            table
            for name, job in one.jobs.items()
            for table in (method_rows(one.data_set, job), outcome.twins.get(name))
            if table is not None
        ]
        rows += tables
        means_of.append((one.data_set, [mean_figures(table, evaluation.metrics) for table in tables]))

    parquet, text = join(out, "evaluation.parquet"), join(out, "tables.md")
    all_rows = write_evaluation(parquet, rows)
    saved = {name: job.fusion_config().output_rule() for name, job in sets[0].jobs.items()}
    shown = [set_table(data_set, means, evaluation.metrics, saved) for data_set, means in means_of]
    joint = harvard_table(means_of, evaluation.metrics, saved)
    shown += [joint] if joint is not None else []
    write_atomic(text, tables_text(shown).encode())
    statuses = {item["values"]: item["counts"] for item in pc.value_counts(all_rows["status"]).to_pylist()}
    files, left_out = _write_pictures(evaluation, sets, means_of, traced, priors)
    return Evaluated(
        tuple(shown), (parquet, text, *files), statuses, left_out,
        failed=any(summary.failed for outcome in outcomes for summary in outcome.summaries),
    )  # fmt: skip


def _write_pictures(
    evaluation: Evaluation,
    sets: Sequence[SetJobs],
    means_of: Sequence[tuple[DataSet, Sequence[Means]]],
    traced: tuple[DataSet, SetPair, str] | None,
    priors: Priors,
) -> tuple[list[str], tuple[str, ...]]:
    """Sheets, plots and the trace; returns what was written, and a sentence for each sheet that was not."""
    sheets, plots = (join(absolute(evaluation.out), name) for name in ("sheets", "plots"))
    grid = {method.name for method in parse_grid(evaluation.grid)} if evaluation.grid is not None else set()
    files: list[str] = []
    left_out: list[str] = []
    letters: dict[str, Mapping[str, str]] = {}
    for one, (_, means) in zip(sets, means_of, strict=True):
        if evaluation.sheets_per_set:
            made = write_sheets(sheets, one.data_set, one.jobs, evaluation.sheets_per_set, evaluation.blind)
            letters |= made.letters
            left_out += made.left_out
            files += [join(sheets, one.data_set.name)] if made.written else []
        points = [figures for figures in means if figures.method in grid]
        plot = write_plot(plots, one.data_set, points, one.jobs) if points else None
        files += [plot] if plot is not None else []
    key = write_key(sheets, letters) if letters else None
    files += [key] if key is not None else []
    if traced is not None:
        data_set, pair, method = traced
        job = next(one.jobs[method] for one in sets if one.data_set.name == data_set.name)
        try:
            files.append(write_trace(sheets, data_set, pair, job, priors.load(job)))
        except PairError as error:
            left_out.append(f"the trace of {data_set.name}/{pair.key}: {error}")
    return files, tuple(left_out)
