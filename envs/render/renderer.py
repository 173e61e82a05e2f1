"""Images of an environment, rendered on the device in pure JAX.

>>> renderer = Renderer(env.model, camera=0)
>>> image = renderer(data)                          # (64, 64, 3) uint8

A ray caster: it finds the nearest solid of every ray, then its colour under the model's
lights. It works under `jit`, `vmap` and `scan`. It draws what `mujoco.Renderer` does by
default, without shadows, reflections, highlights, transparency, stars and meshes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, UInt8

from envs.mjx._mjx import MjModel
from envs.render.lighting import light
from envs.render.patterns import checks, sky_share
from envs.render.pose import Data, Pose, read_pose, to_camera
from envs.render.read_model import read_scene
from envs.render.shapes import Frame, Rays, depth, normal

# The code of a ray that hits nothing: larger than that of any depth.
_NOTHING = np.int32(np.iinfo(np.int32).max)


class Renderer:
    """Renders one model through one of its cameras.

    Args:
        model: the host-side MuJoCo model; its shapes, sizes and colours become
            constants of the compiled program.
        camera: number or name of the camera.
        size: width and height of the image in pixels.
        samples: rays along each side of a pixel; their mean is its colour.
        groups: the groups of geoms and sites that are visible.

    Raises:
        ValueError: the model has no such camera, shows something that cannot be drawn
            (a mesh, a height field, a transparent geom), or `size` or `samples` is
            less than 1.
    """

    def __init__(
        self,
        model: MjModel,
        *,
        camera: int | str = 0,
        size: int = 64,
        samples: int = 2,
        groups: Sequence[int] = (0, 1, 2),
    ):
        for name, value in (("size", size), ("samples", samples)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.scene = read_scene(model, camera, groups)
        self.size = size
        self.samples = samples
        self._id_bits = max(1, (len(self.scene.solids) - 1).bit_length())

    def __call__(self, data: Data) -> UInt8[Array, "size size 3"]:
        """The image of one state.

        Args:
            data: `mjx.Data` after `kinematics` and `com_pos`, or `mujoco.MjData`.
        """
        return self.draw(self.pose(data))

    def pose(self, data: Data) -> Pose:
        """Positions and orientations of all that is drawn in a state."""
        return read_pose(self.scene, data)

    def draw(self, pose: Pose) -> UInt8[Array, "size size 3"]:
        """The RGB image of one pose, values from 0 to 255."""
        frames = self._frames(pose)
        rays = self._rays(self.samples)
        # Barriers keep XLA from recomputing a stage for each use of its result.
        code = jax.lax.optimization_barrier(self._nearest(frames, rays))
        rows, blend = jax.lax.optimization_barrier(
            self._shade(pose, frames, rays, code)
        )
        channels = [self._channel(c, code, rows, blend) for c in range(3)]
        image = jnp.stack(channels, axis=-1)
        return jnp.floor(255.0 * image + 0.5).astype(jnp.uint8)

    def segment(self, pose: Pose) -> Int32[Array, "size size"]:
        """The solid at the centre of each pixel.

        Returns:
            Indices into `scene.solids`, -1 for the sky.
        """
        code = self._nearest(self._frames(pose), self._rays(1))[0]
        return jnp.where(code == _NOTHING, -1, self._number(code))

    def _rays(self, samples: int) -> Rays:
        """Rays of all samples, `(samples², size, size)`; the first row is the top."""
        offsets = (np.arange(samples) + 0.5) / samples
        pixels = np.arange(self.size)
        line = (pixels + offsets[:, None]) / self.size * 2 - 1  # (samples, size)
        line = (line * self.scene.tan_half).astype(np.float32)
        shape = (samples, samples, self.size, self.size)
        x = np.broadcast_to(line[None, :, None, :], shape)
        y = np.broadcast_to(-line[:, None, :, None], shape)
        flat = (samples * samples, self.size, self.size)
        return Rays(jnp.asarray(x.reshape(flat)), jnp.asarray(y.reshape(flat)))

    def _frames(self, pose: Pose) -> list[Frame]:
        """Position and orientation of every solid in the camera frame."""
        center = to_camera(pose, pose.position - pose.camera_position[None])
        # Axes as rows for the product, then as columns again.
        axes = to_camera(pose, pose.rotation.swapaxes(1, 2)).swapaxes(1, 2)
        return [Frame(center[i], axes[i]) for i in range(len(self.scene.solids))]

    def _nearest(self, frames: list[Frame], rays: Rays) -> Int32[Array, "*rays"]:
        """Depth and index of the nearest solid of each ray, in one integer.

        Positive floats are ordered like their bit patterns. The lowest bits of the
        depth are replaced by the index, so one minimum over integers finds both.
        """
        mask = np.int32(-(1 << self._id_bits))
        nearest = jnp.full(rays.x.shape, _NOTHING)
        for number, (solid, frame) in enumerate(
            zip(self.scene.solids, frames, strict=True)
        ):
            t, hit = depth(solid, frame, rays)
            hit &= (t > self.scene.near) & (t < self.scene.far)
            bits = jax.lax.bitcast_convert_type(t, jnp.int32)
            code = (bits & mask) | np.int32(number)
            nearest = jnp.minimum(nearest, jnp.where(hit, code, _NOTHING))
        return nearest

    def _number(self, code: Int32[Array, "*rays"]) -> Int32[Array, "*rays"]:
        return code & np.int32((1 << self._id_bits) - 1)

    def _shade(
        self, pose: Pose, frames: list[Frame], rays: Rays, code: Int32[Array, "*rays"]
    ) -> tuple[list[Float[Array, "*rays"]], Float[Array, "*rays"]]:
        """Light on each ray's nearest surface, and the share of its first colour."""
        solids = list(zip(self.scene.solids, frames, strict=True))
        empty = code == _NOTHING
        t = jnp.where(empty, 1.0, jax.lax.bitcast_convert_type(code, jnp.float32))
        here = [self._shows(number, code) for number in range(len(solids))]
        point = (t * rays.x, t * rays.y, -t)
        pixel = 2 * self.scene.tan_half / self.size

        facing = [jnp.zeros_like(t)] * 3
        blend = sky_share(pose.camera_rotation[2], rays)
        textured = jnp.zeros_like(empty)
        for (solid, frame), mine in zip(solids, here, strict=True):
            toward = normal(solid, frame, point)
            facing = [
                jnp.where(mine, *pair) for pair in zip(toward, facing, strict=True)
            ]
            if solid.checker is not None:
                blend = jnp.where(
                    mine, checks(solid.checker, frame, t, rays, pixel), blend
                )
                textured |= mine
        rows = light(self.scene, pose, point, facing, textured)
        return [jnp.where(empty, 1.0, row) for row in rows], blend

    def _shows(self, number: int, code: Int32[Array, "*rays"]) -> Bool[Array, "*rays"]:
        """Which rays have this solid as their nearest."""
        return (self._number(code) == number) & (code != _NOTHING)

    def _channel(
        self,
        channel: int,
        code: Int32[Array, "samples size size"],
        rows: list[Float[Array, "samples size size"]],
        blend: Float[Array, "samples size size"],
    ) -> Float[Array, "size size"]:
        """One colour channel, from 0 to 1, averaged over the samples of a pixel."""
        above, below = self.scene.sky
        low = jnp.full_like(blend, below[channel])
        span = jnp.full_like(blend, above[channel] - below[channel])
        for number, solid in enumerate(self.scene.solids):
            mine = self._shows(number, code)
            first = second = solid.color[channel]
            if solid.checker is not None:
                first = solid.checker.first[channel]
                second = solid.checker.second[channel]
            low = jnp.where(mine, second, low)
            span = jnp.where(mine, first - second, span)
        color = (low + span * blend) * rows[min(channel, len(rows) - 1)]
        return jnp.mean(jnp.minimum(color, 1.0), axis=0)
