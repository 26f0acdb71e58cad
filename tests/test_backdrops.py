"""Noise, mixing and the fourteen painters."""
import numpy as np
import pytest

from fsskit.backdrops import BACKDROPS, FLAT_LAYS, GROUNDS, blend, noise, picture_grid
from fsskit.fieldguide import generator


@pytest.mark.parametrize('name', list(BACKDROPS))
def test_backdrops_are_textured_colours(name):
    for h, w in ((48, 64), (64, 40)):
        picture = BACKDROPS[name](generator('b', name), h, w, .5)
        assert picture.shape == (3, h, w) and picture.min() >= -.05 and picture.max() < 2 and picture.std() > .005


def test_noise_and_blend():
    values = noise(generator('n'), 60, 90, 4)
    assert values.shape == (60, 90) and values.min() >= 0 and values.max() <= 1 and .35 < values.mean() < .65
    smooth = [np.abs(np.diff(noise(generator('n'), 64, 64, c, 1), axis=1)).mean() for c in (2, 16)]
    assert smooth[0] < smooth[1]
    mixed = blend([0, 0, 0], [1, .5, 0], np.array([[0, 1, .5]]))
    assert np.allclose(mixed[:, 0].T, [[0, 0, 0], [1, .5, 0], [.5, .25, 0]])


@pytest.mark.parametrize('name', list(BACKDROPS))
def test_the_key_decides(name):
    one, same, other = (BACKDROPS[name](generator(name, k), 40, 40, .5) for k in (1, 1, 2))
    assert np.array_equal(one, same) and np.abs(one - other).mean() > .005


def test_kinds_are_disjoint_and_grounds_have_a_horizon():
    assert not set(FLAT_LAYS) & set(GROUNDS) and set(BACKDROPS) == set(FLAT_LAYS) | set(GROUNDS)
    for horizon in (.35, .6):
        street = GROUNDS['street'](generator('h'), 100, 60, horizon).mean(0)
        same = GROUNDS['street'](generator('h'), 100, 60, .5).mean(0)
        top = round(100 * horizon)
        assert np.allclose(street[:30], same[:30]) and not np.allclose(street[top - 1:60], same[top - 1:60])


def test_picture_grid_has_the_shorter_side_as_its_unit():
    x, y = picture_grid(10, 20)
    assert x.shape == (1, 20) and y.shape == (10, 1)
    assert np.allclose(x[0, [0, -1]], [.05, 1.95]) and np.allclose(y[[0, -1], 0], [.05, .95])
