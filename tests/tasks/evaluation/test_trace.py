"""The trace of a pair through the diffusion steps."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfm_core.colour import luma
from ddfm_core.fusion import FusionConfig, Mode, fuse
from ddfm_core.priors import CallablePrior
from ddfm_core.rectify import EMState
from ddfm_core.schedule import linear_schedule
from tasks.evaluation.page import BACKGROUND
from tasks.evaluation.trace import Trace, TracedStep, trace_sheet, weight_notes

HEIGHT, WIDTH = 20, 26


def prior(channels: int = 3) -> CallablePrior:
    """A shrinking prior that asks for sides of multiples of 16, so that the pictures of a run are larger."""
    return CallablePrior(lambda x_t, _: 0.6 * x_t, linear_schedule(), channels, 16)


def source(seed: int) -> Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Recorder:
    """Keeps everything that the callback is told and passes it on."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.calls: list[tuple[int, Tensor, Tensor, Tensor, EMState]] = []

    def __call__(self, timestep: int, x_t: Tensor, x0_pred: Tensor, x0_rectified: Tensor, state: Any) -> None:
        self.calls.append((timestep, x_t.clone(), x0_pred.clone(), x0_rectified.clone(), state))
        self.trace(timestep, x_t, x0_pred, x0_rectified, state)


def walk(trace: Trace, steps: int) -> list[int]:
    """Tell a trace of steps with the timesteps steps - 1 to 0; the ones that it keeps."""
    picture = torch.zeros(1, 1, 16, 16)
    for timestep in reversed(range(steps)):
        trace(timestep, picture, picture, picture, EMState.initial(picture, picture))
    return [step.timestep for step in trace.kept()]


def cut(picture: Tensor) -> NDArray[np.float32]:
    return picture[0, 0, :HEIGHT, :WIDTH].numpy()


@pytest.mark.parametrize("mode", ["adaptive", "paper", "released"])
def test_values_are_those_of_the_callback(mode: Mode) -> None:
    recorder = Recorder(Trace(HEIGHT, WIDTH, steps=5))

    fuse(source(1), source(2), prior(), FusionConfig(steps=5, mode=mode), callback=recorder)

    kept = recorder.trace.kept()
    assert len(kept) == 5
    for step, (timestep, x_t, x0_pred, x0_rectified, state) in zip(kept, recorder.calls, strict=True):
        assert step.timestep == timestep
        assert x_t.shape[2:] == (32, 32)
        np.testing.assert_array_equal(step.x_t, cut(luma(x_t)))
        np.testing.assert_array_equal(step.x0_pred, cut(luma(x0_pred)))
        np.testing.assert_array_equal(step.x0_rectified, cut(luma(x0_rectified)))
        np.testing.assert_array_equal(step.weight_first, cut(state.weight_first))
        np.testing.assert_array_equal(step.weight_second, cut(state.weight_second))
        assert step.x_t.dtype == step.weight_second.dtype == np.float32


@pytest.mark.parametrize(("steps", "columns"), [(1, 12), (2, 2), (12, 12), (13, 12), (25, 12), (40, 5)])
def test_the_steps_kept_are_evenly_spread_and_hold_the_first_and_the_last(steps: int, columns: int) -> None:
    kept = walk(Trace(16, 16, steps, columns), steps)

    assert len(kept) == min(steps, columns)
    assert (kept[0], kept[-1]) == (steps - 1, 0)
    gaps = -np.diff(kept)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("said", [4, 40])
def test_the_last_step_is_kept_though_the_run_took_another_number_of_steps(said: int) -> None:
    kept = walk(Trace(16, 16, said, columns=4), 10)

    assert (kept[0], kept[-1]) == (9, 0)
    assert kept == sorted(set(kept), reverse=True)


def test_a_batch_cannot_be_traced() -> None:
    pair = torch.zeros(2, 1, 16, 16)
    with pytest.raises(ValueError, match="batch of 2"):
        fuse(pair, pair, prior(1), FusionConfig(steps=2), callback=Trace(16, 16, 2))


def test_a_run_without_a_rectification_cannot_be_traced() -> None:
    picture = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ValueError, match="rectification"):
        Trace(16, 16, 1)(0, picture, picture, picture, None)


