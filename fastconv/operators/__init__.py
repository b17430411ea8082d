"""The operators beside convolution, in its words: arguments, layouts, errors, threads and `out` are those of `conv2d`.

Each file is one operator, on top of `fastconv.api` or of the kernels; users find them all in `fastconv`.
"""
