import functools
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import models.attention
from models.config import AxialRopeConfig, AxialScalingConfig, AxialViTConfig
from models.vit import AxialViT
from tests.models.reference import (
    attention,
    feed_forward,
    randomized,
    relative_difference,
    rms_norm,
    sinusoids,
    weights_of,
)
from training.optimizer import is_decayed

# Sizes that differ on every axis: 3 x 5 patches of 2 x 2 pixels, 3 channels, 6 heads of 4 features.
PLAIN = AxialViTConfig(dim=24, num_layers=2, num_heads=6, mlp_dim=20, patch_size=2).for_images(6, 10, 3, 7)
POSITIONS = ("axial", "mixed", "learned", "sinusoidal", "none")
VARIANTS = {
    **{position: {"position": position} for position in POSITIONS},
    **{f"{position}_by_axis": {"position": position, "attention": "axial"} for position in POSITIONS},
    "class_token": {"pooling": "class_token", "qk_norm": True},
    "mixed_class_token": {"pooling": "class_token", "position": "mixed"},
    "per_token": {"learned_rotations": "per_token", "rope": AxialRopeConfig(layout="half")},
    "per_token_class_token": {"learned_rotations": "per_token", "pooling": "class_token"},
    "per_token_alone": {"learned_rotations": "per_token", "position": "none", "pooling": "class_token"},
    "per_token_by_axis": {"learned_rotations": "per_token", "attention": "axial", "position": "mixed"},
    "interpolated": {"rope": AxialRopeConfig(interpolate_factor=(2.0, 3.0), theta=50.0)},
    "mixed_interpolated": {
        "position": "mixed",
        "rope": AxialRopeConfig(interpolate_factor=(2.0, 3.0), theta=50.0, layout="half"),
    },
}


@functools.cache
def _model(dtype, items):
    return randomized(AxialViT(AxialViTConfig(**(vars(PLAIN) | dict(items))), dtype=dtype))


def model_of(variant=None, *, dtype="float32", **options):
    """A model with large random weights; weights of one path are the same in every model."""
    return _model(dtype, tuple(((VARIANTS[variant] if variant else {}) | options).items()))


def images_of(height=6, width=10, batch=2):
    return np.random.default_rng(1).normal(size=(batch, height, width, 3)).astype(np.float32)


def reference_logits(model, images):
    """The model in NumPy, from its config and weights alone."""
    return np.stack([reference_image(model.config, weights_of(model), image) for image in images])


