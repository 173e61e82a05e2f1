"""The promised name of `train.config.cli.parse`."""

from train.config.cli import parse as parse
