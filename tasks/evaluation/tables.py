"""The tables of an evaluation: published rows beside ours, as Markdown and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ddfm_core.fusion import Output
from tasks.evaluation.datasets import HARVARD, DataSet
from tasks.evaluation.gather import Means
from tasks.evaluation.methods import STRETCHED
from tasks.evaluation.published import PublishedRow, Role, published_rows

_LOWER_IS_BETTER: Final = frozenset({"MSE"})
_CONVENTIONS: Final = (
    "Ours: means over the fused pairs, taken from the 8-bit grey levels of the published pictures; MI in nats, VIF and "
    "SSIM summed over the sources, SSIM with data range 2. Bold: the best of our rows."
)
_STRETCHING: Final = "stretched from their least to their greatest luma before they are rounded, as by the papers."
_TWINS: Final = (
    f"Rows that end in `{STRETCHED}` measure the same 8-bit pictures, each stretched from its least to its greatest "
    "luma. The papers stretch before they round to 8 bits, which leaves more levels, so that their EN rises more."
)
_PUBLISHED: Final = (
    "Published rows are as printed, over the pairs that their authors chose, which need not be these. Figures of other "
    "conventions, or not given, are left out."
)
_SHORT: Final = "-"


@dataclass(frozen=True)
class TableRow:
    """A row as it is shown.

    Attributes:
        label: the method.
        cells: one text per column; empty where there is no figure.
        best: columns in which the row is the best of ours.
        source: number of the note that names where a published row is from; None for a row of ours.
    """

    label: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    source: int | None = None


@dataclass(frozen=True)
class ResultTable:
    """A table as it is shown, with its notes: sentences about it, and the sources of its published rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]
    sources: tuple[str, ...]

    def markdown(self) -> str:
        """As Markdown, with a heading."""
        lines = [
            f"## {self.title}",
            "",
            f"| {' | '.join(('', *self.columns))} |",
            "|---|" + "---:|" * len(self.columns),
        ]
        for row in self.rows:
            cells = [f"**{cell}**" if place in row.best else cell for place, cell in enumerate(row.cells)]
            label = row.label if row.source is not None else f"`{row.label}`"
            mark = "" if row.source is None else f" [{row.source}]"
            lines.append(f"| {' | '.join((label + mark, *cells))} |")
        for note in self.notes:
            lines += ["", note]
        if self.sources:
            lines.append("")
            lines += [f"{number}. {source}" for number, source in enumerate(self.sources, start=1)]
        return "\n".join((*lines, ""))


def set_table(
    data_set: DataSet, means: Sequence[Means], metrics: Sequence[str], saved: Mapping[str, Output]
) -> ResultTable:
    """The table of one data set.

    Args:
        means: of each method, in the order of the rows.
        metrics: the columns.
        saved: by which rule each method's pictures are saved; a twin, which has none of its own, is not in it.
    """
    published = published_rows(data_set.family) if data_set.family is not None else ()
    named = data_set.family if data_set.family is not None else f"{data_set.modality_first}, {data_set.modality_second}"
    title = f"{data_set.name} ({named}, {max(one.pairs for one in means)} pairs)"
    return _table(title, means, published, metrics, saved, ())


def harvard_table(
    means_of: Sequence[tuple[DataSet, Sequence[Means]]], metrics: Sequence[str], saved: Mapping[str, Output]
) -> ResultTable | None:
    """The mean of the three means of the Harvard sets, which the paper's Table 3 is compared with.

    None unless there is exactly one set of each of the three kinds, with the same methods.
    """
    chosen = [[means for one, means in means_of if one.family == family] for family in HARVARD]
    if any(len(found) != 1 for found in chosen):
        return None
    kinds = [{one.method: one for one in found[0]} for found in chosen]
    joint = []
    for method in kinds[0]:
        if all(method in kind for kind in kinds):
            members = [kind[method] for kind in kinds]
            joint.append(
                Means(
                    method,
                    sum(one.pairs for one in members),
                    sum(one.fused for one in members),
                    sum(one.seconds for one in members) / len(members),
                    {name: sum(one.figures[name] for one in members) / len(members) for name in metrics},
                    {name: count for name in metrics if (count := sum(one.missing.get(name, 0) for one in members))},
                )
            )
    if not joint:
        return None
    note = (
        "Mean of the means of the three sets, each of which counts the same. The paper's row is over 50 pairs of the "
        "three kinds, whose shares it does not give."
    )
    return _table("Harvard (mean of the set means)", joint, published_rows(None), metrics, saved, (note,))


