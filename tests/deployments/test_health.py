"""The health check of the images, on this machine."""

import subprocess
import sys

import pytest
import torch

from deployments.health import main


def test_a_worker_that_can_fuse_is_healthy(capsys):
    assert main(["--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("healthy: cpu, prior ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("options", [["--device", "cuda"], ["--beside-gpu"]], ids=" ".join)
def test_a_worker_without_its_gpu_is_not(options, capsys):
    assert main(options) == 1
    assert "no CUDA GPU" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")
def test_the_check_beside_a_shard_does_not_touch_its_gpu():
    script = (
        "import torch; from deployments.health import main; "
        "assert main(['--beside-gpu']) == 0; assert not torch.cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("healthy: cpu, prior ")
    assert "; GPUs: " in done.stdout


def test_a_worker_without_its_prior_is_not(tmp_path, capsys):
    assert main(["--device", "cpu", "--prior", str(tmp_path / "prior.pt")]) == 1
    assert "does not exist" in capsys.readouterr().err
