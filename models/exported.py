"""Functions of an exported model, as a `tf.Module` that needs no Python code.

Shape words: batch; width, the tokens of the longest prompt; length, the tokens to generate; vocab_size.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from models.position_embeddings import resize
from models.sampling import FINISHED
from models.transformer import TransformerLM
from models.vit import AxialViT

ROUND_UP = 0.501  # as in `data.image_files`


def text_module(model: TransformerLM, *, tokens_are_bytes: bool, stop_tokens: Sequence[int]) -> tf.Module:
    """Module of a float32 language model; a row ends at one of `stop_tokens`.

    `logits(tokens)` takes (batch, length) int32 and returns {"logits": (batch, length, vocab_size)}.
    `generate(text, length, temperature, seed)` continues (batch,) texts by at most `length` bytes, greedily
    at temperature 0. Unless `tokens_are_bytes`, it takes (batch, width) int32 `tokens`, and returns them with
    `length` more columns, which are -1 after the end of a row.
    """

    def logits(tokens):
        return {"logits": model(tokens)}

    def generate_text(text, length, temperature, seed):
        sizes = tf.strings.length(text)  # (batch,)
        tf.debugging.assert_positive(sizes, "a prompt is empty; give at least one byte.")
        width = tf.reduce_max(sizes)
        padding = width - sizes
        tokens = tf.io.decode_raw(text, tf.uint8, fixed_length=width)  # (batch, width), padded on the right
        columns = (tf.range(width) - padding[:, tf.newaxis]) % width  # (batch, width), padded on the left
        tokens = tf.gather(tf.cast(tokens, tf.int32), columns, batch_dims=1)
        tokens = generate_tokens(model, tokens, padding, length, temperature, seed, stop_tokens)
        # Of dtype object, since NumPy's strings end at a zero byte; an ended row is continued by nothing.
        pieces = np.array([*(bytes([byte]) for byte in range(256)), b""], object)
        added = tf.gather(tf.constant(pieces), tokens[:, width:] % len(pieces))  # (batch, length)
        return {"text": tf.strings.join([text, tf.strings.reduce_join(added, axis=1)])}

    def generate(tokens, length, temperature, seed):
        padding = tf.zeros(tf.shape(tokens)[:1], tf.int32)
        return {"tokens": generate_tokens(model, tokens, padding, length, temperature, seed, stop_tokens)}

    module = module_of(model)
    prompts = model.export_spec
    if tokens_are_bytes:
        prompts, generate = tf.TensorSpec((None,), tf.string, "text"), generate_text
    options = (("length", tf.int32), ("temperature", tf.float32), ("seed", tf.int32))
    signature = [prompts, *(tf.TensorSpec((), dtype, name) for name, dtype in options)]
    module.main = module.logits = tf.function(logits, [model.export_spec], autograph=False)
    module.generate = tf.function(generate, signature, autograph=False)
    return module


def generate_tokens(model, prompts, padding, length, temperature, seed, stop_tokens):
    """(batch, width + length) tokens, from (batch, width) prompts with (batch,) padding at the left."""
    tf.debugging.assert_non_negative(temperature, "temperature must be at least 0")
    capacity = model.config.context_length
    batch, width = tf.unstack(tf.shape(prompts))

    def append(end, tokens, starts, has_ended, cache):
        """Writes column `end`; each row is read from its column in `starts` (batch,) on."""

        def read_again():
            first = tf.reduce_min(starts)
            return tokens[:, first:end], model.make_cache(batch, padding=starts - first)

        is_full = cache[0].start == capacity
        window, cache = tf.cond(is_full, read_again, lambda: (tokens[:, end - 1 : end], cache))
        logits, cache = model.decode(tf.maximum(window, 0), cache)
        # The largest sum of logit and Gumbel noise is a sample of the softmax.
        shape, lowest = (batch, model.config.vocab_size), np.finfo(np.float32).tiny
        uniform = tf.random.stateless_uniform(shape, [seed, end], lowest, alg="philox")
        scores = logits[:, -1] - temperature * tf.math.log(-tf.math.log(uniform))  # (batch, vocab_size)
        chosen = tf.argmax(scores, axis=-1, output_type=tf.int32)  # (batch,)
        has_ended |= tf.reduce_any(chosen[:, tf.newaxis] == stop_tokens, axis=1)
        column = tf.where(has_ended, FINISHED, chosen)[:, tf.newaxis]  # (batch, 1)
        tokens = tf.concat([tokens[:, :end], column, tokens[:, end + 1 :]], axis=1)
        starts = tf.where(end + 1 - starts > capacity, end + 1 - max(1, capacity // 2), starts)
        return end + 1, tokens, starts, has_ended, cache

    tokens = tf.pad(prompts, [[0, 0], [0, length]], constant_values=FINISHED)  # (batch, width + length)
    cache = model.make_cache(batch)
    cache = (cache[0]._replace(start=capacity), *cache[1:])  # full, so that the prompts are read
    state = (width, tokens, tf.maximum(padding, width - capacity), tf.zeros([batch], tf.bool), cache)
    cache_shapes = tf.nest.map_structure(lambda spec: spec.shape, model.cache_spec(capacity))
    return tf.while_loop(
        lambda end, tokens, starts, has_ended, cache: (end < width + length) & ~tf.reduce_all(has_ended),
        append,
        state,
        shape_invariants=(*(tf.TensorShape([None] * x.shape.rank) for x in state[:4]), cache_shapes),
    )[1]


def image_module(model: AxialViT, *, mean: np.ndarray, deviation: np.ndarray) -> tf.Module:
    """Module of a float32 vision transformer.

    `predict(images)` takes (batch, height, width, channels) uint8 of any size, and returns
    {"logits": (batch, num_classes), "probabilities": (batch, num_classes)}. `mean` and `deviation` are
    (channels,), of the training pixels in [0, 1].
    """

    def predict(images):
        pixels = fit_pixels(tf.cast(images, tf.float32), model.config.image_size)
        logits = model((pixels / 255 - mean) / deviation)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    module = module_of(model)
    images = tf.TensorSpec(model.export_spec.shape, tf.uint8, "images")
    module.main = module.predict = tf.function(predict, [images], autograph=False)
    return module


def fit_pixels(images: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """`data.image_files.fit_images` of float32 images, in operations that LiteRT and ONNX know."""
    sides, size = tf.cast(tf.shape(images)[1:3], tf.float32), np.float32(image_size)
    # Multiplied first, so that halves are exact.
    crop = tf.minimum(sides, tf.maximum(tf.round(sides[::-1] * size / size[::-1]), 1))
    top, left = tf.unstack(tf.cast((sides - crop) // 2, tf.int32))
    height, width = tf.unstack(tf.cast(crop, tf.int32))
    images = images[:, top : top + height, left : left + width]  # (batch, height, width, channels)
    images = resize(images, image_size, axes=(1, 2), method="linear")
    return tf.floor(images + ROUND_UP)  # (batch, *image_size, channels)


def module_of(model: keras.Model) -> tf.Module:
    """Module with the variables of a model: as an attribute, the model would be saved with its layers."""
    module = tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    return module
