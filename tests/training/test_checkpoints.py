import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import TransformerLMConfig
from models.transformer import TransformerLM
from tests.runs import rewrite_manifest
from training.checkpoints import Checkpoints, complete_checkpoints, restore_weights
from training.config import OptimizerConfig
from training.errors import DivergedError, RunError
from training.optimizer import make_optimizer

EMBEDDING = "model/stack/embedding/embeddings"


class Stack(keras.Model):
    """An embedding and dense layers."""

    def __init__(self, num_layers, dim):
        super().__init__(name="stack")
        self.embedding = keras.layers.Embedding(7, dim, name="embedding")
        self.layers_above = [keras.layers.Dense(dim, name=f"dense_{index}") for index in range(num_layers)]
        self(tf.zeros((1, 1), tf.int32))

    def call(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers_above:
            x = layer(x)
        return x


class Run:
    """A model and its optimizer with values that tell seeds apart, and their checkpoints."""

    def __init__(self, path, *, seed=0, keep=2, keep_best=False, num_layers=1, dim=6):
        path.mkdir(exist_ok=True)
        self.model = Stack(num_layers, dim)
        self.optimizer = make_optimizer(OptimizerConfig(), self.model.trainable_variables, num_steps=9)
        self.checkpoints = Checkpoints(
            path / "checkpoints", self.model, self.optimizer, keep=keep, keep_best=keep_best
        )
        self.fill(seed)

    def fill(self, seed):
        generator = np.random.default_rng(seed)
        for variable in self.checkpoints.variables.values():
            variable.assign(generator.normal(size=variable.shape) if len(variable.shape) else seed)

    def values(self):
        return {name: variable.numpy() for name, variable in self.checkpoints.variables.items()}

    def save(self, step, *, seed=None, **facts):
        """The checkpoint of a step has the values of that seed."""
        self.fill(step if seed is None else seed)
        return self.checkpoints.save(step, {"data_fingerprint": "abc", **facts})

    def names(self):
        return [path.name for path in complete_checkpoints(self.checkpoints.directory)]


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture
def messages():
    return []


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
    assert_same(other.values(), saved)


def test_there_is_nothing_to_restore_before_the_first_save(run):
    before = run.values()
    assert run.checkpoints.restore_latest() is None
    assert_same(run.values(), before)


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


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    os.truncate(path, 0)


FILES = ["manifest.json", "manifest.sha256", "tensors.data-00000-of-00001", "tensors.index"]


@pytest.mark.parametrize("damage", [truncate, flip_bit, empty, os.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_used(run, messages, name, damage):
    run.save(1)
    expected = run.values()
    damage(run.save(2) / name)
    manifest = run.checkpoints.restore_latest(report=messages.append)
    assert manifest["step"] == 1
    assert_same(run.values(), expected)
    (message,) = messages
    assert message.startswith(f"skipped {run.checkpoints.directory / 'step-00000002'}: its ")
    assert name in message
    assert "\n" not in message


def test_one_flipped_bit_is_found_wherever_it_is(run):
    path = run.save(1)
    generator = np.random.default_rng(0)
    for name in FILES:
        whole = (path / name).read_bytes()
        for _ in range(30):
            content = np.frombuffer(whole, np.uint8).copy()
            content[generator.integers(len(content))] ^= 1 << generator.integers(8)
            (path / name).write_bytes(content.tobytes())
            with pytest.raises(RunError, match=name.replace(".", r"\.")):
                run.checkpoints.restore_latest()
        (path / name).write_bytes(whole)
    assert run.checkpoints.restore_latest()["step"] == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "it has no format"),
        ('{"format": 1, "step": 2}', "it has no data_fingerprint"),
        ('{"format": 2, "step": 2, "data_fingerprint": ""}', "it has no files"),
        ('{"format": 2, "step": "2", "files": {}, "tensors": {}}', "its step is of another kind"),
        ('{"format": [2], "step": 2}', "its format is of another kind"),
        ('{"format": 3, "step": 2}', "has format 3, this program reads 1 and 2"),
        ('{"format": 1, "step": 5, "data_fingerprint": ""}', "is that of step 5"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_manifest_that_is_none_is_told_in_a_line(run, messages, text, problem):
    run.save(1)
    (run.save(2) / "manifest.json").write_text(text)
    assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
    (message,) = messages
    assert "its manifest.json " in message and problem in message
    assert "\n" not in message


OF_ANOTHER_KIND = {
    "step": [True, -1, 2.0, "2", None, [2], 10**30],
    "data_fingerprint": [None, 5, ["abc"], "a\nb"],
    "files": [[], {"tensors.index": 3}, {"\0": ""}],
    "tensors": [[], {EMBEDDING: 3}, {EMBEDDING: None}, {"\ud800": ""}, {"a": "\x1b[2J"}],
    "config": [None, "seed", ["seed"]],
    "environment": [None, ["python"], {"gpus": [{}]}, {"processor_flags": ["avx", 2]}],
    "replicas": ["2", True],
    "elapsed_seconds": ["1", None, True, float("nan"), float("inf"), 10**400],
    "bad_steps": ["3", [3], {"in_a_row": "3"}, {"in_a_row": None}, {"in_all": -1}],
    "classes": ["0", {"0": 1}, [0, 1]],
    "mean": [0.5, ["0.5"], [float("nan")]],
    "deviation": [None, [True], [10**400]],
}


@pytest.mark.parametrize("key", OF_ANOTHER_KIND)
def test_a_value_of_another_kind_in_a_manifest_is_told_in_a_line(run, messages, key):
    run.save(1)
    path = run.save(2)
    manifest = json.loads((path / "manifest.json").read_text())
    for value in OF_ANOTHER_KIND[key]:
        # A forger would write its SHA-256 too, but it is not what is looked at first.
        (path / "manifest.json").write_text(json.dumps(manifest | {key: value}))
        assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
        told = f"skipped {path}: its manifest.json is damaged (its {key} is of another kind)"
        assert messages == [told]
        messages.clear()


@pytest.mark.parametrize("files", [{"": ""}, {"..": ""}, {"x": ""}])
def test_files_that_a_manifest_makes_up_are_told_in_a_line(run, messages, files):
    run.save(1)
    path = run.save(2)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    (path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
    assert run.checkpoints.restore_latest(report=messages.append)["step"] == 1
    (message,) = messages
    assert message.startswith(f"skipped {path}: its ") and "\n" not in message


def test_the_tensors_that_a_manifest_lists_are_compared_before_any_is_read(run, monkeypatch):
    """A file of a foreign checkpoint is not opened where its manifest already says that it does not fit."""
    path = run.save(1)
    tensors = json.loads((path / "manifest.json").read_text())["tensors"]
    rewrite_manifest(path, {"tensors": tensors | {EMBEDDING: "float32[7000000000,6]"}})
    monkeypatch.setattr(tf.train, "load_checkpoint", None)
    with pytest.raises(RunError, match=r"embeddings is float32\[7000000000,6\], expected"):
        run.checkpoints.restore_latest()


def test_tensors_that_are_not_those_of_their_manifest_are_refused(run, tmp_path):
    path = run.save(1)
    other = Run(tmp_path / "other", dim=4).save(1)
    for file in other.glob("tensors*"):
        shutil.copy(file, path)
    files = json.loads((other / "manifest.json").read_text())["files"]
    rewrite_manifest(path, {"files": files})
    with pytest.raises(RunError, match=r"float32\[7,4\], expected float32\[7,6\]"):
        run.checkpoints.restore_latest()


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_that_was_written_once_still_loads(version):
    """It was made by `Run(...).save(3)` of this file, when that format was the one written."""
    kept = Path(__file__).with_name(f"format_{version}")
    run = Run(kept, seed=3)
    expected = run.values()
    run.fill(0)
    manifest = run.checkpoints.restore_latest()
    assert (manifest["format"], manifest["step"], manifest["data_fingerprint"]) == (version, 3, "abc")
    assert_same(run.values(), expected)


@pytest.mark.parametrize(
    ("name", "damage"), [("tensors.index", truncate), ("tensors.data-00000-of-00001", flip_bit)]
)
def test_damage_to_a_checkpoint_of_format_1_is_found_by_tensorflow(tmp_path, name, damage):
    path = shutil.copytree(Path(__file__).with_name("format_1"), tmp_path / "run")
    damage(path / "checkpoints" / "step-00000003" / name)
    with pytest.raises(RunError, match="its tensors cannot be read"):
        Run(path).checkpoints.restore_latest()


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
    assert_same(run.values(), expected)
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
    assert_same(other.values(), before)


def test_a_run_without_checkpoints_is_refused(run, tmp_path):
    with pytest.raises(RunError, match=r"has no checkpoint; expected .*checkpoints/step-\*"):
        restore_weights(tmp_path, run.model)


def test_what_a_crash_left_half_written_is_ignored_and_cleared(run, tmp_path):
    run.save(1)
    partial = run.checkpoints.directory / "step-00000017.partial"
    shutil.copytree(run.checkpoints.directory / "step-00000001", partial)
    (partial / "manifest.json").write_text('{"format": 2, "step": 17, "files": {}, "tensors": {}}')
    assert restore_weights(tmp_path, run.model)["step"] == 1
    assert partial.exists()  # it may be that of a run that goes on
    assert run.checkpoints.restore_latest()["step"] == 1
    assert not partial.exists()


CALLS = ((tf.raw_ops, "SaveV2"), (os, "fsync"), (os, "replace"), (shutil, "rmtree"))


def save_until(monkeypatch, run, number):
    """Saves step 3 until that call to the disk, which does not happen; whether there are so many."""
    calls = iter(range(number))

    def or_die(function):
        def call(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt  # as in a kill: it is no Exception, and passes through
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, or_die(getattr(owner, name)))
        try:
            run.save(3)
        except KeyboardInterrupt:
            return True
    return False


def test_a_crash_at_any_call_of_a_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    steps, was_cut = [], True
    while was_cut:
        run = Run(tmp_path / str(len(steps)), keep=1)
        run.save(2)
        was_cut = save_until(monkeypatch, run, len(steps))
        run.fill(0)
        steps.append(run.checkpoints.restore_latest()["step"])
        assert_same(run.values(), Run(tmp_path / "expected", seed=steps[-1]).values())
        assert list(run.checkpoints.directory.glob("*.partial")) == []
        run.save(3)
        assert run.names() == ["step-00000003"]
    before = 1 + len(FILES) + 2  # the tensors, each file, their directory, the name
    assert steps == [2] * before + [3] * (len(steps) - before)
    assert len(steps) > before + 3  # two directories, and the one that goes


def test_a_checkpoint_has_its_name_only_once_it_is_on_disk(run, monkeypatch):
    """What a power cut may reorder is between two calls of fsync."""
    calls = []
    monkeypatch.setattr(os, "fsync", lambda file: calls.append(os.readlink(f"/proc/self/fd/{file}")))
    monkeypatch.setattr(os, "replace", lambda old, new: calls.append((old, new)) or old.rename(new))
    path = run.save(1)
    aside = path.with_name(f"{path.name}.partial")
    named = calls.index((aside, path))
    assert {*calls[:named]} == {str(aside), *(str(aside / name) for name in FILES)}
    assert calls[named - 1] == str(aside)
    assert calls[named + 1 :] == [str(path.parent), str(path.parent.parent)]


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(run, tmp_path):
    run.save(1)
    checkpoints = run.checkpoints.directory
    checkpoints.rename(tmp_path / "elsewhere")
    checkpoints.symlink_to(tmp_path / "not mounted")
    with pytest.raises(RunError, match=r"checkpoints cannot be read \(No such file or directory\)"):
        run.checkpoints.restore_latest()
    checkpoints.unlink()
    checkpoints.touch()
    with pytest.raises(RunError, match=r"checkpoints cannot be read \(Not a directory\)"):
        run.checkpoints.restore_latest()


def test_a_full_disk_is_told_in_a_line_and_leaves_the_earlier_ones(run):
    """A limit on the size of files fails each write past it, as a full disk does."""
    run.save(1)
    run.save(2)
    expected = run.values()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(
            RunError, match=r"cannot write the checkpoint of step 3 .*File too large"
        ) as caught:
            run.save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in run.checkpoints.directory.iterdir()) == [
        "step-00000001",
        "step-00000002",
    ]
    assert run.checkpoints.restore_latest()["step"] == 2
    assert_same(run.values(), expected)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_an_error_of_the_disk_is_told_in_a_line(run, monkeypatch, function):
    run.save(1)

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(RunError, match=r"checkpoint of step 2 in .* \(No space left on device\)"):
        run.save(2)
    monkeypatch.undo()
    assert run.names() == ["step-00000001"]


def test_a_checkpoint_that_cannot_be_removed_is_not_told_as_one_that_is_not_written(tmp_path, monkeypatch):
    run = Run(tmp_path, keep=1)
    run.save(1)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(PermissionError):
        run.save(2)
    monkeypatch.undo()
    assert run.checkpoints.restore_latest()["step"] == 2


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
