"""One pair's way through the diffusion steps: what the prior saw and said, and what the rectification made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ddfm_core.colour import luma
from ddfm_core.fusion import FusionConfig
from tasks.evaluation.page import (
    QUIET_TEXT,
    TEXT,
    Colour,
    beside,
    blank,
    enlarged,
    grid,
    line,
    stacked,
    text_width,
    with_margin,
)

Levels = NDArray[np.float32]

_TITLE_SIZE: Final = 26
_NAME_SIZE: Final = 19
_LABEL_SIZE: Final = 15
_LEGEND_WIDTH: Final = 240
_SCALE_HEIGHT: Final = 14
_GAP: Final = 6
# A weight of zero has no logarithm.
_SMALLEST_WEIGHT: Final = 1e-6


class Weights(Protocol):
    """What a trace reads of a rectification's state, both [B, 1, H, W]."""

    @property
    def weight_first(self) -> Tensor:
        """The pull towards the first source; what it is by the mode says :func:`weight_notes`."""

    @property
    def weight_second(self) -> Tensor:
        """The pull towards the second source."""


@dataclass(frozen=True, eq=False)
class TracedStep:
    """One step of one pair, luma [H, W].

    Attributes:
        timestep: of the prior's schedule.
        x_t: the noisy picture that the prior was given.
        x0_pred: what it took for the clean picture (Eq. 4), in [-1, 1].
        x0_rectified: that after the rectification, not clamped.
        weight_first, weight_second: how hard the sources pulled in this step.
    """

    timestep: int
    x_t: Levels
    x0_pred: Levels
    x0_rectified: Levels
    weight_first: Levels
    weight_second: Levels


class Trace:
    """A callback for :func:`ddfm_core.fusion.fuse` that keeps evenly spread steps of one pair, the last one always.

    ::

        trace = Trace(height, width, config.num_steps)
        fuse(first, second, prior, config, callback=trace)
        trace_sheet("a pair", trace.kept()).save("trace.png")
    """

    def __init__(self, height: int, width: int, steps: int, columns: int = 12) -> None:
        """Expect a run of ``steps`` steps and keep at most ``columns`` of them.

        Args:
            height, width: of the pair's pictures, to which the extended ones of the run are cut back.
            steps: that the run will take. Of one that takes fewer or more, the last is kept all the same.
            columns: 2 or more.

        Raises:
            ValueError: steps or columns are too few.
        """
        if steps < 1 or columns < 2:
            raise ValueError(f"steps must be 1 or more and columns 2 or more, got {steps} and {columns}")
        self._window = (slice(height), slice(width))
        self._wanted = frozenset(int(index) for index in np.linspace(0, steps - 1, min(steps, columns)).round())
        self._seen = 0
        self._kept: list[TracedStep] = []
        self._last: TracedStep | None = None

    def __call__(
        self, timestep: int, x_t: Tensor, x0_pred: Tensor, x0_rectified: Tensor, state: Weights | None
    ) -> None:
        """Take one step, as the sampler tells it.

        Raises:
            ValueError: the batch holds more than one pair, or nothing was rectified.
        """
        if len(x_t) != 1:
            raise ValueError(f"a trace shows one pair, got a batch of {len(x_t)}; fuse the pair alone")
        if state is None:
            raise ValueError("a trace shows a rectification, but this run has none")
        step = TracedStep(
            timestep=timestep,
            x_t=self._cut(luma(x_t)),
            x0_pred=self._cut(luma(x0_pred)),
            x0_rectified=self._cut(luma(x0_rectified)),
            weight_first=self._cut(state.weight_first),
            weight_second=self._cut(state.weight_second),
        )
        self._last = step
        if self._seen in self._wanted:
            self._kept.append(step)
        self._seen += 1

    def kept(self) -> list[TracedStep]:
        """The steps kept, in the order of the run; none before the first step and of a method without steps."""
        if self._last is None or self._kept[-1] is self._last:
            return list(self._kept)
        return [*self._kept, self._last]

    def _cut(self, picture: Tensor) -> Levels:
        # A copy: the whole of the step's tensor would stay in memory with a view.
        values: Levels = picture[0, 0][self._window].float().cpu().numpy().copy()
        return values


