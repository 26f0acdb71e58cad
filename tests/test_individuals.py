"""Identities, poses, frames and paint."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsskit import individuals as ind
from fsskit.fieldguide import CLASS_NAMES, RECIPES, generator, outlines, parse_part
from fsskit.photos import FSSKitError

LIGHT = (-.5, -.6, .62)


def still(name, **pose):
    return ind.Pose(np.zeros((len(RECIPES[name]), 16, 2)), **pose)


def matrix(frame):
    a, b, e, c, d, f = frame
    return np.array([[a, b, e], [c, d, f], [0, 0, 1]])


def test_oklch_has_known_colours():
    assert np.allclose(ind.oklch(1, 0, 0), 1, atol=.005) and np.allclose(ind.oklch(0, 0, 0), 0)
    grey = ind.oklch(.6, 0, .3)
    assert np.ptp(grey) < .005
    red = ind.oklch(.628, .2577, 29.23 / 360)  # sRGB red, from Ottosson's page
    assert np.allclose(red, [1, 0, 0], atol=.06)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10 ** 6))
def test_palettes_are_colours_and_differ(seed):
    colours = ind.palette(generator(seed))
    assert set(colours) == set('ABCKWMEHG')
    assert all(c.dtype == np.float32 and c.min() >= 0 and c.max() <= 1 for c in colours.values())
    assert colours['K'].max() < colours['W'].min()
    assert not np.allclose(colours['A'], ind.palette(generator(seed + 1))['A'])


def test_spawn_is_deterministic_and_individuals_differ():
    one, again, other = (ind.spawn('fox', generator('x', k)) for k in (1, 1, 2))
    assert one.gains == again.gains and all(np.array_equal(one.colours[s], again.colours[s]) for s in one.colours)
    assert one.gains != other.gains
    factors = np.array([list(ind.spawn('fox', generator('f', k)).gains.values()) for k in range(60)])
    assert .85 < factors.mean() < 1.15 and .05 < factors.std() < .2
    assert {ind.spawn('fox', generator(k)).textures['A'][0] for k in range(60)} == set(ind.TEXTURES)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(-.08, .08), st.integers(0, 1000))
def test_unbend_inverts_bend(curve, seed):
    points = generator(seed).uniform(-1, 1, (20, 2)) * [15, 4] + [15, 0]
    assert np.allclose(np.stack(ind.unbend(*ind.bend(points, curve).T, curve), 1), points, atol=1e-5)


def test_bend_keeps_the_length_of_the_axis():
    axis = np.stack([np.linspace(0, 40, 2000), np.zeros(2000)], 1)
    rolled = ind.bend(axis, math.pi / 40)
    assert np.hypot(*np.diff(rolled, axis=0).T).sum() == pytest.approx(40, rel=1e-4)
    assert np.allclose(rolled[-1], [0, 80 / math.pi], atol=1e-6)  # half a circle


def test_join_is_a_matrix_product():
    base = (1.5, .2, 7., -.3, .9, 4.)
    for degrees, flip in ((30., 1.), (-110., -1.)):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        child = np.array([[c, -s * flip, 3.], [s, c * flip, -2.], [0, 0, 1]])
        assert np.allclose(matrix(ind.join(base, 3., -2., degrees, flip)), matrix(base) @ child)


def test_assemble_puts_a_head_where_its_joint_says():
    fox = ind.Identity('fox', {p.name: (1., 1.) for p in RECIPES['fox']}, {}, {}, {}, 0., 0.)
    placed = {p.part.name: p for p in ind.assemble(fox, still('fox', scale=.01, centre=(.5, .5)), 100)}
    recipe = {p.name: p for p in RECIPES['fox']}
    (parent, u, v, _, _), = recipe['head'].joints
    body = recipe['body']
    expected = 50 + u * body.length / 2, 50 - v * body.width / 2  # one pixel a unit, y down
    assert parent == 'body' and np.allclose([placed['head'].frame[2], placed['head'].frame[5]], expected)
    assert math.degrees(math.atan2(-placed['head'].frame[3],
                                   placed['head'].frame[0])) == pytest.approx(recipe['head'].angle)


def test_mirroring_and_turning_move_every_outline_alike():
    owl, base = ind.spawn('owl', generator(3)), still('owl', centre=(0., 0.))
    plain = [ind.trace(p)[0] for p in ind.assemble(owl, base, 10)]
    turned = [ind.trace(p)[0] for p in ind.assemble(owl, still('owl', centre=(0., 0.), turn=90.), 10)]
    for a, b in zip(plain, turned):
        assert np.allclose(b, a @ [[0, -1], [1, 0]], atol=1e-6)  # anticlockwise on a screen whose y points down
    mirrored = [ind.trace(p)[0] for p in ind.assemble(owl, still('owl', centre=(0., 0.), mirrored=True), 10)]
    for a, b in zip(plain, mirrored):
        assert np.allclose(b, a * [-1, 1], atol=1e-6)


def test_bent_parents_carry_their_children_along():
    part = parse_part('b tube 40x4 A 0 b180')
    placed = ind.Placed(part, (1., 0., 0., 0., 1., 0.), (40., 4.), 0., math.pi / 40, 0)
    along, across, turn = ind._on_parent(placed, 1., 0.)
    assert (along, across, turn) == pytest.approx((0, 80 / math.pi, 180), abs=1e-6)
    straight = ind._on_parent(placed._replace(curve=0.), 0., 1.)
    assert straight == (20., 2., 0.)


def test_a_recipe_without_root_is_an_error():
    RECIPES['knot'] = (parse_part('a ball 9x9 A b@0,0'), parse_part('b ball 9x9 A a@0,0'))
    try:
        with pytest.raises(FSSKitError, match='knot.*root'):
            ind._growing_order('knot')
    finally:
        del RECIPES['knot']


def test_fill_gives_exact_shares_of_boxes_and_keyholes():
    half = np.array([[2., 2.], [6.5, 2.], [6.5, 6.], [2., 6.]])
    share = ind.unit(ind.fill([half], (0, 0, 10, 10), 4))
    assert 18 <= share.sum() <= 4.75 * 4.25 + .1  # Pillow draws the border too: at most a sub-pixel more each way
    assert share[3, 3] == 1 and .3 < share[3, 6] < .8 and share[3, 8] == 0
    ring = [loop * 10 + 15 for loop in outlines('ring')]
    hole = ind.unit(ind.fill([ind.keyhole(ring)], (0, 0, 30, 30)))
    whole = ind.unit(ind.fill([ind.keyhole(ring[:1])], (0, 0, 30, 30)))
    assert hole[15, 15] == 0 and whole[15, 15] == 1
    assert (whole - hole).clip(0).sum() == pytest.approx(whole.sum() * .66 ** 2, rel=.08)
    assert ind.fill([half], (0, 0, 10, 10), 1).size == (10, 10)


def test_bounds_cut_at_the_picture():
    square = np.array([[-5., 3.2], [4., 3.2], [4., 20.]])
    assert ind.bounds(square, 10, 10) == (0, 1, 6, 10)
    assert ind.bounds(square + 100, 10, 10) is None


@pytest.mark.parametrize('kind', ('shade', 'stripes', 'dots', 'checks', 'wood', 'blotch'))
def test_textures_are_shares_and_sharpen_with_zoom(kind):
    y, x = np.mgrid[0:90:91j, 0:90:91j].astype(np.float32)
    soft, sharp = (ind.texture(kind, x, y, .3, 14., zoom) for zoom in (.5, 8.))
    assert soft.min() >= 0 and sharp.max() <= 1 and np.ptp(sharp) > .9
    middling = [((t > .02) & (t < .98)).mean() for t in (soft, sharp)]
    assert kind in ('shade', 'wood') or middling[1] < middling[0]


def test_rim_is_what_an_erosion_takes_away():
    cover = np.zeros((9, 9), np.float32)
    cover[2:7, 2:7] = 1
    rim = ind._rim(cover, 1)
    assert rim.sum() == 16 and rim[3:6, 3:6].sum() == 0 and rim[2, 2] == 1


@pytest.mark.parametrize('name', CLASS_NAMES[::7] + ('bus', 'owl', 'bicycle'))
def test_paint_covers_the_filled_outlines_and_nothing_else(name):
    identity = ind.spawn(name, generator('t', name))
    pose = ind.relaxed(name, generator('p', name), scale=.0045, centre=(.5, .5))
    canvas = np.full((3, 120, 150), .5, np.float32)
    covered = ind.paint(canvas, identity, pose, LIGHT)
    paths = [ind.keyhole(ind.trace(p)) for p in ind.assemble(identity, pose, 120)]
    reference = ind.unit(ind.fill(paths, (0, 0, 150, 120), 8))
    assert np.abs(covered - reference).mean() < .01 and abs(covered.sum() / reference.sum() - 1) < .05
    assert (canvas[:, covered == 0] == .5).all() and np.abs(canvas[:, covered == 1] - .5).max() > .1


def test_light_comes_from_where_it_should_and_parts_outside_are_skipped():
    ball = ind.Identity('marble', {'ball': (1., 1.)}, {'A': np.float32([.5, .5, .5])}, {}, {'A': ('plain', 0., 1.)}, 0.,
                        0.)
    canvas = np.zeros((3, 80, 80), np.float32)
    ind.paint(canvas, ball, still('marble', scale=.01, centre=(.5, .5)), (-.7, 0., .7))
    assert canvas[0, 40, 25] > canvas[0, 40, 55] + .1  # brighter on the left
    assert np.allclose(canvas[:, 25, 40], canvas[:, 55, 40], atol=.03)
    empty = ind.paint(canvas, ball, still('marble', scale=.01, centre=(5., 5.)), LIGHT)
    assert empty.sum() == 0
