"""Perturbations against plain numpy, and their statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import perturb
from envs.perturb import ImagePerturbation, StateNoise, parse, stack


def picture(height=64, width=64):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def turned(image, degrees):
    """Bilinear rotation about the centre, pixel by pixel; black outside."""
    height, width, _ = image.shape
    out = np.zeros(image.shape)
    angle = np.deg2rad(degrees)
    for row in range(height):
        for column in range(width):
            # Up and right from the centre, turned back.
            up, right = (height - 1) / 2 - row, column - (width - 1) / 2
            y = (height - 1) / 2 - (up * np.cos(angle) - right * np.sin(angle))
            x = (width - 1) / 2 + up * np.sin(angle) + right * np.cos(angle)
            for i in (int(np.floor(y)), int(np.floor(y)) + 1):
                for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        weight = (1 - abs(y - i)) * (1 - abs(x - j))
                        out[row, column] += weight * image[i, j]
    return out


def within(values, expected, deviation):
    """Whether the mean of the values is within three standard errors."""
    return abs(np.mean(values) - expected) < 3 * deviation / np.sqrt(np.size(values))


@pytest.mark.parametrize("degrees", [20.0, -30.0, 90.0])
def test_rotation_agrees_with_numpy(degrees):
    image = picture(16, 20)
    ours = perturb.rotate(jnp.asarray(image, jnp.float32), degrees)
    np.testing.assert_allclose(ours, turned(image.astype(float), degrees), atol=2e-2)


def test_rotation_is_counterclockwise():
    image = np.zeros((5, 5, 1), np.float32)
    image[2, 4] = 1.0  # right of the centre
    assert perturb.rotate(jnp.asarray(image), 90.0)[0, 2, 0] == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["none", "noise:0", "rotate:0", "mask:0"])
def test_strength_zero_changes_nothing(text, getkey):
    image = picture()
    np.testing.assert_array_equal(parse(text)(getkey(), jnp.asarray(image)), image)


def test_full_noise_has_the_given_moments(getkey):
    grey = jnp.full((64, 64, 3), 0.5)
    mean, variance = 0.1, 0.04
    noise, chosen = perturb.draw_noise(getkey(), grey, mean=mean, variance=variance)
    assert np.all(chosen)
    assert within(noise, mean, variance**0.5)
    # A squared normal deviate has variance 2 σ⁴.
    assert within((noise - mean) ** 2, variance, 2**0.5 * variance)
    channels = np.asarray(noise - mean).reshape(-1, 3)
    products = channels[:, 0] * channels[:, 1]
    assert within(products, 0.0, variance)  # channels are independent


def test_noise_is_added_at_the_scale_of_one_and_clipped(getkey):
    image = jnp.full((64, 64, 3), 51, jnp.uint8)  # 0.2
    key = getkey()
    ours = ImagePerturbation(mean=0.5, variance=0.25, share=1.0)(key, image)
    grey = jnp.zeros((64, 64, 3))
    noise, _ = perturb.draw_noise(key, grey, mean=0.5, variance=0.25)
    expected = np.round(255 * np.clip(0.2 + np.asarray(noise, float), 0, 1))
    assert ours.dtype == jnp.uint8
    assert np.max(np.abs(ours.astype(float) - expected)) <= 1
    # A normal deviate with mean 0.7 and deviation 0.5 is below 0 with probability
    # Φ(-1.4), above 1 with Φ(-0.6).
    for level, chance in ((0, 0.08076), (255, 0.27425)):
        assert within(ours == level, chance, (chance * (1 - chance)) ** 0.5)


@pytest.mark.parametrize("percent", [25.0, 75.0])
def test_mask_covers_its_share_of_whole_pixels(percent, getkey):
    image = picture()
    ours = np.asarray(parse(f"mask:{percent},5,0")(getkey(), jnp.asarray(image)))
    share, hit = percent / 100, np.all(ours == 255, axis=-1)
    np.testing.assert_array_equal(ours[~hit], image[~hit])
    assert within(hit, share, (share * (1 - share)) ** 0.5)


def test_mask_default_is_the_papers_noise(getkey):
    ours, key = parse("mask:50"), getkey()
    assert isinstance(ours, ImagePerturbation)
    assert (float(ours.mean), float(ours.variance)) == pytest.approx((0.5, 0.15))
    image = jnp.asarray(picture())
    np.testing.assert_array_equal(
        ours(key, image), parse("mask:50,0.5,0.15")(key, image)
    )


def test_conditions_run_in_one_program(getkey):
    texts = ["none", "noise:0.35", "noise:0.5,0.1", "rotate:20", "mask:50"]
    count = 0

    @jax.jit
    def run(conditions, key, image):
        nonlocal count
        count += 1
        return jax.vmap(lambda p: p(key, image))(conditions)

    image, key = jnp.asarray(picture()), getkey()
    together = run(stack([parse(t) for t in texts]), key, image)
    for ours, text in zip(together, texts, strict=True):
        alone = parse(text)(key, image).astype(int)
        assert np.max(np.abs(ours.astype(int) - alone)) <= 1, text
    run(stack([parse("rotate:30")] * len(texts)), key, image)
    assert count == 1


def test_state_noise(getkey):
    obs = jnp.arange(20000.0) / 1000
    noise = np.asarray(parse("noise:0.5,0.04", pixels=False)(getkey(), obs) - obs)
    assert within(noise, 0.5, 0.2)
    assert within((noise - 0.5) ** 2, 0.04, 2**0.5 * 0.04)
    np.testing.assert_array_equal(parse("noise:0", pixels=False)(getkey(), obs), obs)
    np.testing.assert_array_equal(StateNoise()(getkey(), obs), obs)


@pytest.mark.parametrize(
    "text", ["", "blur:3", "noise", "noise:a", "rotate:1,2", "noise:1,2,3", "none:1"]
)
def test_unknown_form_lists_the_known_ones(text):
    with pytest.raises(ValueError, match="rotate:DEGREES"):
        parse(text)


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match="0 to 100"):
        parse("mask:120")
    with pytest.raises(ValueError, match="negative"):
        parse("noise:0.5,-0.1")
    for text in (
        "noise:nan",
        "noise:nan,1",
        "rotate:inf",
        "rotate:nan",
        "mask:50,nan,0",
    ):
        with pytest.raises(ValueError, match="finite"):
            parse(text)
    with pytest.raises(ValueError, match="finite"):
        parse("noise:0,inf", pixels=False)


def test_wrong_kind_of_observation(getkey):
    with pytest.raises(ValueError, match=r"use one of none, noise:VARIANCE, noise:M"):
        parse("rotate:20", pixels=False)
    with pytest.raises(ValueError, match="no image"):
        parse("rotate:20")(getkey(), jnp.zeros(24))
    with pytest.raises(ValueError, match="needs floats"):
        parse("noise:1", pixels=False)(getkey(), jnp.zeros((4, 4, 3), jnp.uint8))


@pytest.mark.parametrize("form", ["noise:0.5,0.25", "mask:40,0.5,0.25"])
def test_dreamerv2s_scale_is_not_clipped(form, getkey):
    """x / 255 - 0.5 plus the noise, as the encoder computes it."""
    image, key = jnp.full((64, 64, 3), 51, jnp.uint8), getkey()
    ours = parse(f"dreamerv2-{form}")(key, image)
    share = 0.4 if form.startswith("mask") else 1.0
    noise, chosen = perturb.draw_noise(
        key, jnp.zeros((64, 64, 3)), mean=0.5, variance=0.25, share=share
    )
    seen = np.asarray(ours) / 255 - 0.5
    np.testing.assert_allclose(seen, -0.3 + np.where(chosen, noise, 0), atol=1e-5)
    assert ours.dtype == jnp.float32 and seen.min() < -0.5 and seen.max() > 0.5
    clipped = np.asarray(parse(form)(key, image), float)
    np.testing.assert_allclose(clipped, np.clip(ours, 0, 255), atol=0.51)


def test_a_replaced_pixel_forgets_what_it_was(getkey):
    key, share = getkey(), 0.4
    images = [jnp.full((64, 64, 3), value, jnp.uint8) for value in (51, 204)]
    noise, chosen = perturb.draw_noise(
        key, jnp.zeros((64, 64, 3)), mean=0.05, variance=0.2, share=share
    )
    chosen = np.broadcast_to(chosen, noise.shape)
    for image in images:
        ours = np.asarray(parse("replace:40,0.05,0.2")(key, image))
        expected = np.round(255 * np.clip(noise, 0, 1))
        np.testing.assert_allclose(ours[chosen], expected[chosen], atol=1)
        assert np.all(ours[~chosen] == image[0, 0, 0])
        # In DreamerV2's scale, of which 0 is the middle grey.
        raw = np.asarray(parse("dreamerv2-replace:40,0.05,0.2")(key, image))
        np.testing.assert_allclose(
            raw[chosen] / 255 - 0.5, np.asarray(noise)[chosen], atol=1e-5
        )


def test_clipped_and_unclipped_conditions_run_in_one_program(getkey):
    texts = ["none", "noise:0.5,0.1", "dreamerv2-noise:0.5,0.1", "replace:50"]
    image, key = jnp.asarray(picture()), getkey()
    conditions = stack([parse(text) for text in texts])
    together = jax.jit(jax.vmap(lambda p: p(key, image)))(conditions)
    for ours, text in zip(together, texts, strict=True):
        alone = np.asarray(parse(text)(key, image), float)
        assert np.max(np.abs(np.asarray(ours) - alone)) <= 1, text
    np.testing.assert_array_equal(together[0], image)


def test_the_papers_sets():
    walker = [parse(text) for text in perturb.SETS["paper-walker"]]
    assert len(walker) == 1 + 11 + 3 + 11
    for p in walker:
        assert isinstance(p, ImagePerturbation)
        if p.share == 1:
            assert p.mean == 0.5 and 0.05 <= float(p.variance) + 1e-6 <= 0.56
        elif p.share > 0:
            assert p.mean == 0.5 and float(p.variance) == pytest.approx(0.15)
    quadruped = perturb.SETS["paper-quadruped"]
    assert "noise:0,0.35" in quadruped and "mask:75,0.05,0.2" in quadruped
    assert perturb.expanded(["rotate:5", "paper-quadruped"]) == ["rotate:5", *quadruped]
    with pytest.raises(ValueError, match="not understood"):
        parse("dreamerv2-rotate:20")
