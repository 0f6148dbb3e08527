"""README snippets of the packages whose names `rope` keeps; only the imports differ.

`test_migration.py` has others of rotary-embedding-torch.
"""

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from rope import RoPE, RotaryEmbedding, apply_learned_rotations, apply_rotary_emb, broadcat
from tests.rope.reference import angles_of, grid, language, turned

# float32 angles up to 1,024 rad are off by up to 2^-14 rad, times features of up to 5.
AT_1024 = {"atol": 5e-4}


@pytest.fixture(autouse=True)
def seeded():
    tf.random.set_seed(0)


def pixels(size, *, max_freq, pairs=16):
    return angles_of(np.linspace(-1, 1, size), np.pi * np.linspace(1, max_freq / 2, pairs))


def check(rotated, original, angles, **tolerance):
    assert rotated.shape == original.shape
    np.testing.assert_allclose(rotated, turned(original, angles), **tolerance)


def test_rotary_embedding_tensorflow_text():
    pos_emb = RotaryEmbedding(dim=32)
    freqs = pos_emb(tf.range(1024), cache_key=1024)
    q = tf.random.normal((1, 1024, 64))
    k = tf.random.normal((1, 1024, 64))
    original = q, k
    freqs = freqs[None, ...]
    q = apply_rotary_emb(freqs, q)
    k = apply_rotary_emb(freqs, k)

    for rotated, x in zip((q, k), original, strict=True):
        check(rotated, x, angles_of(range(1024), language(32)), **AT_1024)


def test_rotary_embedding_tensorflow_learned_rotations():
    x = tf.random.normal((1, 1024, 512))
    original = x
    rots1 = layers.Dense(128)(x)
    rots2 = layers.Dense(128)(x)
    x = apply_learned_rotations(rots1, x, start_index=0)
    x = apply_learned_rotations(rots2, x, start_index=256)
    both = x
    rots = tf.concat((rots1, rots2), axis=-1)
    x = apply_learned_rotations(rots, x)

    angles = np.concatenate([rots1, rots2], axis=-1).astype(np.float64)
    check(both, original, angles, atol=1e-5)
    check(x, original, 2 * angles, atol=2e-5)


def test_images_of_rotary_embedding_torch_and_rotary_embedding_tensorflow():
    """The snippets of both libraries at 32 pixels a side instead of 256."""
    pos_emb = RotaryEmbedding(dim=32, freqs_for="pixel", max_freq=256)
    q = tf.random.normal((1, 32, 32, 64))
    freqs_h = pos_emb(tf.linspace(-1.0, 1.0, 32), cache_key=32)
    freqs_w = pos_emb(tf.linspace(-1, 1, num=32), cache_key=32)
    freqs = broadcat((freqs_h[:, None, :], freqs_w[None, :, :]), dim=-1)
    angles = grid(pixels(32, max_freq=256), pixels(32, max_freq=256))
    check(apply_rotary_emb(freqs, q), q, angles, **AT_1024)
    freqs = broadcat((freqs_h[None, :, None, :], freqs_w[None, None, :, :]), dim=-1)
    check(apply_rotary_emb(freqs, q), q, angles, **AT_1024)


def check_xpos(q, k, original, length):
    angles, zeta = angles_of(range(length), language(32)), (np.arange(16) / 16 + 0.4) / 1.4
    scales = np.repeat(zeta ** ((np.arange(length)[:, None] - 2_048) / 512), 2, axis=-1)
    for rotated, x, scale in zip((q, k), original, (scales, 1 / scales), strict=True):
        expected = turned(x, angles)
        expected[..., :32] *= scale
        np.testing.assert_allclose(rotated, expected, rtol=1e-3, atol=1e-2)  # scales of up to 150


def test_rope_tensorflow():
    rotary_emb = RoPE(dim=32)
    q = tf.random.normal([1, 128, 64])
    k = tf.random.normal([1, 128, 64])
    original = q, k
    q = rotary_emb.rotate(q)
    k = rotary_emb.rotate(k)
    plain = q, k
    q, k = rotary_emb.rotate([q, k])

    for rotated, x in zip(plain, original, strict=True):
        check(rotated, x, angles_of(range(128), language(32)), atol=1e-4)
    check_xpos(q, k, plain, 128)

    rotary_emb = RoPE(dim=32, interpolate_factor=2.0)
    check(rotary_emb.rotate(original[0]), original[0], angles_of(np.arange(128) / 2, language(32)), atol=1e-4)
