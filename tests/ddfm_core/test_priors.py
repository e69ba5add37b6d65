import hashlib
import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ddfm_core.priors
from ddfm_core.denoiser import Denoiser, DenoiserConfig
from ddfm_core.priors import CallablePrior, DenoiserPrior, PriorError, UNetPrior, load_prior, prior_sha256
from ddfm_core.schedule import cosine_schedule, linear_schedule
from ddfm_core.unet import UNet, UNetConfig
from flows.train_prior import save_prior
from tests.ddfm_core.test_unet import GOLDEN, load_golden

TINY_DENOISER = DenoiserConfig(widths=(8, 12), blocks=1, embedding=16)
# All that the shapes do not tell is as the public checkpoints have it.
TINY_UNET = UNetConfig(
    image_size=16, in_channels=1, out_channels=2, model_channels=32, channel_mult=(1, 2), num_res_blocks=1,
    attention_factors=(2,),
)  # fmt: skip
SCHEDULE = linear_schedule()


def randomise(network, seed=0):
    torch.manual_seed(seed)
    for parameter in network.requires_grad_(False).parameters():
        parameter.normal_(std=0.2)
    return network


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def identity(x_t, timestep):
    return x_t


@pytest.fixture
def denoiser():
    return randomise(Denoiser(TINY_DENOISER))


@pytest.fixture
def denoiser_file(denoiser, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(denoiser, path)
    return path


@pytest.fixture(scope="module")
def unet_state():
    return randomise(UNet(TINY_UNET)).state_dict()


@pytest.fixture
def unet_file(unet_state, tmp_path):
    path = tmp_path / "unet.pt"
    torch.save(unet_state, path)
    return path


class TestPrior:
    def test_analytic_gaussian(self):
        # x0 ~ N(0, 0.3^2) has this posterior mean.
        def posterior_mean(x_t, timestep):
            alpha_bar = SCHEDULE.alphas_cumprod[timestep]
            return x_t * (math.sqrt(alpha_bar) * 0.09 / (alpha_bar * 0.09 + 1 - alpha_bar))

        prior = CallablePrior(posterior_mean, SCHEDULE, 1, sha256="gaussian")
        x_t = noise(2, 1, 5, 7)
        assert torch.equal(prior(x_t, 400), posterior_mean(x_t, 400))
        assert (prior.channels, prior.multiple, prior.sha256) == (1, 1, "gaussian")
        assert prior.device == torch.device("cpu")
        assert prior.schedule is SCHEDULE

    @pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1, 4, 8, 8), (3, 8, 8), (1, 3, 8, 10), (1, 3, 6, 8)])
    def test_wrong_shapes_are_refused(self, shape):
        prior = CallablePrior(identity, SCHEDULE, 3, multiple=4)
        with pytest.raises(ValueError, match=r"3, H, W|multiples of 4"):
            prior(torch.zeros(shape), 5)

    @pytest.mark.parametrize("timestep", [-1, 1000])
    def test_timesteps_outside_the_schedule_are_refused(self, timestep):
        prior = CallablePrior(identity, SCHEDULE, 1)
        with pytest.raises(ValueError, match=r"0\.\.999"):
            prior(torch.zeros(1, 1, 8, 8), timestep)

    def test_function_that_changes_the_shape_is_refused(self):
        prior = CallablePrior(lambda x_t, _: x_t[:1], SCHEDULE, 1)
        with pytest.raises(ValueError, match="returned"):
            prior(torch.zeros(2, 1, 8, 8), 5)

    @pytest.mark.parametrize(("channels", "multiple"), [(2, 1), (1, 0)])
    def test_impossible_priors_are_refused(self, channels, multiple):
        with pytest.raises(ValueError, match=r"channels|multiple"):
            CallablePrior(identity, SCHEDULE, channels, multiple)


