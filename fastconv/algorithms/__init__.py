"""The ways to compute a convolution, one file each; `registry` finds them, `interface` says what they must state."""
