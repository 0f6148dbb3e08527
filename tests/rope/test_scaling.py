import math

import numpy as np
import pytest

from rope import RotaryEmbedding, scale_frequencies
from rope.scaling import with_original_length
from tests.rope.reference import LLAMA3, language

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2_048}
LLAMA3 = LLAMA3 | {"original_max_position_embeddings": 8_192}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 4.0, 16.0, 64.0],
    "original_max_position_embeddings": 4_096,
    "max_position_embeddings": 131_072,
}


def scaled(scaling, *, dim=16, theta=10_000.0, target_length=None):
    return scale_frequencies(language(dim, theta), scaling, theta=theta, target_length=target_length)


def test_linear_divides_every_frequency():
    frequencies, attention_factor = scaled({"rope_type": "linear", "factor": 4.0}, dim=8)
    np.testing.assert_allclose(frequencies, [0.25, 0.025, 0.0025, 0.00025], rtol=1e-12)
    assert attention_factor == 1


def test_ntk_keeps_the_first_frequency_and_divides_the_last():
    frequencies, _ = scaled({"rope_type": "ntk", "factor": 4.0}, dim=8)
    np.testing.assert_allclose(frequencies, [1, 6.29960525e-2, 3.96850263e-3, 2.5e-4], rtol=1e-8)
    # The base of dim 64 and factor 4 is 41829.37.
    frequencies, _ = scaled({"rope_type": "ntk", "factor": 4.0}, dim=64)
    np.testing.assert_allclose(frequencies, language(64, 41_829.37), rtol=1e-6)


def test_theta_rescale_factor_is_ntk_and_combines_with_interpolation():
    rescaled = RotaryEmbedding(8, theta_rescale_factor=4.0).frequencies
    np.testing.assert_allclose(rescaled, language(8, 63_496.04207872797), rtol=1e-12)
    both = RotaryEmbedding(8, interpolate_factor=2.0, theta_rescale_factor=4.0).frequencies
    np.testing.assert_allclose(both, rescaled / 2, rtol=1e-12)


@pytest.mark.parametrize(
    ("dim", "original", "length", "base"),
    [(128, 2_048, 2_048, 10_000), (128, 2_048, 16_384, 156_588.32), (8, 16, 64, 133_905.183)],
)
def test_dynamic_ntk_grows_with_the_target_length_beyond_the_original(dim, original, length, base):
    scaling = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": original}
    frequencies, _ = scaled(scaling, dim=dim, target_length=length)
    np.testing.assert_allclose(frequencies, language(dim, base), rtol=1e-6)


def test_yarn_matches_published_frequencies():
    frequencies, attention_factor = scaled(YARN)
    expected = [1, 0.316227766, 0.1, 0.025693506, 0.00625, 0.00138349648, 2.5e-4, 7.90569415e-5]
    np.testing.assert_allclose(frequencies, expected, rtol=1e-7)
    assert attention_factor == pytest.approx(1.13862944, rel=1e-8)


def test_yarn_without_truncation_blends_between_fractional_indices():
    ratios = scaled(YARN | {"truncate": False})[0] / language(16)
    np.testing.assert_allclose(ratios, [1, 1, 1, 0.75484176, 0.50569715, 0.25655254, 0.25, 0.25], rtol=1e-7)


@pytest.mark.parametrize("original", [2, 64, 512, 10**13])
def test_yarn_ramp_never_rises_with_the_index(original):
    # An inverted ramp, a bug of several libraries, would keep slow pairs and divide fast ones.
    ratios = scaled(YARN | {"original_max_position_embeddings": original}, dim=64)[0] / language(64)
    assert (np.diff(ratios) <= 1e-12).all()
    assert ratios.min() > 0.25 - 1e-12 and ratios.max() < 1 + 1e-12
    assert ratios[0] == pytest.approx(1) and (ratios[-1] == pytest.approx(0.25) or original > 10**6)


