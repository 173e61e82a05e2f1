"""A run's settings: their schema, the presets and the command line.

Imports neither JAX nor MuJoCo, so that a mistyped flag is answered at once.
"""

from train.config.fields import MAX_COUNT as MAX_COUNT
from train.config.fields import Count as Count
from train.config.latent import LatentConfig as LatentConfig
from train.config.penalty import PenaltyConfig as PenaltyConfig
from train.config.schema import Config as Config
from train.config.schema import LossConfig as LossConfig
from train.config.schema import OptimizerConfig as OptimizerConfig
from train.config.schema import ScaleConfig as ScaleConfig
from train.config.schema import replay_bytes as replay_bytes
