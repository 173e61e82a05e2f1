"""MuJoCo models of the suite: XML files that are installed with dm_control.

The package is located but never imported: importing `dm_control.suite` opens a
rendering context. Set `SMOOTH_DREAMER_ASSETS` to a folder with the same layout
(`walker.xml`, `common/*.xml`, ...) to read the models from there.
"""

import importlib.util
import os
import pathlib

from envs.mjx._mjx import MjModel, MjSpec, mujoco

ASSETS_VARIABLE = "SMOOTH_DREAMER_ASSETS"


def assets_folder() -> pathlib.Path:
    """The folder that holds the models.

    Raises:
        FileNotFoundError: neither `SMOOTH_DREAMER_ASSETS` nor dm_control gives one.
    """
    chosen = os.environ.get(ASSETS_VARIABLE)
    if chosen:
        folder = pathlib.Path(chosen)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{ASSETS_VARIABLE}={chosen!r} is not a folder: "
                "set it to the folder that holds walker.xml and common/, or unset it"
            )
        return folder
    spec = importlib.util.find_spec("dm_control")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the MuJoCo models were not found: install dm_control, or set "
            f"{ASSETS_VARIABLE} to the folder that holds walker.xml and common/"
        )
    return pathlib.Path(spec.submodule_search_locations[0]) / "suite"


def load_model(filename: str) -> MjModel:
    """Compile a model of the assets folder, with the files that it includes.

    Raises:
        FileNotFoundError: the folder has no file of that name.
    """
    return mujoco.MjModel.from_xml_path(str(_path_of(filename)))


def load_spec(filename: str) -> MjSpec:
    """A model of the assets folder before it is compiled, to be edited.

    Raises:
        FileNotFoundError: the folder has no file of that name.
    """
    return mujoco.MjSpec.from_file(str(_path_of(filename)))


def _path_of(filename: str) -> pathlib.Path:
    path = assets_folder() / filename
    if not path.is_file():
        raise FileNotFoundError(
            f"model {filename!r} was not found in {path.parent}: "
            f"{ASSETS_VARIABLE} must name a complete copy of dm_control's suite folder"
        )
    return path
