import numpy as np
import pytest
import tensorflow as tf

from rope import RotaryEmbedding, xpos_decays
from rope.options import DEFAULTS, resolve
from tests.rope.reference import angles_of, language, normal, turned


def scores(queries, keys):
    return np.einsum("...md,...nd->...mn", np.float64(queries), np.float64(keys))


def reference_scores(q, k, *, base=512.0, factor=1.0, layout="interleaved"):
    """Scores of (length, dim) queries and keys: each pair decays by zeta^(distance / base)."""
    length, dim = q.shape
    pairs = np.arange(dim // 2)
    zeta = (2 * pairs / dim + 0.4) / 1.4
    frequencies = language(dim) / factor

    def as_complex(x):
        return (
            x[:, ::2] + 1j * x[:, 1::2]
            if layout == "interleaved"
            else x[:, : dim // 2] + 1j * x[:, dim // 2 :]
        )

    expected = np.empty((length, length))
    for m in range(length):
        for n in range(length):
            products = as_complex(np.float64(q))[m] * np.conj(as_complex(np.float64(k))[n])
            turn = np.exp(1j * (m - n) * frequencies) * zeta ** ((m - n) / factor / base)
            expected[m, n] = np.sum(products * turn).real
    return expected


def test_decays_are_those_of_the_paper():
    np.testing.assert_allclose(xpos_decays(8), [0.28571429, 0.46428571, 0.64285714, 0.82142857], rtol=1e-7)
    np.testing.assert_allclose(xpos_decays(64)[[0, -1]], [0.28571429, 0.97767857], rtol=1e-7)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_scores_decay_with_distance_as_the_formula_says(layout, factor):
    q, k = normal(7, 8, seed=1), normal(7, 8, seed=2)
    # A base of 8 makes the decay large over 7 tokens.
    rotary = RotaryEmbedding(
        8, use_xpos=True, xpos_scale_base=8.0, xpos_max_length=64, interpolate_factor=factor, layout=layout
    )
    actual = scores(*rotary.rotate_queries_and_keys(q, k))
    expected = reference_scores(q, k, base=8.0, factor=factor, layout=layout)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)  # scales of float32 up to 3.5^4


def test_linear_scaling_is_interpolation_under_xpos_too():
    q, k = normal(7, 8, seed=1), normal(7, 8, seed=2)
    options = {"use_xpos": True, "xpos_scale_base": 8.0, "xpos_max_length": 64}
    linear = RotaryEmbedding(8, scaling={"rope_type": "linear", "factor": 3.0}, **options)
    interpolated = RotaryEmbedding(8, interpolate_factor=3.0, **options)
    np.testing.assert_array_equal(
        linear.rotate_queries_and_keys(q, k)[1], interpolated.rotate_queries_and_keys(q, k)[1]
    )


@pytest.mark.parametrize("length", [16, 64, 512, 2_048])
@pytest.mark.parametrize("chunk", [1, 5])
def test_rotating_only_the_new_tokens_equals_rotating_all(length, chunk):
    rotary = RotaryEmbedding(8, use_xpos=True)
    q, k = normal(1, 2, length, 8, seed=1), normal(1, 2, length, 8, seed=2)
    full = rotary.rotate_queries_and_keys(q, k)
    start = length - chunk
    new = rotary.rotate_queries_and_keys(q[:, :, start:], k[:, :, start:], offset=start)
    for whole, part in zip(full, new, strict=True):
        np.testing.assert_allclose(whole[:, :, start:], part, rtol=1e-6, atol=1e-6)  # ulps of exp


def test_rotating_queries_with_all_cached_keys_equals_rotating_all():
    rotary = RotaryEmbedding(8, use_xpos=True)
    q, k = normal(1, 2, 33, 8, seed=1), normal(1, 2, 33, 8, seed=2)
    full_q, full_k = rotary.rotate_queries_and_keys(q, k)
    last_q, all_k = rotary.rotate_queries_with_cached_keys(q[:, :, -3:], k)
    np.testing.assert_array_equal(last_q, full_q[:, :, -3:])
    np.testing.assert_array_equal(all_k, full_k)


def test_the_centre_cancels_so_the_maximum_length_may_change():
    q, k = normal(9, 8, seed=1), normal(9, 8, seed=2)
    near = scores(*RotaryEmbedding(8, use_xpos=True, xpos_max_length=16).rotate_queries_and_keys(q, k))
    far = scores(*RotaryEmbedding(8, use_xpos=True, xpos_max_length=4_096).rotate_queries_and_keys(q, k))
    np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-5)


