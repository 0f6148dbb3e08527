"""Checkpoints: what is kept, restored and refused."""

import json
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from system.errors import DivergedError, RunError
from tests.run_helpers import assert_same_tensors
from tests.training.checkpoint_runs import EMBEDDING, Run, truncate
from training.checkpoints import Checkpoints, restore_weights
from training.config import OptimizerConfig
from training.optimizer import make_optimizer


def test_restored_values_are_those_saved_bit_for_bit(run, tmp_path):
    run.save(3)
    saved = run.values()
    assert len(saved) == 3 + 1 + 2 * 3  # weights, the iteration, two slots a weight
    assert saved["optimizer/adamw/iteration"] == 3
    other = Run(tmp_path, seed=1)  # in one process, and yet the names are the same
    assert (other.values()[EMBEDDING] != saved[EMBEDDING]).all()
    manifest = other.checkpoints.restore_latest()
    assert (manifest["format"], manifest["step"], manifest["data_fingerprint"]) == (2, 3, "abc")
    assert manifest["tensors"][EMBEDDING] == "float32[7,6]"
    assert manifest["tensors"]["optimizer/adamw/iteration"] == "int64[]"
    assert manifest["tensors"].keys() == saved.keys()
    assert_same_tensors(other.values(), saved)


def test_there_is_nothing_to_restore_before_the_first_save(run):
    before = run.values()
    assert run.checkpoints.restore_latest() is None
    assert_same_tensors(run.values(), before)


def test_the_latest_few_are_kept(tmp_path):
    run = Run(tmp_path, keep=3)
    for step in (2, 9, 10, 100, 1_000):
        run.save(step)
    assert run.names() == ["step-00000010", "step-00000100", "step-00001000"]
    assert run.checkpoints.restore_latest()["step"] == 1_000


def test_the_latest_is_that_of_the_highest_number(tmp_path):
    run = Run(tmp_path, keep=2)
    for step in (99_999_998, 99_999_999, 100_000_000):
        run.save(step)
    assert run.names() == ["step-99999999", "step-100000000"]
    assert run.checkpoints.restore_latest()["step"] == 100_000_000
    assert run.checkpoints.go_back(99_999_999) == 99_999_999
    assert run.names() == ["step-99999999"]


LOSSES = {1: 3.0, 2: 1.5, 3: 2.0, 4: float("nan"), 5: None, 6: 1.5, 7: 1.75}


@pytest.mark.parametrize(("keep_best", "kept"), [(True, [2, 6, 7]), (False, [6, 7])])
def test_the_checkpoint_of_the_lowest_validation_loss_is_kept_too(tmp_path, keep_best, kept):
    run = Run(tmp_path, keep_best=keep_best)
    for step, loss in LOSSES.items():
        run.save(step, **({} if loss is None else {"validation_loss": loss}))
    assert run.names() == [f"step-{step:08d}" for step in kept]
    run.save(8, validation_loss=1.25)
    run.save(9)
    run.save(10)
    assert run.names() == [f"step-{step:08d}" for step in ([8, 9, 10] if keep_best else [9, 10])]


def test_without_a_validation_loss_there_is_no_best(tmp_path):
    run = Run(tmp_path, keep=1, keep_best=True)
    for step in (1, 2, 3):
        run.save(step, validation_loss=float("nan"))
    assert run.names() == ["step-00000003"]


def test_a_program_that_is_everywhere_reads_the_hashes(run):
    path = run.save(3)
    subprocess.run(["sha256sum", "--check", "--strict", "manifest.sha256"], cwd=path, check=True)
    listed = json.loads((path / "manifest.json").read_text())["files"]
    lines = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
    subprocess.run(["sha256sum", "--check", "--strict"], input=lines, text=True, cwd=path, check=True)
    assert sorted(listed) == ["tensors.data-00000-of-00001", "tensors.index"]


def test_a_checkpoint_holds_tensors_and_json_and_no_pickle(run):
    path = run.save(3)
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "manifest.sha256",
        "tensors.data-00000-of-00001",
        "tensors.index",
    ]
    assert json.loads((path / "manifest.json").read_text())["step"] == 3
    reader = tf.train.load_checkpoint(str(path / "tensors"))
    assert set(reader.get_variable_to_dtype_map().values()) == {tf.float32, tf.int64}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [EMBEDDING, "optimizer/adamw/stack_dense_0_kernel_velocity"])
def test_a_value_that_is_not_finite_is_never_written(run, name, value):
    run.save(1)
    variable = run.checkpoints.variables[name]
    variable.assign(np.full(variable.shape, value))
    with pytest.raises(DivergedError, match=f"step 2: {name} is not finite") as caught:
        run.checkpoints.save(2, {})
    assert caught.value.good_step == 1
    assert [path.name for path in run.checkpoints.directory.iterdir()] == ["step-00000001"]


def test_a_run_goes_back_to_before_a_step(tmp_path):
    run = Run(tmp_path, keep=9)
    for step in (2, 4, 6):
        run.save(step)
    assert run.checkpoints.go_back(5) == 4
    assert run.names() == ["step-00000002", "step-00000004"]
    assert run.values()["optimizer/adamw/iteration"] == 4
    assert run.checkpoints.go_back(1) is None
    assert run.names() == []


