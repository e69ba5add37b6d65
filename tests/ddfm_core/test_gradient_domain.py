"""Gradients that no border crosses, and the picture that has them."""

import pytest
import torch

from ddfm_core.gradient_domain import inner_gradient, inner_gradient_adjoint, solve_screened


def test_the_screened_equation_is_solved_and_its_operators_are_adjoint():
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(2, 1, 15, 22, generator=generator)
    other = torch.randn(2, 2, 15, 22, generator=generator)
    wanted = 0.3 * picture + inner_gradient_adjoint(inner_gradient(picture))
    torch.testing.assert_close(solve_screened(wanted, 0.3), picture, atol=1e-4, rtol=0)
    assert float((inner_gradient(picture) * other).sum()) == pytest.approx(
        float((picture * inner_gradient_adjoint(other)).sum()), rel=1e-4
    )