def test_yarn_attention_factor_from_factor_or_mscale_or_as_given():
    for factor, expected in ((1, 1), (8, 1.20794415), (32, 1.34657359)):
        assert scaled(YARN | {"factor": factor}).attention_factor == pytest.approx(expected, rel=1e-8)
    deepseek = scaled(YARN | {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0})
    log = math.log(40)
    assert deepseek.attention_factor == pytest.approx((0.0707 * log + 1) / (0.1 * log + 1))
    assert scaled(YARN | {"attention_factor": 1.5}).attention_factor == 1.5


def test_yarn_betas_move_the_ramp():
    plain, moved = scaled(YARN)[0], scaled(YARN | {"beta_fast": 8.0, "beta_slow": 0.25})[0]
    assert (moved >= plain - 1e-15).all() and (moved > plain * 1.01).any()


def test_llama3_matches_published_ratios():
    frequencies, attention_factor = scaled(LLAMA3, dim=32, theta=500_000.0)
    ratios = [1] * 8 + [0.37112228] + [0.125] * 7
    np.testing.assert_allclose(frequencies / language(32, 500_000.0), ratios, rtol=1e-7)
    assert attention_factor == 1
    # In Llama 3.1, 29 pairs are kept and 29 divided.
    ratios = scaled(LLAMA3, dim=128, theta=500_000.0)[0] / language(128, 500_000.0)
    assert (np.sum(ratios == 1), np.sum(np.isclose(ratios, 0.125, rtol=1e-12))) == (29, 29)


@pytest.mark.parametrize(("length", "key"), [(4_096, "short_factor"), (4_097, "long_factor")])
def test_longrope_divides_by_the_factors_of_its_regime(length, key):
    frequencies, attention_factor = scaled(LONGROPE, dim=8, target_length=length)
    np.testing.assert_allclose(frequencies, language(8) / LONGROPE[key], rtol=1e-12)
    assert attention_factor == pytest.approx(1.19024, abs=5e-6)


def test_longrope_attention_factor_from_factor_or_as_given():
    scaling = {key: value for key, value in LONGROPE.items() if key != "max_position_embeddings"}
    by_factor = scaled(scaling | {"factor": 32.0}, dim=8, target_length=10)
    assert by_factor.attention_factor == pytest.approx(1.19024, abs=5e-6)
    assert scaled(scaling | {"factor": 1.0}, dim=8, target_length=10).attention_factor == 1
    explicit = scaled(scaling | {"attention_factor": 1.25}, dim=8, target_length=10)
    assert explicit.attention_factor == 1.25


def test_proportional_and_partial_differ():
    partial = RotaryEmbedding(16, scaling={"rope_type": "default", "partial_rotary_factor": 0.5})
    proportional = RotaryEmbedding(16, scaling={"rope_type": "proportional", "partial_rotary_factor": 0.5})
    np.testing.assert_allclose(partial.frequencies, [1, 0.1, 0.01, 0.001], rtol=1e-12)
    expected = [1, 0.31622777, 0.1, 0.031622777, 0, 0, 0, 0]
    np.testing.assert_allclose(proportional.frequencies, expected, rtol=1e-7)
    assert (partial.dim, proportional.dim) == (8, 16)


def test_a_pasted_config_sets_theta_and_the_rotated_share():
    pasted = LLAMA3 | {"rope_theta": 500_000.0, "partial_rotary_factor": 0.5}
    rotary = RotaryEmbedding(32, scaling=pasted)
    ratios = [1, 1, 1, 1, 0.37112228, 0.125, 0.125, 0.125]
    np.testing.assert_allclose(rotary.frequencies / language(16, 500_000.0), ratios, rtol=1e-7)


def test_old_names_of_keys_and_types_are_read_and_null_keys_ignored():
    su = {"type": "su", **LONGROPE}  # two names of one scaling
    expected = scaled(LONGROPE, dim=8, target_length=10).frequencies
    for old in (su, {key: value for key, value in su.items() if key != "rope_type"}):
        np.testing.assert_array_equal(scaled(old, dim=8, target_length=10).frequencies, expected)
    assert scaled(YARN | {"mscale": None}).attention_factor == scaled(YARN).attention_factor


def test_the_original_length_can_be_filled_in_where_it_is_read_and_missing():
    bare = {"rope_type": "yarn", "factor": 4.0}
    assert with_original_length(bare, 2_048) == YARN
    assert with_original_length(YARN, 7) == YARN
    linear = {"rope_type": "linear", "factor": 2.0}
    assert with_original_length(linear, 7) == linear


