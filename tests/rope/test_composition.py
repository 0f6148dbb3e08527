"""What holds for every scheme of `RotaryEmbedding`."""

import numpy as np
import pytest
import tensorflow as tf

from rope import (
    RotaryEmbedding,
    apply_rotary_emb,
    convert_layout,
    positions_from_cache,
    positions_from_mask,
    positions_from_padding,
    positions_from_segments,
    rotate,
)
from tests.rope.reference import SCHEMES, angles_of, language, normal, turned

EACH = pytest.mark.parametrize("options", SCHEMES.values(), ids=SCHEMES.keys())
COMPILED = ("plain", "yarn", "partial", "xpos", "learned")  # one for each way through the code
EACH_COMPILED = pytest.mark.parametrize("options", [SCHEMES[name] for name in COMPILED], ids=COMPILED)
LAYOUTS = ("interleaved", "half")


def made(options, **more):
    return RotaryEmbedding(8, **options, **more)


def scores(queries, keys):
    return np.einsum("...md,...nd->...mn", np.float64(queries), np.float64(keys))


@EACH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_turn_by_position_times_frequency(options, layout):
    rotary, q = made(options, layout=layout), normal(2, 3, 5, 8)
    k = q + 1
    positions = np.arange(5) + 7
    angles = angles_of(positions, rotary.frequencies)
    query_scale = np.full((5, rotary.dim), rotary.attention_factor)
    key_scale = query_scale
    if rotary.use_xpos:
        key_scale, query_scale = 1 / rotary.get_scale(positions), rotary.get_scale(positions)
    rotated = rotary.rotate_queries_and_keys(q, k, offset=7)
    for actual, x, scale in zip(rotated, (q, k), (query_scale, key_scale), strict=True):
        expected = turned(x, angles, layout)
        expected[..., : rotary.dim] *= scale
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=5e-5)  # pixel angles near 190 rad


@EACH
def test_norms_are_kept_up_to_the_attention_factor(options):
    rotary, x = made({key: value for key, value in options.items() if key != "use_xpos"}), normal(3, 5, 8)
    rotated = rotary.rotate_queries_or_keys(x)
    expected = np.linalg.norm(x[..., : rotary.dim], axis=-1) * rotary.attention_factor
    np.testing.assert_allclose(np.linalg.norm(rotated[..., : rotary.dim], axis=-1), expected, rtol=1e-5)


@EACH
def test_position_zero_is_the_identity_up_to_the_attention_factor(options):
    rotary, x = made(options), normal(3, 1, 8)
    if rotary.use_xpos:
        rotary = made({"use_xpos": True, "xpos_max_length": 1})  # its centre is 0
    rotated, _ = rotary.rotate_queries_and_keys(x, x)
    np.testing.assert_array_equal(rotated[..., rotary.dim :], x[..., rotary.dim :])
    expected = x[..., : rotary.dim] * np.float32(rotary.attention_factor)
    np.testing.assert_array_equal(rotated[..., : rotary.dim], expected)


@EACH
def test_scores_depend_only_on_relative_position(options):
    rotary, q, k = made(options), normal(1, 8, seed=1), normal(1, 8, seed=2)

    def score(position):
        return scores(
            *rotary.rotate_queries_and_keys(q, k, positions=[position + 5], key_positions=[position])
        )

    # float32 angles of 1,000 positions: 2^-14 rad, of pixel frequencies five pi times that; products near 10.
    np.testing.assert_allclose(score(1_000), score(3), atol=2e-2 if "freqs_for" in options else 2e-3)


@EACH
def test_layouts_agree_after_the_permutation(options):
    q = normal(3, 5, 8)
    interleaved, half = made(options, layout="interleaved"), made(options, layout="half")

    def convert(x):
        return convert_layout(x, head_dim=8, source="interleaved", target="half", rotary_dim=half.dim)

    expected, _ = interleaved.rotate_queries_and_keys(q, q)
    actual, _ = half.rotate_queries_and_keys(convert(q), convert(q))
    np.testing.assert_allclose(actual, convert(expected.numpy()), rtol=1e-5, atol=1e-6)


