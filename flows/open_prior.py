"""The prior of a job on its device: loaded once in a process, compared with the run's, warmed up, told in the log."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ddfm_core.fusion import check_schedule
from ddfm_core.priors import CallablePrior, Prior, PriorError, load_prior
from ddfm_core.schedule import linear_schedule
from flows.device_use import describe_device
from tasks.codes import ConfigurationError
from tasks.job import Job

logger = logging.getLogger(__name__)

_WARM_UP_SIDE = 64


@dataclass(frozen=True)
class _Kept:
    """The prior of this process, and what it was asked for by."""

    asked: tuple[str, str, str, str]
    prior: Prior


_kept: list[_Kept] = []
_loading = threading.Lock()


def open_prior(job: Job, sha256: str) -> Prior:
    """The job's prior on its device, kept for the next one of this process that asks for the same.

    The last one only, because a large one fills a card. It serves a job that goes on with an unfinished run before its
    own, or begins again after an outage of its store. Not shards: work pools of every kind begin a process for each,
    which loads its own; on two CPU cores the bundled prior in under a second, a network of 553 million parameters in
    some four, of which its hash takes one and a half.

    A mode that asks no prior gets one that cannot be asked: nothing is read for it.

    Beside loading, the first one goes once through the network: a card's first call sets up its libraries, which would
    count as fusion otherwise.

    Args:
        job: names prior, device and precision.
        sha256: of the weights that are expected.

    Raises:
        ConfigurationError: no such prior, not the expected one, weights that do not fit, steps or a start that its
            schedule does not allow, or a device that this machine lacks.
    """
    device = _device_of(job)
    if not job.fusion_config().draws:
        return CallablePrior(_never_asked, linear_schedule(), channels=1, device=device)
    asked = (job.prior, device, job.precision, sha256)
    with _loading:
        if _kept and _kept[0].asked == asked:
            prior = _kept[0].prior
            logger.info("prior %s kept from before, %s", job.prior, describe_device(prior.device))
        else:
            _kept.clear()
            prior = _load(job, device, sha256)
            _kept.append(_Kept(asked, prior))
    try:
        check_schedule(job.fusion_config(), prior.schedule)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return prior


def _never_asked(*_: object) -> Tensor:
    raise AssertionError("a mode that asks no prior asked one")


def _load(job: Job, device: str, sha256: str) -> Prior:
    began = time.perf_counter()
    try:
        prior = load_prior(job.prior, device=device, dtype=getattr(torch, job.precision))
    except PriorError as error:
        raise ConfigurationError(f"prior: {error}") from error
    if prior.sha256 != sha256:
        raise ConfigurationError(
            f"prior: {job.prior} on this machine is not the file that the run was planned with "
            f"({prior.sha256[:12]} instead of {sha256[:12]}); install the same one everywhere"
        )
    loaded = time.perf_counter()
    _warm_up(prior)
    logger.info(
        "prior %s, sha256 %s, loaded in %.2f s, warmed up in %.2f s, %s",
        job.prior, sha256[:12], loaded - began, time.perf_counter() - loaded, describe_device(prior.device),
    )  # fmt: skip
    return prior


def _warm_up(prior: Prior) -> None:
    side = -(-_WARM_UP_SIDE // prior.multiple) * prior.multiple
    with torch.inference_mode():
        prior(torch.zeros(1, prior.channels, side, side, device=prior.device), timestep=0)
    if prior.device.type == "cuda":
        torch.cuda.synchronize(prior.device)


def _device_of(job: Job) -> str:
    device = job.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"device: {job.device} was asked for, but this machine has no CUDA GPU; use cpu")
    return device
