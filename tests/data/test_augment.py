"""Affine moves against NumPy, and the draws behind them."""

import numpy as np
import pytest

from data.config import DIGITS_AUGMENT, AugmentConfig
from data.image_batches import affine_transforms, is_augmented, random_transforms, warp

IMAGE_SIZE = (6, 9)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, *IMAGE_SIZE, 2)).astype(np.float32)


def move(
    images: np.ndarray = IMAGES,
    *,
    rotation: float = 0.0,
    scale: float = 1.0,
    shear: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    flip: bool = False,
    fill: str = "zero",
) -> np.ndarray:
    count = len(images)
    transforms = affine_transforms(
        rotation=np.full(count, rotation),
        scale=np.full(count, scale),
        shear=np.full(count, shear),
        shift=np.tile(shift, (count, 1)),
        flip=np.full(count, flip),
        image_size=images.shape[1:3],
    )
    return warp(images, transforms, fill=fill).numpy()


def reference(image: np.ndarray, forward: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """The image moved pixel by pixel; `forward` moves (row, column) about the centre."""
    height, width = image.shape[:2]
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    result = np.zeros_like(image)
    for row, column in np.ndindex(height, width):
        y, x = np.linalg.solve(forward, np.array([row, column]) - centre - shift) + centre
        for near_y in (np.floor(y), np.floor(y) + 1):
            for near_x in (np.floor(x), np.floor(x) + 1):
                if 0 <= near_y < height and 0 <= near_x < width:
                    weight = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
                    result[row, column] += weight * image[int(near_y), int(near_x)]
    return result


@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_no_move_is_the_exact_identity(fill):
    np.testing.assert_array_equal(move(fill=fill), IMAGES)


@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_a_flip_is_exact(fill):
    np.testing.assert_array_equal(move(flip=True, fill=fill), IMAGES[:, :, ::-1])


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, 3), (-1, 4), (5, -8), (6, 0)])
def test_a_shift_in_whole_pixels_is_exact_and_black_comes_in(down, right):
    padded = np.pad(IMAGES, ((0, 0), (9, 9), (9, 9), (0, 0)))
    expected = padded[:, 9 - down : 15 - down, 9 - right : 18 - right]
    np.testing.assert_array_equal(move(shift=(down, right)), expected)


def test_the_mirrored_image_comes_in_on_request():
    padded = np.pad(IMAGES, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(move(shift=(2, -3), fill="reflect"), padded[:, 1:7, 6:15])


@pytest.mark.parametrize(("quarters", "size"), [(1, 5), (3, 6), (2, 4)])
def test_a_quarter_turns_counter_clockwise_about_the_centre(quarters, size):
    square = IMAGES[:, :size, :size]
    turned = move(square, rotation=90 * quarters)
    # The sine of a multiple of 90 degrees is off by 1e-16, a pixel's place by 1e-6, of 255.
    np.testing.assert_allclose(turned, np.rot90(square, quarters, axes=(1, 2)), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": 30.0},
        {"rotation": -17.0, "shift": (0.5, -1.25)},
        {"scale": 1.3},
        {"scale": 0.7, "shift": (1.5, 0.0)},
        {"shear": 20.0},
        {"flip": True, "shear": -10.0, "rotation": 25.0, "scale": 0.9, "shift": (0.25, 2.0)},
    ],
)
def test_moves_are_those_of_the_reference(options):
    chosen = {"rotation": 0.0, "scale": 1.0, "shear": 0.0, "shift": (0.0, 0.0), "flip": False} | options
    angle = np.radians(chosen["rotation"])
    # Of (row, column): a turn takes what is right of the centre up, a shear what is below to the right.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, 0], [np.tan(np.radians(chosen["shear"])), 1]])
    flip = np.diag([1, -1 if chosen["flip"] else 1])
    forward = turn @ (chosen["scale"] * np.eye(2)) @ shear @ flip
    expected = [reference(image, forward, chosen["shift"]) for image in IMAGES]
    # float32 places of a pixel are off by 1e-6, times differences of 255 between neighbours.
    np.testing.assert_allclose(move(**options), expected, atol=2e-3)


def test_each_image_of_a_batch_has_a_move_of_its_own():
    transforms = affine_transforms(
        rotation=np.zeros(3),
        scale=np.ones(3),
        shear=np.zeros(3),
        shift=np.array([[0, 0], [1, 0], [0, -2]]),
        flip=np.array([False, False, True]),
        image_size=IMAGE_SIZE,
    )
    moved = warp(IMAGES, transforms, fill="zero").numpy()
    np.testing.assert_array_equal(moved[0], IMAGES[0])
    np.testing.assert_array_equal(moved[1, 1:], IMAGES[1, :-1])
    np.testing.assert_array_equal(moved[2, :, :-2], IMAGES[2, :, ::-1][:, 2:])


def test_an_unknown_fill_is_refused():
    with pytest.raises(ValueError, match="zero, reflect, got 'white'"):
        move(fill="white")


