"""Steppers: ranges, pictures and read-outs against numbers by hand and against the script; both walks; the widget."""
import base64
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import fsskit.distillation as distillation
import fsskit.steppers as S
from fsskit.backbones import create_backbone
from fsskit.distillation import BottleneckAdapter, SamTeacher
from fsskit.memory_refinement import Refined
from fsskit.photos import FSSKitError
from fsskit.predictor import create_model, FewShotPredictor
from fsskit.similarity import ColourBackbone
from fsskit.steppers import Panel, Step, Stepper, StepsView
from test_distillation import micro_sam
from test_javascript import node  # noqa: F401


@pytest.fixture
def steps(photo):
    """Two steps; the map grows, and the second step has one panel more, with colours and numbers."""
    grown = np.arange(6, dtype=np.float32).reshape(2, 3)
    cells = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    first = Step('first', [Panel('photo', photo), Panel('map', photo, grown)], 'a note')
    second = Step('second', [Panel('photo', photo), Panel('map', photo, 2 * grown),
                             Panel('colours', photo[::-1].copy(), np.full((3, 4), -.25, np.float32),
                                   cells, 'cosine')])
    return [first, second]


@pytest.fixture
def view(steps):
    return StepsView(steps, 'A walk', {'colours': (-1, 1)}, opacity=.5)


def test_maps_of_all_steps_share_one_range():
    draw = np.random.default_rng(0)
    maps = [draw.normal(size=size).astype(np.float32) for size in ((2, 3), (5, 1), (4, 4))]
    found = S.maps_together(maps)
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    for small, values in zip(found, maps):
        assert (small.low, small.high) == (pytest.approx(low), pytest.approx(high))
        assert small.values.shape == values.shape
        np.testing.assert_allclose(small.low + (small.high - small.low) * small.values / 255., values,
                                   atol=(high - low) / 509)
    wide = S.maps_together(maps, (-9, 0))
    assert wide[0].low == -9 and wide[0].high == pytest.approx(high)


def test_maps_of_other_names_have_other_ranges(view):
    assert {key: (m.low, m.high) for key, m in view.maps.items()} == {(0, 1): (0, 10), (1, 1): (0, 10), (1, 2): (-1, 1)}
    assert view.most == 3 and view.state() == dict(step=0, place=[.5, .5], opacity=.5)


@pytest.mark.parametrize('values, cells', [
    (np.zeros((2, 3, 1)), None), (None, np.zeros((2, 3), np.uint8)), (None, np.zeros((2, 3, 3))),
    (np.zeros((2, 3)), np.zeros((3, 2, 3), np.uint8))])
def test_panels_that_cannot_be_shown(photo, values, cells):
    with pytest.raises(FSSKitError, match="Panel 'bad' of step 'one'"):
        StepsView([Step('one', [Panel('good', photo), Panel('bad', photo, values, cells)])])


def test_photos_and_steps_that_cannot_be_shown(photo):
    for wrong in (photo / 255., photo[..., 0]):
        with pytest.raises(FSSKitError, match="'bad'"):
            StepsView([Step('one', [Panel('bad', wrong)])])
    for empty in ([], [Step('one', [])]):
        with pytest.raises(FSSKitError, match='at least one step'):
            StepsView(empty)


def test_pictures_by_hand(view, photo):
    assert np.array_equal(view.picture(0, 0), photo)
    cells = view.steps[1].panels[2].cells
    blocks = np.kron(cells, np.ones((8, 9, 1)))
    np.testing.assert_allclose(view.picture(1, 2, .25), .75 * photo[::-1] + .25 * blocks, atol=.51)
    colours = view.colours[np.rint(np.arange(6) * 255 / 10).astype(int)].reshape(2, 3, 3)
    drawn = view.picture(0, 1, 1.)
    np.testing.assert_allclose(drawn[:3, :3], np.broadcast_to(colours[0, 0], (3, 3, 3)),
                               atol=1)  # beyond the middles of cells nothing is mixed
    np.testing.assert_allclose(drawn[6:18].mean((0, 1)), drawn.mean((0, 1)), atol=6)
    assert np.array_equal(view.picture(0, 1), view.picture(0, 1, .5))


def test_readings_are_the_numbers_of_the_cell(view):
    for place, cell in (([.1, .1], 0), ([.1, .99], 2), ([.51, .34], 4)):
        assert view.readings(0, place) == {'map': pytest.approx(cell, abs=10 / 509)}
        assert view.readings(1, place) == {'map': pytest.approx(2 * cell, abs=10 / 509),
                                           'cosine': pytest.approx(-.25, abs=2 / 509)}


