"""Names of environments, and `make`.

To add a domain, write its file in `envs/dmc/` and add its line to `DOMAINS`.
"""

import difflib

from envs import toy
from envs.base import Env
from envs.dmc import cartpole, pendulum, walker
from envs.mjx_env import MjxEnv

DOMAINS = {
    "cartpole": cartpole,
    "pendulum": pendulum,
    "walker": walker,
}

TASKS: tuple[str, ...] = tuple(
    f"{domain}-{task}" for domain, module in DOMAINS.items() for task in module.TASKS
)
TOYS: tuple[str, ...] = tuple(toy.TOYS)

# A domain's name alone means its default task.
_DEFAULTS = {domain: f"{domain}-{m.DEFAULT}" for domain, m in DOMAINS.items()}


def canonical_name(name: str) -> str:
    """The name in `TASKS` or `TOYS` that `name` means.

    Case, `-` against `_`, and a leading `dmc` make no difference, and a domain alone
    means its default task: `dmc_walker_run` is `walker-run`, `walker` is `walker-walk`.

    Raises:
        ValueError: the name is unknown; the message gives the nearest known one.
    """
    known = {_plain(n): n for n in (*TASKS, *TOYS)}
    known |= {_plain(domain): task for domain, task in _DEFAULTS.items()}
    plain = _plain(name).removeprefix("dmc_")
    if plain in known:
        return known[plain]
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.0)
    raise ValueError(
        f"env={name!r} is unknown: did you mean {known[near[0]]!r}? "
        "(envs.TASKS and envs.TOYS list all names)"
    )


def make(name: str, *, obs: str = "state", action_repeat: int = 2) -> Env:
    """Makes an environment.

    Args:
        name: a name that `canonical_name` accepts.
        obs: "state" for the vector of numbers that dm_control observes.
        action_repeat: control steps per decision; must divide the episode.

    Raises:
        ValueError: an argument is not one of those above.
    """
    canonical = canonical_name(name)
    if obs == "pixels":
        raise ValueError(
            "obs='pixels' is not available yet, pixels come later: use obs='state'"
        )
    if obs != "state":
        raise ValueError(f"obs={obs!r} is unknown: use obs='state'")
    if canonical in TOYS:
        return toy.TOYS[canonical](name=canonical, action_repeat=action_repeat)
    domain, task = canonical.split("-")
    return MjxEnv(
        DOMAINS[domain].TASKS[task], name=canonical, action_repeat=action_repeat
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