def test_scores_depend_only_on_relative_position():
    rotary = RotaryEmbedding(8, use_xpos=True)
    q, k = normal(1, 8, seed=1), normal(1, 8, seed=2)
    values = [
        scores(*rotary.rotate_queries_and_keys(q, k, positions=[m], key_positions=[m - 7]))[0, 0]
        for m in (10, 110, 3_010)
    ]
    np.testing.assert_allclose(values, values[0], rtol=2e-3)  # float32 angles near 3,000 rad, scales of 20


def test_at_the_centre_position_zero_apart_there_is_no_scale():
    rotary = RotaryEmbedding(8, use_xpos=True, xpos_max_length=10)
    np.testing.assert_array_equal(rotary.get_scale(tf.constant([5])), np.ones((1, 8)))
    q = normal(1, 8)
    rotated, _ = rotary.rotate_queries_and_keys(q, q, positions=[5])
    np.testing.assert_allclose(rotated, turned(q, angles_of([5], language(8))), atol=2e-6)


def test_bfloat16_stays_within_its_own_rounding():
    rotary = RotaryEmbedding(8, use_xpos=True)
    q = tf.cast(normal(1, 1, 2_048, 8), tf.bfloat16)
    wide = rotary.rotate_queries_and_keys(tf.cast(q, tf.float32), tf.cast(q, tf.float32))
    narrow = rotary.rotate_queries_and_keys(q, q)
    for expected, actual in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(tf.cast(expected, tf.bfloat16), actual)


def test_float16_up_to_4096_positions_is_finite_and_beyond_is_refused():
    q = tf.ones((1, 4_096, 8), tf.float16)
    rotated = RotaryEmbedding(8, use_xpos=True).rotate_queries_and_keys(q, q)
    assert all(np.isfinite(tensor).all() for tensor in rotated)
    longer = RotaryEmbedding(8, use_xpos=True, xpos_max_length=4_097)
    with pytest.raises(ValueError, match="float16 must have an xpos_max_length of at most 4096"):
        longer.rotate_queries_and_keys(q, q)
    with pytest.raises(ValueError, match="float16"):
        longer.check_compute_dtype("float16")
    longer.check_compute_dtype("bfloat16")


def test_positions_beyond_the_maximum_are_refused_in_eager_mode_and_by_static_shape():
    rotary = RotaryEmbedding(8, use_xpos=True, xpos_max_length=16)
    message = r"xPos positions must be in \[0, xpos_max_length 16\)"
    with pytest.raises(ValueError, match=message):
        rotary.rotate_queries_and_keys(normal(17, 8), normal(17, 8))
    with pytest.raises(ValueError, match=message):
        rotary.rotate_queries_and_keys(normal(1, 8), normal(1, 8), offset=16)
    with pytest.raises(ValueError, match=message):
        rotary.rotate_queries_and_keys(normal(1, 8), normal(1, 8), positions=[-1])
    with pytest.raises(ValueError, match=message):
        tf.function(rotary.rotate_queries_and_keys, jit_compile=True)(tf.ones((17, 8)), tf.ones((17, 8)))
    with pytest.raises(ValueError, match=message):
        tf.function(lambda positions: rotary.tables(positions))(tf.range(17))
    rotary.rotate_queries_and_keys(normal(16, 8), normal(16, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"xpos_max_length": 65_537}, r"xpos_max_length must be in \[1, 65536\]"),
        ({"xpos_max_length": 0}, "xpos_max_length must be in"),
        ({"xpos_scale_base": 16.0}, "xpos_max_length must be in"),
        ({"xpos_scale_base": 0.0}, "xpos_scale_base must be > 0"),
        ({"freqs_for": "pixel"}, "use_xpos needs freqs_for=.lang."),
    ],
)
def test_what_float32_cannot_hold_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(8, use_xpos=True, **arguments)