def weight_notes(config: FusionConfig) -> tuple[str, str]:
    """What the weights of the two sources are in a configuration with a rectification."""
    if config.mode == "adaptive":
        return ("factor of its gradient",) * 2
    if config.phi is not None:
        return "1, given", "phi, given"
    return "E[1/m] (Eq. 16)", "E[1/n] (Eq. 16)"


def trace_sheet(
    title: str, trace: Sequence[TracedStep], picture_width: int = 256, notes: tuple[str, str] = ("", "")
) -> Image.Image:
    """The page of a trace: a column for each step, a row for each picture and weight, each row with one scale.

    A row that is the same in every step, as are the weights of mode `adaptive`, is shown once.

    Values beyond the ends of a row's scale get the colour of the end. The scales of the change and of the weights
    leave out the outermost percents; both weights have one scale.

    Args:
        title: the first line of the page.
        trace: steps of one pair, as :meth:`Trace.kept` gives them.
        picture_width: pixels that a picture takes about: larger ones are reduced by averaging squares of pixels,
            smaller ones get squares for pixels.
        notes: what the two weights are, see :func:`weight_notes`; stands below their names.

    Raises:
        ValueError: no steps, steps of several sizes, or a picture width below 1.
    """
    if not trace:
        raise ValueError("there is no step to show; mean, max, laplacian and gradient take none")
    if len({step.x_t.shape for step in trace}) != 1 or picture_width < 1:
        raise ValueError(f"steps of one size and a picture width of 1 or more are needed, got {picture_width}")
    longest = max(trace[0].x_t.shape)
    factor, shrink = max(1, picture_width // longest), -(-longest // picture_width)

    blocks = []
    for row in _rows(trace, notes):
        values = [row.value(step) for step in trace]
        if len(trace) > 1 and all(np.array_equal(one, values[0]) for one in values):
            row, values = replace(row, notes=(*row.notes, "the same in every step")), values[:1]
        cells = [enlarged(row.colours(_averaged(one, shrink)), factor) for one in values]
        blocks.append(beside([_legend(row, cells[0].height), grid(cells, len(cells), _GAP)]))
    width = cells[0].width
    timesteps = [line(f"t = {step.timestep}", width, _LABEL_SIZE, TEXT) for step in trace]
    header = beside([blank(_LEGEND_WIDTH, timesteps[0].height), grid(timesteps, len(timesteps), _GAP)])
    table = stacked([header, *blocks], gap=_GAP)
    return with_margin(stacked([line(title, table.width, _TITLE_SIZE), table]))


@dataclass(frozen=True)
class _Palette:
    """Colours from one end of a scale to the other, evenly spaced and interpolated."""

    colours: tuple[Colour, ...]

    def __call__(self, share: Levels) -> NDArray[np.uint8]:
        """RGB [H, W, 3] of [H, W], 0 at one end of the scale and 1 at the other; what lies outside is clipped."""
        stops = np.linspace(0, 1, len(self.colours))
        channels = [np.interp(share, stops, channel) for channel in zip(*self.colours, strict=True)]
        rgb: NDArray[np.uint8] = np.stack(channels, axis=-1).round().astype(np.uint8)
        return rgb


_GREY: Final = _Palette(((0, 0, 0), (255, 255, 255)))
_CHANGE: Final = _Palette(((5, 48, 97), (67, 147, 195), (247, 247, 247), (214, 96, 77), (103, 0, 31)))
_WEIGHT: Final = _Palette(((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)))
_SHARE: Final = _Palette(((45, 0, 75), (128, 115, 172), (247, 247, 247), (224, 130, 20), (127, 59, 8)))


@dataclass(frozen=True)
class _Row:
    """A row of the page: ``value`` of each step, from ``low`` to ``high`` in the colours of ``palette``."""

    name: str
    notes: tuple[str, ...]
    value: Callable[[TracedStep], Levels]
    low: float
    high: float
    low_text: str
    high_text: str
    palette: _Palette

    def colours(self, values: Levels) -> NDArray[np.uint8]:
        return self.palette((values - self.low) / (self.high - self.low))


def _rows(trace: Sequence[TracedStep], notes: tuple[str, str]) -> list[_Row]:
    most = float(np.quantile([np.quantile(np.abs(_change(step)), 0.99) for step in trace], 0.9)) or 1.0
    weights = np.concatenate([_log(each).ravel() for step in trace for each in (step.weight_first, step.weight_second)])
    low, high = (float(value) for value in np.quantile(weights, (0.01, 0.99)))
    low, high = np.floor(low * 10) / 10, np.ceil(high * 10) / 10
    high = max(high, low + 0.1)
    ends = (_power(low), _power(high))
    return [
        _Row("x_t", ("what the prior is given",), lambda step: step.x_t, -2, 2, "-2", "2", _GREY),
        _Row("x0_pred", ("what the prior makes of it",), lambda step: step.x0_pred, -1, 1, "-1", "1", _GREY),
        _Row("x0_rectified", ("after the rectification",), lambda step: step.x0_rectified, -1, 1, "-1", "1", _GREY),
        _Row(
            "change",
            ("x0_rectified - x0_pred",),
            _change,
            -most,
            most,
            f"darker {-most:.3f}",
            f"{most:.3f} brighter",
            _CHANGE,
        ),
        _Row(
            "weight_first",
            ("pull of the first source", notes[0], "logarithmic"),
            lambda step: _log(step.weight_first),
            low,
            high,
            *ends,
            _WEIGHT,
        ),
        _Row(
            "weight_second",
            ("pull of the second source", notes[1], "logarithmic"),
            lambda step: _log(step.weight_second),
            low,
            high,
            *ends,
            _WEIGHT,
        ),
        _Row(
            "share of the first",
            ("weight_first /", "(weight_first + weight_second)"),
            _share_of_first,
            0,
            1,
            "0 second",
            "first 1",
            _SHARE,
        ),
    ]


def _change(step: TracedStep) -> Levels:
    return step.x0_rectified - step.x0_pred


def _log(weight: Levels) -> Levels:
    values: Levels = np.log10(weight.clip(min=_SMALLEST_WEIGHT))
    return values


def _share_of_first(step: TracedStep) -> Levels:
    first, second = (weight.clip(min=_SMALLEST_WEIGHT) for weight in (step.weight_first, step.weight_second))
    share: Levels = first / (first + second)
    return share


def _power(exponent: float) -> str:
    return f"{10**exponent:,.0f}" if exponent >= 1 else f"{10**exponent:.2g}"


def _averaged(values: Levels, factor: int) -> Levels:
    """Means of squares of ``factor`` pixels; what is left over at the right and the bottom is not shown."""
    if factor == 1:
        return values
    height, width = (side // factor for side in values.shape)
    squares = values[: height * factor, : width * factor].reshape(height, factor, width, factor)
    means: Levels = squares.mean(axis=(1, 3))
    return means


def _legend(row: _Row, height: int) -> Image.Image:
    scale = row.palette(np.tile(np.linspace(0, 1, _LEGEND_WIDTH, dtype=np.float32), (_SCALE_HEIGHT, 1)))
    ends = blank(_LEGEND_WIDTH, line(row.low_text, _LEGEND_WIDTH, _LABEL_SIZE).height)
    ends.paste(line(row.low_text, _LEGEND_WIDTH // 2, _LABEL_SIZE))
    right = line(row.high_text, text_width(row.high_text, _LABEL_SIZE), _LABEL_SIZE)
    ends.paste(right, (_LEGEND_WIDTH - right.width, 0))
    lines = [line(note, _LEGEND_WIDTH, _LABEL_SIZE, QUIET_TEXT) for note in row.notes if note]
    legend = stacked([line(row.name, _LEGEND_WIDTH, _NAME_SIZE), *lines, Image.fromarray(scale), ends], gap=0)
    page = blank(_LEGEND_WIDTH, max(height, legend.height))
    page.paste(legend)
    return page
