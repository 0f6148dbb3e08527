"""The block of a vision transformer: attention among all patches, or along the axes of their grid."""

import keras
import tensorflow as tf

from models.chunked import attend_in_chunks, is_chunked
from models.fused import RMSNorm
from models.layers import Attention, FeedForward, drop_path, dropout, fold_in
from rope.positions import size_of


class VisionBlock(keras.layers.Layer):
    """Pre-norm block: attention of all patches, or within rows and then within columns, then feed-forward.

    Args and call arguments are those of `Attention` and `FeedForward`, and

        attention: `full` or `axial`.
        attention_kernel: `full`, `chunked` or `auto`, see `is_chunked`.
        dropout_rate: on what each part adds to the residual stream.
        drop_path_rate: of examples to which a part adds nothing, see `drop_path`.
        x: (batch, length, dim) for full attention, (batch, rows, columns, dim) for axial.
        tables: the table of the attention, or of that within rows and of that within columns; None for none.
        seed: (2,) int32 for the dropout of this call, or None for none.
    """

    def __init__(
        self,
        *,
        attention: str,
        num_heads: int,
        head_dim: int,
        mlp_dim: int,
        qk_norm: bool,
        layout: str,
        learned_rotations: str,
        num_unrotated: int,
        norm_epsilon: float,
        input_stddev: float,
        output_stddev: float,
        dropout_rate: float,
        drop_path_rate: float,
        dtype,
        name: str,
        attention_kernel: str = "auto",
    ):
        super().__init__(dtype=dtype, name=name, autocast=False)
        self.attention_kernel = attention_kernel
        self.dropout_rate, self.drop_path_rate = dropout_rate, drop_path_rate
        if attention == "full":
            parts = {"attention": attend_all}
        elif attention == "axial":
            parts = {"row_attention": attend_within_rows, "column_attention": attend_within_columns}
        else:
            raise ValueError(f"attention must be one of full, axial; got {attention!r}.")
        self.routes = tuple(parts.values())
        self.attentions = [
            Attention(
                num_heads=num_heads,
                num_kv_heads=num_heads,
                head_dim=head_dim,
                qk_norm=qk_norm,
                layout=layout,
                learned_rotations=learned_rotations,
                num_unrotated=num_unrotated,
                norm_epsilon=norm_epsilon,
                input_stddev=input_stddev,
                output_stddev=output_stddev,
                dtype=dtype,
                name=part,
            )
            for part in parts
        ]
        self.norms = [
            RMSNorm(epsilon=norm_epsilon, dtype=dtype, name=f"{part}_norm") for part in (*parts, "mlp")
        ]
        self.mlp = FeedForward(
            dim=num_heads * head_dim,
            mlp_dim=mlp_dim,
            input_stddev=input_stddev,
            output_stddev=output_stddev,
            dtype=dtype,
            name="mlp",
        )
        self.built = True  # its parts build themselves; Keras would trace the call to do it

    def call(
        self, x: tf.Tensor, *, tables: tuple[tf.Tensor | None, ...], seed: tf.Tensor | None = None
    ) -> tf.Tensor:
        *norms, mlp_norm = self.norms
        parts = zip(norms, self.attentions, self.routes, tables, strict=True)
        for part, (norm, attention, route, table) in enumerate(parts):
            x = self._add(x, route(attention, norm(x), table, self.attention_kernel), fold_in(seed, part))
        return self._add(x, self.mlp(mlp_norm(x)), fold_in(seed, len(tables)))

    def _add(self, x, added, seed):
        added = dropout(added, self.dropout_rate, fold_in(seed, 0))
        return x + drop_path(added, self.drop_path_rate, fold_in(seed, 1))


def attend_all(
    attention: Attention, x: tf.Tensor, table: tf.Tensor | None, attention_kernel: str = "auto"
) -> tf.Tensor:
    """Attention among all tokens of (batch, length, dim)."""
    kernel = attend_in_chunks if is_chunked(attention_kernel, x.shape[1]) else None
    mixed, _ = attention(x, tables=None if table is None else (table, table), kernel=kernel)
    return mixed


def attend_within_rows(
    attention: Attention, x: tf.Tensor, table: tf.Tensor | None, attention_kernel: str = "auto"
) -> tf.Tensor:
    """Attention among the patches of each row of (batch, rows, columns, dim)."""
    rows, columns, dim = (size_of(x, axis) for axis in (1, 2, 3))
    mixed = attend_all(attention, tf.reshape(x, (-1, columns, dim)), table, attention_kernel)
    return tf.reshape(mixed, (-1, rows, columns, dim))


def attend_within_columns(
    attention: Attention, x: tf.Tensor, table: tf.Tensor | None, attention_kernel: str = "auto"
) -> tf.Tensor:
    """Attention among the patches of each column of (batch, rows, columns, dim)."""
    swapped = attend_within_rows(attention, tf.transpose(x, (0, 2, 1, 3)), table, attention_kernel)
    return tf.transpose(swapped, (0, 2, 1, 3))
