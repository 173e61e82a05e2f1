"""The row-wise Jacobian penalty of GPLD as one differentiable operation.

`jacobian_penalty` and `jacobian_penalty_mean` are the entry points;
`row_probe_penalty` is the definition, for any map. *Row* i is GPLD's word for
categorical i: row i of the [K, C] table of probabilities.
"""

from kernels.api import (
    IMPLEMENTATIONS,
    Implementation,
    PenaltyStats,
    jacobian_penalty,
    jacobian_penalty_mean,
    jacobian_penalty_stats,
    kernel_obstacle,
)
from kernels.gram.two_layers import TwoLayerHead, two_layer_penalty_mean
from kernels.head import RMS_EPS, Activation, CategoricalHead, head_probabilities
from kernels.probes import PROBE_KINDS, ProbeKind, sample_probes
from kernels.reference import row_probe_penalty

__all__ = [
    "IMPLEMENTATIONS",
    "PROBE_KINDS",
    "RMS_EPS",
    "Activation",
    "CategoricalHead",
    "Implementation",
    "PenaltyStats",
    "ProbeKind",
    "TwoLayerHead",
    "head_probabilities",
    "jacobian_penalty",
    "jacobian_penalty_mean",
    "jacobian_penalty_stats",
    "kernel_obstacle",
    "row_probe_penalty",
    "sample_probes",
    "two_layer_penalty_mean",
]