def step_of(timestep: int, height: int = 32, width: int = 48, **values: float) -> TracedStep:
    def flat(name: str, default: float) -> NDArray[np.float32]:
        return np.full((height, width), values.get(name, default), np.float32)

    return TracedStep(
        timestep,
        x_t=flat("x_t", 0),
        x0_pred=flat("x0_pred", 0),
        x0_rectified=flat("x0_rectified", 0),
        weight_first=flat("weight_first", 1),
        weight_second=flat("weight_second", 1),
    )


def cells(trace: list[TracedStep], picture_width: int = 48) -> NDArray[np.uint8]:
    """RGB [row, column, 3] of the middles of a sheet's pictures, found as columns and rows free of background."""
    page = np.asarray(trace_sheet("", trace, picture_width))
    pictures = page[:, 24 + 240 + 6 :]  # margin and legends
    background = (pictures == BACKGROUND).all(axis=2)
    lit = ~background
    columns = middles(lit[len(page) * 3 // 4 :].any(axis=0))
    rows = middles(lit[:, columns[0]])
    return np.array([[pictures[row, column] for column in columns] for row in rows])


def middles(lit: NDArray[np.bool_]) -> list[int]:
    """The middle of each run of at least 24 true values."""
    edges = np.flatnonzero(np.diff(np.pad(lit.astype(int), 1)))
    return [int(begin + end) // 2 for begin, end in edges.reshape(-1, 2) if end - begin >= 24]


def test_the_sheet_has_a_row_for_each_quantity_and_a_column_for_each_step() -> None:
    trace = [
        step_of(900, x_t=2, x0_pred=-1, x0_rectified=1, weight_first=1000, weight_second=1),
        step_of(400, x_t=-2, x0_pred=1, x0_rectified=-1, weight_first=1, weight_second=1000),
        step_of(0, x_t=0, x0_pred=0.5, x0_rectified=0.5, weight_first=30, weight_second=30),
    ]

    colours = cells(trace).astype(int)

    assert colours.shape == (7, 3, 3)
    x_t, x0_pred, x0_rectified, change, first, second, share = colours
    assert x_t.tolist() == [[255] * 3, [0] * 3, [128] * 3]
    assert x0_pred.tolist() == [[0] * 3, [255] * 3, [191] * 3]
    assert x0_rectified.tolist() == [[255] * 3, [0] * 3, [191] * 3]
    red, blue, white = change
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert white.min() > 240
    assert first[0].tolist() == second[1].tolist() != first[1].tolist() == second[0].tolist()
    assert first[2].tolist() == second[2].tolist()
    orange, purple, even = share
    assert orange[0] > orange[2] + 50
    assert purple[2] > purple[0] + 20
    assert even.min() > 240


def test_the_weights_are_named_as_what_they_are_in_the_mode() -> None:
    assert weight_notes(FusionConfig(mode="adaptive")) == ("factor of its gradient",) * 2
    for mode in ("paper", "released"):
        assert weight_notes(FusionConfig(mode=mode)) == ("E[1/m] (Eq. 16)", "E[1/n] (Eq. 16)")  # type: ignore[arg-type]
    assert weight_notes(FusionConfig(mode="paper", phi=2.0)) == ("1, given", "phi, given")

    step = step_of(5, 256, 256)
    notes = weight_notes(FusionConfig(mode="paper"))
    plain, noted = (np.asarray(trace_sheet("", [step], notes=told)) for told in (("", ""), notes))
    assert plain.shape == noted.shape
    rows, columns = np.nonzero((plain != noted).any(axis=2))
    assert columns.max() < 24 + 240
    # In the legends of both weights.
    assert rows.max() - rows.min() > 256


def test_large_pictures_are_averaged_and_small_ones_become_squares() -> None:
    large = trace_sheet("title", [step_of(5, 400, 1000)], picture_width=250)
    small = trace_sheet("title", [step_of(5, 16, 16)], picture_width=250)

    assert large.width == 24 + 240 + 12 + 250 + 24
    assert small.width == 24 + 240 + 12 + 240 + 24


def test_weights_without_a_spread_and_of_zero_can_be_shown() -> None:
    assert cells([step_of(1)]).shape == (7, 1, 3)
    even = cells([step_of(1, weight_first=0, weight_second=0)])[-1, 0]
    assert even.min() > 240


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="no step"):
        trace_sheet("title", Trace(16, 16, 5).kept())
    with pytest.raises(ValueError, match="one size"):
        trace_sheet("title", [step_of(1, 16, 16), step_of(0, 16, 17)])
    with pytest.raises(ValueError, match="columns"):
        Trace(16, 16, 5, columns=1)
