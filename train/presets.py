"""The promised names of `train.config.presets`."""

from train.config.presets import build as build
from train.config.presets import preset_values as preset_values