class TestDenoiserPrior:
    @pytest.mark.parametrize("timestep", [0, 500, 999])
    def test_x0_follows_from_v(self, denoiser, timestep):
        x_t = noise(2, 1, 16, 20)
        v = denoiser(x_t, torch.tensor([timestep])).double()
        alpha_bar = SCHEDULE.alphas_cumprod[timestep]
        expected = math.sqrt(alpha_bar) * x_t.double() - math.sqrt(1 - alpha_bar) * v
        x0_pred = DenoiserPrior(denoiser, SCHEDULE)(x_t, timestep)
        assert x0_pred.dtype == torch.float32
        assert x0_pred.is_contiguous()
        torch.testing.assert_close(x0_pred.double(), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_stays_close(self, denoiser, dtype):
        x_t = noise(2, 1, 16, 20)
        exact = DenoiserPrior(denoiser, SCHEDULE)(x_t, 500)
        half = DenoiserPrior(denoiser, SCHEDULE, dtype=dtype)(x_t, 500)
        assert half.dtype == torch.float32
        assert 0 < (half - exact).square().mean().sqrt() < 0.03 * exact.std()

    def test_prediction_is_not_clamped(self, denoiser):
        assert DenoiserPrior(denoiser, SCHEDULE)(5 * noise(1, 1, 16, 16), 10).abs().max() > 2

    def test_saved_prior_loads(self, denoiser, denoiser_file):
        prior = load_prior(denoiser_file)
        assert isinstance(prior, DenoiserPrior)
        assert prior.network.config == TINY_DENOISER
        assert (prior.channels, prior.multiple) == (1, 4)
        assert prior.sha256 == hashlib.sha256(denoiser_file.read_bytes()).hexdigest()
        assert (prior.schedule.alphas_cumprod == SCHEDULE.alphas_cumprod).all()
        for key, tensor in prior.network.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, denoiser.state_dict()[key].half().float())
        x_t = noise(1, 1, 16, 16)
        expected = DenoiserPrior(denoiser, SCHEDULE)(x_t, 300)
        torch.testing.assert_close(prior(x_t, 300), expected, rtol=0, atol=0.01 * float(expected.std()))
        assert not prior(x_t, 300).requires_grad

    def test_the_network_runs_in_channels_last(self, denoiser_file):
        prior = load_prior(denoiser_file)
        assert prior.network.encoder[0][0].conv_in.weight.is_contiguous(memory_format=torch.channels_last)

    def test_a_unet_config_is_refused(self, denoiser_file):
        with pytest.raises(PriorError, match="leave config= out"):
            load_prior(denoiser_file, config=TINY_UNET)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"prediction": "x0"}, "neither 'v' nor 'epsilon'"),
            ({"network": {"depth": 3}}, "KeyError"),
            ({"network": TINY_DENOISER.as_json() | {"depth": 3}}, "depth"),
            ({"network": None}, "TypeError"),
            ({"network": TINY_DENOISER.as_json() | {"widths": ["a"]}}, "no possible network"),
            ({"num_timesteps": "many"}, "many"),
            ({"num_timesteps": 3}, "number of timesteps is impossible"),
            ({"schedule": "sigmoid"}, "unknown schedule 'sigmoid'"),
        ],
    )
    def test_description_that_is_not_understood_is_refused(self, denoiser, tmp_path, fields, message):
        described = {"network": TINY_DENOISER.as_json(), "schedule": "linear", "num_timesteps": 1000, "prediction": "v"}
        path = tmp_path / "prior.safetensors"
        save_file(denoiser.state_dict(), path, metadata={"ddfm_prior": json.dumps(described | fields)})
        with pytest.raises(PriorError, match=message):
            load_prior(path)

    @pytest.mark.parametrize("text", ["{", "[]", "3"])
    def test_description_that_is_no_object_is_refused(self, denoiser, tmp_path, text):
        path = tmp_path / "prior.safetensors"
        save_file(denoiser.state_dict(), path, metadata={"ddfm_prior": text})
        with pytest.raises(PriorError, match="not understood"):
            load_prior(path)


class TestBundled:
    def test_comes_from_the_package(self, denoiser, tmp_path, monkeypatch):
        save_prior(denoiser, tmp_path / "prior.safetensors")
        monkeypatch.setattr(ddfm_core.priors, "files", lambda _: tmp_path)
        identity = hashlib.sha256((tmp_path / "prior.safetensors").read_bytes()).hexdigest()
        assert load_prior().sha256 == prior_sha256() == identity

    def test_an_installation_without_it_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ddfm_core.priors, "files", lambda _: tmp_path)
        for open_it in (load_prior, prior_sha256):
            with pytest.raises(PriorError, match="lacks the bundled prior"):
                open_it("bundled")

    def test_the_real_one_denoises(self):
        if not (Path(ddfm_core.priors.__file__).parent / "weights" / "prior.safetensors").exists():
            if os.environ.get("CI") == "true":
                pytest.fail("the bundled prior is absent")
            pytest.skip("the bundled prior is absent")
        prior = load_prior()
        assert prior.channels == 1
        rows, columns = torch.meshgrid(torch.linspace(-3, 3, 64), torch.linspace(-3, 3, 96), indexing="ij")
        clean = (0.6 * torch.sin(rows) * torch.cos(columns))[None, None]
        for timestep in (50, 200, 500):
            alpha_bar = prior.schedule.alphas_cumprod[timestep]
            eps = noise(*clean.shape)
            x_t = math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * eps
            left = (prior(x_t, timestep) - clean).square().mean().sqrt()
            assert left < 0.4 * prior.schedule.sigmas[timestep]


