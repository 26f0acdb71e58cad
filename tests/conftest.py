"""Fixtures that several test files share: real data beside the checkout, and small photos made on the spot."""
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def pytest_configure():
    "Ctrl-C as in a terminal: a run that a shell put into the background ignores it, and tests press it."
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder with real data that is not part of the project; tests that need it skip where it is absent."""
    path = Path(os.environ.get('FSSKIT_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
    if not path.is_dir():
        pytest.skip(f'no real data: the folder {path} does not exist (FSSKIT_SHARED names another one)')
    return path


@pytest.fixture
def photo() -> np.ndarray:
    """A photo without any symmetry: uint8 (24, 36, 3)."""
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)


@pytest.fixture
def mask() -> np.ndarray:
    """A mask for `photo` without any symmetry: uint8 (24, 36), 1 in a box and 0 elsewhere."""
    mask = np.zeros((24, 36), np.uint8)
    mask[3:11, 5:29] = 1
    return mask


@pytest.fixture
def write(tmp_path):
    """write(picture, name, **options) saves an array or a PIL image in a temporary folder and returns its path."""
    def save(picture, name, **options):
        picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        picture.save(tmp_path / name, **options)
        return tmp_path / name
    return save
