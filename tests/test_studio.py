"""The studio without a browser: desk, shelf, page, and the server that the command starts."""
import base64
import html
import io
import json
import os
import re
import socket
import subprocess
import sys
import time

import nbformat
import numpy as np
import pytest
from ipywidgets import VBox
from nbformat.sign import NotebookNotary
from PIL import Image

import fsskit.studio as studio_module
from fsskit.mask_painter import nearest_size, to_runs
from fsskit.photos import FSSKitError, load_mask, load_photo, overlay
from fsskit.predictor import create_model, FewShotPredictor
from fsskit.similarity_explorer import SimilarityExplorer
from fsskit.steppers import Stepper
from fsskit.studio import Desk, EpisodeStudio, open_studio, PhotoShelf, Pieces, safe_name
from fsskit.widgets import bundle
from test_javascript import node  # noqa: F401


@pytest.fixture
def pair():
    """A red box on green as the support, two of them as the query; 64 x 96 px."""
    draw = np.random.default_rng(0)
    photos = [draw.normal((60, 140, 70), 12, (64, 96, 3)) for _ in range(2)]
    masks = np.zeros((2, 64, 96), np.uint8)
    masks[0, 16:48, 24:56] = masks[1, 8:32, 8:40] = masks[1, 40:60, 60:90] = 1
    for photo, mask in zip(photos, masks): photo[mask == 1] = draw.normal((200, 50, 40), 12, (int(mask.sum()), 3))
    return [photo.clip(0, 255).astype(np.uint8) for photo in photos], masks


@pytest.fixture
def desk(pair):
    (support, query), masks = pair
    desk = Desk()
    desk.add(support, masks[0], 'box.png'), desk.add(query, name='boxes.png')
    return desk


@pytest.fixture
def studio(pair, tmp_path):
    made = EpisodeStudio(pair[0], [pair[1][0]], backbone='rgb', out=tmp_path / 'results')
    yield made
    made.close()


def said(studio): return html.unescape(re.sub('<[^>]+>', '', studio.controls.said.value))
def png(photo, kind='PNG'):
    stream = io.BytesIO()
    Image.fromarray(photo).save(stream, kind)
    return stream.getvalue()


# ---- the desk

@pytest.mark.parametrize('name, wanted', [
    ('dog.jpg', 'dog'), ('a b (2).png', 'a b (2)'), ('../../x/../etc/passwd',
                                                     'passwd'), (r'C:\temp\cat.jpeg', 'cat'), ('..', 'photo'),
    ('', 'photo'), ('con<>:"|?*.png', 'con'), ('y' * 300 + '.png', 'y' * 80), ('Ünï.png', 'Ünï'),
    ('.hidden', 'hidden')])
def test_names_lead_nowhere(name, wanted):
    assert safe_name(name) == wanted


def test_no_two_photos_have_one_name(desk, photo):
    names = [desk.add(photo, name=name).name for name in ('BOX.jpg', 'box.gif', 'box 2.png', '')]
    assert names == ['BOX 2', 'box 3', 'box 2 2', 'photo']
    assert desk.add(photo).name == 'photo 2'


def test_photos_with_a_mark_are_the_support(desk, pair, write):
    photos, masks = pair
    third = desk.add(write(photos[0], 'third.png'), write(masks[1] * 255, 'mask.png'))
    ignored = desk.add(photos[0])
    desk.mark(ignored, masks[0] * 255)
    assert [s.name for s in desk.support] == ['box', 'third'] and [s.name for s in desk.queries] == ['boxes', 'photo']
    assert np.array_equal(third.mask, masks[1]) and third.name == 'third' and set(np.unique(ignored.mask)) == {0, 255}
    with pytest.raises(FSSKitError, match='36 x 24 px'):
        desk.add(photos[0], np.ones((24, 36), np.uint8))
    with pytest.raises(FSSKitError, match='does not exist'):
        desk.add('nowhere.jpg')
    assert len(desk.sheets) == 4


