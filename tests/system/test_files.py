from pathlib import Path

import pytest

from system.files import replacing, write_text


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert [found.read_text() for found in tmp_path.iterdir()] == ["old"]
    (tmp_path / ".file.partial").write_text("left by a crash, and longer than the text")
    write_text(path, "neu ü\n")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == ["neu ü\n".encode()]
    with pytest.raises(IsADirectoryError):
        write_text(Path(""), "text")


@pytest.mark.parametrize("name", ["file", ".file.partial"])
@pytest.mark.parametrize("exists", [True, False])
def test_links_are_replaced_and_not_followed(tmp_path, name, exists):
    outside = tmp_path / "outside"
    if exists:
        outside.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / name).symlink_to(outside)
    write_text(folder / "file", "text")
    assert [(path.name, path.is_symlink()) for path in folder.iterdir()] == [("file", False)]
    assert (folder / "file").read_text() == "text"
    assert outside.exists() == exists
    assert not exists or outside.read_text() == "precious"