@EACH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunks", [(12,), (1,) * 12, (5, 1, 3, 3), (7, 5)])
def test_rotating_by_chunks_equals_rotating_at_once(options, dtype, chunks):
    rotary = made(options)
    q, k = (tf.cast(normal(2, 3, 12, 8, seed=seed), dtype) for seed in (1, 2))
    start, parts = 0, []
    for size in chunks:
        new = slice(start, start + size)
        parts.append(rotary.rotate_queries_and_keys(q[:, :, new], k[:, :, new], offset=start))
        start += size
    for whole, pieces in zip(rotary.rotate_queries_and_keys(q, k), zip(*parts, strict=True), strict=True):
        assert whole.dtype == dtype
        tolerance = 1e-5 if dtype == "float32" else 2**-7  # an ulp of sin or cos may tip a rounding
        joined = tf.concat(pieces, axis=2)
        np.testing.assert_allclose(
            tf.cast(joined, "float32"), tf.cast(whole, "float32"), rtol=tolerance, atol=1e-6
        )


@EACH
def test_bfloat16_far_out_is_the_exact_rotation_rounded_once(options):
    rotary, positions = made(options), np.array([255, 256, 257, 1_025, 4_001])
    x = tf.cast(normal(5, 8), tf.bfloat16)
    exact, _ = rotary.rotate_queries_and_keys(tf.cast(x, "float32"), x, positions=positions)
    rounded, _ = rotary.rotate_queries_and_keys(x, x, positions=positions)
    np.testing.assert_array_equal(rounded, tf.cast(exact, tf.bfloat16))
    assert rotary.angles(positions).dtype == tf.float32


