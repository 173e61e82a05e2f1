"""The returns of whole episodes, for use inside other programs."""

from train.rollout.player import make_evaluate as make_evaluate
