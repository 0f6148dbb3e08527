"""Files of the user are read without starting a program."""

import sys

import pytest
from PIL import Image

from data.config import ImageFolderConfig, TextFilesConfig
from data.corpus import load_text
from data.images import load_images
from tests.robustness.fuzz import prepare_data

STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.spawn", "os.system"}
events: list[str] | None = None


def record(event, arguments):
    if events is not None:
        events.append(event)


sys.addaudithook(record)  # cannot be removed


@pytest.fixture
def recorded(monkeypatch):
    """Audit events of Python."""
    monkeypatch.setattr(sys.modules[__name__], "events", [])
    return events


def test_reading_data_starts_no_program(tmp_path, recorded):
    """Pillow runs Ghostscript for EPS, whatever the name of the file."""
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
    text = TextFilesConfig(path=str(tmp_path / "text"), **places)
    assert load_text(text, report=lines.append).train.size > 99
    assert "open" in recorded and not STARTS & set(recorded)