def test_a_run_is_what_the_predictor_says(desk, pair):
    (support, query), masks = pair
    desk.add(query[::-1].copy())
    answers = desk.run('prototype', 'rgb')
    direct = FewShotPredictor(create_model('prototype', 'rgb')).set_support(support, masks[0])
    for answer, photo, truth in zip(answers, (query, query[::-1]), (masks[1], masks[1][::-1])):
        wanted = direct.predict(photo.copy())
        assert np.array_equal(answer.mask, wanted.mask) and np.allclose(answer.score, wanted.score, atol=1e-5)
        assert (answer.mask & truth).sum() / (answer.mask | truth).sum() > .7
    assert [sheet.answer for sheet in desk.sheets] == [None, *answers]


def test_ignored_pixels_stay_ignored_when_all_else_is_object(desk, pair):
    (support, query), masks = pair
    whole = np.where(masks[0] == 1, 1, 255).astype(np.uint8)
    desk.mark(desk.sheets[0], whole)
    answer, = desk.run('prototype', 'rgb')
    direct = FewShotPredictor(create_model('prototype', 'rgb')).set_support(support, whole, 'voc')
    assert np.array_equal(direct.support[0][1], whole) and np.array_equal(answer.mask, direct.predict(query).mask)


def test_the_model_is_kept_until_another_one_is_wanted(desk, monkeypatch):
    made = []
    monkeypatch.setattr(studio_module, 'create_model', lambda *name: made.append(name) or create_model(*name[:2]))
    for name in ('prototype', 'prototype', 'prior_mask', 'prototype'): desk.run(name, 'rgb')
    assert [name for name, *_ in made] == ['prototype', 'prior_mask', 'prototype'] and made[0][2] == 'embedded'


def test_other_encoders_come_from_the_hub(desk, monkeypatch):
    asked = []
    monkeypatch.setattr(studio_module, 'create_model', lambda *name: asked.append(name)
                        or create_model('prototype', 'rgb'))
    desk.run('prototype', 'dinov2_vits14')
    assert asked == [('prototype', 'dinov2_vits14', 'hub')]


def test_runs_that_make_no_sense(desk, photo):
    with pytest.raises(FSSKitError, match='No photo is marked'):
        Desk().run()
    desk.remove(1)
    with pytest.raises(FSSKitError, match='All photos are marked'):
        desk.run('prototype', 'rgb')
    desk.add(photo)
    with pytest.raises(FSSKitError, match="no model 'oracle'"):
        desk.run('oracle', 'rgb')


@pytest.mark.parametrize('change', [lambda desk: desk.add(np.zeros((20, 20, 3), np.uint8)), lambda desk: desk.remove(0),
                                    lambda desk: desk.mark(desk.sheets[0], desk.sheets[0].mask)])
def test_every_change_makes_answers_invalid(desk, change, tmp_path):
    desk.run('prototype', 'rgb')
    change(desk)
    assert desk.predictor is None and all(sheet.answer is None for sheet in desk.sheets)
    for action in (desk.result, lambda: desk.save(tmp_path), lambda: desk.to_html(tmp_path / 'x.html')):
        with pytest.raises(FSSKitError, match='run a model first'): action()
    assert not list(tmp_path.iterdir())


def test_the_result_is_a_walk_over_the_queries(desk, pair):
    desk.add(pair[0][1][::-1].copy(), name='turned')
    answers = desk.run('prototype', 'rgb')
    view = desk.result()
    assert [step.name for step in view.steps] == ['boxes', 'turned'] and not view.chain
    assert [panel.name for panel in view.steps[0].panels] == ['support', 'result', 'score']
    for number, (answer, sheet) in enumerate(zip(answers, desk.queries)):
        panels = view.steps[number].panels
        assert np.array_equal(panels[1].photo, overlay(sheet.photo, answer.mask, outline=2))
        assert np.array_equal(panels[0].photo, overlay(pair[0][0], pair[1][0], studio_module.BLUE, outline=2))
        read = [view.readings(number, ((y + .5) / 64, (x + .5) / 96))['score (object above 0)']
                for y, x in ((3, 5), (20, 20), (50, 70))]
        np.testing.assert_allclose(read, [answer.score[p] for p in ((3, 5), (20, 20), (50, 70))], atol=.05)
        assert view.steps[number].note.startswith(f'object: {answer.mask.mean():.1%} of the photo')
    assert all(small.low <= 0 <= small.high for small in view.maps.values())


