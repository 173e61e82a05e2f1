"""The constants of other masses against MuJoCo's `mj_setConst`, on random models."""

import numpy as np
import pytest

from envs.mjx._mjx import mujoco
from envs.mjx.parameters import SLIDES, Parametrization

AXES = ("1 0 0", "0 1 0", "0 0 1")
SKEW = ("1 2 0", "0 1 1", "1 1 1")


def random_model(seed: int):
    """A model of one to three trees, of all kinds of joints, tendons and equalities."""
    random = np.random.default_rng(seed)
    names: list[str] = []

    def numbers(count, scale=0.3):
        return " ".join(f"{x:.3f}" for x in scale * random.normal(size=count))

    def joint(kind: str, axis: str) -> str:
        armature = random.choice([0.0, 0.0, random.uniform(0.01, 0.5)])
        if kind == "ball":
            return f'<joint type="ball" armature="{armature}"/>'
        names.append(f"j{len(names)}")
        some = f'type="{kind}" name="{names[-1]}" axis="{axis}" armature="{armature}"'
        return f"<joint {some}/>"

    def body(depth: int) -> str:
        if depth == 0 and random.random() < 0.3:  # what MuJoCo calls simple
            axes = random.permutation(AXES)[: random.integers(1, 4)]
            joints = "".join(joint("slide", axis) for axis in axes)
            return (
                f'<body pos="{numbers(3)}">{joints}<geom size=".1" mass=".2"/></body>'
            )
        if depth == 0 and random.random() < 0.3:
            joints = "<freejoint/>"
        else:
            kinds = [["ball"], ["hinge"], ["slide", "hinge"], ["hinge", "hinge"], []]
            some = kinds[random.integers(5 if depth else 4)]
            axes = random.permutation(
                random.choice([AXES, SKEW])
            )  # two on one axis would be singular
            joints = "".join(map(joint, some, axes))
        mass = random.uniform(0.01, 3)
        geom = f'<geom type="box" size=".1 .2 .05" pos="{numbers(3)}" mass="{mass}"/>'
        inside = body(depth + 1) if depth < 3 and random.random() < 0.6 else ""
        turn = f'pos="{numbers(3)}" quat="{numbers(4, 1.0)}"'
        return f"<body {turn}>{joints}{geom}{inside}</body>"

    bodies = "".join(body(0) for _ in range(random.integers(1, 4)))
    tendons = equalities = ""
    if len(names) > 1:
        armature = random.choice([0.0, random.uniform(0.1, 3)])
        first, second = random.choice(names, 2, replace=False)
        tendons = (
            f'<tendon><fixed armature="{armature}"><joint joint="{first}" coef="1"/>'
            f'<joint joint="{second}" coef="-.5"/></fixed></tendon>'
        )
        equalities = f'<equality><joint joint1="{first}" joint2="{second}"/></equality>'
    return mujoco.MjModel.from_xml_string(
        f"<mujoco><worldbody>{bodies}</worldbody>{tendons}{equalities}</mujoco>"
    )


MODELS = [random_model(seed) for seed in range(40)]


def test_the_models_have_every_kind():
    joints = {int(kind) for model in MODELS for kind in model.jnt_type}
    assert joints == {0, 1, 2, 3}
    slides = [(m.body_simple == SLIDES).any() and m.dof_armature.any() for m in MODELS]
    assert sum(slides) > 3
    assert sum(model.tendon_armature.any() for model in MODELS) > 5
    assert sum(model.neq for model in MODELS) > 10


@pytest.mark.parametrize("mass", [0.3, 1.0, 2.5])
def test_constants_are_mujocos(mass):
    for seed, model in enumerate(MODELS):
        heavy = random_model(seed)
        heavy.body_mass[:] *= mass
        heavy.body_inertia[:] *= mass
        mujoco.mj_setConst(heavy, mujoco.MjData(heavy))
        rule = Parametrization.of(model)
        extra = (mass - 1) * rule.share
        for name in ("body", "dof", "tendon"):
            full = f"{name}_invweight0"
            ours = getattr(model, full) - getattr(rule, name) @ (extra / (1 + extra))
            theirs = getattr(heavy, full)
            np.testing.assert_allclose(
                ours, theirs, rtol=1e-6, atol=1e-9, err_msg=f"{full}, model {seed}"
            )
