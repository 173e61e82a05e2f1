"""A run directory is data: nothing in it may lead out of it.

A directory handed over by somebody else could hold a link named `lock` or
`config.json.tmp` that leads to a file of ours, which starting the run would overwrite.
"""

import os
import pathlib

from train.errors import UserError


def check_inside(run_dir: pathlib.Path) -> None:
    """Refuse a run directory with a symbolic link that leads out of it.

    The directory itself may be a link. Links are not followed while looking. The
    folders of single W&B runs, `wandb/run-*`, hold links to W&B's own logs; they are
    passed over, as no file in them is opened again.

    Raises:
        UserError: naming the link.
    """
    home = run_dir.resolve()
    for folder, subfolders, files in os.walk(home, followlinks=False):
        if pathlib.Path(folder).name == "wandb":
            own = [name for name in subfolders if _of_wandb(folder, name)]
            subfolders[:] = [name for name in subfolders if name not in own]
        for name in (*subfolders, *files):
            path = pathlib.Path(folder, name)
            if path.is_symlink() and not leads_inside(path, home):
                raise UserError(
                    f"--logdir {run_dir}: {path.relative_to(home)} in it is a link "
                    "that leads out of it; allowed: a directory without such links "
                    "(--logdir itself may be one)"
                )


def _of_wandb(folder: str, name: str) -> bool:
    begins = name.startswith(("run-", "offline-run-"))
    return begins and not os.path.islink(os.path.join(folder, name))


def leads_inside(path: pathlib.Path, home: pathlib.Path) -> bool:
    """Whether a path, its links followed, lies below the resolved folder `home`."""
    try:
        return path.resolve().is_relative_to(home)
    except (OSError, RuntimeError):  # links that lead in a circle
        return False
