"""From a folder of pictures to a prior that loads."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from ddfm_core.denoiser import DenoiserConfig
from ddfm_core.priors import load_prior
from ddfm_core.training import TrainingConfig
from ddfm_core.unet import UNet
from flows import train_prior
from tests.archives import write_picture
from tests.ddfm_core.test_priors import TINY_UNET

NETWORK = DenoiserConfig(widths=(8, 12), blocks=1, embedding=16)
CONFIG = TrainingConfig(minutes=0.02, pixels_per_step=1024, crop_sizes=(16,), warmup_steps=2)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(train_prior, "JUDGED_CROP", 32)
    for number in range(6):
        write_picture(tmp_path / f"photo_{number}.png", number, (48, 40), colour=True)
    (tmp_path / "readme.txt").write_text("not a picture")
    return tmp_path


def test_train_resume_and_load(pictures, monkeypatch):
    clock = itertools.count(
        step=0.05
    )  # seconds that each look at the clock takes, so that the machine's load is nothing
    monkeypatch.setattr(train_prior.time, "monotonic", lambda: next(clock))
    out = pictures / "out"
    report = train_prior.train(pictures, out, CONFIG, NETWORK, r"_[05]$", "cpu")
    assert report["steps"] > 0
    assert set(report["psnr"]) == {"15", "25", "50"}
    assert json.loads((out / "report.json").read_text()) == report
    prior = load_prior(out / "prior.safetensors")
    assert prior(torch.zeros(1, 1, 32, 32), 10).shape == (1, 1, 32, 32)
    longer = TrainingConfig(minutes=0.04, pixels_per_step=1024, crop_sizes=(16,), warmup_steps=2)
    assert train_prior.train(pictures, out, longer, NETWORK, r"_[05]$", "cpu")["steps"] > report["steps"]


def test_training_goes_on_from_a_prior(pictures):
    out, more = pictures / "out", pictures / "more"
    train_prior.train(pictures, out, CONFIG, NETWORK, r"_[05]$", "cpu")
    # A step of no length leaves the weights as they were.
    still = replace(CONFIG, minutes=1e-6, learning_rate=0.0)
    train_prior.train(pictures, more, still, NETWORK, r"_[05]$", "cpu", str(out / "prior.safetensors"))
    one, other = (load_prior(folder / "prior.safetensors").network.state_dict() for folder in (out, more))
    for key, value in one.items():
        if not key.startswith("linear."):
            torch.testing.assert_close(other[key], value, rtol=0, atol=0)


def test_training_does_not_go_on_from_another_kind_of_prior(pictures):
    torch.save(UNet(TINY_UNET).state_dict(), pictures / "unet.pt")
    for begin_with in (str(pictures / "unet.pt"), "bundled"):
        with pytest.raises(ValueError, match="no prior of the kind and size"):
            train_prior.train(pictures, pictures / "out", CONFIG, NETWORK, r"_[05]$", "cpu", begin_with)
    assert not (pictures / "out").exists()


def test_the_holdout_is_never_trained_on(pictures):
    training, judging = train_prior.load_pictures(pictures, r"_[05]$")
    assert (len(training), len(judging)) == (4, 2)


@pytest.mark.parametrize("holdout", ["nothing", "photo"])
def test_both_parts_are_needed(pictures, holdout):
    with pytest.raises(ValueError, match="both are needed"):
        train_prior.load_pictures(pictures, holdout)


@pytest.mark.parametrize(
    ("sizes", "crop", "words"),
    [
        ({"photo_1": (48, 40), "photo_0": (24, 60)}, 16, "1 pictures held out one at least must be 32 pixels"),
        ({"photo_1": (60, 31), "photo_0": (48, 40)}, 16, "1 pictures to train on one at least must be 32 pixels"),
        ({"photo_1": (48, 40), "photo_0": (48, 40)}, 48, "must be 48 pixels high and wide .* of the largest is 40"),
    ],
)
def test_pictures_that_are_too_small_stop_before_the_first_step(tmp_path, monkeypatch, sizes, crop, words):
    monkeypatch.setattr(train_prior, "JUDGED_CROP", 32)
    for name, size in sizes.items():
        write_picture(tmp_path / f"{name}.png", 1, size)
    config = replace(CONFIG, crop_sizes=(16, crop))
    with pytest.raises(ValueError, match=words):
        train_prior.train(tmp_path, tmp_path / "out", config, NETWORK, r"_0$", "cpu")
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_too_small_among_others_are_left_out(pictures):
    write_picture(pictures / "photo_7.png", 7, (100, 12))
    write_picture(pictures / "photo_8.png", 8, (100, 3))
    lists = train_prior.load_pictures(pictures, r"_[058]$")
    training, judging = train_prior.usable_pictures(*lists, 16, NETWORK.multiple)
    assert (len(lists[0]), len(lists[1])) == (5, 3)
    assert (len(training), len(judging)) == (4, 2)


def test_the_command_explains_itself():
    answer = subprocess.run([sys.executable, "-m", "flows.train_prior", "--help"], capture_output=True, text=True)
    assert answer.returncode == 0
    assert "folder of photographs" in answer.stdout