def test_several_supports_are_shown(desk, pair):
    desk.add(pair[0][1], pair[1][1])
    desk.run('prototype', 'rgb')
    assert [panel.name for panel in desk.result().steps[0].panels] == ['support 1', 'support 2', 'result', 'score']


def test_large_photos_are_shown_small():
    desk = Desk()
    sheet = desk.add(np.zeros((300, 900, 3), np.uint8), np.ones((300, 900), np.uint8))
    assert sheet.small.shape == (149, 448, 3) and sheet.marked().shape == (149, 448, 3)
    assert np.array_equal(sheet.marked(), overlay(sheet.small, nearest_size(sheet.mask, (149, 448)), studio_module.BLUE,
                                                  outline=2))


def test_figures_before_and_after(desk):
    assert Desk().static().axes[0].get_title().startswith('no photos yet')
    assert [ax.get_title() for ax in desk.static().axes] == ['box (support)', 'boxes (query)']
    desk.run('prototype', 'rgb')
    assert [ax.get_title() for ax in desk.static(opacity=.2).axes] == ['support', 'result', 'score']


def test_results_as_files(desk, tmp_path):
    answer, = desk.run('prototype', 'rgb')
    files = desk.save(tmp_path / 'new')
    assert [file.name for file in files] == ['boxes_mask.png', 'studio.html']
    assert all(file.parent == tmp_path / 'new' for file in files)
    assert np.array_equal(load_mask(files[0], 'binary'), answer.mask)
    state = json.loads(re.search(r'id="state">(.*?)</script>', files[1].read_text(), re.S)[1])
    assert [p['name'] for p in state['payload']['steps'][0]['panels']] == ['support', 'result', 'score']


# ---- the shelf

def test_pieces():
    pieces = Pieces(10)
    assert pieces.add('a', 0, 2, b'12345') is None and pieces.add('b', 0, 1, b'') == b''
    with pytest.raises(FSSKitError, match="'a': piece 2 came, but piece 1"):
        pieces.add('a', 2, 3, b'x')
    assert pieces.add('a', 0, 2, b'abc') is None  # from the beginning
    assert pieces.add('a', 1, 2, memoryview(b'def')) == b'abcdef'
    with pytest.raises(FSSKitError, match='piece 1 came, but piece 0'):
        pieces.add('a', 1, 2, b'def')
    pieces.add('c', 0, 3, b'123456')
    with pytest.raises(FSSKitError, match='more than 10 bytes'):
        pieces.add('c', 1, 3, b'123456')
    assert 'c' not in pieces.parts


def test_the_shelf_takes_files_and_says_what_is_wrong(photo):
    came, sent = [], []
    shelf = PhotoShelf(lambda whole, name: came.append((name, load_photo(whole))), came.append)
    shelf.send = sent.append
    whole = png(photo)
    shelf.heard({'kind': 'photo', 'name': 'x.png', 'part': 0, 'parts': 2}, [memoryview(whole[:99])])
    shelf.heard({'kind': 'photo', 'name': 'x.png', 'part': 1, 'parts': 2}, [memoryview(whole[99:])])
    shelf.heard({'kind': 'remove', 'number': 3})
    shelf.heard({'kind': 'something else'})
    assert came[0][0] == 'x.png' and np.array_equal(came[0][1], photo) and came[1:] == [3] and sent == []
    shelf.heard({'kind': 'photo', 'name': 'letter.doc', 'part': 0, 'parts': 1}, [b'Dear Sir'])
    assert sent[0]['kind'] == 'said'
    assert sent[0]['text'].startswith('letter.doc: ')
    assert 'cannot be read' in sent[0]['text']


def test_the_shelf_is_drawn(desk, tmp_path):
    shelf = PhotoShelf(print, print)
    assert shelf.static().axes[0].get_title().startswith('no photos')
    shelf.entries = [studio_module.shelf_entry(sheet) for sheet in desk.sheets]
    assert [ax.get_title() for ax in shelf.static().axes] == ['box: support', 'boxes: query']
    entry = shelf.entries[0]
    shown = load_photo(base64.b64decode(entry['source'].partition(',')[2])).astype(int)
    assert (entry['width'], entry['height']) == (96, 64) and (shown[32, 40] - shown[4, 4])[2] > 20  # blue over the mark
    assert 'Drop photos here' in shelf.to_html(tmp_path / 'a.html').read_text()


