"""The alphabet of shapes, the recipes and their parser."""
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsskit import fieldguide as fg
from fsskit.photos import FSSKitError


def area(loop):
    x, y = loop.T
    return .5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def test_generator_depends_on_the_key_alone():
    digest = hashlib.blake2b(b'a/1/(2, 3)', digest_size=16).digest()
    by_hand = np.random.Generator(np.random.PCG64(int.from_bytes(digest, 'little')))
    assert np.array_equal(fg.generator('a', 1, (2, 3)).random(5), by_hand.random(5))
    assert fg.generator('a', 1).random() != fg.generator('a', 2).random()


def test_pick_and_gauss_have_the_wanted_distributions():
    rng = fg.generator('draws')
    drawn = np.array([fg.pick(rng, (0, 0, 1)) for _ in range(3000)])
    assert abs(drawn.mean() - 1 / 3) < .03
    values = fg.gauss(rng, 3., (20000,))
    assert abs(values.mean()) < .1 and abs(values.std() - 3) < .1
    assert np.ndim(fg.gauss(rng, 1.)) == 0


def test_chaikin_of_a_square_has_known_points_and_area():
    square = np.array([[-1., -1], [1, -1], [1, 1], [-1, 1]])
    assert np.allclose(fg.chaikin(square, 1)[:3], [[-.5, -1], [.5, -1], [1, -.5]])
    assert area(fg.chaikin(square, 1)) == pytest.approx(3.5)
    assert area(fg.chaikin(square, 7)) == pytest.approx(4 * 5 / 6, abs=1e-3)  # the B-spline's area
    assert np.array_equal(fg.chaikin(square, 0), square)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(3, 9), st.integers(0, 4), st.integers(0, 10 ** 6))
def test_chaikin_stays_in_the_bounds_and_keeps_the_centre(n, rounds, seed):
    points = fg.generator(seed).uniform(-5, 5, (n, 2))
    cut = fg.chaikin(points, rounds)
    assert len(cut) == n * 2 ** rounds
    assert (cut.min(0) >= points.min(0) - 1e-9).all() and (cut.max(0) <= points.max(0) + 1e-9).all()
    assert np.allclose(cut.mean(0), points.mean(0))


@pytest.mark.parametrize('shape', list(fg.SHAPES) + list(fg.POLAR))
def test_outlines_fill_the_unit_box_in_short_steps(shape):
    loops = fg.outlines(shape)
    outer = loops[0]
    assert np.allclose(outer.min(0), -1) and np.allclose(outer.max(0), 1)
    assert np.hypot(*(np.roll(outer, -1, 0) - outer).T).max() < .31 * np.sqrt(2) + .3
    assert len(loops) == (2 if shape in fg.HOLES else 1)
    if shape in fg.HOLES:
        assert area(loops[1]) == pytest.approx(fg.HOLES[shape] ** 2 * area(outer))


def test_mirrored_shapes_are_symmetric_and_balls_are_round():
    leaf = fg.outlines('leaf')[0]
    assert all(np.hypot(*(leaf - p * [1, -1]).T).min() < 1e-6 for p in leaf)
    assert np.ptp(np.hypot(*fg.outlines('ball')[0].T)) < .05
    assert area(fg.outlines('box')[0]) == pytest.approx(4)
    assert area(fg.outlines('ring')[0]) == pytest.approx(np.pi, rel=.01)


def test_parse_part_reads_every_word():
    part = fg.parse_part('leg limb 40x12.5 A hip@-.5,.2 .5,-1* 0,.3% -90~18 b30~5 _')
    assert (part.name, part.shape, part.length, part.width, part.slot) == ('leg', 'limb', 40, 12.5, 'A')
    assert part.joints == (('hip', -.5, .2, False, False), ('hip', .5, -1, True, False), ('hip', 0, .3, False, False),
                           ('hip', 0, -.3, False, True))
    assert (part.angle, part.swing, part.bend, part.flex, part.behind, part.centred) == (-90, 18, 30, 5, True, False)
    assert fg.parse_part('petal leaf 9x9 A hub&0,0 r8').spread == (8, 0, 315)
    assert fg.parse_part('petal leaf 9x9 A hub&0,0 r7:115,245').spread == (7, 115, 245)
    assert fg.parse_part('petal leaf 9x9 A hub&0,0').centred and fg.parse_part('b ball 9x9 A').joints == ()
    several = fg.parse_part('wheel ring 9x9 K fork&1,0 stay&-1,0')
    assert [j[0] for j in several.joints] == ['fork', 'stay']


def test_a_word_without_meaning_is_refused():
    with pytest.raises(FSSKitError, match='sideways'):
        fg.parse_part('ear cone 1x1 A head@0,0 sideways')


def test_parse_recipes_joins_lines():
    table = fg.parse_recipes('\none: a ball 1x2 A;\n  b ball 3x4 B a@0,0\ntwo: c box 5x6 C\n')
    assert {k: [p.name for p in v] for k, v in table.items()} == {'one': ['a', 'b'], 'two': ['c']}


def test_pools_and_folds_are_disjoint_and_complete():
    assert [len(f) for f in fg.FOLDS] == [16] * 4 and len(fg.POOL) == 24 and fg.N_CLASSES == 64
    assert len(set(fg.CLASS_NAMES)) == 88 and not set(sum(fg.FOLDS, ())) & set(fg.POOL)
    assert not set(fg.CLASS_NAMES) & set(fg.LITTER + fg.SCREENS)
    for fold in range(4):
        assert [fg.CLASS_NAMES[c] for c in fg.fold_ids(fold)] == list(fg.FOLDS[fold])


def test_every_recipe_is_a_tree_of_known_shapes():
    for name, recipe in fg.RECIPES.items():
        names = {p.name for p in recipe}
        assert {j[0] for p in recipe for j in p.joints} <= names, name
        assert sum(not p.joints for p in recipe) == 1, f'{name} needs one root'
        assert all(p.shape in fg.SHAPES or p.shape in fg.POLAR for p in recipe), name
        assert all(p.slot in 'ABCKWMEHG' for p in recipe), name


def test_siblings_share_shapes_but_not_joints():
    shapes = {n: sorted(p.shape for p in fg.RECIPES[n]) for n in ('stacker', 'tumbler')}
    assert shapes['stacker'] == shapes['tumbler']
    assert {p.name: p.joints for p in fg.RECIPES['stacker']} != {p.name: p.joints for p in fg.RECIPES['tumbler']}
