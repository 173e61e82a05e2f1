"""What other projects call our flags and their values, for the hint in an error line.

danijar/dreamerv3, TorchRL, CleanRL, Stable-Baselines3 and the like. Spelling alone
would suggest something else.
"""

import ast
import contextlib
import pathlib
import re
from collections.abc import Mapping

# Our flag: what it is called elsewhere.
_NAMES = {
    "steps": "total-timesteps timesteps total-steps num-timesteps max-timesteps "
    "max-steps total-frames frames num-frames train-steps env-steps total-env-steps",
    "env": "task env-id env-name gym-id environment task-id task-name domain game",
    "obs": "obs-type observation observations from-pixels pixels modality",
    "action-repeat": "frame-skip frameskip repeat action-repeats",
    "size": "model-size model",
    "preset": "configs config config-name cfg defaults",
    "num-envs": "envs n-envs num-workers n-workers num-environments n-parallel",
    "train-ratio": "replay-ratio utd utd-ratio updates-per-step gradient-steps",
    "batch-size": "batch minibatch-size mini-batch-size bs",
    "batch-length": "seq-len sequence-length seq-length batch-len chunk-size "
    "chunk-length batch-steps",
    "imagination-length": "imagination imag-length imag-horizon imagine-horizon "
    "imag-len imagination-horizon rollout-horizon",
    "imagination-starts": "imag-last imagine-last",
    "discount-horizon": "gamma discount discount-factor",
    "replay-size": "buffer-size replay-capacity buffer-capacity replay-buffer-size "
    "capacity memory-size",
    "prefill": "learning-starts init-steps random-steps warmup-steps seed-steps "
    "start-steps init-random-frames",
    "eval-every": "eval-freq eval-interval eval-frequency evaluate-every",
    "eval-episodes": "n-eval-episodes num-eval-episodes eval-eps eval-envs",
    "log-every": "log-interval log-freq log-frequency",
    "save-every": "save-freq save-interval save-frequency checkpoint-freq "
    "checkpoint-interval checkpoint-every",
    "precision": "dtype compute-dtype param-dtype",
    "logdir": "log-dir output-dir out-dir run-dir save-dir save-path workdir work-dir "
    "output exp-name run-name experiment experiment-name tensorboard-log",
    "resume": "from-checkpoint load load-checkpoint checkpoint load-path",
    "require-gpu": "gpu cuda use-cuda",
    "learning-rate": "lr model-lr world-model-lr",
    "warmup": "lr-warmup warmup-updates",
    "agc": "grad-clip max-grad-norm clip clip-grad-norm gradient-clip",
    "eps": "epsilon adam-eps opt-eps",
    "free-nats": "free-bits kl-free",
    "dynamics-scale": "dyn-scale kl-scale beta-dyn",
    "representation-scale": "rep-scale beta-rep",
    "unimix": "unimix-ratio",
    "return-lambda": "gae-lambda lam td-lambda disclam",
    "entropy": "ent-coef entropy-coef entropy-scale actent",
    "value-scale": "vf-coef",
    "slow-rate": "tau polyak target-update-rate slow-target-fraction",
    "penalty": "regularizer regularization",
    "lambda0": "lambda penalty-weight penalty-coef penalty-scale reg-weight",
    "rho": "fraction",
    "seeds": "num-seeds n-seeds",
    "devices": "num-devices n-devices num-gpus gpus",
}
_OURS = {word: flag for flag, words in _NAMES.items() for word in words.split()}

_ADVICE = {
    "num-steps n-steps rollout-length rollout-steps": "nearest valid: --steps "
    "(environment steps of the run) or --batch-length (decisions in a sequence)",
    "horizon": "nearest valid: --imagination-length (decisions imagined) or "
    "--discount-horizon (1 / (1 - discount))",
    "use-wandb track wandb-project wandb-project-name wandb-entity": "nearest valid: "
    "--wandb PROJECT; W&B reads its other settings from WANDB_ENTITY, WANDB_MODE, ...",
    "capture-video video record-video": "films are made afterwards: python -m "
    "train.evaluate --run RUN --video FILE.gif",
    "platform device jax-platform": "JAX takes the device: JAX_PLATFORMS=cpu before "
    "the command, or --require-gpu",
    "script": "python -m train.main trains, python -m train.evaluate evaluates",
}
_ADVICE = {word: text for words, text in _ADVICE.items() for word in words.split()}

# Values of our flags by other words.
_VALUES = {
    "--obs": {
        "pixels": "image images img pixel vision visual rgb camera",
        "state": "states vector proprio features low-dim position",
    },
    "--penalty": {
        "xla": "true on yes 1 jax",
        "none": "false off no 0 null",
        "pallas": "cuda gpu triton kernel",
    },
    "--precision": {
        "float32": "fp32 f32 32 float single full",
        "bfloat16": "bf16 16 half fp16 float16 mixed",
    },
    "--preset": {"laptop": "cpu small", "smoke": "debug test tiny", "gpld": "paper"},
    "--resume": {"must": "true yes", "never": "false no"},
}


def value_hint(flag: str, value: str) -> str | None:
    """Our word for a value of a flag; None where no other word is known."""
    for ours, words in _VALUES.get(flag, {}).items():
        if value.lower() in words.split():
            return ours
    return None


def flag_hint(name: str, value: str | None, known: Mapping[str, object]) -> str | None:
    """What to write in place of an unknown flag; None where no other name is known.

    Args:
        name: the flag as it was written, `--run.total_steps` say.
        value: what stood behind it.
        known: the program's flags, with their dashes.
    """
    words = name.lstrip("-").lower().replace("_", "-").strip("-")
    for word in (words, words.rpartition(".")[2]):
        if word in _ADVICE and "--steps" in known:
            return _ADVICE[word]
        ours = "--" + _OURS.get(word, word)
        if ours in known:
            return f"nearest valid: {_converted(word, ours, value)}"
    return None


def _converted(word: str, ours: str, value: str | None) -> str:
    if ours == "--discount-horizon" and word != ours[2:]:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            discount = float(value or "")
            if 0 < discount < 1:
                horizon = max(2, round(1 / (1 - discount)))
                return f"{ours} {horizon} (the discount is 1 - 1 / horizon)"
        return f"{ours} (1 / (1 - discount))"
    return ours


def env_hint(name: str) -> str | None:
    """For the name of a module or file in the working directory, the factory in it.

    Only a name under which a file is found is looked at; nothing is imported.
    """
    path = pathlib.Path(name)
    module = re.sub(r"\.py$", "", name).strip("./").replace("/", ".")
    files = [path] if path.suffix == ".py" else []
    stem = pathlib.Path(*module.split("."))
    files += [stem.with_name(stem.name + ".py"), stem / "__init__.py"] if module else []
    parent, _, attribute = module.rpartition(".")
    try:
        if found := next((file for file in files if file.is_file()), None):
            return f"{module}:{_factory(found)}"
        if parent and pathlib.Path(*parent.split(".")).with_suffix(".py").is_file():
            return f"{parent}:{attribute}"
    except (OSError, ValueError):  # a name that cannot be a file's
        pass
    return None


def _factory(path: pathlib.Path) -> str:
    """The likeliest factory among the names a module defines; `make` by default."""
    names: list[str] = []
    with contextlib.suppress(OSError, ValueError, SyntaxError, RecursionError):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.append(node.name)
            elif isinstance(node, ast.Assign):
                names += [t.id for t in node.targets if isinstance(t, ast.Name)]
    for likely in (r"make$", r"make", r".*env", r".*make"):
        for name in names:
            if re.match(likely, name, re.IGNORECASE):
                return name
    return "make"
