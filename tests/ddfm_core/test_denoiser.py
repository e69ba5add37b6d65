import math

import pytest
import torch

from ddfm_core.denoiser import Denoiser, DenoiserConfig, timestep_embedding

TINY = DenoiserConfig(widths=(8, 12), blocks=1, embedding=16)


def random_denoiser(config=TINY, seed=0):
    """A network none of whose weights is zero, as a new one's last layers are."""
    torch.manual_seed(seed)
    network = Denoiser(config).requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.2)
    return network


def noise(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_equal_up_to_rounding(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_embedding_is_cosines_then_sines_of_falling_frequencies():
    embedding = timestep_embedding(torch.tensor([0, 3]), 4)
    assert embedding[0].tolist() == [1, 1, 0, 0]
    expected = [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]
    assert embedding[1].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 20), (36, 12)])
def test_output_has_the_shape_of_the_input(channels, height, width):
    network = random_denoiser(DenoiserConfig(channels=channels, widths=(8, 12), blocks=1, embedding=16))
    x_t = noise(2, channels, height, width)
    assert network(x_t, torch.tensor([5, 900])).shape == x_t.shape


def test_sides_are_multiples_of_two_per_level():
    assert TINY.multiple == 4
    assert DenoiserConfig().multiple == 32
    with pytest.raises(RuntimeError):
        random_denoiser()(noise(1, 1, 6, 8), torch.tensor([5]))


def test_new_network_predicts_zero():
    assert Denoiser(TINY)(noise(1, 1, 8, 8), torch.tensor([5])).count_nonzero() == 0


def test_members_of_a_batch_do_not_influence_each_other():
    network = random_denoiser()
    x_t, timestep = noise(3, 1, 16, 16), torch.tensor([0, 500, 999])
    together = network(x_t, timestep)
    for index in range(3):
        alone = network(x_t[index : index + 1], timestep[index : index + 1])
        assert_equal_up_to_rounding(together[index : index + 1], alone)
    louder = torch.cat([x_t[:1], 100 * x_t[1:]])
    assert_equal_up_to_rounding(network(louder, timestep)[0], together[0])


def test_one_timestep_stands_for_the_whole_batch():
    network, x_t = random_denoiser(), noise(3, 1, 16, 16)
    assert_equal_up_to_rounding(network(x_t, torch.tensor([70])), network(x_t, torch.full((3,), 70)))


def test_prediction_depends_on_the_timestep():
    network, x_t = random_denoiser(), noise(1, 1, 16, 16)
    assert (network(x_t, torch.tensor([10])) - network(x_t, torch.tensor([900]))).abs().max() > 1e-2


def test_prediction_does_not_depend_on_the_size_of_the_picture():
    # Without norms and attention the receptive field is all that a pixel sees: 22 pixels to each side for TINY.
    network, x_t = random_denoiser(), noise(1, 1, 96, 96)
    whole = network(x_t, torch.tensor([300]))
    part = network(x_t[..., 16:80, 8:72], torch.tensor([300]))
    assert_equal_up_to_rounding(part[..., 24:40, 24:40], whole[..., 40:56, 32:48])


def test_config_survives_json():
    assert DenoiserConfig.from_json(TINY.as_json()) == TINY
    with pytest.raises(TypeError):
        DenoiserConfig.from_json(TINY.as_json() | {"norm": "group"})