def _table(
    title: str,
    means: Sequence[Means],
    published: Sequence[PublishedRow],
    metrics: Sequence[str],
    saved: Mapping[str, Output],
    notes: Sequence[str],
) -> ResultTable:
    shown = [row for row in published if any(name in row.figures for name in metrics)]
    sources = tuple(dict.fromkeys(row.source for row in shown))
    rows = [
        TableRow(
            row.method,
            (*(_printed(row.figures.get(name)) for name in metrics), "", ""),
            source=sources.index(row.source) + 1,
        )
        for row in shown
    ]
    best = {name: _best(name, [one.figures[name] for one in means]) for name in metrics}
    for one in means:
        cells = (*(_figure(one.figures[name]) for name in metrics), f"{one.fused}/{one.pairs}", _figure(one.seconds))
        reached = {place for place, name in enumerate(metrics) if one.figures[name] == best[name]}
        rows.append(TableRow(one.method, cells, frozenset(reached) if len(means) > 1 else frozenset()))
    ours = f"{_CONVENTIONS} {_saving([one.method for one in means], saved)}"
    told = [*notes, ours, *_gaps(means), *([_PUBLISHED] if shown else []), *_comparisons(means, shown, metrics)]
    return ResultTable(title, (*metrics, "fused", "s/pair"), tuple(rows), tuple(told), sources)


def _gaps(means: Sequence[Means]) -> list[str]:
    """Which means are over fewer pairs than were fused, if any."""
    gaps = [
        f"{name} of `{one.method}` in {count} of {one.fused}" for one in means for name, count in one.missing.items()
    ]
    if not gaps:
        return []
    return [f"Pairs without a figure (too small, or of one grey level) are not in its mean: {'; '.join(gaps)} pairs."]


def _saving(methods: Sequence[str], saved: Mapping[str, Output]) -> str:
    """How the pictures behind the rows of some methods were saved."""
    stretched = [name for name in methods if saved.get(name) == "stretch"]
    if not stretched:
        told = "Pictures are saved by clipping."
    elif len(stretched) == sum(name in saved for name in methods):
        told = f"Pictures are {_STRETCHING}"
    else:
        named = ", ".join(f"`{name}`" for name in stretched)
        told = f"Pictures are saved by clipping, but those of {named} are {_STRETCHING}"
    return told if all(name in saved for name in methods) else f"{told} {_TWINS}"


def _comparisons(means: Sequence[Means], published: Sequence[PublishedRow], metrics: Sequence[str]) -> list[str]:
    """For each method of ours, in which cells it falls short of the published rows of DDFM, and by how much."""
    bars = []
    for role in (Role.PAPER, Role.RERUN):
        rows = [row for row in published if row.role == role]
        highest = {
            name: max(row.figures[name] for row in rows if name in row.figures)
            for name in metrics
            if name not in _LOWER_IS_BETTER and any(name in row.figures for row in rows)
        }
        if highest:
            bars.append((role, highest))
    sentences = []
    for role, bar in bars:
        parts = []
        for one in means:
            short = [
                f"{name} by {bar[name] - _rounded(one.figures[name]):.2f}"
                for name in bar
                # The published figures have two decimals.
                if not _rounded(one.figures[name]) >= bar[name]
            ]
            if one.fused:
                parts.append(f"`{one.method}` {'short in ' + ', '.join(short) if short else 'reaches every cell'}")
        if parts:
            sentences.append(f"Against {role} (two decimals): {'; '.join(parts)}.")
    return sentences


def _rounded(value: float) -> float:
    return round(value, 2)


def _best(metric: str, values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.inf
    return min(finite) if metric in _LOWER_IS_BETTER else max(finite)


def _printed(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return _SHORT
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def tables_text(tables: Sequence[ResultTable]) -> str:
    """All tables as one Markdown document."""
    return "\n".join(("# Evaluation", "", *(table.markdown() for table in tables)))
