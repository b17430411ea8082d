"""Filters of photographs: kernels by name, and correlation and convolution in the words of SciPy."""

from fastconv.image.bank import KERNELS, kernel, parameters

__all__ = ["KERNELS", "kernel", "parameters"]