@pytest.mark.parametrize('width, digits', [(1, 2), (50, 1), (700, 0), (.5, 3), (.02, 4), (1e-9, 6), (0, 2)])
def test_enough_digits(width, digits):
    assert S.digits_of(S.ByteMap(None, 3, 3 + width)) == digits
    assert S.digits_of(None) == 2


def test_the_payload_sends_a_photo_once_and_bytes(view):
    payload = view.payload()
    assert len(payload['photos']) == 2 and payload['chain'] and '[ and ]' in payload['note']
    first, second = payload['steps']
    assert (first['name'], first['note'], len(first['panels'])) == ('first', 'a note', 2)
    bare, small = first['panels']
    assert bare['grid'] is bare['values'] is bare['cells'] is bare['low'] is None and bare['photo'] == 0
    assert small['grid'] == [2, 3] and np.frombuffer(small['values'], np.uint8).tolist() == [0, 26, 51, 76, 102, 128]
    assert (second['panels'][2]['photo'], second['panels'][2]['reads'],
            second['panels'][2]['cells']) == (1, 'cosine', bytes(range(36)))
    alone = StepsView(view.steps[:1], chain=False).payload()
    assert not alone['chain'] and '[ and ]' not in alone['note']


def test_figures(view):
    figure = view.static(step=1, place=[.9, .9])
    assert [ax.get_title() for ax in figure.axes] == ['photo', 'map', 'colours']
    assert figure.get_suptitle() == 'second · map 10.00 · cosine -0.25'
    assert [len(ax.patches) for ax in figure.axes] == [0, 2, 2]
    assert np.array_equal(figure.axes[2].images[0].get_array(), view.picture(1, 2))
    film = view.film(1.)
    assert [len(ax.images) for ax in film.axes] == [1, 1, 0, 1, 1, 1] and film.axes[3].texts[0].get_text() == 'second'
    assert film.axes[1].get_title() == 'map' and film.axes[4].get_title() == ''
    with pytest.raises(FSSKitError, match='no step 2: this walk has steps 0 to 1'):
        view.static(step=2)
    with pytest.raises(FSSKitError, match="no state 'plane'"):
        view.static(plane=2)


def test_the_widget_and_its_files(view, tmp_path):
    stepper = Stepper(view, step=1)
    stepper.set_state({'place': [.9, .1], 'opacity': .75})
    assert stepper.readings['map'] == pytest.approx(6, abs=10 / 509)
    assert stepper.current() == dict(step=1, place=[.9, .1], opacity=.75)
    for wrong in (-1, 2):
        with pytest.raises(FSSKitError, match=f'no step {wrong}'):
            stepper.step = wrong
    assert stepper.step == 1
    page = stepper.to_html(tmp_path / 'walk.html').read_text()
    state = json.loads(re.search(r'id="state">(.*?)</script>', page, re.S)[1])
    assert '<title>A walk</title>' in page and (state['step'], state['opacity']) == (1, .75)
    assert base64.b64decode(state['payload']['steps'][1]['panels'][2]['cells']) == bytes(range(36))
    assert Image.open(stepper.to_png(tmp_path / 'walk.png')).width > 100
    assert 'image/png' in stepper._repr_mimebundle_()[0]


def test_the_script_reads_out_what_python_reads(node, view):  # noqa: F811
    payload = json.loads(json.dumps(view.payload(), default=lambda value: base64.b64encode(value).decode()))
    asked = [(step, place) for step in (0, 1) for place in ([.1, .9], [.6, .3], [.99, 0])]
    script = '''import { pixelsOf, readSteps, valueAt } from 'STATIC/stepper.js';
    const steps = readSteps(input.steps), table = Uint8Array.from(Buffer.from(input.colours, 'base64'));
    const read = input.asked.map(([step, place]) => Object.fromEntries(steps[step].panels
      .map((panel) => [panel.reads, valueAt(panel, place)]).filter(([, value]) => value !== null)));
    const pixels = steps[1].panels.map((panel) => { const p = pixelsOf(panel, table); return p && [...p]; });
    console.log(JSON.stringify({ read, pixels }));'''
    said = node(script, {'steps': payload['steps'], 'colours': payload['colours'], 'asked': asked})
    for (step, place), found in zip(asked, said['read']):
        assert found == {name: pytest.approx(value, abs=1e-6) for name, value in view.readings(step, place).items()}
    assert said['pixels'][0] is None
    wanted = view.colours[view.maps[1, 1].values]
    assert np.array_equal(np.reshape(said['pixels'][1], (2, 3, 4))[..., :3], wanted)
    assert np.array_equal(np.reshape(said['pixels'][2], (3, 4, 4))[..., :3], view.steps[1].panels[2].cells)


