"""A small vision transformer whose attention knows rows and columns by rotation."""

from functools import partial

import keras
import tensorflow as tf

from models.config import AxialViTConfig
from models.fused import RMSNorm
from models.grid import (
    axial_table,
    mixed_table,
    patches_of,
    resampled_grid,
    sinusoidal_grid,
    with_unrotated_first,
)
from models.layers import dropout, fold_in, projection, recomputed
from models.vision_block import VisionBlock
from rope.axial import MixedRotaryEmbedding
from rope.embedding import RotaryEmbedding
from rope.positions import size_of

NORM_EPSILON = 1e-5
# Of learned positions and the class token: near the size of the patches, as that of the sinusoids is.
EMBEDDING_STDDEV = 0.5


class AxialViT(keras.Model):
    """Vision transformer (arXiv 2010.11929) with axial rotary embedding (RoPE-ViT, arXiv 2403.13298).

    The blocks are those of the language model, without the causal mask.

    Args:
        config: sizes and options, see `AxialViTConfig`; none may be open.
        dtype: Keras dtype policy, `float32` or `mixed_bfloat16`.

    Call arguments:
        images: (batch, height, width, channels) float, of any size that the patch size divides.
        training: whether to drop out.
        seed: (2,) int32 that all dropout of this call is drawn from; needed if training with dropout.

    Returns:
        (batch, num_classes) logits, float32.

    Raises:
        ValueError: if the config is open or contradicts itself, a seed is missing, or the images do not fit.

    Example:

    >>> config = AxialViTConfig(dim=16, num_layers=1, mlp_dim=32).for_images(8, 8, channels=1, num_classes=10)
    >>> model = AxialViT(config)
    >>> model(tf.zeros((2, 12, 8, 1))).shape
    TensorShape([2, 10])
    """

    def __init__(self, config: AxialViTConfig, *, dtype: str = "float32"):
        super().__init__(dtype=dtype, name="axial_vit")
        check(config)
        self.config = config
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
        self.rotaries = self._rotaries()
        # By the width: at 0.02, the language model's, small models learn digits worse.
        stddev = config.dim**-0.5
        self.blocks = [
            VisionBlock(
                attention=config.attention,
                num_heads=config.num_heads,
                head_dim=config.head_dim,
                mlp_dim=config.mlp_dim,
                qk_norm=config.qk_norm,
                layout=config.rope.layout,
                learned_rotations=config.learned_rotations,
                num_unrotated=int(config.pooling == "class_token"),
                norm_epsilon=NORM_EPSILON,
                input_stddev=stddev,
                output_stddev=stddev * (2 * config.num_layers) ** -0.5,
                dropout_rate=config.dropout,
                drop_path_rate=config.drop_path * (index + 1) / config.num_layers,
                attention_kernel=config.attention_kernel,
                dtype=policy,
                name=f"block_{index}",
            )
            for index in range(config.num_layers)
        ]
        self.norm = RMSNorm(epsilon=NORM_EPSILON, dtype=policy, name="norm")
        self.head = keras.layers.Dense(
            config.num_classes, use_bias=False, kernel_initializer="zeros", dtype=policy, name="head"
        )
        self.built = True  # as its layers are: one call makes the weights
        self(tf.zeros((1, *config.image_size, config.channels)))

    def call(self, images: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> tf.Tensor:
        config = self.config
        if training and max(config.dropout, config.drop_path) > 0 and seed is None:
            raise ValueError("training with dropout needs a seed: model(images, training=True, seed=seed).")
        self._check_images(images.shape)
        seed = seed if training else None
        rows, columns = (size_of(images, axis) // config.patch_size for axis in (1, 2))
        x = self.patch_embedding(patches_of(images, config.patch_size))  # (batch, rows, columns, dim)
        x = self._with_positions(x, rows, columns)
        if config.attention == "full":
            x = tf.reshape(x, (-1, rows * columns, config.dim))
        if self.class_token is not None:
            first = tf.broadcast_to(tf.cast(self.class_token, x.dtype), (tf.shape(x)[0], 1, config.dim))
            x = tf.concat([first, x], axis=1)
        x = dropout(x, config.dropout, fold_in(seed, len(self.blocks)))
        tables = self._tables(rows, columns)
        for index, block in enumerate(self.blocks):
            run = partial(recomputed, block) if training and config.recompute_blocks else block
            x = run(x, tables=tables[index], seed=fold_in(seed, index))
        return tf.cast(self.head(self._pooled(self.norm(x))), tf.float32)

    def resamples_positions(self, height: int, width: int) -> bool:
        """Whether images of that size have another grid than the learned positions."""
        grid = height // self.config.patch_size, width // self.config.patch_size
        return self.config.position == "learned" and grid != self.config.grid

    def _embedding(self, name, shape):
        # Without autocast=False a mixed policy would resample in bfloat16.
        initializer = keras.initializers.RandomNormal(stddev=EMBEDDING_STDDEV)
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, dtype="float32", autocast=False
        )

    def _rotaries(self) -> list[keras.layers.Layer]:
        """Embeddings of rows and of columns, or one for each block, or none."""
        config = self.config
        if config.position == "axial":
            names = "row_rotary", "column_rotary"
            options = zip(config.rotary_options(), names, strict=True)
            return [RotaryEmbedding(**kwargs, name=name) for kwargs, name in options]
        if config.position == "mixed":
            options = {"theta": config.rope.theta, "layout": config.rope.layout}
            return [
                MixedRotaryEmbedding(
                    config.num_heads, config.head_dim, seed=index, name=f"rotary_{index}", **options
                )
                for index in range(config.num_layers)
            ]
        return []

    def _with_positions(self, x, rows, columns):
        if self.config.position == "learned":
            grid = tf.reshape(self.position_embedding, (*self.config.grid, self.config.dim))
            if x.shape[1:3] != self.config.grid:
                grid = resampled_grid(grid, rows, columns)
            return x + tf.cast(grid, x.dtype)
        if self.config.position == "sinusoidal":
            return x + tf.cast(sinusoidal_grid(rows, columns, self.config.dim), x.dtype)
        return x

    def _tables(self, rows, columns) -> list[tuple[tf.Tensor | None, ...]]:
        """For each block, the table of each of its attentions."""
        # Within a row the angles of the rows are equal and cancel: those of row 0 serve every row.
        grids = [(rows, columns)] if self.config.attention == "full" else [(1, columns), (rows, 1)]
        if self.config.position == "axial":
            return [tuple(self._axial_table(*grid) for grid in grids)] * len(self.blocks)
        if self.config.position == "mixed":
            return [tuple(self._mixed_table(mixed, *grid) for grid in grids) for mixed in self.rotaries]
        return [(None,) * len(grids)] * len(self.blocks)

    def _axial_table(self, rows, columns):
        coordinates = "cells" if self.config.rope.counts_patches else "unit"
        return self._for_tokens(axial_table(self.rotaries, rows, columns, coordinates=coordinates))

    def _mixed_table(self, mixed, rows, columns):
        factor = self.config.rope.interpolate_factor
        return self._for_tokens(mixed_table(mixed, rows, columns, interpolate_factor=factor))

    def _for_tokens(self, table):
        return table if self.class_token is None else with_unrotated_first(table)

    def _pooled(self, x):
        """(batch, dim) of all tokens."""
        if self.class_token is not None:
            return x[:, 0]
        return tf.reduce_mean(tf.cast(x, tf.float32), axis=range(1, x.shape.rank - 1))

    def _check_images(self, shape: tf.TensorShape) -> None:
        """Inside a graph only the static shape is known."""
        config = self.config
        if shape.rank != 4:
            raise ValueError(f"images must be (batch, height, width, channels), got shape {shape}.")
        if shape[3] != config.channels:
            raise ValueError(f"images must have {config.channels} channels, got {shape[3]}.")
        if any(side is not None and side % config.patch_size for side in shape[1:3]):
            raise ValueError(
                f"height and width must be multiples of patch_size {config.patch_size}, "
                f"got images of {shape[1]}x{shape[2]}."
            )


def check(config: AxialViTConfig) -> None:
    """Raises ValueError for a config that no model can be made of."""
    for key in ("image_size", "channels", "num_classes", "patch_size"):
        if getattr(config, key) is None:
            raise ValueError(f"{key} is open: fill it in from the data with config.for_images().")
    parts = (config, config.rope, config.rope.scaling)
    problems = [f"{key} {message}" for part in parts for key, message in part.problems()]
    if problems:
        raise ValueError("; ".join(problems))
