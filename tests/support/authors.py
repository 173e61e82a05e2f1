"""The numbers of the authors' code (tests/fixtures), in the layout of our modules.

They call every layer by another name, read some inputs in another order, put the batch
before time, and have one output layer of the decoder per entry of the observation.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from core.agent import Agent
from core.behavior.returns import ReturnScale
from core.networks.heads import TwoHotHead
from core.rssm import State
from core.sizes import ModelSize
from core.transition import Transition

Arrays = Mapping[str, np.ndarray]

CASES = ("none", "posterior", "both")
SIZE = ModelSize(units=16, deter=32, hidden=8, stoch=6, classes=4, blocks=4)
# Walker's observation, in the order of dm_control and of ours.
ENTRIES = {"orientations": 14, "height": 1, "velocity": 9}
OBS, ACTION, IMAGINED = sum(ENTRIES.values()), 6, 4


class Fixture:
    """One file: each method gives one of its groups of arrays, by their name."""

    def __init__(self, case: str):
        path = Path(__file__).parents[1] / "fixtures" / f"tiny-{case}.npz"
        with np.load(path) as file:
            self.arrays = dict(file)

    def group(self, name: str) -> dict[str, np.ndarray]:
        start = f"{name}/"
        return {
            key.removeprefix(start): x
            for key, x in self.arrays.items()
            if key.startswith(start)
        }

    @property
    def loss(self) -> np.ndarray:
        return self.arrays["loss"]


# Parameters


def dense_layers(value: str) -> Iterator[tuple[str, str, str]]:
    """Name of a linear layer with a norm after it: ours, theirs, their norm's."""
    for i in range(3):
        yield f".model.encoder.mlp.layers[{i}]", f"enc/mlp{i}", f"enc/mlp{i}norm"
    heads = {".model.decoder": "dec", ".policy": "pol", ".value": value}
    heads |= {".model.reward": "rew", ".model.cont": "con"}
    for ours, theirs in heads.items():
        for i in range(1 if theirs in ("rew", "con") else 3):
            linear, norm = f"{theirs}/mlp/linear{i}", f"{theirs}/mlp/norm{i}"
            yield f"{ours}.mlp.layers[{i}]", linear, norm
    rssm = {"deter_in": "dynin0", "stoch_in": "dynin1", "action_in": "dynin2"}
    rssm |= {"posterior_in": "obs0", "prior_in[0]": "prior0", "prior_in[1]": "prior1"}
    for ours, theirs in rssm.items():
        yield f".model.rssm.{ours}", f"dyn/{theirs}", f"dyn/{theirs}norm"


def linear_layers(value: str) -> dict[str, str]:
    """Name of a layer without a norm of its own: ours to theirs."""
    return {
        ".model.rssm.mix": "dyn/dynhid0",
        ".model.rssm.gates": "dyn/dyngru",
        ".model.rssm.posterior_out": "dyn/obslogit",
        ".model.rssm.prior_out": "dyn/priorlogit",
        ".model.reward.out": "rew/head/logits",
        ".model.cont.out": "con/head/logit",
        ".policy.mean": "pol/head/action/mean",
        ".policy.stddev": "pol/head/action/stddev",
        ".value.out": f"{value}/head/logits",
    }


def input_order() -> dict[str, np.ndarray]:
    """Where our layer's inputs are among theirs, where the orders differ."""
    start, place = 0, {}
    for name in sorted(ENTRIES):  # their encoder takes the names in this order
        place[name] = np.arange(start, start := start + ENTRIES[name])
    deter, latent = SIZE.deter, SIZE.stoch * SIZE.classes
    z_then_h = np.concatenate([latent + np.arange(deter), np.arange(latent)])
    return {
        ".model.encoder.mlp.layers[0]": np.concatenate([place[n] for n in ENTRIES]),
        ".model.decoder.mlp.layers[0]": z_then_h,
    }


def by_our_names(theirs: Arrays, value: str = "val") -> dict[str, np.ndarray]:
    """Arrays that belong to their parameters, by the path of ours in `Agent`.

    Args:
        theirs: the parameters themselves, or their gradients.
        value: their name of what is our `.value`: "slowval" for its slow copy.
    """
    result, order = {}, input_order()
    for ours, linear, norm in dense_layers(value):
        kernel = theirs[f"{linear}/kernel"]
        kernel = kernel[order[ours]] if ours in order else kernel
        result[f"{ours}.linear.weight"] = kernel
        result[f"{ours}.linear.bias"] = theirs[f"{linear}/bias"]
        result[f"{ours}.norm.scale"] = theirs[f"{norm}/scale"]
    for ours, linear in linear_layers(value).items():
        result[f"{ours}.weight"] = theirs[f"{linear}/kernel"]
        result[f"{ours}.bias"] = theirs[f"{linear}/bias"]
    result[".model.rssm.mix_norm.scale"] = theirs["dyn/dynhid0norm/scale"]
    for ours, name in {"weight": "kernel", "bias": "bias"}.items():
        parts = [theirs[f"dec/vec/{entry}/pred/{name}"] for entry in ENTRIES]
        result[f".model.decoder.out.{ours}"] = np.concatenate(parts, axis=-1)
    return result