@pytest.mark.parametrize('name', ['photo_shelf', 'stepper'])
def test_a_bundle_is_one_module_with_a_render_function(node, name):  # noqa: F811
    code = base64.b64encode(bundle(name).encode()).decode()
    script = f"const made = await import('data:text/javascript;base64,{code}');\n"
    assert node(script + "console.log(JSON.stringify(typeof made.default.render))") == 'function'


def test_page_and_python_agree_on_the_largest_file(node):  # noqa: F811
    found = node("import { MOST, PIECE } from 'STATIC/photo_shelf.js'; console.log(JSON.stringify([MOST, PIECE]));")
    assert found[0] == studio_module.MOST_BYTES and found[1] <= 2 ** 20


# ---- the page

def test_the_page_follows_the_desk(studio, pair):
    assert [entry['role'] for entry in studio.shelf.entries] == ['support', 'query'] and studio.shelf.chosen == 0
    assert np.array_equal(studio.bench.children[0].mask, pair[1][0]) and 'press run' in said(studio)
    studio.shelf.chosen = 1
    assert not studio.bench.children[0].mask.any()
    studio.take(png(pair[0][1]), 'third.png')
    assert [s.name for s in studio.desk.sheets][-1] == 'third'
    assert studio.shelf.chosen == 2
    assert studio.sheet.name == 'third'
    painter = studio.bench.children[0]
    studio.remove(2)
    assert len(studio.shelf.entries) == 2 and studio.shelf.chosen == 1 and painter.comm is None
    for number in (7, -1):
        studio.remove(number)
    assert len(studio.desk.sheets) == 2
    studio.remove(0), studio.remove(0)
    assert studio.sheet is None and studio.bench.children == () and studio.shelf.chosen == 0


def test_painting_in_the_browser_reaches_the_desk(studio, pair):
    studio.run()
    assert len(studio.stage.children) == 1
    studio.shelf.chosen = 1
    painted = studio.bench.children[0]
    painted.set_state({'runs': memoryview(to_runs(pair[1][1]))})
    assert np.array_equal(studio.desk.sheets[1].mask, pair[1][1]) and studio.shelf.entries[1]['role'] == 'support'
    assert studio.desk.predictor is None and studio.stage.children == ()
    studio.run()
    assert 'All photos are marked' in said(studio)


def test_running_and_looking(studio, pair):
    studio.controls.run.click()
    assert studio.desk.predictor.model.name == 'dense_match' and studio.desk.predictor.model.backbone.name == 'rgb'
    shown, = studio.stage.children
    assert isinstance(shown, Stepper) and '1 photo segmented in' in said(studio) and not studio.controls.run.disabled
    studio.controls.look.value = 'similarity'
    explorer, = studio.stage.children
    assert isinstance(explorer, SimilarityExplorer) and shown.comm is None
    studio.controls.look.value = 'attention'
    assert studio.stage.children == () and "'rgb' has no attention" in said(studio)
    studio.controls.look.value = 'memory'
    assert 'makes no memory' in said(studio)
    studio.controls.look.value = 'refinement'
    assert 'refines no memory' in said(studio)
    studio.controls.look.value = 'correlation'
    assert type(studio.stage.children[0]).__name__ == 'CorrelationExplorer'


def test_the_chosen_photos_are_looked_at(studio, pair, monkeypatch):
    studio.take(pair[0][1][::-1].copy(), 'turned')
    studio.take(pair[0][1], 'marked too', pair[1][1])
    studio.run()
    assert studio.stage.children[0].step == 0
    studio.shelf.chosen = 2
    assert studio.stage.children[0].step == 1
    asked = []
    monkeypatch.setitem(studio_module.LOOKS, 'similarity', lambda desk, query, shot: asked.append((query.name, shot))
                        or VBox())
    studio.controls.look.value = 'similarity'
    studio.shelf.chosen = 3
    studio.look()
    assert asked == [('turned', 0), ('photo 2', 1)]


