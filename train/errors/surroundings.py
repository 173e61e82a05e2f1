"""Find the environment variable that caused an error, if one did.

JAX and MuJoCo read environment variables when they are imported or first used, and
answer a value that this machine cannot serve with a traceback from deep inside.
"""

import os
import sys
import types
from collections.abc import Iterator

# Modules that fail where MUJOCO_GL names what is not installed.
_OPENGL = ("mujoco.rendering", "mujoco.gl_context", "mujoco.egl", "mujoco.osmesa")
_OPENGL += ("mujoco.glfw", "dm_control._render")


def blamed(error: BaseException) -> str | None:
    """A line that names the environment variable behind an error; None for others."""
    frames = list(_frames(error))
    modules = [str(frame.f_globals.get("__name__")) for frame in frames]
    library = os.environ.get("MUJOCO_GL")
    if library and any(name.startswith(_OPENGL) for name in modules):
        return (
            f"MUJOCO_GL={library}: MuJoCo cannot use it here ({error}); allowed: egl "
            "or osmesa where their libraries are installed (libegl1, libosmesa6), "
            "disabled, or leave MUJOCO_GL unset"
        )
    for frame, name in zip(frames, modules, strict=True):
        # JAX's flags take their values while its modules are being imported.
        if frame.f_code.co_name == "<module>" and name.startswith("jax."):
            return _refused_by_jax(error)
    return _platform_missing()


def _refused_by_jax(error: BaseException) -> str | None:
    given = {k: v for k, v in os.environ.items() if k.startswith("JAX_")}
    named = {k: v for k, v in given.items() if k.lower() in str(error).lower()}
    words = ", ".join(f"{name}={value}" for name, value in (named or given).items())
    return f"{words}: JAX refuses it ({error})" if words else None


def _platform_missing() -> str | None:
    """A line on JAX_PLATFORMS, where JAX has started to load and has no such device."""
    if "jax" not in sys.modules:
        return None
    import jax

    asked = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if not asked:
        return None
    try:
        jax.devices()
    except Exception as error:  # what it raises differs from platform to platform
        why = f"{error}".partition(" (set JAX_PLATFORMS")[0] or "it is not installed"
        return (
            f"JAX_PLATFORMS={asked}: JAX has no such device here ({why}); allowed: "
            "cpu, what is installed on this machine, or leave JAX_PLATFORMS unset"
        )
    return None


def _frames(error: BaseException) -> Iterator[types.FrameType]:
    """The frames that an error, and those it came from, passed through."""
    cause: BaseException | None = error
    while cause is not None:
        trace = cause.__traceback__
        while trace is not None:
            yield trace.tb_frame
            trace = trace.tb_next
        cause = cause.__cause__ or cause.__context__
