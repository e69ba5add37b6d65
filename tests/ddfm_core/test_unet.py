import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from ddfm_core.unet import UNet, UNetConfig
from tests.shared_data import shared

GOLDEN = ("unet_a_openai_like", "unet_b_heads_no_updown", "unet_c_new_attention_order")
TINY = UNetConfig(
    image_size=16, model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_factors=(2,),
    num_head_channels=32,
)  # fmt: skip
UNCOND_256 = {
    "image_size": 256, "num_channels": 256, "num_res_blocks": 2, "num_head_channels": 64, "learn_sigma": True,
    "attention_resolutions": "32,16,8", "resblock_updown": True, "use_scale_shift_norm": True, "class_cond": False,
    "diffusion_steps": 1000, "noise_schedule": "linear", "use_fp16": True,
}  # fmt: skip


def load_golden(name):
    """(config, weights, x_t, timesteps, outputs) of one reference network."""
    with safe_open(shared(f"golden/{name}.safetensors"), framework="pt") as file:
        config = UNetConfig.from_flags(json.loads(file.metadata()["config"]))
        keys = [key for key in file.keys() if key.startswith("weights/")]  # noqa: SIM118 - not a mapping
        weights = {key.removeprefix("weights/"): file.get_tensor(key) for key in keys}
        return config, weights, *(file.get_tensor(key) for key in "xty")


def load_network(config, weights):
    network = UNet(config).requires_grad_(False)
    network.load_state_dict(weights)
    return network


def meta_network(config):
    with torch.device("meta"):
        return UNet(config)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_golden_network_is_tested():
    found = {path.stem for path in shared("golden").glob("unet_*.safetensors")}
    assert found == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_the_public_network(name):
    config, weights, x_t, timesteps, expected = load_golden(name)
    outputs = load_network(config, weights)(x_t, timesteps)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_configurations_are_recognised(name):
    config, weights, *_ = load_golden(name)
    # What leaves no trace in the shapes.
    known = {
        field: getattr(config, field)
        for field in ("image_size", "num_heads", "num_head_channels", "use_new_attention_order")
    }
    assert UNetConfig.from_state_dict(weights, **known) == config


def test_the_public_256_network_has_exactly_its_keys_and_shapes():
    table = json.loads(shared("golden/openai_256_uncond_keys.json").read_text())
    network = meta_network(UNetConfig())
    state = network.state_dict()
    assert list(state) == list(table["keys"])
    assert {key: list(tensor.shape) for key, tensor in state.items()} == table["keys"]
    assert parameters(network) == table["parameters"] == 552_814_086
    assert UNetConfig.from_flags(table["config"]) == UNetConfig()
    assert UNetConfig.from_state_dict(state) == UNetConfig()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (UNCOND_256, 552_814_086),
        (UNCOND_256 | {"image_size": 512}, 557_973_638),
        (UNCOND_256 | {"num_channels": 128, "num_res_blocks": 1, "attention_resolutions": "16"}, 93_563_910),
    ],
    ids=["256x256_diffusion_uncond", "512x512_diffusion_uncond_finetune", "ffhq_10m"],
)
def test_public_flags_give_the_published_number_of_parameters(flags, expected):
    config = UNetConfig.from_flags(flags)
    network = meta_network(config)
    assert parameters(network) == expected
    assert UNetConfig.from_state_dict(network.state_dict()) == config


