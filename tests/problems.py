"""The problems every algorithm is tried on: sizes around tile edges, every argument, every bug others had.

Output channels take few values: each register tile is a kernel to compile.
C != O, H != W, kh != kw and sh != sw wherever the point is not their being equal: mixed-up axes then show.
"""

from __future__ import annotations

_BOTH = (
    # 1x1: one pixel, edges of tiles, strides, many channels
    "n1c1h1w1_o7k1x1_s1p0d1g1",
    "n2c17h5w7_o33k1x1_s1p0d1g1 bias residual",
    "n1c33h13w11_o20k1x1_s2x3p0d1g1",
    "n1c9h31w33_o20k1x1_s1p0d1g1 relu bias",
    "n1c18h8w64_o9k1x1_s1p0d1g1 residual",
    "n3c70h6w5_o33k1x1_s3x1p0d1g1",
    "n1c5h4w6_o7k1x1_s1p2.1.0.3d1g1 bias",
    # 3x3 and larger: edges of tiles
    "n1c3h8w9_o7k3x3_s1p1d1g1",
    "n2c5h13w17_o7k3x3_s1p1d1g1 relu bias",
    "n1c16h15w14_o33k3x3_s2p1d1g1",
    "n1c17h16w33_o33k3x3_s1p1d1g1 residual",
    "n1c31h32w31_o20k3x3_s1p1.0.0.1d1g1 bias residual",
    "n2c32h20w22_o33k3x3_s1p0d1g1",
    "n1c4h10w9_o7k2x5_s3x2p1.2.0.3d1g1 bias",
    "n1c2h32w31_o3k7x5_s2p3d1g1",
    "n1c32h7w6_o33k5x4_s1p2d1g1",
    "n1c19h18w26_o20k3x3_s1p1d1g1 fast",
    "n2c8h7w13_o7k3x3_s1p2.0.1.1d1g1 bias residual fast",
    # more channels than one run, and a sum longer than one panel
    "n1c130h6w7_o20k3x3_s1p1d1g1",
    "n1c1100h3w4_o7k3x3_s1p0d1g1 bias residual",
    # kernel as large as the image, strides beyond the kernel, padding beyond the image
    "n2c3h6w5_o7k6x5_s1p0d1g1",
    "n1c3h13w17_o7k2x3_s5x4p0d1g1",
    "n1c3h4w5_o7k3x2_s2x3p5.4.3.6d1g1 bias",
    "n1c2h1w1_o3k125x1_s2p63.63.0.0d1g1",
    "n1c1h9w8_o2k51x51_s1p25d1g1",
    "n1c5h33w1_o7k3x1_s1p1.1.0.0d1g1",
    "n1c6h1w35_o7k1x3_s1x2p0.0.1.1d1g1",
    # dilation
    "n1c3h10w9_o7k3x3_s1p4d4g1",
    "n1c5h7w16_o7k2x3_s2x1p3.2.5.0d3x2g1 bias",
    "n1c4h23w19_o7k3x3_s2x3p6d5x4g1",
    # groups, depthwise, channel multipliers
    "n1c8h9w7_o12k3x3_s1p1d1g4 bias",
    "n2c17h9w13_o17k3x3_s1p1d1g17 relu bias",
    "n1c40h14w15_o40k5x3_s2p2.1.1.2d1g40 residual",
    "n1c6h10w8_o18k3x2_s2x1p1d1g6",
    "n2c10h11w12_o6k3x3_s2p2d2x1g2 bias",
    "n1c34h5w6_o66k1x1_s1p0d1g2",
    "n1c64h8w9_o64k3x3_s1p1d1g16",
    # one and three channels
    "n1c1h20w41_o1k5x5_s1p2d1g1",
    "n1c3h21w35_o20k3x3_s2p1d1g1",
    "n1c1h30w17_o3k3x7_s1p0d1g1 relu",
    # the other padding modes
    "n1c3h7w6_o7k3x5_s1p2d1g1 reflect",
    "n1c2h8w5_o3k5x3_s2x1p7.3.4.1d1g1 reflect bias",
    "n1c3h7w6_o7k3x5_s1p2d1g1 symmetric",
    "n1c2h5w9_o3k3x3_s1x2p5.2.9.4d2x1g1 symmetric residual",
    "n1c3h7w6_o7k3x5_s1p2d1g1 replicate",
    "n1c2h3w4_o3k3x3_s1p8.9.7.10d1g1 replicate",
    "n1c3h7w6_o7k3x5_s1p2d1g1 circular",
    "n2c4h5w9_o6k3x4_s2x1p5.1.0.9d1g2 circular relu bias",
    "n1c3h1w1_o7k3x3_s1p1d1g1 circular",
    "n1c9h12w10_o9k3x3_s1p1d1g9 replicate",
    # small groups: whole groups side by side in a vector, multipliers, a vector that is not full
    "n2c24h9w16_o24k3x3_s1p1d1g6 bias residual",
    "n1c20h13w11_o40k5x5_s2p2d1g10 relu bias",
    "n1c33h10w9_o33k7x7_s1p3d1g33 residual",
    "n1c7h17w19_o7k11x9_s1p5d1g7",
    # sums that slide: windows that lie beside the image in two vectors, rows of several tiles, more images than one
    "n1c6h6w17_o6k5x5_s1p2d1g6 bias",
    "n2c5h7w70_o5k3x3_s1p1d1g5 residual relu",
    "n2c12h9w35_o12k7x7_s2p3d1g3 bias residual",
    "n1c4h12w67_o8k3x3_s1x2p1.1.0.2d1g2 bias",
    "n2c20h9w12_o20k9x17_s2x1p4.5.8.3d1g20 bias residual relu",
    "n1c16h21w6_o16k16x3_s1x2p9.11.1.0d1g16",
    # groups that slide: strips of rows with a last one that is short, one to three columns of taps, groups of 2 to 16
    "n2c40h9w7_o40k3x3_s1p1d1g20 bias residual relu",
    "n1c32h10w6_o32k3x2_s1x2p1.1.0.1d1g2 bias",
    "n1c24h6w11_o24k3x1_s1p2.0.1.0d1g3 residual",
    "n2c48h13w9_o48k5x4_s2x1p3.1.2.2d1g12 bias relu",
    # tiles of other kernels than 3x3, and of kernels with one row or one column
    "n1c17h11w14_o33k5x5_s1p2.1.0.3d1g1 relu bias residual",
    "n2c8h9w13_o7k5x5_s1p2d1g1 fast",
    "n2c9h16w11_o34k2x2_s1p1.0.1.1d1g1 relu bias residual",
    "n1c20h9w23_o18k1x2_s1p0.0.1.1d1g2 bias",
    "n1c5h16w8_o20k2x1_s1p1.0.0.0d1g1",
    "n1c18h6w23_o20k1x3_s1p0.0.1.1d1g2 bias",
    "n1c16h23w6_o20k3x1_s1p2.1.0.0d1g1 replicate residual",
)

