"""Models as `tf.Module`s whose functions need no Python code: the content of an exported file.

Shape words: batch; width, the bytes of the longest prompt; length, the tokens to generate; vocab_size;
height, width and channels of images.
"""

from functools import partial

import keras
import numpy as np
import tensorflow as tf

from models.grid import triangle_weights
from models.transformer import TransformerLM
from models.vit import AxialViT

NUM_BYTES = 256
ENDED = -1  # token of a row that has ended


def text_module(model: TransformerLM, *, stop_token: int) -> tf.Module:
    """Module with `logits` and `generate` of a language model.

    `logits(tokens)`: (batch, length) int32 to {"logits": (batch, length, vocab_size) float32}.

    `generate(text, length, temperature, seed)`: (batch,) texts, each with up to `length` more bytes; fewer if
    the model generates `stop_token`. Temperature 0 is greedy. For a vocabulary that is not that of bytes,
    `generate(tokens, ...)`: (batch, width) int32 to (batch, width + length), `ENDED` after the end of a row.

    Args:
        model: a float32 model.
        stop_token: token that ends a row.
    """
    module = variables_module(model)
    generate = partial(generate_tokens, model, stop_token=stop_token)
    options = [tf.TensorSpec((), *spec) for spec in ((tf.int32, "length"), (tf.float32, "temperature"))]
    options.append(tf.TensorSpec((), tf.int32, "seed"))

    def logits(tokens):
        return {"logits": model(tokens)}

    def generate_text(text, length, temperature, seed):
        sizes = tf.strings.length(text)  # (batch,)
        tf.debugging.assert_positive(sizes, "a prompt is empty; give at least one byte")
        width = tf.reduce_max(sizes)
        padding = width - sizes  # (batch,)
        tokens = tf.cast(tf.io.decode_raw(text, tf.uint8, fixed_length=width), tf.int32)
        columns = (tf.range(width) - padding[:, tf.newaxis]) % width  # (batch, width): padding to the left
        tokens = generate(tf.gather(tokens, columns, batch_dims=1), padding, length, temperature, seed)
        pieces = tf.gather(tf.constant([*all_bytes(), b""]), tokens[:, width:] % (NUM_BYTES + 1))
        return {"text": tf.strings.join([text, tf.strings.reduce_join(pieces, axis=1)])}

    def generate_from_tokens(tokens, length, temperature, seed):
        padding = tf.zeros(tf.shape(tokens)[:1], tf.int32)  # (batch,)
        return {"tokens": generate(tokens, padding, length, temperature, seed)}

    tokens = model.input_spec_for_export()
    module.main = module.logits = tf.function(logits, [tokens], autograph=False)
    if model.config.vocab_size == NUM_BYTES:
        text = tf.TensorSpec((None,), tf.string, "text")
        module.generate = tf.function(generate_text, [text, *options], autograph=False)
    else:
        module.generate = tf.function(generate_from_tokens, [tokens, *options], autograph=False)
    return module


def generate_tokens(model, prompts, padding, length, temperature, seed, *, stop_token):
    """(batch, width + length) tokens; a full context slides as that of `models.sampling.Sampler`.

    `prompts` are (batch, width) int32 with (batch,) `padding` columns at the left.
    """
    capacity = model.config.context_length
    batch, width = tf.unstack(tf.shape(prompts))

    def step(end, tokens, starts, has_ended, cache):
        """Appends column `end`; each row is read from column `starts` (batch,) on."""

        def refill():
            first = tf.reduce_min(starts)
            return tokens[:, first:end], model.make_cache(batch, padding=starts - first)

        window, cache = tf.cond(cache[0].start == capacity, refill, lambda: (tokens[:, end - 1 : end], cache))
        logits, cache = model.decode(tf.maximum(window, 0), cache)
        # The largest sum of logit and Gumbel noise is a sample of the softmax.
        uniform = tf.random.stateless_uniform(
            (batch, model.config.vocab_size), [seed, end], np.finfo(np.float32).tiny, alg="philox"
        )
        noise = -tf.math.log(-tf.math.log(uniform))  # (batch, vocab_size)
        chosen = tf.argmax(logits[:, -1] + temperature * noise, axis=-1, output_type=tf.int32)  # (batch,)
        has_ended |= chosen == stop_token
        column = tf.where(has_ended, ENDED, chosen)[:, tf.newaxis]  # (batch, 1)
        end += 1
        starts = tf.where(end - starts > capacity, end - max(1, capacity // 2), starts)
        return end, tf.concat([tokens[:, : end - 1], column, tokens[:, end:]], axis=1), starts, has_ended, cache

    tokens = tf.pad(prompts, [[0, 0], [0, length]], constant_values=ENDED)  # (batch, width + length)
    cache = model.make_cache(batch)
    cache = (cache[0]._replace(start=capacity), *cache[1:])  # refilled in the first step
    state = (width, tokens, tf.maximum(padding, width - capacity), tf.zeros([batch], tf.bool), cache)
    shapes = tf.nest.map_structure(lambda spec: spec.shape, model.cache_spec(capacity))
    _, tokens, *_ = tf.while_loop(
        lambda end, tokens, starts, has_ended, cache: (end < width + length) & ~tf.reduce_all(has_ended),
        step,
        state,
        shape_invariants=(width.shape, tf.TensorShape((None, None)), padding.shape, padding.shape, shapes),
    )
    return tokens


def all_bytes() -> np.ndarray:
    """The 256 bytes; of dtype object, since NumPy's own strings end at a zero."""
    return np.array([bytes([byte]) for byte in range(NUM_BYTES)], object)


def image_module(model: AxialViT, *, mean: np.ndarray, deviation: np.ndarray) -> tf.Module:
    """Module with `predict` of a vision transformer.

    `predict(images)`: (batch, height, width, channels) uint8 images of any size, cropped and resized to those
    of the training, to {"logits": (batch, num_classes), "probabilities": (batch, num_classes)}.

    Args:
        model: a float32 model.
        mean, deviation: (channels,) statistics of the training pixels in [0, 1].
    """
    module = variables_module(model)

    def predict(images):
        pixels = fit_pixels(tf.cast(images, tf.float32), model.config.image_size)
        logits = model((pixels / 255 - mean) / deviation)  # (batch, num_classes)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    images = tf.TensorSpec((None, None, None, model.config.channels), tf.uint8, "images")
    module.main = module.predict = tf.function(predict, [images], autograph=False)
    return module


def fit_pixels(images: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """`data.image_files.fit_images` in operations that every format knows: float32 in and out."""
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)  # height and width
    fitting = sides[::-1] * tf.constant([image_size[0] / image_size[1], image_size[1] / image_size[0]])
    new_sides = tf.minimum(sides, tf.maximum(tf.round(fitting), 1))  # of the centre crop
    (top, left), (height, width) = (
        tf.unstack(tf.cast(x, tf.int32)) for x in ((sides - new_sides) // 2, new_sides)
    )
    images = images[:, top : top + height, left : left + width]  # (batch, *new_sides, channels)
    images = tf.einsum("ir,brcd->bicd", triangle_weights(image_size[0], height), images)
    images = tf.einsum("jc,bicd->bijd", triangle_weights(image_size[1], width), images)
    return tf.round(images)  # (batch, *image_size, channels)


def variables_module(model: keras.Model) -> tf.Module:
    """A module that saves the variables of a model, but not the model."""
    module = tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    return module
