"""How smooth the maps of a trained model are, at given states.

`jacobian` is for any JAX function: ‖J‖₂, ‖J‖_F and the growth of products of Jacobians
along a rollout; so is `hessian`: a trace. `agent` applies the first to the maps of an
agent. `heads` has GPLD's row-wise norms of posterior and prior, its KL
sensitivity, and the norm of the recurrent map.
"""

from core.smoothness.agent import (
    AgentNorms,
    Curvature,
    NormOptions,
    StateNorms,
    agent_maps,
    agent_norms,
    closed_loop,
    mean_curvature,
    state_norms,
    summarize,
)
from core.smoothness.heads import (
    Inputs,
    jacobian_norms,
    kl_sensitivity,
    recurrent_norms,
)
from core.smoothness.hessian import HessianTrace, hessian_trace
from core.smoothness.jacobian import (
    FrobeniusNorm,
    Growth,
    SpectralNorm,
    frobenius_norm,
    growth,
    spectral_norm,
)

__all__ = [
    "AgentNorms",
    "Curvature",
    "FrobeniusNorm",
    "Growth",
    "HessianTrace",
    "Inputs",
    "NormOptions",
    "SpectralNorm",
    "StateNorms",
    "agent_maps",
    "agent_norms",
    "closed_loop",
    "frobenius_norm",
    "growth",
    "hessian_trace",
    "jacobian_norms",
    "kl_sensitivity",
    "mean_curvature",
    "recurrent_norms",
    "spectral_norm",
    "state_norms",
    "summarize",
]