_WORDS = {
    "reflect": 0,
    "symmetric": 0,
    "replicate": 0,
    "circular": 0,
    "relu": 1,
    "bias": 2,
    "residual": 3,
    "fast": 4,
}


def _word(text: str, layout: str, dtype: str) -> str:
    sizes, *words = text.split()
    return "_".join([sizes, layout, dtype, *sorted(words, key=_WORDS.__getitem__)])


def _small() -> list[str]:
    """Return every size from 1 to 10, steps and kernels changing along."""
    found = []
    for i in range(1, 11):
        kernel = f"k{min(i, 1 + i % 4)}x{min(11 - i, 1 + i % 3)}"
        found.append(
            f"n{1 + i % 2}c{3 * i % 7 + 1}h{i}w{11 - i}_o{(3, 7)[i % 2]}{kernel}_s{1 + i % 2}x1p{i % 3}d1g1"
        )
    return found


_OTHER_DTYPES = (1, 2, 7, 12, 20, 27, 30, 45, -4, -3)

#: float32 in both layouts, then float64 and sums of integers on every few of them.
PROBLEMS = tuple(
    [_word(text, layout, "f32") for text in (*_BOTH, *_small()) for layout in ("nchw", "nhwc")]
    + [
        _word(_BOTH[i], layout, dtype)
        for n, i in enumerate(_OTHER_DTYPES)
        for layout, dtype in (
            ("nchw" if n % 2 else "nhwc", "f64"),
            ("nhwc" if n % 2 else "nchw", "i8"),
            ("nchw" if n % 2 else "nhwc", "i32"),
        )
    ]
)

#: Few, and of every kind: for what is costly, such as other instruction sets and every setting.
SHORT = tuple(
    _word(text, layout, dtype)
    for text, layout, dtype in (
        ("n2c17h5w7_o33k1x1_s1p0d1g1 bias residual", "nhwc", "f32"),
        ("n1c33h13w11_o15k1x1_s2x3p0d1g1", "nchw", "f32"),
        ("n1c17h16w33_o31k3x3_s1p1d1g1 residual", "nhwc", "f32"),
        ("n2c5h13w17_o7k3x3_s1p1d1g1 relu bias", "nchw", "f32"),
        ("n1c4h10w9_o6k2x5_s3x2p1.2.0.3d1g1 bias", "nhwc", "f64"),
        ("n1c8h9w7_o12k3x3_s1p1d1g4 bias", "nchw", "i8"),
        ("n2c17h9w13_o17k3x3_s1p1d1g17 relu bias", "nhwc", "f32"),
        ("n2c4h5w9_o6k3x4_s2x1p5.1.0.9d1g2 circular relu bias", "nchw", "f64"),
    )
)

#: One of each family, so that every algorithm finds one it takes.
FAMILIES = tuple(
    _word(text, "nhwc" if i % 2 else "nchw", "f32")
    for i, text in enumerate(
        (
            "n1c19h11w13_o19k3x3_s1p1d1g1",
            "n1c19h11w13_o19k1x1_s1p0d1g1",
            "n1c19h11w13_o19k3x3_s1p1d1g19",
            "n1c1h11w13_o1k5x5_s1p2d1g1",
            "n1c12h11w13_o12k3x3_s1p1d1g3",
            "n1c24h11w13_o24k3x3_s1p1d1g6",
            "n1c3h11w13_o3k3x3_s1p1d1g1",
        )
    )
)