def reference_image(config, weights, image):
    size, dim = config.patch_size, config.dim
    rows, columns = image.shape[0] // size, image.shape[1] // size
    grid = np.empty((rows, columns, dim))
    for row, column in np.ndindex(rows, columns):
        patch = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
        grid[row, column] = patch.reshape(-1) @ weights["patch_embedding/kernel"]
    if config.position == "learned":
        trained = weights["position_embedding"].reshape(*config.grid, dim)
        grid += np.asarray(tf.image.resize(trained, (rows, columns), method="bicubic", antialias=True))
    if config.position == "sinusoidal":
        grid[..., : dim // 2] += sinusoids(range(rows), dim // 2)[:, np.newaxis]
        grid[..., dim // 2 :] += sinusoids(range(columns), dim // 2)
    places = np.array(list(np.ndindex(rows, columns)), float)
    x = grid.reshape(rows * columns, dim)
    if config.pooling == "class_token":
        x, places = np.vstack([weights["class_token"], x]), np.vstack([[np.nan, np.nan], places])
    layers = {"attention": [np.arange(len(places))]}  # with the sets of tokens that attend to each other
    if config.attention == "axial":
        along = {"row_attention": places[:, 0], "column_attention": places[:, 1]}
        layers = {name: [np.flatnonzero(x == i) for i in np.unique(x)] for name, x in along.items()}
    for index in range(config.num_layers):
        for layer, groups in layers.items():
            name, mixed = f"block_{index}/{layer}", np.empty_like(x)
            normed = rms_norm(x, weights[f"{name}_norm/scale"])
            for group in groups:
                angles = reference_angles(config, weights, index, name, normed[group], places[group])
                bias = np.zeros((config.num_heads, len(group), len(group)))
                mixed[group] = attention(config, weights, name, normed[group], angles, bias)
            x = x + mixed
        name = f"block_{index}/mlp"
        x = x + feed_forward(weights, name, rms_norm(x, weights[f"{name}_norm/scale"]))
    x = rms_norm(x, weights["norm/scale"])
    return (x[0] if config.pooling == "class_token" else x.mean(axis=0)) @ weights["head/kernel"]


def reference_angles(config, weights, index, name, x, places):
    """(heads, length, head_dim / 2) angles by position and learned angles; none of a class token."""
    pairs, (row, column) = config.head_size // 2, (places / config.rope.interpolate_factor).T
    angles = np.zeros((config.num_heads, len(places), pairs))
    if config.position == "axial":
        frequencies = config.rope.theta ** (-2 * np.arange(pairs // 2) / pairs)
        angles += np.hstack([np.outer(row, frequencies), np.outer(column, frequencies)])
    if config.position == "mixed":
        along_rows, along_columns = weights[f"rotary_{index}/frequencies"][:, :, np.newaxis]
        angles += row[:, np.newaxis] * along_rows + column[:, np.newaxis] * along_columns
    if config.learned_rotations == "per_token":
        learned = x @ weights[f"{name}/learned_rotations/projection/kernel"]
        angles += learned.reshape(len(x), config.num_heads, pairs).swapaxes(0, 1)
    angles[:, np.isnan(places[:, 0])] = 0
    return angles


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_model_in_numpy(variant):
    model = model_of(variant)
    for size in ((6, 10), (8, 4)):
        images = images_of(*size)
        logits = model(images)
        assert (logits.shape, logits.dtype) == ((2, 7), tf.float32)
        assert relative_difference(logits, reference_logits(model, images)) < 1e-4  # float32, two layers


def test_eager_graph_and_xla_agree_and_one_trace_serves_every_size():
    model, traces = model_of("learned_by_axis", num_layers=1), []

    def logits(images):
        traces.append(None)
        return model(images)

    signature = [tf.TensorSpec((None, None, None, 3))]
    in_xla = tf.function(logits, input_signature=signature, jit_compile=True)
    in_graph = tf.function(logits, input_signature=signature)
    for function, size in ((in_graph, (6, 10)), (in_graph, (12, 4)), (in_xla, (12, 4))):
        images = images_of(*size)
        assert relative_difference(function(images), model(images)) < 1e-4  # float32
    assert len(traces) == 2


@pytest.mark.parametrize("variant", ["axial", "mixed_class_token", "learned_by_axis", "per_token"])
def test_bfloat16_equals_float32_to_its_precision(variant):
    exact, rough = model_of(variant), model_of(variant, dtype="mixed_bfloat16")
    logits = rough(images_of(batch=8))
    assert logits.dtype == tf.float32
    assert relative_difference(logits, exact(images_of(batch=8))) < 0.15  # 2**-8 a rounding, two layers


@pytest.mark.parametrize("rope", [{}, {"learned_freq": True}])
def test_angles_are_float32_under_bfloat16(monkeypatch, rope):
    """In bfloat16 the positions 256 and 257 are the same number."""
    config = AxialViTConfig(patch_size=1, num_layers=1, rope=AxialRopeConfig(**rope))
    model = AxialViT(config.for_images(2, 300, 1, 2), dtype="mixed_bfloat16")
    recorded = []

    def record(x, cos_sin, *, layout):
        recorded.append(cos_sin)
        return x

    monkeypatch.setattr(models.attention, "rotate", record)
    model(tf.zeros((1, 2, 300, 1)))
    angles = np.outer(np.arange(300), 10.0 ** (-np.arange(4) / 4))
    found = np.reshape(recorded[0], (2, 300, 8, 2))[1, :, 4:]
    expected = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    np.testing.assert_allclose(found, expected, atol=2e-5)  # float32 angles near 300 rad


def rope(**options):
    return {"rope": AxialRopeConfig(**options)}


def scaled(kind, **keys):
    return rope(scaling=AxialScalingConfig(type=kind, **keys))


OPTIONS = {  # beside those of `VARIANTS`
    "theta": rope(theta=20.0),
    "pixel": rope(freqs_for="pixel"),
    "max_freq": rope(freqs_for="pixel", max_freq=4.0),
    "unit": rope(coordinates="unit"),
    "pixel_patches": rope(freqs_for="pixel", coordinates="patches"),
    "rows": rope(interpolate_factor=(2.0, 1.0)),
    "columns": rope(interpolate_factor=(1.0, 3.0)),
    "layout": rope(layout="half"),
    "ntk": scaled("ntk", factor=(3.0, 3.0)),
    "dynamic": scaled("dynamic", factor=(3.0, 3.0)),
    "dynamic_longer": scaled("dynamic", factor=(3.0, 3.0), target_length=64),
    "yarn": scaled("yarn", factor=(3.0, 3.0)),
    "yarn_rows": scaled("yarn", factor=(3.0, 1.0)),
    "yarn_columns": scaled("yarn", factor=(1.0, 3.0)),
    "yarn_original_columns": scaled("yarn", factor=(3.0, 3.0), original_max_position_embeddings=(1, 64)),
    "yarn_original": scaled("yarn", factor=(3.0, 3.0), original_max_position_embeddings=(64, 64)),
    "longrope": scaled(
        "longrope",
        factor=(3.0, 3.0),
        short_factor=(1.0,) * 2,
        long_factor=(2.0, 4.0),
        original_max_position_embeddings=(2, 2),
    ),
    "proportional": scaled("proportional", partial_rotary_factor=0.5),
}
EIGHT = {"num_heads": 3, "num_layers": 1}  # heads of 8 features: two frequencies for an axis


def test_each_option_changes_the_logits():
    images = images_of()
    logits = {name: model_of(**EIGHT, **options)(images) for name, options in OPTIONS.items()}
    logits["plain"] = model_of(**EIGHT)(images)
    names = list(logits)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert relative_difference(logits[a], logits[b]) > 1e-3, (a, b)


def test_learned_frequencies_start_as_fixed_ones_and_learn():
    fixed, learned = AxialViT(PLAIN), AxialViT(AxialViTConfig(**(vars(PLAIN) | rope(learned_freq=True))))
    values = {weight.path: weight for weight in model_of().weights}
    for weight in (*fixed.weights, *learned.weights):
        if weight.path in values:
            weight.assign(values[weight.path])
    with tf.GradientTape() as tape:
        logits = learned(images_of())
        loss = tf.reduce_sum(logits**2)
    assert relative_difference(logits, fixed(images_of())) < 1e-5  # float32
    frequencies = [weight for weight in learned.trainable_weights if "frequencies" in weight.name]
    assert [weight.path.split("/")[-2] for weight in frequencies] == ["row_rotary", "column_rotary"]
    for gradient in tape.gradient(loss, frequencies):
        assert np.max(abs(gradient)) > 1e-3


def test_weights_have_the_paths_and_shapes_of_a_checkpoint():
    config = vars(PLAIN) | {"num_layers": 1, "position": "learned", "pooling": "class_token"}
    shapes = {weight.path: tuple(weight.shape) for weight in AxialViT(AxialViTConfig(**config)).weights}
    assert shapes == {
        "axial_vit/patch_embedding/kernel": (12, 24),
        "axial_vit/position_embedding": (15, 24),
        "axial_vit/class_token": (24,),
        "axial_vit/block_0/attention_norm/scale": (24,),
        "axial_vit/block_0/attention/qkv/kernel": (24, 72),
        "axial_vit/block_0/attention/output/kernel": (24, 24),
        "axial_vit/block_0/mlp_norm/scale": (24,),
        "axial_vit/block_0/mlp/gate_and_up/kernel": (24, 40),
        "axial_vit/block_0/mlp/down/kernel": (20, 24),
        "axial_vit/norm/scale": (24,),
        "axial_vit/head/kernel": (24, 7),
    }
    mixed = AxialViT(AxialViTConfig(**(vars(PLAIN) | {"position": "mixed"})))
    frequencies = [weight for weight in mixed.weights if "frequencies" in weight.name]
    assert [(weight.path, tuple(weight.shape)) for weight in frequencies] == [
        (f"rotary_{layer}/frequencies", (2, 6, 2)) for layer in range(2)
    ]
    assert not any(is_decayed(weight) for weight in frequencies)
    assert np.abs(frequencies[0] - frequencies[1]).max() > 0.01


def test_drop_path_rises_linearly_to_its_rate():
    rates = [block.drop_path_rate for block in AxialViT(replace(PLAIN, num_layers=4, drop_path=0.4)).blocks]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 6, 10), r"images must be \(batch, height, width, channels\), got shape \(2, 6, 10\)"),
        ((2, 6, 10, 1), "images must have 3 channels, got 1"),
        ((2, 7, 10, 3), "sides of images must be multiples of patch_size 2, got 7x10"),
        ((2, 6, 11, 3), "sides of images must be multiples of patch_size 2, got 6x11"),
    ],
)
def test_images_that_do_not_match_the_config_are_an_error(shape, message):
    with pytest.raises(ValueError, match=message):
        model_of()(tf.zeros(shape))
