"""Properties of every scheme of `RotaryEmbedding`."""

import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding, apply_rotary_emb
from tests.rope.reference import SCHEMES, angles_of, language, normal, turned

EACH = pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES.keys())
PATHS = ("plain", "yarn", "partial", "xpos", "learned")  # one scheme for each code path
EACH_PATH = pytest.mark.parametrize("options", [SCHEMES[name] for name in PATHS], ids=PATHS)
LAYOUTS = ("interleaved", "half")


def embedding(options, **more):
    return RotaryEmbedding(8, **options, **more)


def scores(queries, keys):
    return np.float64(queries) @ np.swapaxes(np.float64(keys), -1, -2)


@EACH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_rotate_by_position_times_frequency(options, layout):
    rotary, q = embedding(options, layout=layout), normal(2, 3, 5, 8)
    k = q + 1
    positions = np.array([0, 7, 8, 9, 10])
    angles = angles_of(positions, rotary.frequencies)
    query_scale = key_scale = np.full((5, rotary.dim), rotary.attention_factor)
    if rotary.use_xpos:
        key_scale, query_scale = 1 / rotary.get_scale(positions), rotary.get_scale(positions)
    rotated = rotary.rotate_queries_and_keys(q, k, positions=positions)
    for actual, x, scale in zip(rotated, (q, k), (query_scale, key_scale), strict=True):
        expected = turned(x, angles, layout)
        expected[..., : rotary.dim] *= scale
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=5e-5)  # pixel angles near 190 rad


@EACH
def test_scores_depend_only_on_relative_position(options):
    rotary, q, k = embedding(options), normal(1, 8, seed=1), normal(1, 8, seed=2)

    def score(place):
        return scores(*rotary.rotate_queries_and_keys(q, k, positions=[place + 5], key_positions=[place]))

    # float32 angles of 1,000 positions: 2^-14 rad, of pixel frequencies five pi times that; products near 10.
    np.testing.assert_allclose(score(1_000), score(3), atol=2e-2 if "freqs_for" in options else 2e-3)


