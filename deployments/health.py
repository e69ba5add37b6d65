"""Whether a worker can do its work: import the flows, load the prior, fuse one tiny pair.

python -m deployments.health                   on a GPU where there is one
python -m deployments.health --device cuda     on the GPU; not beside a shard that is at work on it
python -m deployments.health --beside-gpu      on the CPU, and the GPU is there: what the image of GPU workers does
python -m deployments.health --prior /weights/256x256_diffusion_uncond.pt
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
from collections.abc import Sequence

_SIDE = 64
_STEPS = 2
_NO_GPU = "this machine, or this build of torch, has no CUDA GPU"


def check(device: str, prior_name: str) -> str:
    """Fuse two gradients that cross; a sentence about it.

    Args:
        device: as in a job.
        prior_name: as in a job.

    Raises:
        PriorError: there is no such prior, or its weights do not fit.
        RuntimeError: there is no such device.
        ArithmeticError: the picture holds values that no picture has.
    """
    import torch

    from ddfm_core import FusionConfig, fuse, load_prior

    began = time.monotonic()
    importlib.import_module("flows.prefect_flows")
    imported = time.monotonic()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"device {device}: {_NO_GPU}")
    prior = load_prior(prior_name, device=device)
    ramp = torch.linspace(-1, 1, _SIDE, device=prior.device)
    first = ramp.expand(1, 1, _SIDE, _SIDE)
    result = fuse(first, first.transpose(-1, -2), prior, FusionConfig(steps=_STEPS), keys=[b"health"])
    brightest = float(result.image.abs().max())
    if not (math.isfinite(brightest) and brightest <= 1):
        raise ArithmeticError(f"a fused picture reaches {brightest}; the range is -1 to 1")
    return (
        f"healthy: {prior.device}, prior {prior.sha256[:12]}, imports {imported - began:.1f} s, "
        f"fusion {time.monotonic() - imported:.1f} s"
    )


def check_gpu() -> str:
    """See that there is a GPU without using it; a sentence about it.

    Raises:
        RuntimeError: there is none.
    """
    import torch

    # torch asks the driver's management library (NVML). A CUDA context would take memory from the shard at work, and a
    # card in exclusive mode gives no second one.
    count = torch.cuda.device_count()
    if not count:
        raise RuntimeError(_NO_GPU)
    return f"GPUs: {count}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns 0 when healthy, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.health", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    where.add_argument(
        "--beside-gpu", action="store_true", help="fuse on the CPU, and see that there is a GPU without using it"
    )
    parser.add_argument("--prior", default="bundled", help="as in a job; default: bundled")
    arguments = parser.parse_args(argv)
    from ddfm_core.priors import PriorError

    try:
        gpus = f"; {check_gpu()}" if arguments.beside_gpu else ""
        print(check("cpu" if arguments.beside_gpu else arguments.device, arguments.prior) + gpus)
    except (PriorError, ArithmeticError, ImportError, RuntimeError) as error:
        print(f"unhealthy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
