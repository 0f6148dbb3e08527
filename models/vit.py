"""Vision transformer with rotary positions along rows and columns.

Shape words: batch, height, width, channels in pixels; rows, columns of patches; dim, head_dim, num_classes;
length = rows * columns, plus 1 with a class token.
"""

import keras
import tensorflow as tf

from models.attention import BlockOptions, CosSinPair, projection
from models.block import Block, draw_seed, dropout, fold_in, recompute
from models.chunked import attend_in_chunks, is_chunked
from models.config import AxialViTConfig
from models.kernels import RMSNorm, attend
from models.position_embeddings import resize, sinusoidal_grid
from models.saving import ConfiguredModel
from rope.axial import AxialRotaryEmbedding, MixedRotaryEmbedding
from rope.embedding import RotaryEmbedding
from rope.positions import grid_positions, size_of
from rope.rotation import compute_cos_sin

# Learned positions and the class token start near the size of the embedded patches, as sinusoids do.
EMBEDDING_STDDEV = 0.5


@keras.saving.register_keras_serializable(package="models")
class AxialViT(ConfiguredModel):
    """Vision transformer (arXiv 2010.11929) with axial rotary embedding (RoPE-ViT, arXiv 2403.13298).

    The blocks are those of the language model, without the causal mask.

    Args:
        config: sizes and options, see `AxialViTConfig`; every size must be set.
        dtype: Keras dtype policy, `float32` or `mixed_bfloat16`.

    Call arguments:
        images: (batch, height, width, channels) float, of any size that the patch size divides.
        training: whether to apply dropout.
        seed: (2,) int32 seed of all dropout in this call; None draws one from Keras' generator, as in `fit`.

    Returns:
        (batch, num_classes) logits, float32.

    Raises:
        ValueError: if the config is incomplete or invalid, or the images do not match.

    Example:

    >>> config = AxialViTConfig(dim=16, num_layers=1, mlp_dim=32).for_images(8, 8, channels=1, num_classes=10)
    >>> model = AxialViT(config)
    >>> model(tf.zeros((2, 12, 8, 1))).shape
    TensorShape([2, 10])
    """

    config_class = AxialViTConfig

    def __init__(self, config: AxialViTConfig, *, dtype: str = "float32"):
        super().__init__(dtype=dtype, name="axial_vit")
        for key in ("image_size", "channels", "num_classes", "patch_size"):
            if getattr(config, key) is None:
                raise ValueError(f"{key} is not set: fill it in from the data with config.for_images().")
        self.config = config
        self.export_spec = tf.TensorSpec((None, None, None, config.channels), tf.float32, name="images")
        policy = self.dtype_policy
        pixels = config.patch_size**2 * config.channels
        self.patch_embedding = projection(
            config.dim, stddev=pixels**-0.5, dtype=policy, name="patch_embedding"
        )
        self.position_embedding = self.class_token = None
        if config.position == "learned":
            rows, columns = config.grid
            self.position_embedding = self._embedding("position_embedding", (rows * columns, config.dim))
        if config.pooling == "class_token":
            self.class_token = self._embedding("class_token", (config.dim,))
        self.rotaries = self._make_rotaries()
        stddev = config.dim**-0.5  # at 0.02, as in the language model, small models learn digits worse
        options = BlockOptions(
            dim=config.dim,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_dim=config.head_size,
            mlp_dim=config.mlp_dim,
            input_stddev=stddev,
            output_stddev=stddev * (2 * config.num_layers) ** -0.5,
            attention=config.attention,
            layout=config.rope.layout,
            qk_norm=config.qk_norm,
            learned_rotations=config.learned_rotations,
            num_unrotated=int(config.pooling == "class_token"),
            dropout=config.dropout,
        )
        rates = [config.drop_path * (index + 1) / config.num_layers for index in range(config.num_layers)]
        self.blocks = [
            Block(options, drop_path_rate=rate, dtype=policy, name=f"block_{index}")
            for index, rate in enumerate(rates)
        ]
        self.norm = RMSNorm(dtype=policy, name="norm")
        self.head = keras.layers.Dense(
            config.num_classes, use_bias=False, kernel_initializer="zeros", dtype=policy, name="head"
        )
        self.built = True  # the layers build themselves in the call that creates the weights
        self(tf.zeros((1, *config.image_size, config.channels)))

    def call(self, images: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        config = self.config
        if training and max(config.dropout, config.drop_path) > 0 and seed is None:
            seed = draw_seed()
        self._check_images(images.shape)
        seed = seed if training else None
        rows, columns = (size_of(images, axis) // config.patch_size for axis in (1, 2))
        x = self.patch_embedding(extract_patches(images, config.patch_size))  # (batch, rows, columns, dim)
        x = self._add_positions(x, rows, columns)
        if config.attention == "full":
            x = tf.reshape(x, (-1, rows * columns, config.dim))  # (batch, length, dim)
        if self.class_token is not None:
            token = tf.broadcast_to(tf.cast(self.class_token, x.dtype), (tf.shape(x)[0], 1, config.dim))
            x = tf.concat([token, x], axis=1)  # (batch, 1 + rows * columns, dim)
        x = dropout(x, config.dropout, fold_in(seed, len(self.blocks)))
        cos_sin = self._cos_sin(rows, columns)
        for index, block in enumerate(self.blocks):
            options = {"cos_sin": cos_sin[index], "kernel": self._attend, "seed": fold_in(seed, index)}
            if training and config.recompute_blocks:
                x = recompute(block, x, **options)
            else:
                x, _ = block(x, **options)
        x = self.norm(x)
        if self.class_token is not None:
            pooled = x[:, 0]  # (batch, dim)
        else:
            pooled = tf.reduce_mean(tf.cast(x, tf.float32), axis=range(1, x.shape.rank - 1))  # (batch, dim)
        return tf.cast(self.head(pooled), tf.float32)  # (batch, num_classes)

    def _embedding(self, name, shape):
        # autocast would resample the positions in bfloat16 under a mixed policy.
        normal = keras.initializers.RandomNormal(stddev=EMBEDDING_STDDEV)
        return self.add_weight(name=name, shape=shape, initializer=normal, dtype="float32", autocast=False)

    def _make_rotaries(self) -> list[AxialRotaryEmbedding] | list[MixedRotaryEmbedding]:
        """One embedding for all blocks, or one for each, or none."""
        config = self.config
        if config.position == "axial":
            options = zip(config.rotary_options(), ("row_rotary", "column_rotary"), strict=True)
            parts = [RotaryEmbedding(**kwargs, name=name) for kwargs, name in options]
            return [AxialRotaryEmbedding(parts, name="rotary")]
        if config.position == "mixed":
            return [
                MixedRotaryEmbedding(
                    config.num_heads,
                    config.head_size,
                    theta=config.rope.theta,
                    layout=config.rope.layout,
                    interpolate_factor=config.rope.interpolate_factor,
                    seed=index,
                    name=f"rotary_{index}",
                )
                for index in range(config.num_layers)
            ]
        return []

    def _add_positions(self, x, rows, columns):
        if self.config.position == "learned":
            grid = tf.reshape(self.position_embedding, (*self.config.grid, self.config.dim))
            if x.shape[1:3] != self.config.grid:
                grid = resize(grid, (rows, columns), axes=(0, 1), method="cubic")  # (rows, columns, dim)
            return x + tf.cast(grid, x.dtype)
        if self.config.position == "sinusoidal":
            return x + tf.cast(sinusoidal_grid(rows, columns, self.config.dim), x.dtype)
        return x

    def _attend(self, queries, keys, values):
        is_long = is_chunked(self.config.attention_kernel, values.shape[2], self.compute_dtype)
        return (attend_in_chunks if is_long else attend)(queries, keys, values)

    def _cos_sin(self, rows, columns) -> list[list[CosSinPair | None]]:
        """`cos_sin` of queries and keys of each attention layer of each block."""
        # Within a row all patches have the same row angle, which cancels: row 0 serves every row.
        grids = [(rows, columns)] if self.config.attention == "full" else [(1, columns), (rows, 1)]
        if not self.rotaries:
            return [[None] * len(grids)] * len(self.blocks)
        coordinates = "cells" if self.config.rope.counts_patches else "unit"
        pairs = []
        for rotary in self.rotaries:
            cos_sin = [rotary.cos_sin(grid_positions(*grid, coordinates=coordinates)) for grid in grids]
            if self.class_token is not None:  # which is not rotated
                unrotated = compute_cos_sin(tf.zeros_like(cos_sin[0][..., :1, :, 0]))
                cos_sin = [tf.concat([unrotated, cos_sin[0]], axis=-3)]  # (..., 1 + length, head_dim / 2, 2)
            pairs.append([(part, part) for part in cos_sin])
        return pairs if len(pairs) == len(self.blocks) else pairs * len(self.blocks)

    def _check_images(self, shape: tf.TensorShape) -> None:
        config = self.config
        if shape.rank != 4:
            raise ValueError(f"images must be (batch, height, width, channels), got shape {shape}.")
        if shape[3] != config.channels:
            raise ValueError(f"images must have {config.channels} channels, got {shape[3]}.")
        if any(side is not None and side % config.patch_size for side in shape[1:3]):
            size = f"patch_size {config.patch_size}"
            raise ValueError(f"the sides of images must be multiples of {size}, got {shape[1]}x{shape[2]}.")


def extract_patches(images: tf.Tensor, size: int) -> tf.Tensor:
    """(batch, height, width, channels) to (batch, rows, columns, size * size * channels)."""
    batch, rows, columns = tf.shape(images)[0], size_of(images, 1) // size, size_of(images, 2) // size
    channels = images.shape[-1]
    patches = tf.reshape(images, (batch, rows, size, columns, size, channels))
    patches = tf.transpose(patches, (0, 1, 3, 2, 4, 5))  # (batch, rows, columns, size, size, channels)
    return tf.reshape(patches, (batch, rows, columns, size * size * channels))
