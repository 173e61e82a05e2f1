"""Measurements of this project, each a module to run with `python -m`.

`python -m benchmarks` lists them.
"""

import sys

from train.errors import guard_process

# True while `python -m benchmarks.x` looks for its module: before that imports JAX and
# MuJoCo, which may fail because of what the shell asks of them.
if sys.argv[:1] == ["-m"]:
    guard_process()

BENCHMARKS = {
    "ablations": "GPLD's Figure 5 and further ablations, as suites of runs",
    "curves": "learning curves of finished or running runs: table, picture, JSON",
    "env_parity": "one control step of every task against dm_control's",
    "env_throughput": "control steps a second by task and batch, beside MuJoCo C",
    "gpu": "on an NVIDIA GPU, by stage: kernel, update, environments, learning",
    "op": "the penalty op alone: seconds and memory of each implementation",
    "overhead": "the whole train step with the penalty and without it",
    "readme": "the generated tables of README and docs, from the committed results",
    "render": "the ray caster beside MuJoCo: frames a second, outlines, pictures",
    "sensitivity": "how much posterior and prior change with their inputs (Figure 9)",
    "soak": "a long run's memory, speed and checkpoints, with verdicts",
    "suite": "many training runs as one job: tasks, arms, seeds; their statistics",
    "theory": "the papers' theoretical experiments, six studies",
    "throughput": "an update by phase, several agents, and the whole loop",
}
"""What each module measures. A benchmark is a file here and its line above."""
