"""Mean and standard deviation of pictures that come one after the other, so that only two are held."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMoments:
    """Mean and spread of tensors of one shape, by Welford's update (Technometrics 1962)."""

    def __init__(self, first: Tensor) -> None:
        """Begin with one tensor, whose mean it is."""
        self.count = 1
        self.mean = first
        self._squares = torch.zeros_like(first)

    def add(self, tensor: Tensor) -> None:
        """One more."""
        self.count += 1
        difference = tensor - self.mean
        self.mean = self.mean + difference / self.count
        self._squares = self._squares + difference * (tensor - self.mean)

    def std(self) -> Tensor:
        """Standard deviation per element, the square root of the unbiased variance; NaN for a single tensor."""
        return (self._squares / (self.count - 1)).sqrt() if self.count > 1 else torch.full_like(self.mean, torch.nan)