def test_options_alone_refuse_what_float32_cannot_hold():
    options = DEFAULTS | {
        "dim": 8,
        "freqs_for": "lang",
        "custom_freqs": None,
        "interpolate_factor": 2.0,
        "scaling": None,
        "target_length": None,
        "use_xpos": True,
    }
    resolve(options | {"xpos_max_length": 131_072})
    with pytest.raises(ValueError, match=r"xpos_max_length must be in \[1, 131072\]"):
        resolve(options | {"xpos_max_length": 131_073})
    for base in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="xpos_scale_base must be > 0 and finite"):
            resolve(options | {"xpos_scale_base": base})


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_scales_of_positions_in_half_precision_are_refused(dtype):
    with pytest.raises(TypeError, match="positions must be integers or float32"):
        RotaryEmbedding(8, use_xpos=True).get_scale(tf.zeros(5, dtype))


def test_the_longest_length_allowed_stays_finite():
    rotary = RotaryEmbedding(8, use_xpos=True, xpos_max_length=65_536)
    scales = rotary.get_scale(tf.constant([0, 65_535]))
    assert np.isfinite(scales).all() and (scales.numpy() > 1e-36).all()


def test_what_would_lose_the_scales_is_refused():
    rotary, x = RotaryEmbedding(8, use_xpos=True), normal(5, 8)
    for call in (
        lambda: rotary(tf.range(5)),
        lambda: rotary.table(tf.range(5)),
        lambda: rotary.rotate_queries_or_keys(x),
        lambda: rotary.get_axial_freqs(2, 3),
        lambda: rotary.axial_angles(2, 3),
        lambda: rotary.axial_table(2, 3),
    ):
        with pytest.raises(ValueError, match="xPos"):
            call()
    for call in (rotary.get_axial_freqs, rotary.axial_angles, rotary.axial_table):
        with pytest.raises(ValueError, match="xPos decays along one causal axis"):
            call(2, 3)
    with pytest.raises(ValueError, match="needs use_xpos=True"):
        RotaryEmbedding(8).get_scale(tf.range(5))


def test_only_the_rotated_features_are_scaled():
    q = normal(5, 12)
    rotated, _ = RotaryEmbedding(8, use_xpos=True).rotate_queries_and_keys(q, q)
    np.testing.assert_array_equal(rotated[:, 8:], q[:, 8:])


def test_a_given_scale_stands_for_those_of_xpos():
    rotary, q, k = RotaryEmbedding(8, use_xpos=True), normal(2, 5, 8), normal(2, 5, 8, seed=1)
    scales = rotary.get_scale(rotary.get_seq_pos(5))
    expected = rotary.rotate_queries_and_keys(q, k)
    actual = (
        rotary.rotate_queries_or_keys(q, scale=scales),
        rotary.rotate_queries_or_keys(k, scale=1 / scales),
    )
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("heads", [3, 5])
@pytest.mark.parametrize("seq_before_head_dim", [False, True])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_given_scale_lies_along_the_sequence_as_its_positions_do(
    heads, seq_before_head_dim, rows, compiled
):
    """With as many heads as tokens the wrong axis would pass every check of shapes."""
    rotary = RotaryEmbedding(
        8, use_xpos=True, xpos_scale_base=8.0, xpos_max_length=16, seq_before_head_dim=seq_before_head_dim
    )
    q = normal(2, 5, heads, 12) if seq_before_head_dim else normal(2, heads, 5, 12)
    positions = tf.constant([[0, 1, 2, 3, 4], [0, 0, 7, 8, 9]]) if rows else tf.range(5)

    def by_scale(q):
        return rotary.rotate_queries_or_keys(q, scale=rotary.get_scale(positions), positions=positions)

    if compiled:
        by_scale = tf.function(by_scale, input_signature=[tf.TensorSpec((None,) * 3 + (12,))])
    expected, _ = rotary.rotate_queries_and_keys(q, q, positions=positions)
    np.testing.assert_allclose(by_scale(q), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8,), (4, 8), (1, 8), (5, 6), (3, 5, 8), (2, 3, 4, 8)])
def test_a_scale_that_does_not_match_the_sequence_is_refused(shape):
    with pytest.raises(ValueError, match="scale must match the 8 rotated features and axis 2"):
        RotaryEmbedding(8).rotate_queries_or_keys(normal(2, 3, 5, 8), scale=np.ones(shape))