def by_path(tree: object) -> dict[str, Any]:
    """Every array of a tree, by its path."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in leaves}


def fill[T](tree: T, values: Arrays) -> T:
    """The tree with each array replaced by the one of its path; none may be left."""
    shapes = {name: x.shape for name, x in by_path(tree).items()}
    assert shapes == {name: x.shape for name, x in values.items()}
    replace = lambda path, _: jnp.asarray(values[jax.tree_util.keystr(path)])
    return jax.tree.map_with_path(replace, tree)


def agent(fixture: Fixture, *, unimix: float = 0.01) -> Agent:
    def build() -> Agent:
        key, entries = jax.random.key(0), tuple(ENTRIES.values())
        return Agent(
            OBS, ACTION, key=key, size=SIZE, obs_entries=entries, unimix=unimix
        )

    shapes = eqx.filter_eval_shape(build)
    return fill(shapes, by_our_names(fixture.group("param")))


def slow_value(fixture: Fixture) -> TwoHotHead:
    values = by_our_names(fixture.group("param"), value="slowval")
    head = {n.removeprefix(".value"): x for n, x in values.items() if ".value" in n}
    return fill(agent(fixture).value, head)


def return_scale(fixture: Fixture) -> ReturnScale:
    param = fixture.group("param")
    return ReturnScale(
        *(jnp.asarray(param[f"retnorm/{x}/value"]) for x in ("lo", "hi"))
    )


# The batch. Theirs are [batch, time]; row 0 is only there for its stored latent state.


def observations(data: Arrays) -> np.ndarray:
    """`[batch, time, obs]`, without the context row."""
    entries = [
        data[name][:, 1:].reshape(*data["height"][:, 1:].shape, -1) for name in ENTRIES
    ]
    return np.concatenate(entries, axis=-1)


def batch(fixture: Fixture) -> tuple[State, Transition]:
    """The state before the batch, and the batch with the action before each row."""
    data = fixture.group("data")
    rows = [data[n][:, 1:] for n in ("reward", "is_first", "is_last", "is_terminal")]
    columns = (observations(data), data["action"][:, :-1], *rows)
    initial = State(jnp.asarray(data["deter"][:, 0]), jnp.asarray(data["stoch"][:, 0]))
    return initial, Transition(*(jnp.asarray(x.swapaxes(0, 1)) for x in columns))


# What comes out


def results(fixture: Fixture) -> dict[str, np.ndarray]:
    """Everything that is compared but the gradients: `test_fidelity.seen_inside`.

    `[batch, time]` or `[start, time]`; losses of the actor and critic are means, as
    the penalty.
    """
    aux = fixture.group("aux")
    wanted = {
        "latent/embedding": aux["tokens"],
        "latent/h": aux["feat/deter"],
        "latent/z": aux["feat/stoch"],
        "latent/posterior logits": aux["feat/logit"],
        "latent/prior logits": aux["prior"],
        "latent/posterior entropy": aux["rep_ent"],
        "latent/prior entropy": aux["dyn_ent"],
        "imagined/action": aux["imag/action"][:, :-1],
        "imagined/mean": aux["imag/mean"][:, :-1],
        "imagined/stddev": aux["imag/std"][:, :-1],
        "imagined/log-probability": aux["imag/logp"],
        "imagined/entropy": aux["imag/ent"],
        "imagined/reward": aux["imag/rew"],
        "imagined/continue": aux["imag/con"],
        "imagined/value": aux["imag/val"],
        "imagined/slow value": aux["imag/slow"],
        "return/imagined": aux["imag/ret"],
        "return/replayed": aux["repl/ret"],
        "return/5th percentile": aux["retnorm/lo"],
        "return/95th percentile": aux["retnorm/hi"],
        "return/scale": aux["imag/scale"],
        "return/mean advantage": aux["imag/adv_mag"],
        "loss/total": fixture.loss,
        "loss/rec": sum(aux[f"loss/{entry}"] for entry in ENTRIES),
    }
    wanted |= {f"loss/{n}": aux[f"loss/{n}"] for n in ("rew", "con", "dyn", "rep")}
    wanted |= {
        f"loss/{n}": aux[f"loss/{n}"].mean() for n in ("policy", "value", "repval")
    }
    wanted |= {f"reconstruction/{n}": aux[f"loss/{n}"] for n in ENTRIES}
    for ours, theirs in {"posterior": "gp_post", "prior": "gp_prior"}.items():
        if theirs in aux:
            wanted[f"loss/{ours} penalty"] = aux[f"loss/{theirs}"].mean()
            wanted[f"loss/{ours} lambda"] = aux[f"{theirs}_lam"]
    return wanted
