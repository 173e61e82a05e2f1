"""Names of environments, and `make`.

To add a domain, write `envs/dmc/NAME.py` and add its name to `DOMAINS`.
"""

import difflib
import importlib

from envs import factories
from envs.adapters import timesteps
from envs.adapters.from_jax import FunctionEnv
from envs.base import Env
from envs.checks import forked
from envs.factories import plain
from envs.mjx.env import MjxEnv
from envs.render.pixels import PixelEnv
from envs.synthetic import toy
from envs.synthetic.lqg import LQGEnv
from envs.synthetic.teacher import TeacherEnv

DOMAINS = {
    name: importlib.import_module(f"envs.dmc.{name}")
    for name in (
        "acrobot",
        "ball_in_cup",
        "cartpole",
        "cheetah",
        "finger",
        "hopper",
        "pendulum",
        "quadruped",
        "reacher",
        "walker",
    )
}

TASKS: tuple[str, ...] = tuple(
    f"{domain}-{task}" for domain, module in DOMAINS.items() for task in module.TASKS
)
TOYS: tuple[str, ...] = tuple(toy.TOYS)

_SYNTHETIC = {"lqg": LQGEnv, "teacher": TeacherEnv}
SYNTHETIC: tuple[str, ...] = tuple(_SYNTHETIC)
"""Synthetic systems for the theory experiments."""

# The default task of a domain name without a task.
_DEFAULTS = {domain: f"{domain}-{m.DEFAULT}" for domain, m in DOMAINS.items()}


def canonical_name(name: str) -> str:
    """The name in `TASKS`, `TOYS`, `SYNTHETIC` or `registered()` that `name` means.

    Case, `-` or `_`, and a leading `dmc` make no difference, and a domain alone means
    its default task: `dmc_walker_run` is `walker-run`, `walker` is `walker-walk`. The
    path of a factory, `module:attribute`, is returned unchanged.

    Raises:
        ValueError: the name is unknown; the message gives the nearest known one. Or the
            path leads to nothing that could make an environment.
    """
    if factories.is_path(name):
        factories.factory_of(name)
        return name
    known = _built_in() | {plain(n): n for n in factories.registered()}
    asked = plain(name)
    for form in (asked, asked.removeprefix("dmc_")):
        if form in known:
            return known[form]
    near = difflib.get_close_matches(asked, known, n=1, cutoff=0.0)
    raise ValueError(
        f"env={name!r} is unknown: did you mean {known[near[0]]!r}? "
        "(envs.TASKS, envs.TOYS, envs.SYNTHETIC and envs.registered() list all names)"
    )


def make(name: str, *, obs: str = "state", action_repeat: int = 2) -> Env:
    """Makes an environment.

    Args:
        name: a name that `canonical_name` accepts, or the path `module:attribute` of a
            factory.
        obs: "state" for the state vector of dm_control; "pixels" for 64 × 64 images of
            MuJoCo tasks.
        action_repeat: control steps per decision; must divide the episode.

    Raises:
        ValueError: an argument is invalid.
        RuntimeError: see `envs.checks.forked`.
    """
    forked.check()
    canonical = canonical_name(name)
    if obs not in ("state", "pixels"):
        raise ValueError(f"obs={obs!r} is unknown: use obs='state' or obs='pixels'")
    env = _make(canonical, action_repeat)
    if obs == "state":
        return env
    if not isinstance(env, MjxEnv):
        why = "has no MuJoCo model to draw"
        if env.spec.is_image:
            why = "observes images of its own"
        raise ValueError(f"obs='pixels': {canonical} {why}: use obs='state'")
    return PixelEnv(env)


def _make(canonical: str, action_repeat: int) -> Env:
    if factories.is_path(canonical) or canonical in factories.registered():
        env = factories.make_registered(canonical, action_repeat=action_repeat)
        # These are checked at construction, and tracing them takes seconds.
        if not isinstance(env, MjxEnv | PixelEnv | FunctionEnv):
            timesteps.check(f"env={canonical!r}", env)
        return env
    if canonical in TOYS:
        return toy.TOYS[canonical](name=canonical, action_repeat=action_repeat)
    if canonical in SYNTHETIC:
        return _SYNTHETIC[canonical](name=canonical, action_repeat=action_repeat)
    domain, task = canonical.split("-")
    return MjxEnv(
        DOMAINS[domain].TASKS[task], name=canonical, action_repeat=action_repeat
    )


def register(name: str, factory: factories.Factory, *, replace: bool = False) -> None:
    """Let `envs.make(name)` call `factory`, in this process.

    Args:
        name: letters, digits, `-`, `_` and `.`; not a name in use.
        factory: called as `factory(name=name, action_repeat=...)` by every `make`;
            `functools.partial(envs.from_mjx, "robot.xml", observe=..., reward=...)` is
            one.
        replace: replace an environment registered under this name.

    Raises:
        ValueError: the name is taken or has other characters, or the factory cannot be
            called with these keywords.
    """
    taken = _built_in().get(plain(name))
    if taken is not None:
        raise ValueError(f"name={name!r} is taken by {taken!r}: choose another")
    factories.add(name, factory, replace=replace)


def _built_in() -> dict[str, str]:
    known = {plain(n): n for n in (*TASKS, *TOYS, *SYNTHETIC)}
    return known | {plain(domain): task for domain, task in _DEFAULTS.items()}