# ---- refinement

def walk(count=3, grid=(4, 5), seed=0):
    draw = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=draw)
    found = [Refined(rand(2, 6, *grid), rand(2, *grid), torch.zeros(2, *grid))]
    return found + [Refined(rand(2, 6, *grid), rand(2, *grid), rand(2, *grid)) for _ in range(count)]


def test_the_refinement_is_shown_step_by_step(photo):
    steps = walk()
    shown = S.refinement_view(photo, steps, torch.rand(2, 16, 20), which=1)
    assert [step.name for step in shown.steps] == ['before', 'step 1', 'step 2', 'step 3']
    assert [panel.name for panel in shown.steps[0].panels] == ['prior', 'agreement', 'memory', 'generous prior']
    for number, step in enumerate(steps):
        for i in np.ndindex(4, 5):
            read = shown.readings(number, [(i[0] + .5) / 4, (i[1] + .5) / 5])
            assert read['prior'] == pytest.approx(float(step.prior[1][i]), abs=1 / 509)
            assert read['agreement'] == pytest.approx(float(step.agreement[1][i]), abs=1 / 509)
    assert shown.steps[0].note == 'nothing taken over yet'
    assert shown.steps[2].note == f'{steps[2].agreement[1].mean():.0%} of the generous memory taken over'
    assert len(S.refinement_view(photo, steps).steps[1].panels) == 3


def test_memories_of_all_steps_share_one_basis(photo):
    steps = walk(2)
    steps[2] = steps[2]._replace(memory=steps[0].memory)
    cells = [step.panels[2].cells for step in S.refinement_view(photo, steps).steps]
    assert np.array_equal(cells[0], cells[2]) and not np.array_equal(cells[0], cells[1])
    # independent: principal components by numpy, the same up to the signs of the axes
    rows = torch.cat([s.memory[:1] for s in steps]).permute(0, 2, 3, 1).reshape(-1, 6).double().numpy()
    rows -= rows.mean(0)
    axes = np.linalg.svd(rows, full_matrices=False)[2][:3]
    places = rows @ axes.T
    low, high = np.quantile(places, [.02, .98], axis=0)
    wanted = np.clip((places - low) / (high - low), 0, 1)[:20] * 255
    for found, up, down in zip(cells[0].reshape(-1, 3).T, wanted.T, 255 - wanted.T):
        assert min(np.abs(found - up).max(), np.abs(found - down).max()) <= 1


def test_the_overlap_with_the_truth(photo, mask):
    prior = np.zeros((24, 36), np.float32)
    prior[3:11, 5:17] = 1
    truth = mask.copy()
    truth[3:5, 5:17] = 255  # found, but does not count
    wanted = (6 * 12) / (8 * 24 - 2 * 12)
    assert S.overlap(prior, truth) == pytest.approx(wanted)
    assert S.overlap(prior * 0, mask * 0) == 0
    steps = [step._replace(prior=torch.from_numpy(prior)[None]) for step in walk(1, (24, 36))]
    assert S.refinement_view(photo, steps,
                             truth=truth).steps[0].note == f'nothing taken over yet, IoU of the prior {wanted:.2f}'
    with pytest.raises(FSSKitError, match='20 x 10 px'):
        S.refinement_view(photo, steps, truth=np.ones((10, 20), np.uint8))


class Walker(torch.nn.Module):
    """As much of an FSSAM as the stepper asks."""
    name, input_size = 'walker', 32
    def __init__(self, refinement=True):
        super().__init__()
        self.settings, self.steps = type('Settings', (), {'refinement': refinement}), walk()
    def encode_support(self, images, masks): return len(images)
    def look(self, query, state):
        assert query.shape == (1, 3, 32, 32) and state == 1
        return type('Answer', (), {'steps': self.steps, 'prompts': type('P', (), {'foreground': torch.ones(1, 8, 8)})})


def test_a_predictor_is_asked_for_its_walk(photo, mask):
    model = Walker()
    predictor = FewShotPredictor(model)
    with pytest.raises(FSSKitError, match='no support'):
        S.explore_refinement(predictor, photo)
    predictor.set_support(photo, mask)
    with pytest.raises(FSSKitError, match='No query'):
        S.explore_refinement(predictor)
    opened = S.explore_refinement(predictor, photo, mask)
    opened.place = [0, 0]
    assert opened.readings == {'prior': pytest.approx(float(model.steps[0].prior[0, 0, 0]), abs=1 / 509),
                               'agreement': 0, 'generous prior': 1}
    assert 'IoU' in opened.view.steps[0].note