@EACH
def test_rotating_by_chunks_equals_rotating_at_once(options):
    rotary, q, k = embedding(options), normal(2, 3, 9, 8, seed=1), normal(2, 3, 9, 8, seed=2)
    whole = rotary.rotate_queries_and_keys(q, k)
    for start, end in ((0, 5), (5, 6), (6, 9)):
        new = slice(start, end)
        parts = rotary.rotate_queries_and_keys(q[:, :, new], k[:, :, new], offset=start)
        for part, expected in zip(parts, whole, strict=True):
            np.testing.assert_allclose(part, expected[:, :, new], rtol=1e-5, atol=1e-6)
    last_q, all_k = rotary.rotate_queries_with_cached_keys(q[:, :, -2:], k)
    np.testing.assert_allclose(last_q, whole[0][:, :, -2:], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(all_k, whole[1])


@EACH
def test_bfloat16_at_large_positions_is_the_exact_rotation_rounded_once(options):
    rotary, positions = embedding(options), np.array([255, 256, 257, 1_025, 4_001])
    x = tf.cast(normal(5, 8), tf.bfloat16)
    exact, _ = rotary.rotate_queries_and_keys(tf.cast(x, "float32"), x, positions=positions)
    rounded, _ = rotary.rotate_queries_and_keys(x, x, positions=positions)
    np.testing.assert_array_equal(rounded, tf.cast(exact, tf.bfloat16))
    assert rotary.angles(positions).dtype == tf.float32


@EACH_PATH
@pytest.mark.parametrize("seq_before_head_dim", [False, True])
@pytest.mark.parametrize(("batch", "heads"), [(2, 3), (5, 5)])
def test_cos_sin_rotates_like_the_methods(options, seq_before_head_dim, batch, heads):
    # Equal numbers of heads, examples and tokens: shapes do not reveal a wrong axis.
    rotary, rows = embedding(options, seq_before_head_dim=seq_before_head_dim), tf.range(batch)[:, tf.newaxis]
    shape = (batch, 5, heads, 12) if seq_before_head_dim else (batch, heads, 5, 12)
    q, k = normal(*shape, seed=1), normal(*shape, seed=2)
    for positions in (tf.range(5), 3 * rows + 2 * tf.range(5)):
        for_queries, for_keys = rotary.cos_sin_pair(positions)
        assert (for_queries is for_keys) == (not rotary.use_xpos)
        assert for_queries.dtype == tf.float32
        expected_q, expected_k = rotary.rotate_queries_and_keys(q, k, positions=positions)
        np.testing.assert_allclose(rotary.rotate(q, for_queries), expected_q, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(rotary.rotate(k, for_keys), expected_k, rtol=1e-6, atol=1e-6)


@EACH_PATH
def test_one_trace_serves_unknown_batch_and_length(options):
    rotary, traces = embedding(options, layout="half"), []

    @tf.function(input_signature=[tf.TensorSpec((None, 3, None, 8)), tf.TensorSpec((), tf.int32)])
    def call(q, offset):
        traces.append(None)
        return rotary.rotate_queries_and_keys(q, q, offset=offset)

    for batch, length, offset in ((2, 5, 0), (4, 1, 9)):
        q = normal(batch, 3, length, 8)
        expected = rotary.rotate_queries_and_keys(q, q, offset=offset)
        for one, other in zip(expected, call(q, offset), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
    assert len(traces) == 1


def test_angles_are_divided_by_the_factor_once():
    rotary = RotaryEmbedding(8, interpolate_factor=4.0)
    expected = np.repeat(angles_of(np.arange(5) / 4, language(8)), 2, axis=-1)
    np.testing.assert_allclose(rotary(tf.range(5)), expected, rtol=1e-6)
    np.testing.assert_array_equal(rotary.get_seq_pos(5, offset=3), np.arange(3, 8))


def test_a_call_adds_the_offset_and_checks_the_length():
    rotary = RotaryEmbedding(8)
    np.testing.assert_array_equal(rotary(tf.range(5), offset=3, seq_len=5), rotary(tf.range(3, 8)))
    np.testing.assert_array_equal(rotary(tf.range(5), offset=0.5), rotary(tf.range(5, dtype="float32") + 0.5))
    with pytest.raises(ValueError, match="seq_len must be the number of positions 5, got 4"):
        rotary(tf.range(5), seq_len=4)


def test_a_cache_key_has_no_effect():
    # rotary-embedding-torch returned the angles of the first call for shifted positions.
    rotary = RotaryEmbedding(8)
    first, shifted = rotary(tf.range(5), cache_key="k"), rotary(tf.range(5) + 2, cache_key="k")
    np.testing.assert_array_equal(shifted, rotary(tf.range(2, 7)))
    assert np.abs(first - shifted).max() > 1


def test_doubled_angles_have_each_angle_at_both_features_of_its_pair():
    # rotary-embedding-tensorflow tiled the angles, so that features rotated by the angles of other pairs.
    for layout, order in (("interleaved", [0, 0, 1, 1]), ("half", [0, 1, 0, 1])):
        freqs = RotaryEmbedding(4, layout=layout)(tf.constant([100]))
        np.testing.assert_allclose(freqs[0], 100 * language(4)[order], rtol=1e-6)


def test_an_offset_equals_explicit_positions():
    rotary, x = RotaryEmbedding(8), normal(2, 3, 5, 8)
    by_offset = rotary.rotate_queries_or_keys(x, offset=7)
    for positions, more in ((range(7, 12), 0), (range(5, 10), 2), ([7.0, 8.0, 9.0, 10.0, 11.0], 0)):
        by_positions = rotary.rotate_queries_or_keys(x, positions=positions, offset=more)
        np.testing.assert_array_equal(by_offset, by_positions)
    assert np.abs(by_offset - rotary.rotate_queries_or_keys(x)).max() > 0.1


def test_positions_may_be_fractions_and_float64_but_not_half_precision():
    rotary = RotaryEmbedding(8)
    np.testing.assert_allclose(rotary.angles([0.5])[0], [0.5, 0.05, 0.005, 0.0005], rtol=1e-6)  # float32
    assert rotary(tf.constant([0.5, 1.5], tf.float64)).dtype == tf.float32
    positions = tf.range(5, dtype=tf.bfloat16)
    for call in (rotary, lambda t: rotary.rotate_queries_or_keys(normal(5, 8), positions=t)):
        with pytest.raises(TypeError, match="positions must be integers or float32"):
            call(positions)


def test_large_integer_positions_are_added_before_they_are_rounded():
    rotary = RotaryEmbedding(2)
    by_offset = rotary(tf.constant([16_777_217]), offset=1)[..., :1]
    np.testing.assert_array_equal(rotary.angles(tf.constant([16_777_216 + 2])), by_offset)


def test_positions_may_differ_by_example_in_either_order_of_axes():
    positions = np.array([[0, 1, 2, 3, 4], [7, 9, 11, 13, 15]])
    x = normal(2, 5, 5, 8)  # heads equals length: shapes do not reveal a wrong axis
    expected = turned(x, angles_of(positions, language(8))[:, None])
    actual = RotaryEmbedding(8).rotate_queries_or_keys(x, positions=positions)
    np.testing.assert_allclose(actual, expected, atol=5e-6)
    explicit = RotaryEmbedding(8).rotate_queries_or_keys(x, positions=positions[:, None])
    np.testing.assert_array_equal(explicit, actual)
    before = RotaryEmbedding(8, seq_before_head_dim=True)
    swapped = before.rotate_queries_or_keys(x.swapaxes(1, 2), positions=positions)
    np.testing.assert_array_equal(swapped, np.swapaxes(actual, 1, 2))
    np.testing.assert_array_equal(
        RotaryEmbedding(8).rotate_queries_or_keys(x.swapaxes(1, 2), -3, positions=positions), swapped
    )
    swapped = before.rotate_queries_or_keys(x.swapaxes(1, 2))
    np.testing.assert_array_equal(np.swapaxes(swapped, 1, 2), RotaryEmbedding(8).rotate_queries_or_keys(x))


def test_queries_and_keys_may_be_at_different_positions():
    rotary, q, k = RotaryEmbedding(8), normal(2, 3, 4, 8), normal(2, 1, 6, 8)
    rotated = rotary.rotate_queries_and_keys(q, k, positions=range(10, 14), key_positions=[0, 2, 4, 6, 8, 9])
    np.testing.assert_allclose(rotated[0], turned(q, angles_of(range(10, 14), language(8))), atol=5e-6)
    np.testing.assert_allclose(rotated[1], turned(k, angles_of([0, 2, 4, 6, 8, 9], language(8))), atol=5e-6)
    rotated = rotary.rotate_queries_with_cached_keys(q, k, offset=10)  # of the queries only
    np.testing.assert_allclose(rotated[0], turned(q, angles_of(range(12, 16), language(8))), atol=5e-6)
    np.testing.assert_allclose(rotated[1], turned(k, angles_of(range(6), language(8))), atol=5e-6)


@pytest.mark.parametrize("length", [8, 100])
def test_dynamic_ntk_is_that_of_its_target_at_every_length(length):
    # With the length of each call, cached keys would keep the frequencies of shorter calls.
    rotary, x = embedding(SCHEMES["dynamic"]), normal(length, 8)
    theta = 10_000 * (4.0 * 256 / 64 - 3) ** (8 / 6)
    expected = turned(x, angles_of(range(length), language(8, theta)))
    np.testing.assert_allclose(rotary.rotate_queries_or_keys(x), expected, atol=5e-5)


def test_positions_that_do_not_match_the_sequence_are_refused():
    rotary, x = RotaryEmbedding(8), normal(2, 3, 5, 8)
    for shape in ((4,), (1,), (3, 5), (2, 4, 5), (1, 2, 3, 5), ()):  # (1,) would broadcast
        with pytest.raises(ValueError, match="needs 5 positions along its axis 2"):
            rotary.rotate_queries_or_keys(x, positions=np.zeros(shape))
    with pytest.raises(ValueError, match="seq_dim must be an axis before the last"):
        rotary.rotate_queries_or_keys(x, seq_dim=-1)
    with pytest.raises(ValueError, match="offset must be a scalar"):
        rotary.rotate_queries_or_keys(x, offset=[1, 2])
    with pytest.raises(ValueError, match="got 5 queries and 4 keys"):
        RotaryEmbedding(8).rotate_queries_with_cached_keys(normal(5, 8), normal(4, 8))
    with pytest.raises(ValueError, match="needs 6 positions"):
        RotaryEmbedding(8).rotate_queries_and_keys(normal(5, 8), normal(6, 8))


def test_a_scaling_that_scales_attention_is_not_lost_in_angles():
    for name in ("yarn", "longrope"):
        with pytest.raises(ValueError, match="cannot hold the attention factor"):
            embedding(SCHEMES[name])(tf.range(5))
    neutral = embedding({"scaling": {**SCHEMES["yarn"]["scaling"], "attention_factor": 1.0}})
    x = normal(3, 5, 8)
    by_angles = apply_rotary_emb(neutral(tf.range(5)), x)
    np.testing.assert_allclose(by_angles, neutral.rotate_queries_or_keys(x), atol=1e-6)
