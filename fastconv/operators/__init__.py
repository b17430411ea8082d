"""The operators beside convolution, in its words: arguments, layouts, errors, threads and `out` are those of `conv2d`.

Users find them all in `fastconv`. A file with the name of an operator is where its call arrives: `sequences` (1-D),
`depthwise`, `separable`, `transposed`, `gradients`, `pooling`, `unfolding` (im2col and col2im) and `local`. What stands
behind it: `separable` goes through `strips` of rows (`chain_kernels`); `transposed` through `phases`, one convolution
of all phases of the stride (`phase_kernels`), or, for few pixels and large weights, `spreading` (`spread_kernels`), on
a matrix unit `split_spread`; `gradients` by the kernels on a matrix unit through `split_gradient`; `pooling` through
`pool_work` and then `pool_pixels` (NHWC) or `pool_planes` (NCHW); the others have their `..._kernels` beside them.
`running` and `windows` are what all of them share. Those that are convolutions go to the
planner like any `conv2d`: their `plan_...` and `explain_...` stand beside the call (those of the gradients in
`gradient_plans`, of separable convolution in `separable_plans`), on `plans`.
"""