def drawn(
    config: AugmentConfig, items, epochs=0, *, seed: int = 3, num_items: int = 1_000, image_size=(10, 20)
):
    items = np.array(items)
    epochs = np.broadcast_to(epochs, items.shape)
    return random_transforms(config, items, epochs, seed=seed, num_items=num_items, image_size=image_size)


EVERYTHING = AugmentConfig(rotation=20.0, scale=0.2, shear=10.0, shift=0.1, flip=True)


def test_a_move_depends_on_seed_image_and_epoch_alone():
    alone = drawn(EVERYTHING, [7], 2)[0]
    np.testing.assert_array_equal(drawn(EVERYTHING, [5, 900, 7, 8], [2, 1, 2, 0])[2], alone)
    np.testing.assert_array_equal(drawn(EVERYTHING, [7], 2, num_items=8)[0], alone)
    assert (drawn(EVERYTHING, [8], 2)[0] != alone).any()
    assert (drawn(EVERYTHING, [7], 3)[0] != alone).any()
    assert (drawn(EVERYTHING, [7], 2, seed=4)[0] != alone).any()


def test_nothing_asked_is_nothing_moved():
    assert not is_augmented(AugmentConfig())
    identity = [1, 0, 0, 0, 1, 0, 0, 0]
    np.testing.assert_array_equal(drawn(AugmentConfig(), range(50)), np.tile(identity, (50, 1)))


@pytest.mark.parametrize("option", ["rotation", "scale", "shear", "shift", "flip"])
def test_each_option_moves_alone(option):
    config = AugmentConfig(**{option: {"flip": True, "rotation": 20.0, "shear": 10.0}.get(option, 0.2)})
    assert is_augmented(config)
    a, b, x, c, d, y, *perspective = drawn(config, range(1_000)).T
    assert not np.any(perspective)
    angle = np.degrees(np.arctan2(c, d))
    factor = np.sqrt(np.abs(a * d - b * c))
    lean = np.degrees(np.arctan(-b))
    seen = {
        "rotation": (angle.min(), angle.max(), -20, 20),
        "scale": ((1 / factor).min(), (1 / factor).max(), 0.8, 1.2),
        "shear": (lean.min(), lean.max(), -10, 10),
        "shift": (-x.max(), -x.min(), -4, 4),
        "flip": (a.min(), a.max(), -1, 1),
    }
    low, high, lowest, highest = seen[option]
    slack = 0.02 * (
        highest - lowest
    )  # 1,000 uniform draws leave more than 1 % at an end in one of e**10 tests
    assert lowest - 1e-4 <= low <= lowest + slack
    assert highest - slack <= high <= highest + 1e-4
    if option == "shift":
        assert (-y.max(), -y.min()) == (-2, 2)
    if option == "flip":
        assert 0.4 < np.mean(a < 0) < 0.6  # 0.5, standard deviation 0.016
    if option in ("scale", "shift", "flip"):
        np.testing.assert_allclose(angle, 0, atol=1e-4)
    if option in ("rotation", "shear", "shift", "flip"):
        np.testing.assert_allclose(factor, 1, atol=1e-5)


def test_an_option_leaves_the_draws_of_the_others():
    rotated = drawn(AugmentConfig(rotation=20.0), range(50))
    flipped = drawn(AugmentConfig(rotation=20.0, flip=True), range(50))
    assert (flipped[:, 0] < 0).any()
    np.testing.assert_allclose(np.abs(flipped[:, [0, 1, 3, 4]]), np.abs(rotated[:, [0, 1, 3, 4]]))


def test_a_shift_blurs_nothing_but_among_other_moves_it_may():
    alone = drawn(AugmentConfig(shift=0.1, flip=True), range(50))
    np.testing.assert_array_equal(alone, np.rint(alone))
    among = drawn(AugmentConfig(shift=0.1, rotation=1e-6), range(50))
    assert (np.abs(among[:, 2] - np.rint(among[:, 2])) > 0.1).any()


def test_a_shift_by_less_than_a_pixel_still_moves():
    """Of 10 rows and 20 columns: 0.6 of a row, 1.2 columns."""
    _, _, right, _, _, down, *_ = drawn(AugmentConfig(shift=0.06), range(1_000)).T
    assert -0.6 <= down.min() < -0.5 < 0.5 < down.max() <= 0.6
    assert set(right) == {-1, 0, 1}


@pytest.mark.parametrize("option", ["rotation", "scale", "shear", "shift"])
def test_a_fill_is_refused_where_nothing_comes_in_over_the_edge(option):
    ((key, message),) = AugmentConfig(fill="reflect", flip=True).problems()
    assert (key, message.split(":")[0]) == ("fill", "reflect has no effect")
    assert not list(AugmentConfig(fill="reflect", **{option: 0.1}).problems())
    assert not list(AugmentConfig(flip=True).problems())


def test_digits_are_never_flipped():
    determinants = [a * d - b * c for a, b, _, c, d, *_ in drawn(DIGITS_AUGMENT, range(1_000))]
    assert min(determinants) > 0
    assert is_augmented(DIGITS_AUGMENT)
