"""`RSSM.observe` and its fast forms, called alike."""

import inspect
from collections.abc import Callable
from typing import Any

from core.loops import block_gru, wide_gru
from core.rssm import RSSM
from core.states import ObserveInputs


def like_the_definition(observe: Callable) -> Callable:
    """A fast form, called as `RSSM.observe` is.

    `inspect.unwrap` gives it without the checks of types that tests have.
    """

    def called(rssm: Any, state: Any, *rows: Any, key: Any, errors: Any = None) -> Any:
        inputs = ObserveInputs(*rows)._replace(errors=errors)
        return observe(rssm, state, inputs, key=key)

    if (unchecked := inspect.unwrap(observe)) is not observe:
        vars(called)["__wrapped__"] = like_the_definition(unchecked)
    return called


OBSERVE = {
    "definition": RSSM.observe,
    "block_gru": like_the_definition(block_gru.observe),
    "deferred": like_the_definition(block_gru.observe_deferred),
    "wide": like_the_definition(wide_gru.observe),
}
