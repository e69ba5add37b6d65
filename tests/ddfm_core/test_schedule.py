import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from ddfm_core.schedule import Schedule, cosine_schedule, linear_schedule, respaced_timesteps, timestep_pairs
from tests.shared_data import shared


def test_linear_schedule_is_the_one_of_ddpm():
    schedule = linear_schedule()
    assert schedule.num_timesteps == 1000
    assert schedule.alphas_cumprod.dtype == np.float64
    assert schedule.alphas_cumprod[0] == 1 - 1e-4
    betas = [1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)]
    log_alpha_bar = math.fsum(math.log1p(-beta) for beta in betas)
    assert schedule.alphas_cumprod[-1] == pytest.approx(math.exp(log_alpha_bar), rel=1e-12)
    assert schedule.sigmas[0] == pytest.approx(0.0100, abs=5e-5)
    assert schedule.sigmas[-1] == pytest.approx(157.4, abs=0.05)


def test_linear_schedule_of_other_lengths_reaches_the_same_noise():
    ends = [math.log(linear_schedule(steps).alphas_cumprod[-1]) for steps in (500, 1000, 4000)]
    assert ends == pytest.approx([ends[1]] * 3, rel=0.02)
    with pytest.raises(ValueError, match="at least 21"):
        linear_schedule(20)


def test_cosine_schedule_is_the_quotient_that_it_telescopes_to():
    # alpha_bar_t = f((t + 1) / T) / f(0), up to the last beta, which is capped at 0.999.
    alphas_cumprod = cosine_schedule().alphas_cumprod
    for timestep in (0, 1, 249, 499, 749, 998):
        angle = ((timestep + 1) / 1000 + 0.008) / 1.008 * math.pi / 2
        exact = (math.cos(angle) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
        assert alphas_cumprod[timestep] == pytest.approx(exact, rel=1e-9)
    assert alphas_cumprod[999] == pytest.approx(0.001 * alphas_cumprod[998], rel=1e-9)


def test_cosine_schedule_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        cosine_schedule(0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.array([0.9, 0.5], dtype=np.float32), "float64"),
        (np.array([[0.9, 0.5]]), "float64 vector"),
        (np.array([0.9, 0.9]), "strictly"),
        (np.array([0.5, 0.9]), "strictly"),
        (np.array([1.0, 0.5]), "inside"),
        (np.array([0.5, 0.0]), "inside"),
    ],
)
def test_impossible_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Schedule(table)


def test_timestep_of_sigma_inverts_the_table():
    schedule = linear_schedule()
    for timestep in (0, 1, 250, 999):
        assert schedule.timestep_of_sigma(schedule.sigmas[timestep]) == pytest.approx(timestep, abs=1e-9)
    between = math.sqrt(schedule.sigmas[100] * schedule.sigmas[101])
    assert schedule.timestep_of_sigma(between) == pytest.approx(100.5, abs=1e-9)
    for outside in (0.009, 158.0, math.nan):
        with pytest.raises(ValueError, match="outside"):
            schedule.timestep_of_sigma(outside)


def test_hundred_steps_lie_as_in_the_released_code():
    ascending = respaced_timesteps(100)[::-1]
    assert ascending[:8] == (0, 10, 20, 30, 40, 50, 61, 71)
    assert ascending[-2:] == (989, 999)
    assert len(ascending) == 100


def test_ten_steps_equal_the_released_run():
    golden = load_file(shared("golden/released_ddfm_10_steps.safetensors"))["timesteps"]
    assert sorted(respaced_timesteps(10)) == sorted(golden.tolist())


@given(num_timesteps=st.integers(1, 4000), data=st.data())
def test_respaced_timesteps_fall_from_one_end_to_the_other(num_timesteps, data):
    num_steps = data.draw(st.integers(1, num_timesteps))
    timesteps = respaced_timesteps(num_steps, num_timesteps)
    assert len(timesteps) == num_steps == len(set(timesteps))
    assert list(timesteps) == sorted(timesteps, reverse=True)
    assert timesteps[0] == num_timesteps - 1
    assert num_steps == 1 or timesteps[-1] == 0


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        respaced_timesteps(num_steps)


def test_pairs_end_without_a_predecessor():
    assert timestep_pairs((999, 500, 0)) == ((999, 500), (500, 0), (0, None))
    assert timestep_pairs((7,)) == ((7, None),)


@pytest.mark.parametrize("timesteps", [(), (1, 1), (1, 2)])
def test_pairs_of_a_list_that_does_not_fall_are_refused(timesteps):
    with pytest.raises(ValueError, match="strictly falling"):
        timestep_pairs(timesteps)