def test_steps_without_finite_gradients_cost_no_checkpoint_from_before_them(tmp_path):
    """A run may be asked to stop, and so save, amid such steps, and then have to go back."""
    run = Run(tmp_path, keep=1)
    run.save(10)
    for step in (11, 12):
        run.save(step, bad_steps={"in_a_row": step - 10, "in_all": step - 10})
    assert run.checkpoints.restore_latest()["step"] == 12
    assert run.checkpoints.go_back(10) == 10
    run.save(11, bad_steps={"in_a_row": 1, "in_all": 1})
    run.save(13, bad_steps={"in_a_row": 0, "in_all": 2})
    assert run.names() == ["step-00000013"]


def test_weights_alone_come_from_the_latest_checkpoint_that_is_whole(run, tmp_path, messages):
    run.save(1)
    expected = run.values()
    truncate(run.save(2) / "tensors.index")
    other = Run(tmp_path / "other", seed=5)
    slots = other.values()
    assert restore_weights(tmp_path, other.model, report=messages.append)["step"] == 1
    assert len(messages) == 1
    for name, value in other.values().items():
        wanted = expected if name.startswith("model/") else slots
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


def test_when_none_can_be_read_a_run_does_not_start_anew(run):
    before = [run.save(step) for step in (1, 2)]
    for path in before:
        truncate(path / "tensors.index")
    run.fill(7)
    expected = run.values()
    with pytest.raises(
        RunError, match=r"step-00000002: its tensors.index is damaged.* \(and 1 earlier\). Use name= for a"
    ):
        run.checkpoints.restore_latest()
    assert_same_tensors(run.values(), expected)
    assert run.names() == ["step-00000001", "step-00000002"]


def test_damaged_checkpoints_of_later_steps_do_not_crowd_out_good_ones(tmp_path):
    run = Run(tmp_path, keep=1)
    truncate(run.save(20) / "tensors.index")
    run.save(10)
    run.save(15)
    assert run.names() == ["step-00000015", "step-00000020"]
    assert run.checkpoints.restore_latest(report=lambda line: None)["step"] == 15
    run.save(20)
    assert run.names() == ["step-00000020"]
    assert run.checkpoints.restore_latest()["step"] == 20


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_damaged_checkpoint_that_a_run_has_passed_does_not_count_as_kept(tmp_path, keep_best):
    run = Run(tmp_path, keep=2, keep_best=keep_best)
    run.save(10, validation_loss=2.0)
    truncate(run.save(20, validation_loss=1.0) / "tensors.index")
    assert run.checkpoints.restore_latest(report=lambda line: None)["step"] == 10
    run.save(15)
    assert run.names() == ["step-00000010", "step-00000015", "step-00000020"]
    run.save(25)
    assert run.names() == ["step-00000010"] * keep_best + ["step-00000015", "step-00000025"]


@pytest.mark.parametrize(
    ("saved", "built", "problem"),
    [
        ({"num_layers": 2}, {}, "it has an unexpected model/stack/dense_1/kernel"),
        ({}, {"num_layers": 2}, "it lacks model/stack/dense_1/kernel"),
        ({"dim": 4}, {"dim": 8}, f"{EMBEDDING} is float32[7,4], expected float32[7,8]"),
        ({"dim": 4}, {"dim": 8}, "dense_0/kernel is float32[4,4], expected float32[8,8]; "),
    ],
)
def test_weights_of_another_model_are_refused_by_name(tmp_path, saved, built, problem):
    Run(tmp_path, **saved).save(1)
    other = Run(tmp_path, seed=3, **built)
    before = other.values()
    for restore in (other.checkpoints.restore_latest, lambda: restore_weights(tmp_path, other.model)):
        with pytest.raises(RunError) as caught:
            restore()
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)
    assert_same_tensors(other.values(), before)


def test_a_run_without_checkpoints_is_refused(run, tmp_path):
    with pytest.raises(RunError, match=r"has no checkpoint; expected .*checkpoints/step-\*"):
        restore_weights(tmp_path, run.model)


def test_a_transformer_has_the_same_names_each_time(tmp_path):
    sizes = {"dim": 6, "num_layers": 2, "num_heads": 1, "num_kv_heads": 1, "mlp_dim": 4}
    names = []
    for _ in range(2):
        model = TransformerLM(TransformerLMConfig(vocab_size=7, context_length=5, **sizes))
        optimizer = make_optimizer(OptimizerConfig(), model.trainable_variables, num_steps=9)
        names.append(list(Checkpoints(tmp_path, model, optimizer, keep=1).variables))
    assert names[0] == names[1]
    assert "model/transformer_lm/block_1/attention/output/kernel" in names[0]


def test_variables_of_one_name_are_refused(tmp_path):
    model = keras.Sequential([keras.layers.Dense(2, name="twin"), keras.layers.Dense(2, name="other")])
    model.build((1, 2))
    model.layers[1].kernel._path = model.layers[0].kernel.path
    optimizer = keras.optimizers.SGD()
    with pytest.raises(ValueError, match=r"two variables"):
        Checkpoints(tmp_path, model, optimizer, keep=1)
