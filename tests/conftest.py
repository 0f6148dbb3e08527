"""Tiny runs of train.py on text and on images, shared by the tests of the command line."""

import functools
import random
from pathlib import Path

import pytest

WORDS = "a the quick brown fox jumps over lazy dogs while seven wizards quietly vex five big jars"
TINY_TEXT = """
data=text_files data.held_out=0.2 context_length=16
model.dim=16 model.num_layers=1 model.num_heads=2 model.num_kv_heads=1 model.mlp_dim=24 model.dropout=0.1
num_steps=30 batch_size=4 accumulation_steps=2 precision=float32 compile=graph
log_every=5 eval_every=10 eval_batches=2 sample_every=20 checkpoint_every=10
optimizer.learning_rate=5e-3 optimizer.warmup_steps=2
"""
TINY_IMAGES = """
experiment=vit model.dim=16 model.num_layers=1 model.num_heads=2 model.mlp_dim=24 model.drop_path=0.2
num_steps=12 batch_size=16 precision=float32 compile=graph
log_every=3 eval_every=4 eval_batches=2 sample_every=8 checkpoint_every=4
optimizer.learning_rate=1e-2 optimizer.final_learning_rate_ratio=0.1 optimizer.warmup_steps=2
"""


class Workplace:
    """A directory for runs, and the command line of a tiny run."""

    def __init__(self, path: Path, *defaults: str):
        self.outputs = path / "outputs"
        self.defaults = (*defaults, f"output_dir={self.outputs}")

    def arguments(self, *changes: str) -> list[str]:
        """Command line of the tiny run with other values; `~key` removes one."""
        flags = [change for change in changes if change.startswith("-")]
        changed = {change.lstrip("~").partition("=")[0] for change in changes}
        defaults = [word for word in self.defaults if word.partition("=")[0] not in changed]
        return [*flags, *defaults, *(change for change in changes if change[0] not in "~-")]

    def train(self, *changes: str) -> int:
        """Exit code of train.py, run in this process."""
        import train
        from system.command import run_command

        return run_command(lambda: train.main(self.arguments(*changes)))


class TextWorkplace(Workplace):
    """A workplace with a text file as training data."""

    def __init__(self, path: Path):
        self.text = path / "text.txt"
        places = f"data.path={self.text}", f"data.cache_dir={path / 'cache'}"
        super().__init__(path, *TINY_TEXT.split(), *places)
        choose = random.Random(0).choices
        self.text.write_text("".join(" ".join(choose(WORDS.split(), k=8)) + "\n" for _ in range(100)))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> TextWorkplace:
    return TextWorkplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture
def refused(workplace, capsys):
    """`refused(*changes)`: the error lines of a command on text, see `tests.run_helpers.refusal`."""
    from tests.run_helpers import refusal

    return functools.partial(refusal, workplace, capsys)


@pytest.fixture(scope="session")
def trained_run(workplace) -> Path:
    """Directory of a finished text run of 30 steps; tests must not change it."""
    assert workplace.train("name=whole") == 0
    return workplace.outputs / "whole"


@pytest.fixture(scope="session")
def image_workplace(tmp_path_factory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("images"), *TINY_IMAGES.split())


@pytest.fixture(scope="session")
def trained_images(image_workplace) -> Path:
    """Directory of a finished run on digits of 12 steps; tests must not change it."""
    assert image_workplace.train("name=whole") == 0
    return image_workplace.outputs / "whole"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Directory, task and model of a run on digits with random weights, whose checkpoint stays as it is."""
    from tests.run_helpers import save_untrained_image_run

    return save_untrained_image_run(tmp_path_factory.mktemp("untrained"))


@pytest.fixture
def eagerly():
    """Runs `tf.function`s without tracing, which takes longer than evaluating a tiny model."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
