"""Rendering: a ray caster in JAX for observations, MuJoCo's renderer for videos."""

from envs.render.renderer import Renderer as Renderer
