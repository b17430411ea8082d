"""The matrices of Winograd's minimal filtering, in exact fractions: of a convolution, and of a transposed one.

Toom-Cook interpolation; A. Lavin & S. Gray, arXiv:1509.09308. Points after B. Barabasz et al., arXiv:1803.10986.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

Matrix = tuple[tuple[Fraction, ...], ...]

#: Points of evaluation beside infinity, by the size of a tile. 6: relative L2 error of F(4x4,3x3) at 256 channels
#: 1.42e-6, with +-3/4 and +-3/2 1.53e-6, about twice that with +-1 and +-2. 8: the standard set. 1: an axis left alone.
POINTS: dict[int, tuple[Fraction, ...]] = {
    size: tuple(map(Fraction, points.split()))
    for size, points in {
        1: "", 3: "0 1", 4: "0 1 -1", 5: "0 1 -1 2", 6: "0 2/3 -2/3 3/2 -3/2", 8: "0 1 -1 2 -2 1/2 -1/2",
    }.items()
}  # fmt: skip


def _times_linear(polynomial: list[Fraction], root: Fraction) -> list[Fraction]:
    """Return the coefficients of polynomial * (x - root), lowest first."""
    shifted = [Fraction(0), *polynomial]
    return [high - root * low for high, low in zip(shifted, [*polynomial, Fraction(0)], strict=True)]


def transforms(m: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T (m, t), G (t, taps) and B^T (t, t) of F(m, taps), t = m + taps - 1: y = A^T ((G g) * (B^T d)).

    Toom-Cook interpolation at `POINTS` and infinity, in exact fractions; A. Lavin & S. Gray, arXiv:1509.09308.
    """
    size = m + taps - 1
    points = POINTS[size]
    a_t = tuple((*(point**i for point in points), Fraction(int(i == m - 1))) for i in range(m))
    g_rows, b_rows = [], []
    everything = [Fraction(1)]
    for point in points:
        product, scale = [Fraction(1)], Fraction(1)
        for other in points:
            if other != point:
                product = _times_linear(product, other)
                scale *= point - other
        g_rows.append(tuple(point**k / scale for k in range(taps)))
        b_rows.append((*product, Fraction(0)))
        everything = _times_linear(everything, point)
    g_rows.append((*([Fraction(0)] * (taps - 1)), Fraction(1)))
    b_rows.append(tuple(everything))
    assert len(b_rows) == size
    return a_t, tuple(g_rows), tuple(b_rows)


def _identity(size: int) -> Matrix:
    return tuple(tuple(Fraction(int(i == j)) for j in range(size)) for i in range(size))


class PhaseMatrices(NamedTuple):
    """F(m, .) of every phase of the stride of a transposed convolution, along one axis, side by side.

    A tile of ``stride * m`` outputs is ``outputs @ (kernels @ w)[shared] * (inputs @ d)``, the product by elements.
    The same three matrices, transposed, give the gradient by the kernels: ``kernels.T @ sums`` with
    ``sums[u] = sum over p with shared[p] == u of (inputs @ d)[p] * (outputs.T @ e)[p]`` for a tile e of gradients.

    Attributes
    ----------
    outputs : Matrix, (stride * m, points)
        Outputs `stride` apart belong to one phase.
    kernels : Matrix, (kernel points, taps)
    inputs : Matrix, (points, window)
    shared : tuple of ints
        The kernel point of each point: a phase of a single tap has only one, which all of its outputs share.
    first : int
        Where the window of inputs begins: tile number t reads from ``m * t + first`` on.
    """

    outputs: Matrix
    kernels: Matrix
    inputs: Matrix
    shared: tuple[int, ...]
    first: int


@cache
def phase_matrices(m: int, taps: int, stride: int, pad: int) -> PhaseMatrices:
    """Return the matrices of an axis of `taps` taps, of which `pad` outputs are cut off in front.

    Output i meets tap r at input (i + pad - r) / stride where that is whole; tile t has the outputs from
    ``stride * m * t`` on.
    """
    phases = [(phase, range((phase + pad) % stride, taps, stride)) for phase in range(stride)]
    places = {phase: (phase + pad) // stride for phase, met in phases if len(met)}
    first = min(places[phase] - len(met) + 1 for phase, met in phases if len(met))
    window = max(places.values()) - first + m
    width = sum(m + len(met) - 1 for _, met in phases if len(met))
    zero = Fraction(0)
    outputs = [[zero] * width for _ in range(stride * m)]
    kernels: list[tuple[Fraction, ...]] = []
    inputs: list[tuple[Fraction, ...]] = []
    shared: list[int] = []
    for phase, met in phases:
        if not met:
            continue
        a_t, g, b_t = transforms(m, len(met)) if len(met) > 1 else (_identity(m), _identity(1), _identity(m))
        left = places[phase] - len(met) + 1 - first
        for u, row in enumerate(a_t):
            outputs[stride * u + phase][len(inputs) : len(inputs) + len(row)] = row
        shared += [len(kernels) + (0 if len(met) == 1 else i) for i in range(len(b_t))]
        for row in g:
            # Turned round: the last tap meets the first of the inputs.
            turned = dict(zip(reversed(met), row, strict=True))
            kernels.append(tuple(turned.get(r, zero) for r in range(taps)))
        inputs += [(*([zero] * left), *row, *([zero] * (window - left - len(row)))) for row in b_t]
    return PhaseMatrices(tuple(map(tuple, outputs)), tuple(kernels), tuple(inputs), tuple(shared), first)
