"""Pictures of the tasks: a ray caster in JAX, and MuJoCo's renderer for films."""

from envs.render.renderer import Renderer as Renderer
