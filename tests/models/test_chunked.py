"""Chunked attention against full attention, and its memory."""

import math
import os
import re
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf

import models.chunked
from models.chunked import AUTO_LENGTH, attend_in_chunks, is_chunked
from models.kernels import CausalMask, attend

BATCH, HEADS, HEAD_DIM = 2, 6, 8
DOCUMENTS = np.cumsum(np.random.default_rng(7).random((BATCH, 70)) < 0.1, axis=1).astype(np.int32)
MASKS = {
    "none": None,
    "causal": {},
    "padding": {"padding": np.array([0, 5], np.int32)},
    "documents": {"segment_ids": DOCUMENTS},
    "alibi": {"alibi_heads": HEADS},
    "blocks_of_documents": {"block": 3, "segment_ids": DOCUMENTS, "alibi_heads": HEADS},
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(models.chunked, "TILE", 8)


def parts_of(length, *, kv_heads=3, dtype="float32"):
    """Queries, keys, values, and the gradient of the output."""
    shapes = [(BATCH, heads, length, HEAD_DIM) for heads in (HEADS, kv_heads, kv_heads, HEADS)]
    random = np.random.default_rng(length)
    return [tf.constant(random.normal(size=shape), dtype) for shape in shapes]


def mask_of(name, dtype="float32"):
    if MASKS[name] is None:
        return None
    arrays = {key: tf.constant(value) for key, value in MASKS[name].items() if isinstance(value, np.ndarray)}
    return CausalMask(dtype, **MASKS[name] | arrays)


def full(queries, keys, values, mask):
    columns = tf.range(tf.shape(queries)[2])
    return attend(queries, keys, values, None if mask is None else mask.bias(columns, columns))


def results_of(kernel, queries, keys, values, upstream, mask):
    """Output, and the gradients of queries, keys and values."""
    with tf.GradientTape() as tape:
        tape.watch([queries, keys, values])
        mixed = kernel(queries, keys, values, mask)
        if mask is not None and mask.padding is not None:
            # The output at padding is not defined: every key is hidden there.
            columns = tf.range(mixed.shape[2])[:, tf.newaxis]
            mixed *= tf.cast(columns >= mask.padding[:, tf.newaxis, tf.newaxis, tf.newaxis], mixed.dtype)
    return [mixed, *tape.gradient(mixed, [queries, keys, values], upstream)]


def assert_same(found, expected, *, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = (tf.cast(x, tf.float32).numpy() for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=tolerance * max(1, np.std(theirs)))


@pytest.mark.parametrize(
    ("mask", "kv_heads", "length"), [*((mask, 3, 41) for mask in MASKS), ("causal", 6, 24), ("causal", 1, 1)]
)
def test_chunked_attention_and_its_gradients_equal_full_attention(mask, kv_heads, length):
    parts = parts_of(length, kv_heads=kv_heads)
    found, expected = (results_of(kernel, *parts, mask_of(mask)) for kernel in (attend_in_chunks, full))
    assert_same(found, expected, tolerance=1e-5)  # float32


@pytest.mark.parametrize("mask", ["none", "causal"])
def test_an_empty_batch_has_an_empty_output_and_empty_gradients(mask):
    parts = [part[:0] for part in parts_of(41)]
    queries, keys, values, _ = parts
    results = results_of(attend_in_chunks, *parts, mask_of(mask))
    assert [x.shape for x in results] == [queries.shape, queries.shape, keys.shape, values.shape]


@pytest.mark.parametrize(
    ("mask", "cores", "heads"),
    [("documents", 1, [6]), ("documents", 3, [2] * 3), ("none", 9, [2] * 3), ("alibi", 3, [6])],
)
def test_groups_of_heads_are_computed_apart_except_under_alibi(monkeypatch, mask, cores, heads):
    attend_in_tiles = Mock(wraps=models.chunked._attend_in_tiles)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setattr(models.chunked, "_attend_in_tiles", attend_in_tiles)
    parts, mask = parts_of(41), mask_of(mask)
    assert_same([attend_in_chunks(*parts[:3], mask)], [full(*parts[:3], mask)], tolerance=1e-5)  # float32
    assert [call.args[0].shape[1] for call in attend_in_tiles.call_args_list] == heads


def test_a_query_without_visible_keys_is_finite():
    """The exponential of the difference between its scores, -1e9 - 400, and -1e9 is zero."""
    queries = tf.fill((BATCH, HEADS, 20, HEAD_DIM), 12.0)
    mask = mask_of("padding")
    assert np.isfinite(attend_in_chunks(queries, -queries, queries, mask)).all()


@pytest.mark.parametrize(
    ("mask", "length", "jit_compile"),
    [
        ("none", None, False),
        ("blocks_of_documents", None, False),
        pytest.param("documents", 33, True, marks=pytest.mark.slow),
        ("causal", 17, True),
    ],
)
def test_chunks_equal_full_attention_in_graphs_of_known_and_unknown_length(mask, length, jit_compile):
    parts, traces = parts_of(length or 33), []
    signature = [tf.TensorSpec((None, part.shape[1], length, HEAD_DIM)) for part in parts]

    @tf.function(input_signature=signature, jit_compile=jit_compile)
    def compiled(*parts):
        traces.append(None)
        return results_of(attend_in_chunks, *parts, mask_of(mask))

    shorter = [part[:, :, :21] for part in parts]
    for inputs in [parts] if length else [parts, shorter]:
        assert_same(compiled(*inputs), results_of(full, *inputs, mask_of(mask)), tolerance=1e-5)  # float32
    assert len(traces) == 1


@pytest.mark.parametrize("mask", ["documents", "alibi"])
def test_chunks_in_bfloat16_are_as_accurate_as_full_attention(mask):
    exact = results_of(full, *parts_of(70), mask_of(mask))

    def errors(kernel):
        found = results_of(kernel, *parts_of(70, dtype="bfloat16"), mask_of(mask, "bfloat16"))
        assert {x.dtype for x in found} == {tf.bfloat16}
        return [np.std(tf.cast(a, tf.float32) - b) / np.std(b) for a, b in zip(found, exact, strict=True)]

    assert np.all(np.array(errors(attend_in_chunks)) < 1.3 * np.array(errors(full)))


def test_gradients_of_many_chunks_in_bfloat16_add_up(monkeypatch):
    """A bfloat16 sum of ones stops at 256."""
    monkeypatch.setattr(models.chunked, "TILE", 1)
    length = 300
    queries, ones = tf.zeros((1, 1, length, 2), tf.bfloat16), tf.ones((1, 1, length, 2), tf.bfloat16)
    gradients = tf.function(results_of)(attend_in_chunks, queries, ones, ones, ones, None)
    np.testing.assert_allclose(tf.cast(gradients[-1], tf.float32), 1, rtol=2**-6)  # bfloat16


def test_lengths_of_eager_calls_share_a_compiled_program():
    attend_in_chunks(*parts_of(33)[:3], mask_of("causal"))
    count = models.chunked._attend_in_tiles.experimental_get_tracing_count()
    attend_in_chunks(*parts_of(40)[:3], mask_of("causal"))
    assert models.chunked._attend_in_tiles.experimental_get_tracing_count() == count


@pytest.mark.parametrize("dtype", AUTO_LENGTH)
def test_auto_chunks_long_and_unknown_lengths_on_a_cpu(monkeypatch, dtype):
    lengths = 1, AUTO_LENGTH[dtype] - 1, AUTO_LENGTH[dtype], None
    assert [is_chunked("auto", length, dtype) for length in lengths] == [False, False, True, True]
    assert is_chunked("chunked", 1, dtype) and not is_chunked("full", None, dtype)
    assert not is_chunked("chunked", None, "float64")  # tiles are float32
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert not is_chunked("auto", None, dtype) and is_chunked("chunked", None, dtype)  # on a GPU


def largest_tensor(kernel, length):
    """Elements of the largest tensor in the XLA program of the kernel and its gradients."""

    @tf.function(jit_compile=True)
    def gradients(*parts):
        return results_of(kernel, *parts, mask_of("causal"))

    text = gradients.experimental_get_compiler_ir(*parts_of(length))(stage="hlo")
    return max(math.prod(map(int, sizes.split(","))) for sizes in re.findall(r"\[(\d[\d,]*)\]", text))


@pytest.mark.slow
def test_memory_of_chunks_is_proportional_to_the_length():
    once, twice = (largest_tensor(attend_in_chunks, length) for length in (64, 128))
    assert 1.5 * once < twice <= 2 * once
    assert largest_tensor(full, 128) == 4 * largest_tensor(full, 64) == BATCH * HEADS * 128**2