@EACH
def test_queries_at_the_end_of_cached_keys_equal_the_full_pass(options):
    rotary, q, k = made(options), normal(2, 3, 9, 8, seed=1), normal(2, 3, 9, 8, seed=2)
    full_q, full_k = rotary.rotate_queries_and_keys(q, k)
    last_q, all_k = rotary.rotate_queries_with_cached_keys(q[:, :, -2:], k)
    np.testing.assert_allclose(last_q, full_q[:, :, -2:], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(all_k, full_k)


@EACH
def test_the_tables_of_a_model_rotate_like_the_methods(options):
    rotary, q, k = made(options), normal(2, 3, 5, 8, seed=1), normal(2, 3, 5, 8, seed=2)
    query_table, key_table = rotary.tables(tf.range(5))
    assert (query_table is key_table) == (not rotary.use_xpos)
    expected_q, expected_k = rotary.rotate_queries_and_keys(q, k)
    np.testing.assert_allclose(rotate(q, query_table), expected_q, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rotate(k, key_table), expected_k, rtol=1e-6, atol=1e-6)


@EACH_COMPILED
def test_eager_graph_and_xla_agree(options):
    rotary, q = made(options), normal(2, 3, 5, 8)

    def call(q):
        return rotary.rotate_queries_and_keys(q, q, offset=3)

    eager = call(q)
    for compiled in (tf.function(call), tf.function(call, jit_compile=True)):
        for one, other in zip(eager, compiled(q), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


@EACH_COMPILED
def test_one_trace_serves_unknown_batch_and_length(options):
    rotary, traces = made(options), []

    @tf.function(input_signature=[tf.TensorSpec((None, 3, None, 8)), tf.TensorSpec((), tf.int32)])
    def call(q, offset):
        traces.append(None)
        return rotary.rotate_queries_and_keys(q, q, offset=offset)

    for batch, length, offset in ((2, 5, 0), (4, 1, 9), (1, 7, 2)):
        q = normal(batch, 3, length, 8)
        expected = rotary.rotate_queries_and_keys(q, q, offset=offset)
        for one, other in zip(expected, call(q, offset), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)
    assert len(traces) == 1


@pytest.mark.parametrize("factor", [2.0, 3.0])
@pytest.mark.parametrize("options", [{}, {"theta": 500.0}, {"freqs_for": "pixel"}, {"learned_freq": True}])
def test_factor_f_at_position_f_times_p_equals_factor_one_at_p(options, factor):
    positions, x = np.array([0.0, 1, 5, 40]), normal(4, 8)
    stretched = made(options, interpolate_factor=factor)
    expected = made(options).rotate_queries_or_keys(x, positions=positions)
    actual = stretched.rotate_queries_or_keys(x, positions=factor * positions)
    np.testing.assert_allclose(actual, expected, atol=2e-4)  # float32 pixel angles near 630 rad


def test_the_table_divides_by_the_factor_once():
    rotary = RotaryEmbedding(8, interpolate_factor=4.0)
    expected = np.repeat(angles_of(np.arange(5) / 4, language(8)), 2, axis=-1)
    np.testing.assert_allclose(rotary(tf.range(5)), expected, rtol=1e-6)
    np.testing.assert_array_equal(rotary.get_seq_pos(5), np.arange(5))
    np.testing.assert_array_equal(rotary.get_seq_pos(5, offset=3), np.arange(3, 8))
    np.testing.assert_array_equal(rotary(rotary.get_seq_pos(5)), rotary(tf.range(5)))


def test_the_table_adds_the_offset_and_checks_the_length():
    rotary = RotaryEmbedding(8)
    np.testing.assert_array_equal(rotary(tf.range(5), offset=3, seq_len=5), rotary(tf.range(3, 8)))
    np.testing.assert_array_equal(rotary(tf.range(5), offset=0.5), rotary(tf.range(5, dtype="float32") + 0.5))
    with pytest.raises(ValueError, match="seq_len must be the number of positions 5, got 4"):
        rotary(tf.range(5), seq_len=4)


def test_nothing_is_remembered_under_a_cache_key():
    """rotary-embedding-torch returned the angles of the first call for shifted positions."""
    rotary = RotaryEmbedding(8)
    first, shifted = rotary(tf.range(5), cache_key="k"), rotary(tf.range(5) + 2, cache_key="k")
    np.testing.assert_array_equal(shifted, rotary(tf.range(2, 7)))
    assert np.abs(first - shifted).max() > 1


def test_a_doubled_table_has_each_angle_at_both_features_of_its_pair():
    """rotary-embedding-tensorflow tiled the angles, so that most features turned by those of other pairs."""
    for layout, order in (("interleaved", [0, 0, 1, 1]), ("half", [0, 1, 0, 1])):
        table = RotaryEmbedding(4, layout=layout)(tf.constant([100]))
        np.testing.assert_allclose(table[0], 100 * language(4)[order], rtol=1e-6)


def test_positions_may_be_float64_and_are_never_half_precision():
    rotary = RotaryEmbedding(8)
    assert rotary(tf.constant([0.5, 1.5], tf.float64)).dtype == tf.float32
    for dtype in (tf.float16, tf.bfloat16):
        with pytest.raises(TypeError, match="positions must be integers or float32"):
            rotary(tf.range(5, dtype=tf.float32) if dtype is None else tf.cast(tf.range(5), dtype))
        with pytest.raises(TypeError, match="positions must be integers or float32"):
            rotary.rotate_queries_or_keys(normal(5, 8), positions=tf.cast(tf.range(5), dtype))


def test_large_integer_positions_are_added_before_they_are_rounded():
    rotary = RotaryEmbedding(2)
    np.testing.assert_array_equal(
        rotary.angles(tf.constant([16_777_216 + 2])),
        rotary(tf.constant([16_777_217]), offset=1)[..., :1],
    )


def test_positions_may_differ_by_example_in_either_order_of_axes():
    positions = np.array([[0, 1, 2, 3, 4], [7, 9, 11, 13, 15]])
    x = normal(2, 5, 5, 8)  # heads and length alike, so that shapes cannot tell
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


def test_the_sequence_before_the_heads_turns_by_its_own_axis():
    x = normal(2, 5, 3, 8)
    expected = RotaryEmbedding(8).rotate_queries_or_keys(x.swapaxes(1, 2))
    actual = RotaryEmbedding(8, seq_before_head_dim=True).rotate_queries_or_keys(x)
    np.testing.assert_array_equal(np.swapaxes(actual, 1, 2), expected)


def test_queries_and_keys_may_be_at_different_positions():
    q, k = normal(2, 3, 4, 8), normal(2, 1, 6, 8)
    rotated = RotaryEmbedding(8).rotate_queries_and_keys(
        q, k, positions=range(10, 14), key_positions=[0, 2, 4, 6, 8, 9]
    )
    np.testing.assert_allclose(rotated[0], turned(q, angles_of(range(10, 14), language(8))), atol=5e-6)
    np.testing.assert_allclose(rotated[1], turned(k, angles_of([0, 2, 4, 6, 8, 9], language(8))), atol=5e-6)


def test_the_offset_of_cached_queries_moves_the_queries_alone():
    q, k = normal(1, 2, 8), normal(1, 5, 8)
    rotated = RotaryEmbedding(8).rotate_queries_with_cached_keys(q, k, offset=10)
    np.testing.assert_allclose(rotated[0], turned(q, angles_of([13, 14], language(8))), atol=5e-6)
    np.testing.assert_allclose(rotated[1], turned(k, angles_of(range(5), language(8))), atol=5e-6)


def test_left_padded_rows_score_like_unpadded_ones():
    rotary, x, padding = RotaryEmbedding(8), normal(2, 5, 8), np.array([2, 0])
    mask = np.arange(7) >= padding[:, None] + np.array([[0], [2]])
    padded = np.zeros((2, 7, 8), np.float32)
    padded[0, 2:], padded[1, 2:] = x[0], x[1]
    positions = positions_from_padding(tf.constant([2, 2]), 7)
    np.testing.assert_array_equal(positions, positions_from_mask(mask))
    rotated = rotary.rotate_queries_or_keys(padded, positions=positions)
    np.testing.assert_allclose(rotated[:, 2:], rotary.rotate_queries_or_keys(x), rtol=1e-6, atol=1e-6)


def test_masked_positions_count_real_tokens_wherever_the_padding_is():
    mask = [[0, 0, 1, 1, 1], [1, 1, 0, 1, 0]]
    np.testing.assert_array_equal(positions_from_mask(mask), [[0, 0, 0, 1, 2], [0, 1, 1, 2, 2]])
    np.testing.assert_array_equal(positions_from_mask(np.array(mask, bool)), positions_from_mask(mask))


def test_packed_documents_are_rotated_like_separate_ones():
    rotary = RotaryEmbedding(8)
    documents = [normal(size, 8, seed=size) for size in (4, 1, 3, 5)]
    packed = np.stack([np.concatenate(documents[:3]), np.concatenate([documents[3], documents[2]])])
    segments = [[7, 7, 7, 7, 2, 7, 7, 7], [1, 1, 1, 1, 1, 2, 2, 2]]
    positions = positions_from_segments(segments)
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3, 0, 0, 1, 2], [0, 1, 2, 3, 4, 0, 1, 2]])
    rotated = rotary.rotate_queries_or_keys(packed, positions=positions)
    for row, start, document in ((0, 0, 0), (0, 4, 1), (0, 5, 2), (1, 0, 3), (1, 5, 2)):
        alone = rotary.rotate_queries_or_keys(documents[document])
        np.testing.assert_allclose(rotated[row, start : start + len(alone)], alone, atol=1e-6)


