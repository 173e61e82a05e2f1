"""How smooth the maps of a trained model are, at given states.

`jacobian` is for any JAX function: ‖J‖₂, ‖J‖_F and the growth of products of Jacobians
along a rollout. `categorical` has GPLD's row-wise norms and its KL sensitivity.
"""

from core.smoothness.categorical import Inputs, jacobian_norms, kl_sensitivity
from core.smoothness.jacobian import (
    FrobeniusNorm,
    Growth,
    SpectralNorm,
    frobenius_norm,
    growth,
    spectral_norm,
)

__all__ = [
    "FrobeniusNorm",
    "Growth",
    "Inputs",
    "SpectralNorm",
    "frobenius_norm",
    "growth",
    "jacobian_norms",
    "kl_sensitivity",
    "spectral_norm",
]
