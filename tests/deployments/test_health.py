"""The health check of the images, on this machine."""

import pytest
import torch

from deployments.health import main


def test_a_worker_that_can_fuse_is_healthy(capsys):
    assert main(["--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("healthy: cpu, prior ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_worker_without_its_gpu_is_not(capsys):
    assert main(["--device", "cuda"]) == 1
    assert "no CUDA GPU" in capsys.readouterr().err


def test_a_worker_without_its_prior_is_not(tmp_path, capsys):
    assert main(["--device", "cpu", "--prior", str(tmp_path / "prior.pt")]) == 1
    assert "does not exist" in capsys.readouterr().err
