"""Stands for the programs that make a suite's runs: leaves the same files.

As a module it takes their flags. It trains for half a second in ten chunks, each of
which moves the checkpoint on; and writes each start into `starts.txt` beside the run.
With `--eval-episodes 7` it fails, and with 8 on its first start only.
"""

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHUNKS = 10


def train(run_dir: Path, config: Any, seconds: float) -> int:
    """A run, resumed where it stood; 143 where it is stopped."""
    from train.run_dir import record
    from train.run_dir.lock import RunLock

    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    with RunLock(run_dir):
        record.write(config, run_dir / "config.json")
        log = run_dir.with_name(f"{run_dir.name}.starts.txt")
        begun = len(log.read_text().splitlines()) if log.exists() else 0
        done = len(list((run_dir / "checkpoints").glob("*")))
        if config.origin.fork and not done:
            done = CHUNKS * config.origin.at // config.steps
            for chunk in range(done):
                write_chunk(run_dir, config, chunk)
        with log.open("a") as file:
            file.write(f"{done}\n")
        if config.eval_episodes == 7 or (config.eval_episodes == 8 and not begun):
            print("error: it went wrong", flush=True)
            return 1
        for chunk in range(done, CHUNKS):
            time.sleep(seconds / CHUNKS)
            write_chunk(run_dir, config, chunk)
            if stopped:
                return 143
    return 0


def write_chunk(run_dir: Path, config: Any, chunk: int) -> None:
    """What a chunk leaves: log lines and a checkpoint."""
    step = config.steps * (chunk + 1) // CHUNKS
    values = {"eval/return_mean": 10.0 * (chunk + 1) + config.seed}
    values |= {"episode/return": 5.0 * chunk, "train/jacobian/posterior": 0.5}
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step} | values) + "\n")
    with (run_dir / "timing.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "time/seconds": 60.0 * chunk}) + "\n")
    start = {"commit": "abc", "modified": False, "machine": {"cpu": "a CPU"}}
    (run_dir / "starts.jsonl").write_text(json.dumps(start) + "\n")
    (run_dir / "checkpoints" / f"{step:012d}").mkdir(parents=True)


def evaluate(run_dir: Path, path: Path, episodes: int) -> int:
    """The episodes of the final agent."""
    last = (run_dir / "metrics.jsonl").read_text().splitlines()[-1]
    seed = json.loads((run_dir / "config.json").read_text())["seed"]
    agent = {"mean": 100.0 + seed, "std": 1.0, "returns": [100.0 + seed] * episodes}
    found = {"step": json.loads(last)["step"], "agents": [agent]}
    path.write_text(json.dumps(found))
    return 0


def measure(run_dir: Path, path: Path) -> int:
    """The sensitivities of the final agent."""
    step = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    parts = {"posterior": 1.0, "prior": 2.0}
    row = {"step": step, "jacobian": parts}
    row["kl"] = {part: [x, 3 * x] for part, x in parts.items()}
    path.write_text(json.dumps({"rows": [{"step": 0}, row]}))
    return 0


def parse(argv: Sequence[str], platform: str = "") -> Any:
    """The configuration, whatever the task is."""
    from train.config import Config
    from train.config.cli import read_words
    from train.config.fields import flags
    from train.config.presets import build, preset_values
    from train.run_dir.record import read_run

    values = read_words(argv).values
    if "--fork" not in values:
        return build(preset_values(values["--preset"]) | values)
    parent = read_run(values["--fork"])
    inherited = {flag.name: value_of(parent, flag) for flag in flags(Config)}
    return build(inherited | values)


def value_of(config: Any, flag: Any) -> Any:
    """A flag's value in a configuration."""
    for name in flag.path:
        config = getattr(config, name)
    return config


def main(argv: list[str], seconds: float = 0.5) -> int:
    """Either program, by its flags."""
    if "--run" in argv:
        given = dict(zip(argv[::2], argv[1::2], strict=True))
        episodes = int(given["--episodes"])
        return evaluate(Path(given["--run"]), Path(given["--json"]), episodes)
    if not argv[0].startswith("--"):
        return measure(Path(argv[0]), Path(argv[2]))
    config = parse(argv)
    return train(Path(config.logdir), config, seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