def test_attention_of_a_transformer_and_its_size(pair, monkeypatch):
    from fsskit import attention_explorer
    asked = []
    monkeypatch.setattr(attention_explorer.AttentionExplorer, 'encoder',
                        lambda photo, **options: asked.append(options) or VBox())
    studio = EpisodeStudio(pair[0], [pair[1][0]], model='prototype')
    studio.run()
    studio.controls.look.value = 'attention'
    assert asked[0]['size'] == 320
    assert asked[0]['heads']
    assert asked[0]['backbone'] is studio.desk.predictor.model.backbone


def test_errors_become_a_sentence(studio, monkeypatch, tmp_path):
    studio.save()
    assert 'run a model first' in said(studio) and not studio.out.exists()
    studio.controls.look.value = 'similarity'
    assert 'run a model first' in said(studio)
    studio.desk.sheets[0].name = '<b>'
    monkeypatch.setattr(studio.desk, 'run', lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        studio.run()
    assert 'ZeroDivisionError' in said(studio) and 'not foreseen' in said(studio) and not studio.controls.run.disabled
    studio.say('<script>alert(1)</script>')
    assert '<script' not in studio.controls.said.value and said(studio) == '<script>alert(1)</script>'


@pytest.mark.parametrize('model', ['fs_dino', 'fssam'])
def test_a_model_without_its_weights_is_one_sentence(studio, model):
    studio.controls.model.value = model
    studio.controls.run.click()  # nothing is ever shipped for colours
    assert '.safetensors' in said(studio) and said(studio).count('. ') == 0 and studio.stage.children == ()


def test_saving(studio):
    studio.run()
    studio.controls.save.click()
    assert (studio.out / 'photo 2_mask.png').is_file()
    assert (studio.out / 'studio.html').is_file()
    assert str(studio.out.resolve()) in said(studio)


def test_the_example(tmp_path):
    studio = EpisodeStudio(backbone='rgb', out=tmp_path)
    assert 'press example' in said(studio)
    studio.controls.example.click()
    assert [sheet.role for sheet in studio.desk.sheets] == ['support', 'query'] and 'first is marked' in said(studio)
    studio.run()
    assert '1 photo segmented' in said(studio)


def test_the_studio_is_drawn_and_kept_like_a_view(studio, tmp_path):
    data = studio._repr_mimebundle_()
    assert base64.b64decode(data['image/png']).startswith(b'\x89PNG')
    assert data['text/plain'] == '<EpisodeStudio: 1 marked, 1 to segment>'
    assert 'application/vnd.jupyter.widget-view+json' in data
    studio.run()
    assert Image.open(studio.to_png(tmp_path / 'a.png')).width > 100
    assert '"score"' in studio.to_html(tmp_path / 'a.html').read_text()
    assert EpisodeStudio()._repr_mimebundle_()['image/png']


@pytest.mark.parametrize('given', [{'model': 'oracle'}, {'backbone': 'oracle'}])
def test_other_names_are_refused(given):
    with pytest.raises(FSSKitError, match=f"no {next(iter(given))} 'oracle'"):
        EpisodeStudio(**given)


def test_clicks_are_offered_when_the_weights_are_there(tmp_path, monkeypatch, pair):
    monkeypatch.setattr(studio_module, 'shipped_weights', lambda name: tmp_path / name)
    assert EpisodeStudio(pair[0]).bench.children[0].payload['sam']
    def missing(name): raise FSSKitError(name)
    monkeypatch.setattr(studio_module, 'shipped_weights', missing)
    assert not EpisodeStudio(pair[0]).bench.children[0].payload['sam']


# ---- the command

def test_the_notebook_is_valid_signed_and_runs_the_studio(tmp_path, photo, write, monkeypatch):
    given = write(photo, "it's.png")
    path = studio_module.write_studio(tmp_path / 'place', [given], tmp_path / 'out')
    stored = nbformat.read(path, 4)
    nbformat.validate(stored)
    assert NotebookNotary(data_dir=str(tmp_path / 'place' / 'jupyter_data_dir')).check_signature(stored)
    assert 'run-all-cells' in stored.cells[0].outputs[0].data['application/javascript']
    assert stored.cells[0].metadata.jupyter.source_hidden
    seen = {}
    exec(stored.cells[0].source, seen)
    assert seen['studio'].desk.sheets[0].name == 'it_s' and seen['studio'].out == tmp_path / 'out'
    with pytest.raises(FSSKitError, match='no photo .*nowhere'):
        studio_module.write_studio(tmp_path / 'other', ['nowhere.png'], '.')


def test_a_port(monkeypatch):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0)), taken.listen()
        port = taken.getsockname()[1]
        for wrong in (port, 99_999):
            with pytest.raises(FSSKitError, match=f'Port {wrong} cannot be used'):
                studio_module.studio_port(wrong)
        assert studio_module.studio_port(None) not in (0, port)


