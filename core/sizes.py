"""Widths of the networks, and the sizes that `--size` chooses from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """Widths of the networks.

    The latent state is `deter` real numbers and `stoch` categorical variables of
    `classes` classes each; with Gaussian latents, `stoch` real numbers in their place.
    The defaults are those of size 1m.
    """

    deter: int = 512
    """Recurrent state h; a multiple of `blocks`."""
    hidden: int = 64
    """Hidden layers of the recurrent map, the prior and the posterior."""
    classes: int = 4
    """Classes of one categorical latent variable (C in the penalty)."""
    units: int = 64
    """Hidden layers of encoder, decoder and heads."""
    cnn_depth: int = 4
    """Channels of the first convolution; the deeper ones multiply it."""
    stoch: int = 32
    """Latent variables (K in the penalty)."""
    blocks: int = 8
    """Blocks of the block-diagonal recurrent layer."""


SIZES: dict[str, ModelSize] = {
    "400k": ModelSize(deter=256),
    "1m": ModelSize(),
    "12m": ModelSize(deter=2048, hidden=256, classes=16, units=256, cnn_depth=16),
    "25m": ModelSize(deter=3072, hidden=384, classes=24, units=384, cnn_depth=24),
    "50m": ModelSize(deter=4096, hidden=512, classes=32, units=512, cnn_depth=32),
    "100m": ModelSize(deter=6144, hidden=768, classes=48, units=768, cnn_depth=48),
    "200m": ModelSize(deter=8192, hidden=1024, classes=64, units=1024, cnn_depth=64),
    # The Jacobian-regularization paper's Table 6 (DreamerV2); units are DreamerV2's.
    "dreamerv2": ModelSize(deter=200, hidden=200, classes=32, units=400, cnn_depth=48),
}