def test_segments_of_unknown_shape_run_in_a_graph_and_under_xla():
    segments = tf.constant([[3, 3, 1], [2, 5, 5]])
    spec = tf.TensorSpec((None, None), tf.int32)
    for compiled in (
        tf.function(positions_from_segments, input_signature=[spec]),
        tf.function(positions_from_segments, jit_compile=True),
    ):
        np.testing.assert_array_equal(compiled(segments), [[0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="segment_ids must be"):
        positions_from_segments([1, 1, 2])


def test_positions_continue_after_a_cache():
    np.testing.assert_array_equal(positions_from_cache(4, 3), [4, 5, 6])
    np.testing.assert_array_equal(positions_from_cache(tf.constant([4, 0]), 2), [[4, 5], [0, 1]])


def test_objects_with_other_options_do_not_disturb_one_another():
    x = normal(3, 5, 8)
    alone = {
        name: made(options).rotate_queries_and_keys(x, x)[0].numpy() for name, options in SCHEMES.items()
    }
    together = {name: made(options) for name, options in SCHEMES.items()}
    for _ in range(2):
        for name, rotary in together.items():
            np.testing.assert_array_equal(rotary.rotate_queries_and_keys(x, x)[0], alone[name])
    assert np.abs(alone["plain"] - alone["yarn"]).max() > 1e-2


@pytest.mark.parametrize("length", [8, 64, 100])
def test_dynamic_ntk_is_that_of_its_target_at_every_length(length):
    """With the length of the call, keys in a cache would keep the frequencies of shorter calls."""
    rotary, x = made(SCHEMES["dynamic"]), normal(length, 8)
    theta = 10_000 * (4.0 * 256 / 64 - 3) ** (8 / 6)
    expected = turned(x, angles_of(range(length), language(8, theta)))
    np.testing.assert_allclose(rotary.rotate_queries_or_keys(x), expected, atol=5e-5)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        ((2, 3, 5, 8), {"positions": range(4)}, "needs 5 positions along its axis 2"),
        ((2, 3, 5, 8), {"positions": [3]}, "needs 5 positions along its axis 2"),
        ((2, 3, 5, 8), {"positions": np.zeros((3, 5))}, "needs 5 positions along its axis 2"),
        ((2, 3, 5, 8), {"positions": np.zeros((2, 4, 5))}, "needs 5 positions along its axis 2"),
        ((2, 3, 5, 8), {"positions": np.zeros((1, 2, 3, 5))}, "needs 5 positions along its axis 2"),
        ((2, 3, 5, 8), {"positions": 3}, "needs 5 positions along its axis 2"),
        ((2, 3, 5, 8), {"seq_dim": -1}, "seq_dim must be an axis before the last"),
        ((2, 3, 5, 8), {"offset": [1, 2]}, "offset must be a scalar"),
        ((2, 3, 5, 6), {}, "x has 6 features, fewer than the 8"),
    ],
)
def test_positions_that_do_not_match_the_sequence_are_refused(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(8).rotate_queries_or_keys(normal(*x), **arguments)


def test_queries_longer_than_their_keys_are_refused():
    with pytest.raises(ValueError, match="got 5 queries and 4 keys"):
        RotaryEmbedding(8).rotate_queries_with_cached_keys(normal(5, 8), normal(4, 8))
    with pytest.raises(ValueError, match="needs 6 positions"):
        RotaryEmbedding(8).rotate_queries_and_keys(normal(5, 8), normal(6, 8))


def test_a_scaling_that_scales_attention_is_not_lost_in_a_table_of_angles():
    for name in ("yarn", "longrope"):
        with pytest.raises(ValueError, match="cannot hold the attention factor"):
            made(SCHEMES[name])(tf.range(5))
    neutral = made({"scaling": {**SCHEMES["yarn"]["scaling"], "attention_factor": 1.0}})
    x = normal(3, 5, 8)
    np.testing.assert_allclose(
        apply_rotary_emb(neutral(tf.range(5)), x), neutral.rotate_queries_or_keys(x), atol=1e-6
    )
