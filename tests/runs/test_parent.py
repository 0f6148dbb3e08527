"""The parent of a run: which options may differ, and which values and weights are inherited."""

import contextlib
import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from configs.compose import load_config, save_config
from configs.schema import Config
from data.config import DigitsConfig
from models.config import (
    AxialRopeConfig,
    AxialScalingConfig,
    AxialViTConfig,
    RopeConfig,
    RopeScalingConfig,
    TransformerLMConfig,
)
from models.vit import AxialViT
from runs.checkpointing import load_parent_weights
from runs.resolve import check_extension, check_options, check_positions, fill_from_parent, inherit
from system.errors import ConfigError
from tests.comparison import tensors_of
from tests.run_helpers import LM_SIZES, STILL, VIT_SIZES, WITHOUT_SAMPLES, copy_of, with_random_weights
from training.checkpoints import Checkpoints

PARENT = "outputs/parent"
VISION = AxialViTConfig(image_size=(8, 12), channels=1, num_classes=3, patch_size=2, **VIT_SIZES)


def text_run(context_length, *, position="rotary", scaling=None, **rope):
    rope = RopeConfig(scaling=RopeScalingConfig(**(scaling or {})), **rope)
    model = TransformerLMConfig(context_length=context_length, position=position, rope=rope, **LM_SIZES)
    return Config(init_from=PARENT, context_length=context_length, model=model)


def image_run(**model):
    return Config(init_from=PARENT, context_length=None, data=DigitsConfig(), model=replace(VISION, **model))


def yarn(factor, **options):
    return {"type": "yarn", "factor": factor, **options}


def dynamic(factor=1.0, **options):
    return {"type": "dynamic", "factor": factor, "original_max_position_embeddings": 16, **options}


def longrope(**options):
    factors = {"short_factor": (1.0,) * 4, "long_factor": (1.0, 2.0, 3.0, 4.0)}
    return {"type": "longrope", "original_max_position_embeddings": 16, **factors, **options}


def axial(**scaling):
    return AxialRopeConfig(scaling=AxialScalingConfig(type="yarn", **scaling))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (text_run(16), text_run(16, xpos=True), "model.rope.xpos is false there, true here"),
        (
            image_run(),
            image_run(channels=3, num_classes=5, patch_size=4),
            "model.channels is 1 there, 3 here; model.num_classes is 3 there, 5 here (reset_head=true takes "
            "all weights but the classifier); model.patch_size is 2 there, 4 here",
        ),
    ],
)
def test_options_that_the_weights_depend_on_are_refused_by_name(old, new, message):
    with pytest.raises(ConfigError) as error:
        check_options(new, old)
    problem = f"the weights of init_from={PARENT} are of another model: {message}. Leave out "
    assert str(error.value).startswith(problem)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (
            text_run(16, interpolate_factor=2.0),
            text_run(32, scaling=yarn(2.0)),
            [
                "context_length is 16 there, 32 here",
                "model.rope.interpolate_factor is 2.0 there, 1.0 here",
                "model.rope.scaling.type is none there, yarn here",
                "model.rope.scaling.factor is null there, 2.0 here",
            ],
        ),
        (
            image_run(),
            image_run(image_size=(16, 16), drop_path=0.1, attention_kernel="chunked", recompute_blocks=True),
            [
                "model.image_size is [8,12] there, [16,16] here",
                "model.drop_path is 0.0 there, 0.1 here",
                "model.attention_kernel is auto there, chunked here",
                "model.recompute_blocks is false there, true here",
            ],
        ),
    ],
)
def test_options_that_may_change_are_printed(old, new, lines, capsys):
    check_options(new, old)
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed) == sorted(f"unlike init_from: {line}" for line in lines)


LESS = f"trained 16 tokens to 24, that of init_from={PARENT} to 32: "
LONGER = "longer than the 32 tokens to which model.rope extends the trained 16; "


