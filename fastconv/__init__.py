"""2-D convolution of NumPy arrays, compiled by Numba: `conv2d` does, `plan` prepares, `explain` says why.

Importing this package compiles nothing, reads nothing and starts nothing: names load their part on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastconv.algorithms.registry import list_algorithms as list_algorithms
    from fastconv.api import conv2d as conv2d
    from fastconv.api import conv_output_shape as conv_output_shape
    from fastconv.api import explain as explain
    from fastconv.api import flip_kernel as flip_kernel
    from fastconv.api import plan as plan
    from fastconv.api import plan_cache_clear as plan_cache_clear
    from fastconv.api import plan_cache_info as plan_cache_info
    from fastconv.machine import Machine as Machine
    from fastconv.operators.depthwise import depthwise_conv2d as depthwise_conv2d
    from fastconv.operators.depthwise import explain_depthwise_conv2d as explain_depthwise_conv2d
    from fastconv.operators.depthwise import plan_depthwise_conv2d as plan_depthwise_conv2d
    from fastconv.operators.gradient_plans import explain_conv2d_input_grad as explain_conv2d_input_grad
    from fastconv.operators.gradient_plans import explain_conv2d_weight_grad as explain_conv2d_weight_grad
    from fastconv.operators.gradient_plans import plan_conv2d_input_grad as plan_conv2d_input_grad
    from fastconv.operators.gradients import conv2d_bias_grad as conv2d_bias_grad
    from fastconv.operators.gradients import conv2d_input_grad as conv2d_input_grad
    from fastconv.operators.gradients import conv2d_weight_grad as conv2d_weight_grad
    from fastconv.operators.local import locally_connected2d as locally_connected2d
    from fastconv.operators.plans import OperatorExplanation as OperatorExplanation
    from fastconv.operators.plans import OperatorPlan as OperatorPlan
    from fastconv.operators.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
    from fastconv.operators.pooling import adaptive_max_pool2d as adaptive_max_pool2d
    from fastconv.operators.pooling import avg_pool2d as avg_pool2d
    from fastconv.operators.pooling import global_avg_pool2d as global_avg_pool2d
    from fastconv.operators.pooling import global_max_pool2d as global_max_pool2d
    from fastconv.operators.pooling import max_pool2d as max_pool2d
    from fastconv.operators.separable import separable_conv2d as separable_conv2d
    from fastconv.operators.separable_plans import explain_separable_conv2d as explain_separable_conv2d
    from fastconv.operators.separable_plans import plan_separable_conv2d as plan_separable_conv2d
    from fastconv.operators.sequences import conv1d as conv1d
    from fastconv.operators.sequences import explain_conv1d as explain_conv1d
    from fastconv.operators.sequences import plan_conv1d as plan_conv1d
    from fastconv.operators.transposed import conv_transpose2d as conv_transpose2d
    from fastconv.operators.transposed import explain_conv_transpose2d as explain_conv_transpose2d
    from fastconv.operators.transposed import plan_conv_transpose2d as plan_conv_transpose2d
    from fastconv.operators.unfolding import col2im as col2im
    from fastconv.operators.unfolding import im2col as im2col
    from fastconv.planning.explain import Explanation as Explanation
    from fastconv.planning.facts import measure_machine as measure_machine
    from fastconv.planning.plan import Plan as Plan
    from fastconv.planning.planner import WorkspaceLimitError as WorkspaceLimitError
    from fastconv.planning.tuning import TunerBusyError as TunerBusyError
    from fastconv.planning.tuning import autotune as autotune
    from fastconv.planning.tuning import tune as tune
    from fastconv.planning.warmup import warmup as warmup
    from fastconv.problem import Problem as Problem
    from fastconv.runtime import clear_workspaces as clear_workspaces
    from fastconv.runtime import get_num_threads as get_num_threads
    from fastconv.runtime import set_num_threads as set_num_threads

_HOME = {
    "conv2d": "fastconv.api",
    "conv_output_shape": "fastconv.api",
    "explain": "fastconv.api",
    "flip_kernel": "fastconv.api",
    "plan": "fastconv.api",
    "plan_cache_clear": "fastconv.api",
    "plan_cache_info": "fastconv.api",
    "list_algorithms": "fastconv.algorithms.registry",
    "Machine": "fastconv.machine",
    "locally_connected2d": "fastconv.operators.local",
    "adaptive_avg_pool2d": "fastconv.operators.pooling",
    "adaptive_max_pool2d": "fastconv.operators.pooling",
    "avg_pool2d": "fastconv.operators.pooling",
    "global_avg_pool2d": "fastconv.operators.pooling",
    "global_max_pool2d": "fastconv.operators.pooling",
    "max_pool2d": "fastconv.operators.pooling",
    "depthwise_conv2d": "fastconv.operators.depthwise",
    "explain_depthwise_conv2d": "fastconv.operators.depthwise",
    "plan_depthwise_conv2d": "fastconv.operators.depthwise",
    "explain_conv2d_input_grad": "fastconv.operators.gradient_plans",
    "explain_conv2d_weight_grad": "fastconv.operators.gradient_plans",
    "plan_conv2d_input_grad": "fastconv.operators.gradient_plans",
    "conv2d_bias_grad": "fastconv.operators.gradients",
    "conv2d_input_grad": "fastconv.operators.gradients",
    "conv2d_weight_grad": "fastconv.operators.gradients",
    "separable_conv2d": "fastconv.operators.separable",
    "explain_separable_conv2d": "fastconv.operators.separable_plans",
    "plan_separable_conv2d": "fastconv.operators.separable_plans",
    "conv1d": "fastconv.operators.sequences",
    "explain_conv1d": "fastconv.operators.sequences",
    "plan_conv1d": "fastconv.operators.sequences",
    "conv_transpose2d": "fastconv.operators.transposed",
    "explain_conv_transpose2d": "fastconv.operators.transposed",
    "plan_conv_transpose2d": "fastconv.operators.transposed",
    "OperatorExplanation": "fastconv.operators.plans",
    "OperatorPlan": "fastconv.operators.plans",
    "col2im": "fastconv.operators.unfolding",
    "im2col": "fastconv.operators.unfolding",
    "Explanation": "fastconv.planning.explain",
    "measure_machine": "fastconv.planning.facts",
    "Plan": "fastconv.planning.plan",
    "WorkspaceLimitError": "fastconv.planning.planner",
    "Problem": "fastconv.problem",
    "clear_workspaces": "fastconv.runtime",
    "get_num_threads": "fastconv.runtime",
    "set_num_threads": "fastconv.runtime",
    "TunerBusyError": "fastconv.planning.tuning",
    "autotune": "fastconv.planning.tuning",
    "tune": "fastconv.planning.tuning",
    "warmup": "fastconv.planning.warmup",
}
__all__ = [*_HOME, "__version__"]
#: Parts with names of their own, loaded when they are asked for: ``fastconv.image.filter2d``.
_PARTS = ("image", "nn", "viz")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_PARTS})
