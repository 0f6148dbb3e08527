import numpy as np
import pytest
import tensorflow as tf

from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from runs.attention_figure import draw_rotations, record_layers


@pytest.mark.parametrize(
    "options",
    [
        {"num_kv_heads": 2, "qk_norm": True, "learned_rotations": "cumulative"},
        {"position": "alibi", "attention_kernel": "chunked"},
    ],
)
def test_weights_are_recorded_for_every_kind_of_position(options):
    model = TransformerLM(TransformerLMConfig(dim=32, num_layers=2, mlp_dim=48, **options))
    tokens = tf.constant([[0, 5, 6, 7, 8]])
    logits = model(tokens)
    layers, _ = record_layers(model, tokens)
    assert [weights.shape for weights in layers] == [(1, 4, 5, 5)] * 2
    for weights in layers:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
        assert not np.triu(weights, 1).any()
    np.testing.assert_array_equal(model(tokens), logits)


def test_learned_angles_are_recorded_and_drawn(tmp_path):
    options = {"dim": 32, "num_layers": 2, "num_kv_heads": 2, "mlp_dim": 48}
    model = TransformerLM(TransformerLMConfig(learned_rotations="cumulative", **options))
    for block in model.blocks:
        for kernel in block.attentions[0].rotations.weights:
            kernel.assign(np.full(kernel.shape, 0.1))
    tokens = tf.constant([[0, 5, 6, 7, 8]])
    _, layers = record_layers(model, tokens)
    assert [angles.shape for angles in layers] == [(1, 2, 5, 4)] * 2
    for angles in layers:  # all columns of the kernel are equal, so that all pairs turn alike
        np.testing.assert_allclose(angles, np.broadcast_to(angles[:, :1, :, :1], angles.shape), rtol=1e-5)
        assert abs(np.diff(angles, axis=2)).min() > 1e-5
    draw_rotations(tmp_path / "rotations.png", layers, list("abcde"), "title")
    assert (tmp_path / "rotations.png").exists()
    _, layers = record_layers(TransformerLM(TransformerLMConfig(**options)), tokens)
    assert layers == []