@pytest.mark.parametrize(
    ("old", "new", "error", "note"),
    [
        # A scaling that extends less than that of the parent.
        (text_run(32, interpolate_factor=2.0), {"interpolate_factor": 1.5}, LESS, ""),
        (text_run(32, scaling=yarn(2.0)), {"theta_rescale_factor": 1.5}, LESS, ""),
        (text_run(32, scaling=dynamic()), {"scaling": yarn(1.5)}, LESS, ""),
        # A scaling that reaches the context, or its own target length.
        (text_run(16), {"scaling": dynamic()}, None, ""),
        (text_run(64, scaling=yarn(4.0)), {"scaling": longrope(factor=4.0)}, None, ""),
        (text_run(16), {"scaling": longrope(max_position_embeddings=64)}, None, ""),
        (text_run(16), {"scaling": longrope(attention_factor=1.2)}, None, ""),
        # A context beyond them.
        (text_run(32, interpolate_factor=2.0), {"interpolate_factor": 2.0}, None, LONGER),
        (text_run(16), {"scaling": dynamic(3.0, target_length=32)}, None, LONGER),
    ],
)
def test_a_scaling_reaches_the_context_and_as_far_as_that_of_the_parent(old, new, error, note, capsys):
    with pytest.raises(ConfigError, match=error) if error else contextlib.nullcontext():
        check_extension(text_run(64, **new), old)
    printed = capsys.readouterr().err
    assert note in printed and bool(note) == bool(printed)


@pytest.mark.parametrize(
    ("parent", "original"),
    [
        (text_run(16), 16),
        (text_run(32, interpolate_factor=2.0), 16),
        (text_run(24, scaling=yarn(2.0, original_max_position_embeddings=16)), 16),
        (text_run(64, scaling=dynamic(target_length=128)), 16),
        (text_run(64, scaling={"type": "dynamic", "factor": 4.0, "target_length": 128}), 16),
        (text_run(64, scaling=longrope(factor=4.0, original_max_position_embeddings=None)), 16),
        (image_run(), (4, 6)),
        (image_run(rope=AxialRopeConfig(interpolate_factor=(1.0, 2.0))), (4, 3)),
        (image_run(rope=axial(factor=(2.0, 1.0))), (2, 6)),
        (image_run(rope=axial(factor=(2.0, 1.0), original_max_position_embeddings=(3, 5))), (3, 5)),
    ],
)
def test_a_scaling_starts_from_the_context_or_grid_before_any_scaling(parent, original):
    child = text_run(64, scaling=yarn(4.0))
    if isinstance(original, tuple):
        child = image_run(image_size=(16, 36), rope=axial(factor=(2.0, 3.0)))
    assert inherit(child, parent).model.rope.scaling.original_max_position_embeddings == original


def test_a_scaling_keeps_an_explicit_original_length():
    child = text_run(64, scaling=yarn(4.0, original_max_position_embeddings=20))
    assert inherit(child, text_run(16)) == child


def test_a_parent_of_another_architecture_is_refused():
    message = f"init_from={PARENT} is a run of model.architecture transformer_lm, not axial_vit"
    with pytest.raises(ConfigError, match=message):
        inherit(image_run(), text_run(16))


@pytest.mark.parametrize(
    ("old", "new", "sizes"),
    [
        (text_run(16, position="learned"), text_run(8, position="learned"), ("16 tokens", "8 tokens")),
        (
            image_run(position="learned"),
            image_run(position="learned", image_size=(12, 8)),
            ("4x6 patches", "6x4 patches"),
        ),
    ],
)
def test_learned_positions_of_another_length_are_refused_unless_they_are_resampled(old, new, sizes):
    problem = f"weights for {sizes[0]} in .*, not for {sizes[1]}: set resample_positions=true"
    with pytest.raises(ConfigError, match=problem):
        check_positions(new, old)
    check_positions(replace(new, resample_positions=True), old)
    config = replace(text_run(32), resample_positions=True)
    with pytest.raises(ConfigError, match=r"^resample_positions has no effect with model\.position=rotary$"):
        check_positions(config, text_run(16))


def save_parent(path):
    """Saves a run with learned positions of 4 x 6 patches and returns its model, with random weights."""
    model = with_random_weights(AxialViT(image_run(position="learned").model), 0.02)
    checkpoints = Checkpoints(path / "checkpoints", model, keras.optimizers.SGD(), keep=1)
    checkpoints.save(5, {"data_fingerprint": "0a"})
    config = replace(image_run(position="learned"), init_from=None, precision="float32")
    save_config(config, path / "config.yaml")
    return model


def child_of_images(path, **model):
    config = image_run(position="learned", **model)
    return replace(config, init_from=str(path), init_from_step=5, init_from_data="0a")


