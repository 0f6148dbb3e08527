"""Paths that commands write to, also through symbolic links, and programs that they start."""

import functools
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import train
from data.config import ImageFolderConfig, TextFilesConfig
from data.images import load_images
from scripts import evaluate, export, generate, passkey, predict, visualize
from system.command import run_command
from tests.conftest import TINY_IMAGES, TINY_TEXT, Workplace
from tests.robustness.fuzz import prepare_data
from tests.run_helpers import contents_of

STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.spawn", "os.system"}
WRITES = {"os.mkdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1}  # number of paths
CREATES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
events: list[tuple[str, object]] | None = None


def record(event, arguments):
    if events is None:
        return
    if event in STARTS:
        events.append((event, arguments))
    elif event in WRITES or (event == "open" and arguments[2] & CREATES):
        paths = arguments[: WRITES.get(event, 1)]
        events.extend(
            ("write", os.path.abspath(os.fsdecode(path))) for path in paths if not isinstance(path, int)
        )


sys.addaudithook(record)  # cannot be removed


@pytest.fixture
def recorded(monkeypatch):
    """Files that Python creates or writes, and programs that it starts."""
    monkeypatch.setattr(sys.modules[__name__], "events", [])
    return events


def test_reading_data_starts_no_program(tmp_path, recorded):
    """Pillow runs Ghostscript for EPS, whatever the name of the file."""
    from data.corpus import load_text

    prepare_data(tmp_path)
    Image.new("RGB", (5, 7)).save(tmp_path / "x.eps")
    contents = {
        "eps": (tmp_path / "x.eps").read_bytes(),
        "pdf": b"%PDF-1.4\n",
        "svg": b"<svg/>",
        "wmf": b"\xd7\xcd\xc6\x9a",
    }
    for name, content in contents.items():
        for path in (f"images/a/{name}.png", f"images/b/x.{name}", f"text/{name}.txt", f"text/x.{name}"):
            (tmp_path / path).write_bytes(content)
    places = {"cache_dir": str(tmp_path / "cache"), "invalid": "skip"}
    lines = []
    images = ImageFolderConfig(path=str(tmp_path / "images"), image_size=(8, 8), **places)
    assert len(load_images(images, report=lines.append).train.labels) > 8
    assert any("eps.png" in line and "not an image" in line for line in lines)
    assert (
        load_text(TextFilesConfig(path=str(tmp_path / "text"), **places), report=lines.append).train.size > 99
    )
    assert recorded
    assert [event for event in recorded if event[0] in STARTS] == []


SHORT = "data.cache_dir=cache num_steps=2 sample_every=1 eval_batches=1 checkpoint_every=1"
TEXT = Workplace(Path(), *TINY_TEXT.split()).arguments(*SHORT.split(), "data.path=text", "name=lm")
IMAGES = "data=image_folder data.path=images data.image_size=[8,8] batch_size=4 model.patch_size=4 name=vit"
IMAGES = Workplace(Path(), *TINY_IMAGES.split()).arguments(*SHORT.split(), *IMAGES.split())
PASSKEY = "~data.held_out ~data.path data=passkey context_length=128 data.held_out_examples=4 data.texts=1"
PASSKEY = Workplace(Path(), *TINY_TEXT.split()).arguments(
    *PASSKEY.split(), "num_steps=2", "sample_every=null", "name=passkey"
)
# Main function and arguments of each command, and the beginnings of the paths that it may write to.
COMMANDS = (
    (train.main, shlex.join(TEXT), "outputs/lm/ cache/"),
    (train.main, shlex.join(IMAGES), "outputs/vit/ cache/"),
    (train.main, shlex.join(PASSKEY), "outputs/passkey/"),
    (generate.main, "outputs/lm --prompt ab --length 2", ""),
    (evaluate.main, "outputs/lm --windows 8 16 --targets 40", "outputs/lm/"),
    (evaluate.main, "outputs/vit --image-size 8", "outputs/vit/"),
    (passkey.main, "outputs/passkey --lengths 128 --depths 2 --examples 1", "outputs/passkey/"),
    (predict.main, "outputs/vit images/a/0.png --csv predictions.csv", "predictions.csv .predictions.csv."),
    (visualize.main, "outputs/lm --prompt abc --output drawn", "drawn/"),
    (export.main, "outputs/vit --format keras --output exported", "exported .exported."),
)
DIRECTORIES = re.compile(r"cache|outputs(/\w+)?|drawn")  # those of the allowed paths
# Links at these names are refused, and tested elsewhere, or of names that do not exist before.
NOT_PLANTED = re.compile(rf"({DIRECTORIES.pattern}|.*(checkpoints|tensorboard|cache/|exported|\.lock$).*)")


@pytest.mark.slow
def test_commands_write_into_their_directories_and_follow_no_link(tmp_path, monkeypatch, recorded, eagerly):
    """The second round has a link at each name that the first one wrote, temporary ones included."""
    outside, names = tmp_path / "outside", set()
    temporary = tmp_path / "temporary"  # its names are random
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for folder in (tmp_path / "first", tmp_path / "second"):
        prepare_data(folder)
        monkeypatch.chdir(folder)
        for name in names:
            for path in (folder / name, outside / name):
                path.parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith("config.yaml"):  # would be read
                (outside / name).write_text("precious")
            (folder / name).symlink_to(outside / name)
        before = contents_of(outside)
        for main, arguments, allowed in COMMANDS:
            recorded.clear()
            assert run_command(functools.partial(main, shlex.split(arguments))) == 0
            paths = {path for kind, path in recorded if kind == "write"} - {os.devnull}
            written = {
                path.removeprefix(f"{folder}/") for path in paths if not path.startswith(str(temporary))
            }
            others = {path for path in written if not path.startswith(tuple(allowed.split()))}
            assert not [path for path in others if not DIRECTORIES.fullmatch(path)]
            names |= {path for path in written if not NOT_PLANTED.fullmatch(path)}
    assert len(names) > 20
    assert [name for name in names if (folder / name).is_symlink() and "partial" not in name] == []
    assert contents_of(outside) == before
