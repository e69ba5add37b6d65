"""DDFM, the denoising diffusion fusion model: tensors in, tensors out.

``from ddfm_core import fuse, FusionConfig, load_prior, fusion_metrics``; the names are imported on first use, so that
importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddfm_core.fusion import ALGORITHM_VERSION, FusionConfig, FusionResult, fuse
    from ddfm_core.metrics import fusion_metrics
    from ddfm_core.priors import Prior, load_prior

__all__ = [
    "ALGORITHM_VERSION",
    "FusionConfig",
    "FusionResult",
    "Prior",
    "fuse",
    "fusion_metrics",
    "load_prior",
]

_HOMES = {
    "ALGORITHM_VERSION": "ddfm_core.fusion",
    "FusionConfig": "ddfm_core.fusion",
    "FusionResult": "ddfm_core.fusion",
    "Prior": "ddfm_core.priors",
    "fuse": "ddfm_core.fusion",
    "fusion_metrics": "ddfm_core.metrics",
    "load_prior": "ddfm_core.priors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
