"""The prior of a process: kept between shards, compared with the run's, and told in the log."""

import logging
import re
import time
from itertools import count

import pytest
import torch

from ddfm_core.priors import prior_sha256
from flows.device_use import DeviceUse, describe_device
from flows.fuse_archive import identify_prior
from flows.heartbeat import Heartbeat
from flows.open_prior import open_prior
from tasks.codes import ConfigurationError
from tasks.job_file import make_job


def job(**changes):
    return make_job({"first": "a", "second": "b", "out": "c", "prior": "bundled", "device": "cpu", **changes})


def test_a_prior_is_loaded_once_and_kept_for_the_next_shard(caplog):
    caplog.set_level(logging.INFO, "flows")
    sha256 = prior_sha256("bundled")
    first = open_prior(job(), sha256)
    assert open_prior(job(steps=3), sha256) is first
    assert "prior bundled kept from before, cpu " in caplog.messages[-1]
    # A job that asks for other numbers gets another one.
    assert open_prior(job(precision="bfloat16"), sha256) is not first
    loaded = caplog.messages[-1]
    assert f"prior bundled, sha256 {sha256[:12]}, loaded in " in loaded
    assert " s, warmed up in " in loaded


def test_another_prior_than_the_runs_is_refused():
    with pytest.raises(ConfigurationError, match="is not the file that the run was planned with"):
        open_prior(job(), "0" * 64)


def test_steps_that_the_schedule_of_a_prior_does_not_have_are_refused_before_any_work():
    with pytest.raises(ConfigurationError, match="start is 1000, but the prior's timesteps are below 1000"):
        open_prior(job(start=1000), prior_sha256("bundled"))


@pytest.mark.parametrize("changes", [{"mode": "max"}, {"use_prior": False}])
def test_a_mode_that_asks_no_prior_needs_none(changes):
    wanted = job(prior="there-is-no-such-file.pt", **changes)
    assert identify_prior(wanted) == ""
    assert open_prior(wanted, "").device.type == "cpu"
    with pytest.raises(ConfigurationError, match=r"prior: there-is-no-such-file\.pt does not exist"):
        identify_prior(job(prior="there-is-no-such-file.pt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigurationError, match="device: cuda was asked for, but this machine has no CUDA GPU"):
        open_prior(job(device="cuda"), prior_sha256("bundled"))


def busy(seconds):
    """Keep one core busy for so much of its time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_the_use_of_a_cpu_is_told_in_memory_and_cores():
    seconds = count(100.0, 2.0)
    use = DeviceUse(torch.device("cpu"), clock=lambda: next(seconds))
    words = use.line().split()
    assert words[:1] + words[2:4] == ["memory", "GiB", "(peak"]
    assert 0 < float(words[1]) <= float(words[4].rstrip("),")) < 100
    assert words[-2:] == ["cores", "busy"]
    assert describe_device(torch.device("cpu")).startswith("cpu ")


def test_the_use_of_a_device_is_summed_up_from_when_it_worked():
    now = [100.0]
    use = DeviceUse(torch.device("cpu"), clock=lambda: now[0])
    assert use.summary().endswith(", utilisation unknown")
    for seconds in (0.2, 0.6):
        busy(seconds)
        now[0] += 1
        use.sample()
        # A line between them is none of their business.
        use.line()
    use.sample()
    now[0] += 1000
    mean, most = re.search(r", (\S+) cores busy on average, (\S+) at most$", use.summary()).groups()
    assert 0.35 <= float(mean) <= 0.6
    assert 0.55 <= float(most) <= 0.8


class Device:
    def line(self):
        return "memory 1 GiB"

    def summary(self):
        return "memory 2 GiB"


def test_a_line_of_progress_tells_what_is_made_of_the_device():
    heartbeat = Heartbeat(10, lambda: 1.0, device=Device())
    assert heartbeat.line().endswith("unknown time left, memory 1 GiB")
    assert heartbeat.summary().endswith("pairs/s, memory 2 GiB")
