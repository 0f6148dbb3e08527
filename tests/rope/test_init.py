import pytest

import rope


@pytest.mark.parametrize("name", rope.__all__)
def test_every_public_name_is_there(name):
    assert getattr(rope, name).__name__ == name
    assert name in dir(rope)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'rope' has no attribute 'rotaryembedding'"):
        _ = rope.rotaryembedding
