"""In which form the update's two loops over time run: a matter of speed alone."""

from typing import NamedTuple


class Form(NamedTuple):
    """Results agree to rounding in every form.

    Attributes:
        heads_at_once: see `core.behavior.imagination.imagine`.
        few_kernels: the recurrent loops of `core.loops.wide_gru` in place of those of
            `core.loops.block_gru`.
    """

    heads_at_once: bool = False
    few_kernels: bool = False


STEP_BY_STEP = Form()
"""What suits a CPU."""