@pytest.mark.parametrize("image_size", [(12, 8), (10, 16)])
def test_learned_positions_are_resampled_and_other_weights_copied(image_size, tmp_path):
    """A grid of 4 x 6 has as many positions as one of 6 x 4."""
    old = save_parent(tmp_path)
    config = replace(child_of_images(tmp_path, image_size=image_size), resample_positions=True)
    model = AxialViT(config.model)
    load_parent_weights(config, model)
    rows, columns = (side // 2 for side in image_size)
    grid = tf.image.resize(
        tf.reshape(old.position_embedding, (4, 6, 16)), (rows, columns), method="bicubic", antialias=True
    )
    expected = {variable.path: variable.numpy() for variable in old.variables}
    expected[old.position_embedding.path] = tf.reshape(grid, (rows * columns, 16)).numpy()
    for variable in model.variables:
        name = variable.path
        # A few float32 roundings of values of about 0.02.
        np.testing.assert_allclose(variable.numpy(), expected[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_new_head_leaves_only_the_classifier_at_its_initial_weights(tmp_path, capsys):
    old = save_parent(tmp_path)
    config = replace(child_of_images(tmp_path, num_classes=5), reset_head=True)
    check_options(config, image_run(position="learned"))
    assert capsys.readouterr().out == "unlike init_from: model.num_classes is 3 there, 5 here\n"
    model = AxialViT(config.model)
    load_parent_weights(config, model)
    expected = {variable.path: variable.numpy() for variable in old.variables}
    assert expected.pop("axial_vit/head/kernel").shape == (16, 3)
    for variable in model.variables:
        value = expected.get(variable.path, np.zeros((16, 5)))  # the classifier starts at zero
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def child_of(parent, name, *changes):
    cadence = ("num_steps=2", "checkpoint_every=2", WITHOUT_SAMPLES)
    return [f"name={name}", f"init_from={parent}", *cadence, *changes]


def test_a_child_takes_only_the_weights_of_a_checkpoint_and_resumes_without_its_parent(
    trained_run, workplace, refused, capsys
):
    """At a learning rate of almost zero, one step leaves the weights unchanged."""
    parent = copy_of(trained_run, "a-parent")
    command = child_of(
        parent,
        "a-child",
        "init_from_step=20",
        "context_length=32",
        "model.rope.scaling.type=yarn",
        "model.rope.scaling.factor=2",
        "model.dropout=0",
        *STILL,
    )
    assert workplace.train(*command) == 0
    assert f"starting from step 20 of {parent}" in capsys.readouterr().out
    child = workplace.outputs / "a-child"
    record = yaml.safe_load((child / "config.yaml").read_text())
    facts = json.loads((parent / "checkpoints" / "step-00000020" / "manifest.json").read_text())
    assert (record["init_from"], record["init_from_step"]) == (str(parent), 20)
    assert record["init_from_data"] == facts["data_fingerprint"]
    assert record["model"]["rope"]["scaling"]["original_max_position_embeddings"] == 16

    old, latest, new = tensors_of(parent, step=20), tensors_of(parent), tensors_of(child)
    assert new.keys() == old.keys()
    for name, value in new.items():
        assert (value == old[name]).all() == name.startswith("model/"), name
    assert any((latest[name] != value).any() for name, value in new.items() if name.startswith("model/"))
    assert new["optimizer/muon/iteration"] == 1

    shutil.rmtree(parent)
    (child / "summary.json").unlink()
    assert workplace.train(*command) == 0
    shutil.rmtree(child / "checkpoints")
    (line,) = refused(*command)
    assert line.startswith(f"{parent} is not a run directory")


def test_a_child_starts_from_the_latest_checkpoint_by_default(trained_run, refused):
    config = load_config(trained_run / "config.yaml")
    data = replace(config.data, tokenizer=None)
    config = replace(config, init_from=str(trained_run), data=data)
    facts = json.loads((trained_run / "checkpoints" / "step-00000030" / "manifest.json").read_text())
    child = fill_from_parent(config)
    assert (child.init_from_step, child.init_from_data) == (30, facts["data_fingerprint"])
    (line,) = refused(*child_of(trained_run, "missing", "init_from_step=25"))
    assert line == f"{trained_run} has no checkpoint of step 25; available steps: 20, 30"