@pytest.mark.parametrize("resblock_updown", [True, False])
@pytest.mark.parametrize("use_scale_shift_norm", [True, False])
@pytest.mark.parametrize("channel_mult", [(1,), (2, 1), (1, 1.5, 3, 3)])
@pytest.mark.parametrize("num_res_blocks", [1, 3])
def test_recognition_inverts_construction(resblock_updown, use_scale_shift_norm, channel_mult, num_res_blocks):
    config = UNetConfig(
        image_size=8 * 2 ** (len(channel_mult) - 1),
        in_channels=1,
        out_channels=2,
        model_channels=64,
        channel_mult=channel_mult,
        num_res_blocks=num_res_blocks,
        attention_factors=(2,) if len(channel_mult) == 2 else (),
        num_head_channels=64 if resblock_updown else None,
        resblock_updown=resblock_updown,
        use_scale_shift_norm=use_scale_shift_norm,
    )
    recognised = UNetConfig.from_state_dict(meta_network(config).state_dict())
    if len(channel_mult) == 1:
        # A single level never resamples, so nothing tells how it would.
        recognised = replace(
            recognised, resblock_updown=config.resblock_updown, num_head_channels=config.num_head_channels
        )
    assert recognised == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("time_embed.0.weight"), r"no 'time_embed\.0\.weight'"),
        (lambda state: state.pop("out.2.weight"), r"no 'out\.2\.weight'"),
        (lambda state: state.update({"input_blocks.0.0.weight": torch.zeros(3)}), "2 or more dimensions"),
        (lambda state: state.update({"output_blocks.9.0.in_layers.0.weight": torch.zeros(3)}), "5 output blocks"),
        (lambda state: state.update({"label_emb.weight": torch.zeros(3)}), "class-conditional"),
        (lambda state: state.clear(), "not a guided-diffusion U-Net"),
    ],
)
def test_other_weights_are_not_recognised(change, message):
    state = meta_network(TINY).state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        UNetConfig.from_state_dict(state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channel_mult": ()}, "a level"),
        ({"num_res_blocks": 0}, "a residual block"),
        ({"model_channels": 40}, "norm groups"),
        ({"attention_factors": (4,)}, "not among"),
        ({"num_head_channels": 48}, "48 channels per head"),
        ({"num_head_channels": None, "num_heads": 5}, "5 heads"),
    ],
)
def test_impossible_configurations_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **fields)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"class_cond": True}, "class-conditional"),
        ({"image_size": 96}, "channel_mult"),
        ({"num_heads_upsample": 2}, "num_heads_upsample"),
        ({"num_head_channel": 64}, "unknown flags"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig.from_flags(flags)


def test_config_survives_json():
    text = json.dumps(TINY.as_json())
    assert UNetConfig.from_json(json.loads(text)) == TINY
    with pytest.raises(TypeError):
        UNetConfig.from_json(TINY.as_json() | {"dropout": 0.0})


def test_sides_are_multiples_of_two_per_step_down():
    assert UNetConfig().multiple == 32
    assert TINY.multiple == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_torso_keeps_the_rest_in_float32(dtype):
    config, weights, x_t, timesteps, _ = load_golden(GOLDEN[0])
    network = load_network(config, weights)
    x_t = x_t[..., :8, :12]
    expected = network(x_t, timesteps)
    network.set_torso_dtype(dtype)
    assert network.torso_dtype == dtype
    halved = {key for key, tensor in network.state_dict().items() if tensor.dtype == dtype}
    apart = re.compile(r"time_embed|out\.|.*\.(emb_layers|in_layers\.0|out_layers\.0|norm)\.")
    assert halved == {key for key in weights if not apart.match(key)}
    outputs = network(x_t, timesteps)
    assert outputs.dtype == torch.float32
    assert (outputs - expected).square().mean().sqrt() < 0.02 * expected.std()


def test_members_of_a_batch_do_not_influence_each_other():
    torch.manual_seed(0)
    network = UNet(TINY).requires_grad_(False)
    x_t, timesteps = torch.randn(2, 3, 8, 12), torch.tensor([3, 700])
    together = network(x_t, timesteps)
    assert together.shape == (2, 6, 8, 12)
    for index in range(2):
        alone = network(x_t[index : index + 1], timesteps[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-5)
    broadcast = network(x_t, timesteps[:1])
    torch.testing.assert_close(broadcast[0], together[0], rtol=0, atol=1e-5)