def test_models_without_refinement(photo, mask):
    for model in (create_model('prototype', ColourBackbone(), input_size=32), Walker(refinement=False)):
        with pytest.raises(FSSKitError, match='refines no memory'):
            S.explore_refinement(FewShotPredictor(model).set_support(photo, mask), photo)


# ---- distillation

@pytest.fixture
def student():
    return create_backbone('embedded', None, dim=12, depth=3, heads=2)


@pytest.fixture
def teacher():
    return SamTeacher(micro_sam().image_encoder, 'micro')


def adapter(seed=0, **more):
    torch.manual_seed(seed)
    return BottleneckAdapter(12, (8, 8, 8), blocks=0, heads=2, norm='layer', **more).eval()


def test_the_distillation_is_shown_size_by_size(photo, student, teacher):
    adapters = {'before': adapter(0), 'after': adapter(1)}
    shown = S.distillation_view(photo, student, teacher, adapters, layer=1, sizes=(32, 64))
    assert [step.name for step in shown.steps] == ['32 px', '64 px'] and shown.opacity == 1 and not shown.chain
    assert [p.name for p in shown.steps[0].panels] == ['photo', 'encoder', 'before', 'after', 'teacher']
    with torch.no_grad():
        goal = teacher(S.to_tensor(photo, teacher.side)[None])
        said = adapters['after'](student(S.to_tensor(photo, 64)[None], [1])[0])
    target = F.interpolate(goal, said.shape[-2:], mode='bilinear', antialias=True)
    cosine = (said * target).sum(1) / said.norm(dim=1) / target.norm(dim=1)
    np.testing.assert_allclose(shown.steps[1].panels[3].values, cosine[0], atol=1e-5)
    share = 1 - (said - target).square().sum() / (target - target.mean((2, 3), keepdim=True)).square().sum()
    assert f'after: {share:.0%} of the teacher explained' in shown.steps[1].note
    assert set(shown.readings(0, [.5, .5])) == {'cosine with the teacher, before', 'cosine with the teacher, after'}


def test_equal_features_get_equal_colours(photo, student, teacher):
    class Same(torch.nn.Module):
        def forward(self, features): return distillation.to_grid(goal, features.shape[-2:])
    with torch.no_grad(): goal = teacher(S.to_tensor(photo, teacher.side)[None])
    step = S.distillation_view(photo, student, teacher, {'twin': Same()}, sizes=(32,)).steps[0]
    assert np.array_equal(step.panels[2].cells, step.panels[3].cells) and '100% of the teacher' in step.note
    np.testing.assert_allclose(step.panels[2].values, 1, atol=1e-5)


def test_layer_and_sizes_when_nothing_is_said(photo, student, teacher, monkeypatch):
    asked = []
    forward = type(student).forward
    monkeypatch.setattr(type(student), 'forward',
                        lambda self, images, layers: asked.append((images.shape[-1], *layers))
                        or forward(self, images, layers))
    S.distillation_view(photo, student, teacher, {'a': adapter()})
    known = adapter()
    known.layer = 2
    S.distillation_view(photo, student, teacher, {'a': adapter(), 'b': known}, sizes=[32])
    assert asked == [(80, 0), (160, 0), (320, 0), (32, 2)]


def test_a_trained_adapter_beside_a_fresh_one(photo, monkeypatch, student, teacher):
    trained = adapter(3)
    trained.layer = 1
    made = []
    monkeypatch.setattr('fsskit.backbones.create_backbone', lambda *given: made.append(given) or student)
    monkeypatch.setattr('fsskit.distillation.create_teacher', lambda *given: made.append(given) or teacher)
    monkeypatch.setattr('fsskit.distillation.load_adapter', lambda *given: made.append(given[0]) or trained)
    opened = S.explore_distillation(photo, sizes=[32])
    assert made == [('embedded', 'embedded'), 'shipped', ('sam_tiny', 'shipped')]
    wanted = S.distillation_view(photo, student, teacher, {'after': trained}, sizes=[32]).steps[0].panels[2]
    panels = opened.view.steps[0].panels
    assert np.array_equal(panels[3].cells, wanted.cells) and not np.array_equal(panels[2].cells, wanted.cells)
    again = S.explore_distillation(photo, sizes=[32])
    assert np.array_equal(again.view.steps[0].panels[2].cells, panels[2].cells)


def test_a_missing_adapter_is_named(photo, tmp_path):
    with pytest.raises(FSSKitError, match='none.safetensors'):
        S.explore_distillation(photo, adapter=tmp_path / 'none.safetensors')
