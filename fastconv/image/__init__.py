"""Filters of photographs: kernels by name, and correlation and convolution in the words of SciPy."""

from fastconv.image.bank import KERNELS, kernel, parameters
from fastconv.image.filtering import SLOPES, Gradient, filter2d, gradient
from fastconv.image.signal import convolve2d, correlate2d

__all__ = [
    "KERNELS",
    "SLOPES",
    "Gradient",
    "convolve2d",
    "correlate2d",
    "filter2d",
    "gradient",
    "kernel",
    "parameters",
]
