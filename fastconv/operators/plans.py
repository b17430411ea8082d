"""Plans and explanations of the operators that are made of convolutions: which ones, and what else is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv import arrays
from fastconv.arrays import Array
from fastconv.operators import running
from fastconv.operators.running import Result
from fastconv.planning import facts
from fastconv.planning.explain import Explanation, explained, time_text
from fastconv.planning.plan import Plan
from fastconv.problem import Problem


@dataclass(frozen=True, eq=False, slots=True)
class OperatorPlan:
    """An operator whose convolutions are chosen and packed; ``plan(x)`` runs it.

    Made by the functions of `fastconv` whose names begin with ``plan_``. Weights and biases were copied into it:
    changing them later changes nothing. It may be called from many threads at once.

    Attributes
    ----------
    operator : str
        Name of the function that does the same without a plan.
    x_shape : tuple of int
    dtype : numpy.dtype
        Shape and dtype of the images.
    result : Result
        Shape and dtype of what comes out.
    convolutions : tuple of Plan
        What the planner chose for each convolution that it is made of.
    between_bytes : int
        Scratch memory for what convolutions leave to later stages.
    compute : callable
        Takes contiguous arrays: images, of the compute dtype, and the result, which it fills.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> plan = fastconv.plan_conv_transpose2d((1, 8, 5, 5), np.ones((8, 4, 2, 2), np.float32), stride=2, threads=1)
    >>> plan(np.ones((1, 8, 5, 5), np.float32)).shape
    (1, 4, 10, 10)
    >>> [inner.problem.word for inner in plan.convolutions]
    ['n1c8h5w5_o16k1x1_s1p0d1g1_nchw_f32']
    """

    operator: str
    x_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    result: Result
    convolutions: tuple[Plan, ...]
    between_bytes: int
    compute: Callable[[Array, Array], None]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The convolutions, as `fastconv.tune` takes them."""
        return tuple(plan.problem for plan in self.convolutions)

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory in use while the plan runs, in bytes."""
        return self.between_bytes + max((plan.workspace_bytes for plan in self.convolutions), default=0)

    def __repr__(self) -> str:
        return (
            f"OperatorPlan({self.operator!r}, {self.x_shape} -> {self.result.shape} {self.result.dtype}, "
            f"convolutions={list(self.convolutions)!r})"
        )

    def __call__(self, x: Any, out: Any = None) -> Any:
        """Compute the result for `x`.

        Parameters
        ----------
        x : array
            Of the planned shape and dtype: a NumPy array, or anything with ``__dlpack__`` in CPU memory.
        out : array, optional
            Where to put the result: of its shape and dtype, writeable, sharing no memory with `x`.

        Returns
        -------
        array
            `out` if given, else a new array of the kind of `x`.

        Raises
        ------
        TypeError
            When an argument is of a kind that cannot be used.
        ValueError
            When shapes or dtypes are not the planned ones, or `out` cannot take the result.
        """
        source = arrays.view("x", x)
        if not arrays.same_type(source.dtype, self.dtype):
            raise ValueError(f"x must have the planned dtype {self.dtype}, got {source.dtype.name}")
        if source.shape != self.x_shape:
            raise ValueError(f"x must have the planned shape {self.x_shape}, got {source.shape}")
        target = None if out is None else running.target_of("out", out, self.result, {"x": source})
        y = running.written_to(target, self.result)
        if y.size:
            self.compute(arrays.ready(source, self.result.compute_dtype), y)
        return running.delivered(y, target, self.result, x, out)


@dataclass(frozen=True, slots=True)
class Stage:
    """One thing that is done, its expected time, and the choice behind it if it is a convolution."""

    what: str
    seconds: float
    convolution: Explanation | None = None


@dataclass(frozen=True, slots=True)
class OperatorExplanation:
    """What a plan of an operator does, stage by stage, and why; ``print`` it, or read its fields.

    Made by the functions of `fastconv` whose names begin with ``explain_``, but for those operators that are one
    convolution, which have an `Explanation`.

    Parameters
    ----------
    operator : str
    shapes : tuple of tuple of int
        Of the images and of the result.
    dtype : str
    route : str
        The way it is computed.
    stages : tuple of Stage
        What every run does, in order.
    packing : tuple of Stage
        What is done to the weights: once by a plan, in every call without one.
    """

    operator: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: str
    route: str
    stages: tuple[Stage, ...]
    packing: tuple[Stage, ...] = ()

    @property
    def convolutions(self) -> tuple[Explanation, ...]:
        """The choices of the convolutions among the stages, each with everything it was chosen from."""
        return tuple(stage.convolution for stage in self.stages if stage.convolution is not None)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The convolutions among the stages, as `fastconv.tune` takes them."""
        return tuple(found.problem for found in self.convolutions)

    @property
    def seconds(self) -> float:
        """Predicted time of one run."""
        return sum(stage.seconds for stage in self.stages)

    def __str__(self) -> str:
        lines = [
            f"{self.operator}: x {self.shapes[0]} -> {self.shapes[1]} {self.dtype}",
            f"route: {self.route}",
            "",
        ]
        for title, stages in (
            ("every run", self.stages),
            ("once by a plan, every time without", self.packing),
        ):
            lines += (
                [f"{title}: {time_text(sum(stage.seconds for stage in stages))} predicted"] if stages else []
            )
            lines += [f"  {time_text(stage.seconds):>8}  {_text(stage)}" for stage in stages]
        for found in self.convolutions:
            lines += ["", str(found)]
        return "\n".join(lines)


def _text(stage: Stage) -> str:
    if stage.convolution is None:
        return stage.what
    chosen = stage.convolution.chosen
    return f"{stage.what}: {stage.convolution.problem.word} by {chosen.algorithm} {chosen.config}"


def convolution_stages(named: Iterable[tuple[str, Problem]]) -> tuple[list[Stage], list[Stage]]:
    """Return for convolutions, with what each is for, the step of running it and that of packing its weights."""
    running_them, packing_them = [], []
    for what, problem in named:
        found = explained(problem, facts.host())
        chosen = found.chosen
        running_them.append(Stage(what, chosen.measured_seconds or chosen.seconds, found))
        packing_them.append(Stage(f"weights of {what} packed", chosen.packing_seconds))
    return running_them, packing_them
