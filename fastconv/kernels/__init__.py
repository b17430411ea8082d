"""Compiled code: the one decorator, the vector words, the micro-kernels and the drain loops."""
