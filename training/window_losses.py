"""Losses of single targets in windows of text, and their mean over documents."""

import math
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf


class WindowEvaluator(Protocol):
    def __call__(
        self, inputs: np.ndarray, targets: np.ndarray, *, attention_block: int | None = None
    ) -> np.ndarray: ...


def make_window_evaluator(model: keras.Model, *, compile_mode: str) -> WindowEvaluator:
    """Function from inputs (batch, window) and targets (batch, stride) to losses (batch, stride) in nats.

    The targets follow the last `stride` inputs of their row; the loss of a masked (negative) target is 0.
    `model` is a `TransformerLM`, whose documentation describes `attention_block`.
    """

    @tf.function(jit_compile=compile_mode == "xla")
    def losses(inputs, targets, attention_block):
        stride = targets.shape[1]
        logits = model(inputs, attention_block=attention_block, last=stride)  # (batch, stride, classes)
        values = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(targets, 0), logits)
        return tf.where(targets >= 0, values, 0.0)  # (batch, stride)

    def evaluate(inputs, targets, *, attention_block=None):
        return losses(tf.constant(inputs), tf.constant(targets), attention_block).numpy()

    return evaluate


def mean_over_documents(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Mean over the targets of all documents, and its standard error with documents as the sampling unit.

    The targets of one document are correlated, so that they are not independent samples. The mean is a ratio
    of two sums over documents; its error is that of the linearised ratio (Cochran 1977, Sampling Techniques,
    2.11).

    Args:
        sums: (documents,) sum over the targets of each document.
        counts: (documents,) number of targets of each document.

    Returns:
        The mean, and its standard error: NaN for a single document.
    """
    mean = sums.sum() / counts.sum()
    if len(sums) < 2:
        return float(mean), math.nan
    residuals = sums - mean * counts  # (documents,)
    scale = len(sums) / (len(sums) - 1) / counts.sum() ** 2
    return float(mean), math.sqrt(scale * (residuals**2).sum())
