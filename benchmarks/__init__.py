"""Benchmarks, run by `python -m benchmarks.NAME`; `python -m benchmarks` lists them."""

import sys

from train.errors import guard_process

# True while `python -m benchmarks.x` resolves its module, before it imports JAX and
# MuJoCo, which may fail because of environment variables.
if sys.argv[:1] == ["-m"]:
    guard_process()

BENCHMARKS = {
    "ablations": "GPLD's Figure 5 and further ablations, as suites of runs",
    "curves": "learning curves of finished or running runs: table, plot, JSON",
    "environments.parity": "error of one control step against dm_control, every task",
    "environments.render": "the ray caster against MuJoCo's: speed and differences",
    "environments.throughput": "control steps per second by task and batch",
    "gpu": "on an NVIDIA GPU, by stage: kernel, update, environments, learning",
    "overhead": "the whole train step with and without the penalty",
    "overhead.op": "the penalty op alone: time and memory of each implementation",
    "readme": "the generated tables of README and docs, from the committed results",
    "report": "one HTML page about runs: curves, returns, differences, speed, films",
    "robustness": "returns under perturbations, against the smoothness of the model",
    "robustness.study": "the same end to end: training, grids, surface, theory's terms",
    "sensitivity": "sensitivity of posterior and prior to their inputs (Figure 9)",
    "suite": "many training runs as one job: tasks, arms, seeds; their statistics",
    "theory": "the papers' theoretical experiments, six studies",
    "throughput": "an update by phase, several agents, and the whole training loop",
    "throughput.soak": "memory, speed and checkpoints of a long run, with limits",
    "trust": "errors of a trained model against branches of the simulator, by part",
}
"""What each benchmark measures. To add one, add its module and a line here."""
