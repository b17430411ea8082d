"""Batch normalisation as five values: the mean and variance of training are constants at inference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

#: Of any dtype; those of parameters are float64.
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class BatchNorm:
    """``gamma * (x - mean) / sqrt(var + eps) + beta`` for each channel.

    Parameters
    ----------
    gamma, beta, mean, var : array, shape (C,)
        `var` is not negative.
    eps : float
        PyTorch has 1e-5, Keras 1e-3.
    """

    gamma: Any
    beta: Any
    mean: Any
    var: Any
    eps: float = 1e-5

    def affine(self, channels: int) -> tuple[Array, Array]:
        """Return float64 (scale, shift) with ``norm(x) == scale * x + shift``.

        Raises
        ------
        ValueError
            When a field has not one value per channel, or ``var + eps`` is not positive.
        """
        values = []
        for name in ("gamma", "beta", "mean", "var"):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != (channels,):
                raise ValueError(
                    f"{name} must have one value per channel, shape ({channels},), got {value.shape}"
                )
            values.append(value)
        gamma, beta, mean, var = values
        if not (var + self.eps > 0).all():
            worst = int(np.argmin(var))
            raise ValueError(f"var + eps must be positive, got {var[worst]} + {self.eps} for channel {worst}")
        scale = gamma / np.sqrt(var + self.eps)
        return scale, beta - mean * scale

    def channels(self, kept: Array) -> BatchNorm:
        """Return the normalisation of some of the channels."""
        return replace(
            self,
            gamma=np.asarray(self.gamma)[kept],
            beta=np.asarray(self.beta)[kept],
            mean=np.asarray(self.mean)[kept],
            var=np.asarray(self.var)[kept],
        )
