"""Checks of an environment's arguments and functions, made once, at construction.

Each check raises ValueError with one line: the argument, the value found, the remedy.
Functions are traced with `jax.eval_shape`, so nothing is computed.
"""

from envs.checks.functions import arrays as arrays
from envs.checks.functions import check_callable as check_callable
from envs.checks.functions import traced as traced
from envs.checks.functions import types as types
from envs.checks.outputs import CHANNELS as CHANNELS
from envs.checks.outputs import IMAGE_MULTIPLE as IMAGE_MULTIPLE
from envs.checks.outputs import boolean as boolean
from envs.checks.outputs import check_observation as check_observation
from envs.checks.outputs import observation as observation
from envs.checks.outputs import scalar as scalar
from envs.checks.values import MAX_STEPS as MAX_STEPS
from envs.checks.values import episode as episode
from envs.checks.values import label as label
from envs.checks.values import length as length
from envs.checks.values import limits as limits
from envs.checks.values import positive as positive
from envs.checks.values import whole as whole
