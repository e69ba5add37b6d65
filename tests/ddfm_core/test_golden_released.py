"""Mode `released` against tensors that the published code computed, free-running over all of its steps."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from ddfm_core.colour import luma
from ddfm_core.fusion import FusionConfig, fuse
from ddfm_core.priors import UNetPrior
from ddfm_core.rectify import EMState, ReleasedRectifier
from ddfm_core.sampler import Guidance, sample
from ddfm_core.schedule import linear_schedule, respaced_timesteps
from ddfm_core.unet import UNet, UNetConfig
from tests.shared_data import shared

ATOL = 1e-3


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(shared("golden/released_ddfm_10_steps.safetensors"), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping


@pytest.fixture(scope="module")
def prior() -> UNetPrior:
    with safe_open(shared("golden/unet_a_openai_like.safetensors"), framework="pt") as file:
        network = UNet(UNetConfig.from_flags(json.loads(file.metadata()["config"])))
        keys = [key for key in file.keys() if key.startswith("weights/")]  # noqa: SIM118 - no mapping
        network.load_state_dict({key.removeprefix("weights/"): file.get_tensor(key) for key in keys})
    return UNetPrior(network, linear_schedule())


@torch.inference_mode()
def test_every_step(golden: dict[str, Tensor], prior: UNetPrior) -> None:
    x_ts: list[Tensor] = []
    rectified: list[Tensor] = []

    def keep(timestep: int, x_t: Tensor, x0_pred: Tensor, x0_rectified: Tensor, state: EMState | None) -> None:
        assert timestep == golden["timesteps"].tolist()[len(x_ts)]
        x_ts.append(x_t)
        rectified.append(x0_rectified)

    guidance = Guidance(ReleasedRectifier(), first=golden["infrared"], second=golden["visible"])
    x_0 = sample(prior, golden["x_T"], respaced_timesteps(10), guidance, callback=keep)
    for step, (wanted_x0, wanted_prev) in enumerate(zip(golden["x0_rectified_rgb"], golden["x_prev"], strict=True)):
        for name, ours, wanted in (
            ("x0_rectified", rectified[step], wanted_x0),
            ("x_prev", (*x_ts, x_0)[step + 1], wanted_prev),
        ):
            error = (ours[0] - wanted).abs().max().item()
            assert error <= ATOL, f"{name} of step {step} is off by {error:.2g}"
    torch.testing.assert_close(x_0, golden["result_rgb"], rtol=0, atol=ATOL)


def test_through_fuse(golden: dict[str, Tensor], prior: UNetPrior) -> None:
    config = FusionConfig(mode="released", steps=10, output="none")
    result = fuse(golden["infrared"], golden["visible"], prior, config, x_T=golden["x_T"])
    torch.testing.assert_close(result.luma, luma(golden["result_rgb"]), rtol=0, atol=ATOL)
