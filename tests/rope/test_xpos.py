import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding
from tests.rope.reference import doubled, language, normal, turned


def scores(queries, keys):
    return np.float64(queries) @ np.swapaxes(np.float64(keys), -1, -2)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, 1), ({"interpolate_factor": 3.0}, 3), ({"scaling": {"rope_type": "linear", "factor": 3.0}}, 3)],
)
def test_scores_decay_with_distance_by_the_published_formula(layout, options, factor):
    q, k = normal(7, 8, seed=1), normal(7, 8, seed=2)
    # A base of 8 makes the decay large over 7 tokens.
    options |= {"use_xpos": True, "xpos_scale_base": 8.0, "xpos_max_length": 64}
    rotary = RotaryEmbedding(8, layout=layout, **options)
    actual = scores(*rotary.rotate_queries_and_keys(q, k))
    zeta = doubled((2 * np.arange(4) / 8 + 0.4) / 1.4, layout)
    for m, n in np.ndindex(7, 7):
        distance = (m - n) / factor
        expected = turned(q[m], distance * language(8), layout) * zeta ** (distance / 8) @ k[n]
        # float32 scales up to 3.5^4
        np.testing.assert_allclose(actual[m, n], expected, rtol=1e-4, atol=1e-4)


def test_the_center_cancels_so_the_maximum_length_may_change():
    q, k = normal(9, 8, seed=1), normal(9, 8, seed=2)
    near = scores(*RotaryEmbedding(8, use_xpos=True, xpos_max_length=16).rotate_queries_and_keys(q, k))
    far = scores(*RotaryEmbedding(8, use_xpos=True, xpos_max_length=4_096).rotate_queries_and_keys(q, k))
    np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-5)


def test_the_longest_lengths_of_float16_and_float32_are_finite():
    q = tf.ones((1, 4_096, 8), tf.float16)
    rotated = RotaryEmbedding(8, use_xpos=True).rotate_queries_and_keys(q, q)
    assert all(np.isfinite(tensor).all() for tensor in rotated)
    longest = RotaryEmbedding(8, use_xpos=True, xpos_max_length=65_536).get_scale(tf.constant([0, 65_535]))
    assert np.isfinite(longest).all() and (longest.numpy() > 1e-36).all()  # float32


def test_positions_beyond_the_maximum_are_refused_in_eager_mode_and_by_static_shape():
    rotary = RotaryEmbedding(8, use_xpos=True, xpos_max_length=16)
    one, many = tf.ones((1, 8)), tf.ones((17, 8))
    for call in (
        lambda: rotary.rotate_queries_and_keys(many, many),
        lambda: rotary.rotate_queries_and_keys(one, one, offset=16),
        lambda: rotary.rotate_queries_and_keys(one, one, positions=[-1]),
        lambda: tf.function(rotary.rotate_queries_and_keys, jit_compile=True)(many, many),
        lambda: tf.function(rotary.cos_sin_pair)(tf.range(17)),
    ):
        with pytest.raises(ValueError, match=r"xPos positions must be in \[0, xpos_max_length 16\)"):
            call()
    rotary.rotate_queries_and_keys(normal(16, 8), normal(16, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xpos_max_length": 65_537}, r"xpos_max_length must be in \[1, 65536\]"),
        ({"xpos_scale_base": 16.0}, "xpos_max_length must be in"),
        ({"interpolate_factor": 2.0, "xpos_max_length": 131_073}, r"must be in \[1, 131072\]"),
        ({"xpos_scale_base": float("inf")}, "xpos_scale_base must be > 0 and finite"),
        ({"freqs_for": "pixel"}, "use_xpos needs freqs_for=.lang."),
    ],
)
def test_xpos_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(8, use_xpos=True, **arguments)


def test_calls_that_would_lose_the_scales_are_refused():
    rotary = RotaryEmbedding(8, use_xpos=True)
    for call in (rotary, rotary.cos_sin):
        with pytest.raises(ValueError, match="xPos"):
            call(tf.range(5))
    with pytest.raises(ValueError, match="xPos"):
        rotary.rotate_queries_or_keys(normal(5, 8))
    with pytest.raises(ValueError, match="angles cannot hold the scales of xPos"):
        rotary.get_axial_freqs(2, 3)
    with pytest.raises(ValueError, match="needs use_xpos=True"):
        RotaryEmbedding(8).get_scale(tf.range(5))


@pytest.mark.parametrize("seq_before_head_dim", [False, True])
@pytest.mark.parametrize("rows", [False, True])
def test_a_scale_argument_replaces_xpos_and_is_aligned_with_the_sequence(seq_before_head_dim, rows):
    rotary = RotaryEmbedding(
        8, use_xpos=True, xpos_scale_base=8.0, xpos_max_length=16, seq_before_head_dim=seq_before_head_dim
    )
    q = normal(2, 5, 5, 12)  # as many heads as tokens: shapes do not reveal a wrong axis
    positions = tf.constant([[0, 1, 2, 3, 4], [0, 0, 7, 8, 9]]) if rows else tf.range(5)

    def by_scale(q):
        return rotary.rotate_queries_or_keys(q, scale=rotary.get_scale(positions), positions=positions)

    traced = tf.function(by_scale, input_signature=[tf.TensorSpec((None,) * 3 + (12,))])
    expected, keys = rotary.rotate_queries_and_keys(q, q, positions=positions)
    np.testing.assert_array_equal(expected[..., 8:], q[..., 8:])
    inverse = rotary.rotate_queries_or_keys(q, scale=1 / rotary.get_scale(positions), positions=positions)
    np.testing.assert_allclose(inverse, keys, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(by_scale(q), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(traced(q), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8,), (4, 8), (1, 8), (3, 5, 8), (2, 3, 4, 8)])
def test_a_scale_that_does_not_match_the_sequence_is_refused(shape):
    with pytest.raises(ValueError, match="needs 5 rows of scale along its axis 2"):
        RotaryEmbedding(8).rotate_queries_or_keys(normal(2, 3, 5, 8), scale=np.ones(shape))