class TestUNetPrior:
    @pytest.mark.parametrize(("name", "suffix"), list(zip(GOLDEN, [".pt", ".safetensors", ".pth"], strict=True)))
    def test_x0_follows_from_the_golden_eps(self, name, suffix, tmp_path):
        config, weights, x, timesteps, outputs = load_golden(name)
        path = tmp_path / f"unet{suffix}"
        (save_file if suffix == ".safetensors" else torch.save)(weights, path)
        prior = load_prior(path, config=config)
        assert isinstance(prior, UNetPrior)
        assert (prior.channels, prior.multiple) == (3, 4)
        for index, timestep in enumerate(timesteps.tolist()):
            alpha_bar = prior.schedule.alphas_cumprod[timestep]
            x_t, eps = x[index : index + 1], outputs[index : index + 1, :3].double()
            expected = (x_t.double() - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)
            x0_pred = prior(x_t, timestep)
            assert x0_pred.dtype == torch.float32
            assert x0_pred.is_contiguous()
            tolerance = 1e-5 * (1 + prior.schedule.sigmas[timestep])
            torch.testing.assert_close(x0_pred.double(), expected, rtol=1e-6, atol=tolerance)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_pt_round_trip_is_exact(self, unet_state, tmp_path, zipped):
        path = tmp_path / "unet.pt"
        torch.save(unet_state, path, _use_new_zipfile_serialization=zipped)
        prior = load_prior(path)
        assert prior.network.config == TINY_UNET
        assert (prior.channels, prior.multiple) == (1, 2)
        assert prior.sha256 == prior_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
        loaded = prior.network.state_dict()
        assert loaded.keys() == unet_state.keys()
        assert all(torch.equal(loaded[key], unet_state[key]) for key in unet_state)
        network = UNet(TINY_UNET)
        network.load_state_dict(unet_state)
        same = UNetPrior(network, SCHEDULE)(noise(2, 1, 8, 8), 40)
        assert torch.equal(prior(noise(2, 1, 8, 8), 40), same)

    def test_description_in_the_file_counts_and_arguments_override_it(self, unet_state, tmp_path):
        path = tmp_path / "unet.safetensors"
        fields = TINY_UNET.as_json() | {"num_head_channels": 32, "use_new_attention_order": True}
        described = {"network": fields, "schedule": "cosine", "num_timesteps": 400, "prediction": "epsilon"}
        save_file(unet_state, path, metadata={"ddfm_prior": json.dumps(described)})
        prior = load_prior(path)
        assert prior.network.config == UNetConfig.from_json(fields)
        assert (prior.schedule.alphas_cumprod == cosine_schedule(400).alphas_cumprod).all()
        other = load_prior(path, config=TINY_UNET, schedule=SCHEDULE)
        assert other.network.config == TINY_UNET
        assert other.schedule is SCHEDULE
        assert load_prior(path, schedule="linear").schedule.num_timesteps == 400

    def test_schedule_by_name(self, unet_file):
        assert (load_prior(unet_file).schedule.alphas_cumprod == SCHEDULE.alphas_cumprod).all()
        cosine = load_prior(unet_file, schedule="cosine").schedule
        assert (cosine.alphas_cumprod == cosine_schedule().alphas_cumprod).all()
        with pytest.raises(ValueError, match=r"unknown schedule 'sigmoid'.*cosine.*linear"):
            load_prior(unet_file, schedule="sigmoid")

    def test_half_precision_from_half_precision_weights(self, unet_state, tmp_path):
        path = tmp_path / "unet.safetensors"
        save_file({key: tensor.bfloat16() for key, tensor in unet_state.items()}, path)
        prior = load_prior(str(path), dtype=torch.bfloat16)
        assert prior.network.torso_dtype == torch.bfloat16
        assert prior.network.out[2].weight.dtype == torch.float32
        x_t = noise(1, 1, 8, 8)
        exact = load_prior(path)(x_t, 500)
        assert prior(x_t, 500).dtype == torch.float32
        assert 0 < (prior(x_t, 500) - exact).square().mean().sqrt() < 0.05 * exact.std()

    def test_other_types_are_refused(self, unet_file):
        with pytest.raises(ValueError, match=r"not in torch\.float64"):
            load_prior(unet_file, dtype=torch.float64)

    def test_outputs_that_are_not_eps_are_refused(self, tmp_path):
        network = UNet(UNetConfig(16, 1, 5, 32, (1, 2), 1, (2,)))
        torch.save(network.state_dict(), tmp_path / "unet.pt")
        with pytest.raises(PriorError, match="5 outputs for 1 inputs"):
            load_prior(tmp_path / "unet.pt")

    def test_heads_that_cannot_be_guessed_ask_for_a_config(self, tmp_path):
        _, weights, *_ = load_golden(GOLDEN[0])
        torch.save(weights, tmp_path / "unet.pt")
        with pytest.raises(PriorError, match=r"64 channels per head.*describe it by config="):
            load_prior(tmp_path / "unet.pt")


class TestFilesThatAreRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop("middle_block.1.qkv.bias"), r"missing key 'middle_block\.1\.qkv\.bias'"),
            (lambda state: state.update(extra=torch.zeros(1)), "unexpected key 'extra'"),
            (
                lambda state: state.update({"out.2.bias": torch.zeros(7)}),
                r"'out\.2\.bias' has shape \[7\], the network has \[2\]",
            ),
            (lambda state: state.update({"out.2.bias": torch.zeros(2, dtype=torch.int8)}), "torch.int8"),
            (lambda state: state.update({"label_emb.weight": torch.zeros(1000, 128)}), "class-conditional"),
        ],
    )
    def test_weights_that_do_not_fit(self, unet_state, tmp_path, change, message):
        state = dict(unet_state)
        change(state)
        torch.save(state, tmp_path / "unet.pt")
        with pytest.raises(PriorError, match=message):
            load_prior(tmp_path / "unet.pt")

    def test_weights_of_another_config(self, unet_file):
        with pytest.raises(PriorError, match=r"time_embed\.0\.weight.*another network"):
            load_prior(unet_file, config=UNetConfig())

    def test_denoiser_weights_without_a_description(self, denoiser, tmp_path):
        save_file(denoiser.state_dict(), tmp_path / "prior.safetensors")
        with pytest.raises(PriorError, match="not a guided-diffusion U-Net"):
            load_prior(tmp_path / "prior.safetensors")

    def test_pickle_that_runs_code(self, tmp_path):
        mark = tmp_path / "it-ran"

        class Malicious:
            def __reduce__(self):
                return (os.mkdir, (str(mark),))

        torch.save({"out.2.bias": Malicious()}, tmp_path / "unet.pt")
        with pytest.raises(PriorError, match="could run code"):
            load_prior(tmp_path / "unet.pt")
        assert not mark.exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"model": {"a": torch.zeros(1)}, "step": 3}, r"a dict of \['model', 'step'\].*state dict alone"),
            ({3: torch.zeros(1)}, r"a dict of \[3\].*state dict alone"),
            ([torch.zeros(1)], "a list.*state dict alone"),
        ],
    )
    def test_checkpoints_that_hold_something_else(self, tmp_path, content, message):
        torch.save(content, tmp_path / "unet.pt")
        with pytest.raises(PriorError, match=message):
            load_prior(tmp_path / "unet.pt")

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    @pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", "truncated"])
    def test_damaged_files(self, unet_state, tmp_path, suffix, content):
        path = tmp_path / f"unet{suffix}"
        if content == "truncated":
            (torch.save if suffix == ".pt" else save_file)(unet_state, path)
            content = path.read_bytes()[:-1000]
        path.write_bytes(content)
        with pytest.raises(PriorError, match=r"cannot be read|damaged"):
            load_prior(path)

    @pytest.mark.parametrize("open_it", [load_prior, prior_sha256])
    def test_paths_that_are_no_weights_files(self, tmp_path, open_it):
        with pytest.raises(PriorError, match=r"does not exist.*never downloaded"):
            open_it(tmp_path / "unet.pt")
        with pytest.raises(PriorError, match="folder"):
            open_it(tmp_path)
        (tmp_path / "unet.ckpt").write_bytes(b"")
        with pytest.raises(PriorError, match=r"not '\.ckpt'"):
            open_it(tmp_path / "unet.ckpt")