def test_the_command_is_for_this_computer_and_tells_no_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'geteuid', lambda: 0, raising=False)
    command = studio_module.studio_command(tmp_path, 7777, browser=False)
    assert {'--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', '--ServerApp.port=7777',
            '--ServerApp.port_retries=0'} <= set(command)
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    assert not {'--no-browser', '--allow-root'} & set(studio_module.studio_command(tmp_path, 7777, browser=True))
    settings = studio_module.studio_settings(tmp_path, 'secret')
    assert settings['JUPYTER_TOKEN'] == 'secret'
    assert settings['JUPYTER_CONFIG_DIR'] == str(tmp_path / 'config')
    assert settings['PATH'] == os.environ['PATH']
    disabled = json.loads((tmp_path / 'config' / 'labconfig' / 'page_config.json').read_text())['disabledExtensions']
    assert disabled == {'@jupyterlab/apputils-extension:announcements': True}


SERVER = '''import http.server, os, sys
print('starting', os.environ['JUPYTER_TOKEN'], flush=True)
if sys.argv[1] == 'fails': sys.exit('no such option')
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()'''


def test_a_server_lives_as_long_as_its_block(monkeypatch, tmp_path):
    monkeypatch.setattr(studio_module, 'studio_command',
                        lambda folder, port, browser: [sys.executable, '-c', SERVER, str(port)])
    with studio_module.studio_server([], None, False, tmp_path) as (server, address):
        port, token = re.fullmatch(r'http://127\.0\.0\.1:(\d+)/doc/tree/studio\.ipynb\?token=([0-9a-f]{32})',
                                   address).groups()
        place = next(iter(server.args[3:]), None)
        socket.create_connection(('127.0.0.1', int(port)), timeout=5).close()
        assert place == port and server.poll() is None
    assert server.poll() is not None
    with pytest.raises(OSError):
        socket.create_connection(('127.0.0.1', int(port)), timeout=1)


def test_a_server_that_does_not_start_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(studio_module, 'studio_command', lambda *given: [sys.executable, '-c', SERVER, 'fails'])
    with pytest.raises(FSSKitError, match='did not start: no such option'):
        with studio_module.studio_server([], None, False, tmp_path): pass
    log = tmp_path / 'log.txt'
    log.write_text('')
    silent = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])
    with pytest.raises(FSSKitError, match='it said nothing'):
        studio_module.wait_for_server(silent, 9, log, seconds=.3)
    studio_module.stop_server(silent)
    assert silent.poll() is not None


def test_a_server_that_does_not_want_to_end_is_ended():
    class Stubborn:
        done = []
        def terminate(self): self.done.append('terminate')
        def kill(self): self.done.append('kill')
        def wait(self, seconds=None):
            self.done.append('wait')
            if seconds: raise subprocess.TimeoutExpired('x', seconds)
    studio_module.stop_server(Stubborn())
    assert Stubborn.done == ['terminate', 'wait', 'kill', 'wait']


def test_the_studio_says_its_address_and_ends_with_ctrl_c(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(studio_module, 'studio_command',
                        lambda folder, port, browser: [sys.executable, '-c', SERVER, str(port)])
    def interrupted(self, timeout=None):
        if timeout is None and not ended: ended.append(1); raise KeyboardInterrupt
        return wait(self, timeout)
    ended, wait = [], subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, 'wait', interrupted)
    start = time.monotonic()
    open_studio(browser=False, out=tmp_path)
    assert re.search(r'The studio is at http://127\.0\.0\.1:\d+/doc/tree/studio\.ipynb\?token=',
                     capsys.readouterr().out)
    assert ended and time.monotonic() - start < 20


def test_without_jupyterlab_there_is_a_remedy(monkeypatch):
    monkeypatch.setattr(studio_module, 'find_spec', lambda name: None)
    with pytest.raises(FSSKitError, match='pip install jupyterlab'):
        open_studio()