@pytest.mark.parametrize(
    ("scaling", "target_length", "message"),
    [
        ({"factor": 2.0}, None, "needs one rope_type"),
        ({"rope_type": "yarn", "type": "linear"}, None, "needs one rope_type"),
        ({"rope_type": "yarm"}, None, "unknown scaling 'yarm'; did you mean 'yarn'"),
        ({"rope_type": "linear"}, None, "missing: factor"),
        ({"rope_type": "linear", "factor": 0.5}, None, "factor must be >= 1, got 0.5"),
        ({"rope_type": "linear", "factor": "2"}, None, "factor must be a number, got '2'"),
        ({"rope_type": "linear", "factor": 2.0, "facter": 2.0}, None, "'facter'; did you mean 'factor'"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 32}, None, "'beta_fast'; it belongs to yarn"),
        ({"rope_type": "linear", "factor": 2.0}, 64, "does not depend on a target_length, got 64"),
        (YARN | {"truncate": 1}, None, "truncate must be true or false"),
        (YARN | {"beta_fast": 0.5}, None, "beta_fast must be above beta_slow"),
        (YARN | {"mscale": 1.0}, None, "mscale and mscale_all_dim go together"),
        (YARN | {"mscale_all_dim": 1.0, "attention_factor": 1.0}, None, "replaces mscale_all_dim, got both"),
        (LONGROPE, 0, "target_length must be > 0, got 0"),
        (LLAMA3 | {"high_freq_factor": 1.0}, None, "high_freq_factor must be above low_freq_factor"),
        (LONGROPE, None, "longrope needs target_length, the longest sequence length"),
        (LONGROPE | {"long_factor": [1.0, 2.0]}, 10, "long_factor must hold 4 positive numbers"),
        (LONGROPE | {"factor": 32.0}, 10, "factor replaces max_position_embeddings"),
        (LONGROPE | {"original_max_position_embeddings": 1}, 10, "embeddings must be above 1, got 1"),
        ({"rope_type": "ntk", "factor": 1e300}, None, "in the range of float64, got {.factor.: 1e[+]300"),
        (LONGROPE | {"max_position_embeddings": None}, 10, "needs factor, max_position_embeddings or"),
        ({"rope_type": "proportional", "partial_rotary_factor": 1.5}, None, "must be in \\(0, 1\\], got 1.5"),
        ({"rope_type": "default", "factor": 2.0}, None, "default does not read the key 'factor'"),
    ],
)
def test_a_wrong_scaling_is_refused(scaling, target_length, message):
    with pytest.raises(ValueError, match=message):
        scaled(scaling, dim=8, target_length=target_length)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interpolate_factor": 2.0, "scaling": YARN}, "interpolate_factor cannot be combined with scaling"),
        ({"theta_rescale_factor": 2.0, "scaling": YARN}, "theta_rescale_factor cannot be combined with"),
        ({"theta_rescale_factor": 0.5}, "theta_rescale_factor must be >= 1"),
        ({"dim": 2, "theta_rescale_factor": 2.0}, "must be 1 with dim 2"),
        ({"theta": 500.0, "scaling": YARN | {"rope_theta": 1e6}}, "theta is 500.0, but .* rope_theta"),
        ({"freqs_for": "pixel", "scaling": YARN}, "yarn needs theta, which only language frequencies have"),
        ({"custom_freqs": [1.0] * 4, "scaling": {"rope_type": "ntk", "factor": 2}}, "ntk needs theta"),
        ({"target_length": 64}, "does not depend on a target_length"),
        ({"scaling": {"rope_type": "default", "partial_rotary_factor": 0.4}}, "must be even"),
    ],
)
def test_options_beside_a_scaling_that_contradict_it_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(**{"dim": 8} | arguments)


def test_a_scaling_that_is_only_a_name_is_refused():
    for call in (lambda: RotaryEmbedding(8, scaling="yarn"), lambda: scaled("yarn")):
        with pytest.raises(TypeError, match=r"scaling must be a dict, .* got 'yarn'"):
            call()
