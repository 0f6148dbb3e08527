import pytest

from tests.training.checkpoint_runs import Run


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture
def messages():
    return []
