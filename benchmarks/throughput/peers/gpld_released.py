# pyright: basic, reportMissingImports=false
"""The training step of the released GPLD code, for `--beside` of the benchmark.

    git clone https://github.com/romils9/gpld-mbrl
    uv venv --python 3.11 peer && VIRTUAL_ENV=peer uv pip install "jax==0.4.33" \
        "jaxlib==0.4.33" "numpy<2" chex cloudpickle colored_traceback einops elements \
        granular jaxtyping "ninjax==3.5.1" optax portal ruamel.yaml scope tqdm
    python -m benchmarks.throughput --size 1m --beside "released=peer/bin/python \
        benchmarks/throughput/peers/gpld_released.py gpld-mbrl --size {size}"

It runs in an environment of its own and uses none of this project. Their agent, their
optimizer, their configuration `dmc_proprio`, on random walker-walk data; float32, 16
sequences of 64 steps, imagination length 25. With `--rho` the posterior's penalty of
their configuration is on.
"""

import argparse
import pathlib
import sys
import time


def main() -> None:
    """Compile the step, say `ready`, and make one step for each line read."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--rho", type=float, help="share of penalized states")
    options = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # their code prints
    sys.path.insert(0, str(options.source))
    step = make_step(options)
    step()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        step()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(f"{wall:.6f} {processor:.6f}", file=answers, flush=True)


def make_step(options: argparse.Namespace):
    """A function that makes one training step and waits for it."""
    import elements
    import jax
    import jax.numpy as jnp
    import ninjax
    import numpy as np
    from dreamerv3.agent import Agent
    from embodied.jax import internal
    from ruamel import yaml

    text = (options.source / "dreamerv3" / "configs.yaml").read_text()
    parts = yaml.YAML(typ="safe").load(text)
    config = elements.Config(parts["defaults"]).update(parts["dmc_proprio"])
    config = config.update(parts["size" + options.size])
    config = config.update({"agent.imag_length": 25})
    if options.rho is not None:
        penalty = {"post_lam": 0.5, "sample_frac": options.rho, "decay": "sqrt_time"}
        penalty["min_lam"] = 0.1
        config = config.update(
            {f"agent.dyn.rssm.gp.{name}": value for name, value in penalty.items()}
        )
    internal.setup(platform="cpu", compute_dtype=jnp.float32, transfer_guard=False)
    space = elements.Space
    observed = {
        "height": space(np.float32, (1,)),
        "orientations": space(np.float32, (14,)),
        "velocity": space(np.float32, (9,)),
        "reward": space(np.float32),
        **{name: space(bool) for name in ("is_first", "is_last", "is_terminal")},
    }
    actions = {"action": space(np.float32, (6,), -1, 1)}
    batch, length = config.batch_size, config.batch_length + config.replay_context
    model = object.__new__(Agent)  # without their wrapper, which compiles more
    Agent.__init__(
        model,
        observed,
        actions,
        elements.Config(
            **config.agent,
            logdir="",
            seed=0,
            jax=config.jax,
            batch_size=batch,
            batch_length=config.batch_length,
            replay_context=config.replay_context,
            report_length=32,
            replica=0,
            replicas=1,
            train_ratio=config.run.train_ratio,
        ),
    )
    draw = np.random.default_rng(0)
    data = {}
    for name, each in {**observed, **actions, **model.ext_space}.items():
        shape = (batch, length, *each.shape)
        if name.endswith("stoch"):
            classes = draw.integers(0, shape[-1], shape[:-1])
            data[name] = jax.nn.one_hot(classes, shape[-1])
        elif np.issubdtype(each.dtype, np.floating):
            data[name] = jnp.asarray(0.5 * draw.standard_normal(shape), each.dtype)
        else:
            data[name] = jnp.zeros(shape, each.dtype)

    def begin(seed):
        carry = ninjax.pure(model.init_train)({}, batch, seed=seed, create=True)[1]
        return ninjax.init(model.train)({}, carry, data, seed=seed), carry

    def train(params, carry, seed):
        params, (carry, _, metrics) = ninjax.pure(model.train)(
            params, carry, data, seed=seed
        )
        return params, carry, metrics

    params, carry = jax.jit(begin)(jax.random.PRNGKey(0))
    compiled = jax.jit(train, donate_argnums=0)
    state = [params, carry]
    number = iter(range(1, 1_000_000))

    def step() -> None:
        seed = jax.random.PRNGKey(next(number))
        *state[:], metrics = compiled(*state, seed)
        jax.block_until_ready((state, metrics))

    return step


if __name__ == "__main__":
    main()
