"""Widgets in a real Chromium: the exported page from the disk, and JupyterLab with a kernel. Mouse, keyboard, pixels.

Needs the program `chromium` (Debian: apt-get install chromium; FSSKIT_CHROMIUM names another one) and the package
`playwright`; skips where one of them is absent. FSSKIT_SCREENSHOTS names a folder that gets a picture of JupyterLab.
"""
import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from fsskit.attention_explorer import AttentionView, encoder_view, Looks, Target
from fsskit.correlation_explorer import correlation_view, CorrelationView, make_table, signed_colours
from fsskit.mask_painter import from_runs, MaskPainter, stroke_mask
from fsskit.similarity_explorer import cell_of, plane_range, similarity_view
from fsskit.smallworld import scene

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'benchmarks'))
from explorer import find_chromium, measure, open_browser, summary  # noqa: E402

GRID, OPACITY = (20, 20), 0.8


@pytest.fixture(scope='module')
def browser():
    pytest.importorskip('playwright', reason='the package playwright is not installed: widgets are not driven in a '
                        'browser')
    program = find_chromium()
    if not program:
        pytest.skip('chromium is not installed (Debian: apt-get install chromium): widgets are not driven in a browser')
    with open_browser(program) as opened:
        yield opened


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={'width': 1300, 'height': 1000})
    page.problems, page.addresses = [], []
    page.on('pageerror', lambda error: page.problems.append(str(error)))
    page.on('request', lambda request: page.addresses.append(request.url))
    yield page
    page.close()


@pytest.fixture(scope='module')
def photos():
    return [scene(5, number, 320, 0).image for number in (0, 1)]


@pytest.fixture(scope='module')
def view(photos):
    return similarity_view(*photos, size=320)


def canvas_pixels(canvas) -> np.ndarray:
    """What a canvas holds, uint8 (H, W, 3)."""
    data = canvas.evaluate("(canvas) => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(',')[2]))).convert('RGB'))


def seen_pixels(canvas) -> np.ndarray:
    """What the screen shows of a canvas, uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert('RGB'))


def expected_centres(view, side, place, plane, stretch=False) -> np.ndarray:
    """Colours (h, w, 3) in the middle of every cell of the photo that shows a map: photo and colour, mixed."""
    values, other = view.map_at(side, place, plane), 1 - ('support', 'query').index(side)
    low, high = (values.min(), values.max()) if stretch else plane_range(view, plane)
    colours = view.colours[np.clip(np.rint((values - low) / (high - low) * 255), 0, 255).astype(int)]
    return (1 - OPACITY) * centres(photo_of(view, other)) + OPACITY * colours


def decoded(entry: dict) -> np.ndarray:
    """The photo of a payload, uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(entry['source'].partition(',')[2]))).convert('RGB'))


def photo_of(view, side) -> np.ndarray:
    return decoded(view.payload()['photos'][side])


def centres(pixels: np.ndarray) -> np.ndarray:
    """Mean of the four pixels around the middle of every cell, float (h, w, 3)."""
    rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(GRID, pixels.shape))
    return np.mean([pixels[rows[:, None] - a, columns - b].astype(float) for a in (0, 1) for b in (0, 1)], axis=0)


def hover(page, canvas, place) -> None:
    box = canvas.bounding_box()
    page.mouse.move(box['x'] + place[1] * box['width'], box['y'] + place[0] * box['height'])


def eventually(page, check, seconds: float = 5.) -> None:
    """The check passes now, or within some seconds; then its own AssertionError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            return check()
        except AssertionError:
            page.wait_for_timeout(50)
    check()


def assert_map(view, canvas, side, place, plane, stretch=False):
    """The canvas, and the screen, show the map that belongs to a place."""
    wanted = expected_centres(view, side, place, plane, stretch)

    def check():
        for pixels in (canvas_pixels(canvas), seen_pixels(canvas)):
            assert np.abs(centres(pixels) - wanted).mean() < 4, 'the picture is not the map of this point'
    eventually(canvas.page, check)


def assert_photo(view, canvas, side):
    """The canvas shows the photo alone."""
    def check():
        assert np.abs(centres(canvas_pixels(canvas)) - centres(photo_of(view, side))).mean() < 4
    eventually(canvas.page, check)


def assert_text(output, part):
    """The line below the photos says this."""
    def check():
        assert part in output.text_content()
    eventually(output.page, check)


# ---- the exported page, from the disk, without kernel and network


@pytest.fixture
def exported(page, view, tmp_path):
    path = view.to_html(tmp_path / 'explorer.html', opacity=OPACITY, plane=2)
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('output').textContent.includes('most similar')")
    page.wait_for_timeout(100)
    yield page
    assert page.problems == [] and {url.split(':')[0] for url in page.addresses} <= {'file', 'data'}


def test_the_page_answers_to_the_mouse_in_both_directions(exported, view):
    support, query = exported.locator('canvas.fsskit-photo').all()
    output = exported.locator('output')
    assert_map(view, query, 'support', [0.5, 0.5], 2)
    for place in ([0.12, 0.88], [0.63, 0.37]):
        hover(exported, support, place)
        assert_map(view, query, 'support', place, 2)
        assert_photo(view, support, 0)
        values = view.map_at('support', place, 2)
        assert_text(output, f'most similar in the query: {values.max():.2f}')
    hover(exported, query, [0.425, 0.625])
    assert_map(view, support, 'query', [0.425, 0.625], 2)
    assert_photo(view, query, 1)


def test_the_page_answers_to_the_keyboard(exported, view):
    support, query = exported.locator('canvas.fsskit-photo').all()
    exported.keyboard.press('Tab')
    assert support.evaluate('(canvas) => document.activeElement === canvas')
    for key in ('ArrowRight', 'ArrowRight', 'ArrowUp', ']'):
        exported.keyboard.press(key)
    place = [9.5 / 20, 12.5 / 20]
    assert_map(view, query, 'support', place, 3)
    exported.keyboard.press('Enter')
    exported.keyboard.press('Tab')
    exported.keyboard.press('ArrowLeft')
    value = view.map_at('support', place, 3)[10, 9]
    assert_text(exported.locator('output'), f'under the cursor: {value:.2f} at row 10, column 9 · pinned')
    exported.keyboard.press('Escape')
    assert 'pinned' not in exported.locator('output').text_content()


def test_the_page_pins_and_its_controls_work(exported, view):
    support, query = exported.locator('canvas.fsskit-photo').all()
    box = support.bounding_box()
    support.click(position={'x': 0.325 * box['width'], 'y': 0.725 * box['height']})
    hover(exported, query, [0.225, 0.225])
    wanted = view.map_at('support', [0.725, 0.325], 2).ravel()[cell_of([0.225, 0.225], GRID)]
    assert_text(exported.locator('output'), f'under the cursor: {wanted:.2f} ')
    hover(exported, exported.locator('output'), [0.5, 0.5])
    exported.get_by_label('stretch each map').check()
    assert_map(view, query, 'support', [0.725, 0.325], 2, stretch=True)
    exported.get_by_label('stretch each map').uncheck()
    exported.get_by_label('layer').fill(str(len(view.names) - 1))
    assert_map(view, query, 'support', [0.725, 0.325], len(view.names) - 1)
    exported.get_by_label('opacity').fill('0')
    assert_photo(view, query, 1)


@pytest.mark.alone  # milliseconds are measured
def test_from_mouse_to_picture_in_less_than_50_ms(page, photos, tmp_path, record_property):
    largest = similarity_view(*photos, backbone='vit_small_patch14_dinov2', weights=None, size=518)
    path = largest.to_html(tmp_path / 'large.html')
    assert largest.layers[0].grids[0] == (37, 37) and len(largest.layers) == 12 and path.stat().st_size < 15_000_000
    page.goto(path.as_uri())
    # one layer; the mean of twelve, where a busy machine may be late now and then
    for plane, quantile in ((11, 0.5), (12, 0.25)):
        page.get_by_label('layer').fill(str(plane))
        page.wait_for_timeout(300)
        times = measure(page, (37, 37), moves=40)
        print(largest.names[plane], summary(times))
        record_property(largest.names[plane], json.dumps(summary(times)))
        assert np.quantile(times[:, 0], quantile) < 50


def test_the_painters_page_paints_undoes_and_saves(page, photos, tmp_path):
    path = MaskPainter(photos[0], segmenter=None).to_html(tmp_path / 'painter.html', radius=7.5)
    page.goto(path.as_uri())
    canvas, output = page.locator('canvas.fsskit-photo'), page.locator('output')
    box, drag = canvas.bounding_box(), [(60, 80), (60, 200), (220, 200)]
    for number, (y, x) in enumerate(drag):
        page.mouse.move(box['x'] + x + 0.5, box['y'] + y + 0.5)
        if number == 0:
            page.mouse.down()
    page.mouse.up()
    wanted = np.zeros((320, 320), np.uint8)
    for start, end in zip(drag, drag[1:]):
        stroke_mask(wanted, start, end, 7.5)  # no pixel lies exactly that far away
    page.mouse.move(5, 5)
    assert_text(output, f'object: {wanted.sum()} px')
    photo, shown = decoded(MaskPainter(photos[0], segmenter=None).payload['photo']), canvas_pixels(canvas)
    mixed = (photo[wanted == 1] + np.array([230., 159, 0])) / 2
    assert np.abs(shown[wanted == 1] - mixed).mean() < 4
    assert np.abs(shown[wanted == 0].astype(int) - photo[wanted == 0]).mean() < 4
    with page.expect_download() as download:
        page.get_by_role('button', name='save').click()
    saved = np.asarray(Image.open(download.value.path()).convert('L'))
    assert np.array_equal(saved > 127, wanted == 1)
    canvas.focus()
    page.keyboard.press('Control+z')
    assert_text(output, 'object: 0 px')
    page.keyboard.press('Control+y')
    assert_text(output, f'object: {wanted.sum()} px')
    assert page.problems == []


# ---- JupyterLab with a kernel

CELLS = ['''import numpy as np
from fsskit.smallworld import scene
from fsskit.similarity_explorer import SimilarityExplorer
from fsskit.mask_painter import MaskPainter
photos = [scene(5, number, 320, 0).image for number in (0, 1)]
def disc(photo, points, labels):
    y, x = np.mgrid[:photo.shape[0], :photo.shape[1]]
    return np.any([np.hypot(y - p[1], x - p[0]) < 12 for p, label in zip(points, labels) if label], 0)''',
         'explorer = SimilarityExplorer(*photos, size=320)\nexplorer.opacity, explorer.plane = 0.8, 2\nexplorer',
         'painter = MaskPainter(photos[0], segmenter=disc)\npainter.radius = 7.5\npainter']

RUN = '''async (code) => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({ code, store_history: false });
    let text = '';
    future.onIOPub = (message) => {
        if (message.header.msg_type === 'stream') text += message.content.text;
        if (message.header.msg_type === 'error') text += JSON.stringify('ERROR ' + message.content.evalue);
    };
    await future.done;
    return text;
}'''
IDLE = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def quiet_settings(folder: Path) -> dict[str, str]:
    """An environment in which JupyterLab keeps everything in one folder and asks nobody for news."""
    config = folder / 'config' / 'labconfig'
    config.mkdir(parents=True)
    news = {'disabledExtensions': {'@jupyterlab/apputils-extension:announcements': True}}
    (config / 'page_config.json').write_text(json.dumps(news))
    places = {name: str(folder / name.lower()) for name in
              ('JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR',
               'IPYTHONDIR')}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('COV_', 'COVERAGE_', 'PYTEST'))}
    return kept | places | {'JUPYTER_CONFIG_DIR': str(folder / 'config'), 'JUPYTER_PREFER_ENV_PATH': '1'}


@pytest.fixture(scope='module')
def lab(browser, tmp_path_factory):
    """Address of a JupyterLab with one notebook."""
    folder = tmp_path_factory.mktemp('lab')
    (folder / 'work').mkdir()
    kernel = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': kernel})
    nbformat.write(notebook, folder / 'work' / 'widgets.ipynb')
    port, log = free_port(), open(folder / 'log.txt', 'w')
    command = [sys.executable, '-m', 'jupyterlab',
               '--no-browser', '--expose-app-in-browser', f'--ServerApp.port={port}',
               '--ServerApp.ip=127.0.0.1', '--IdentityProvider.token=', '--ServerApp.password=', '--allow-root',
               f'--ServerApp.root_dir={folder / "work"}']
    server = subprocess.Popen(command, env=quiet_settings(folder), stdout=log, stderr=log, cwd=folder)
    address = f'http://127.0.0.1:{port}'
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f'{address}/api/status', timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / 'log.txt').read_text()[-3000:]
                time.sleep(0.5)
        yield f'{address}/lab/tree/widgets.ipynb'
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def run_all(browser, address: str, widgets: int):
    """A page with a notebook that has run to its end and shows so many widgets."""
    page = browser.new_page(viewport={'width': 1400, 'height': 2000})
    page.goto(address)
    page.wait_for_function(IDLE, timeout=120_000)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.locator('.fsskit output').nth(widgets - 1).wait_for(timeout=120_000)
    page.wait_for_function(IDLE, timeout=120_000)
    page.wait_for_timeout(500)
    return page


@pytest.fixture(scope='module')
def notebook(browser, lab):
    """The notebook, open and run to its end."""
    page = run_all(browser, lab, 2)
    yield page
    if folder := os.environ.get('FSSKIT_SCREENSHOTS'):  # to look at
        page.screenshot(path=Path(folder) / 'lab.png')
    page.close()


def kernel_says(page, expression: str):
    """Value of an expression in the notebook's kernel, through JSON."""
    return json.loads(page.evaluate(RUN, f'import json; print(json.dumps({expression}))'))


def wait_for_kernel(page, expression: str, wanted) -> None:
    """The kernel has, or gets within ten seconds, this value."""
    for _ in range(50):
        if (found := kernel_says(page, expression)) == wanted:
            return
        page.wait_for_timeout(200)
    assert found == wanted


def cells_of(page) -> int:
    return page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length")


def test_lab_explorer_follows_the_mouse_and_tells_the_kernel(notebook, view):
    support, query = notebook.locator('.fsskit').first.locator('canvas.fsskit-photo').all()
    support.scroll_into_view_if_needed()
    for place in ([0.275, 0.725], [0.825, 0.375]):
        hover(notebook, support, place)
        assert_map(view, query, 'support', place, 2)
        wait_for_kernel(notebook, '[explorer.side, [round(v, 2) for v in explorer.place]]',
                        ['support', [pytest.approx(v, abs=0.02) for v in place]])
    largest = kernel_says(notebook, 'float(explorer.values.max())')
    assert largest == pytest.approx(view.map_at('support', place, 2).max(), abs=1e-5)
    hover(notebook, query, [0.325, 0.575])
    assert_map(view, support, 'query', [0.325, 0.575], 2)
    wait_for_kernel(notebook, 'explorer.side', 'query')


def test_lab_explorer_takes_keys_and_the_notebook_does_not(notebook, view):
    support, query = notebook.locator('.fsskit').first.locator('canvas.fsskit-photo').all()
    hover(notebook, notebook.locator('.fsskit').first.locator('output'), [0.5, 0.5])
    kernel_says(notebook, '[setattr(explorer, "pinned", False), setattr(explorer, "side", "support"), '
                          'setattr(explorer, "place", [0.5, 0.5]), setattr(explorer, "plane", 2)]')
    notebook.wait_for_timeout(300)
    assert_map(view, query, 'support', [0.5, 0.5], 2)
    before = cells_of(notebook)
    support.focus()
    for key in ('ArrowDown', 'ArrowLeft', 'b', 'a', ']', 'Enter'):
        notebook.keyboard.press(key)
    place = [11.5 / 20, 9.5 / 20]
    assert_map(view, query, 'support', place, 3)
    wait_for_kernel(notebook, '[explorer.plane, explorer.pinned]', [3, True])
    assert kernel_says(notebook, 'explorer.place') == pytest.approx(place) and cells_of(notebook) == before
    notebook.keyboard.press('Escape')
    wait_for_kernel(notebook, 'explorer.pinned', False)


def test_lab_painter_mouse_keyboard_and_kernel(notebook):
    canvas = notebook.locator('.fsskit').nth(1).locator('canvas.fsskit-photo')
    canvas.scroll_into_view_if_needed()
    box, before = canvas.bounding_box(), cells_of(notebook)
    for number, (y, x) in enumerate([(100, 60), (100, 240)]):
        notebook.mouse.move(box['x'] + x + 0.5, box['y'] + y + 0.5)
        if number == 0:
            notebook.mouse.down()
    notebook.mouse.up()
    wanted = np.zeros((320, 320), np.uint8)
    stroke_mask(wanted, (100, 60), (100, 240), 7.5)
    wait_for_kernel(notebook, 'int((painter.mask == 1).sum())', int(wanted.sum()))
    runs = base64.b64decode(kernel_says(notebook, '__import__("base64").b64encode(painter.runs).decode()'))
    assert np.array_equal(from_runs(runs, (320, 320)), wanted)
    orange = canvas_pixels(canvas)[100, 60:240].astype(int)
    assert (orange[:, 0] - orange[:, 2]).mean() > 60
    for key in ('e', 'Control+z', 'Control+y', 'b', 'd', 'd', 'x'):
        notebook.keyboard.press(key)
    wait_for_kernel(notebook, '[painter.tool, int((painter.mask == 1).sum())]', ['brush', int(wanted.sum())])
    assert cells_of(notebook) == before
    notebook.keyboard.press('Control+z')
    wait_for_kernel(notebook, 'int(painter.mask.sum())', 0)


def test_lab_painter_asks_the_segmenter_and_python_paints_too(notebook):
    widget = notebook.locator('.fsskit').nth(1)
    canvas = widget.locator('canvas.fsskit-photo')
    widget.get_by_role('button', name='sam').click()
    canvas.click(position={'x': 150, 'y': 200})
    y, x = np.mgrid[:320, :320]
    marked = int((np.hypot(y - 200, x - 150) < 12).sum())
    wait_for_kernel(notebook, 'int((painter.mask == 1).sum())', marked)
    notebook.wait_for_timeout(300)
    assert_text(widget.locator('output'), f'object: {marked} px')
    kernel_says(notebook, '[setattr(painter, "mask", np.ones((320, 320), np.uint8))] and 0')
    notebook.wait_for_timeout(500)
    assert_text(widget.locator('output'), 'object: 102400 px, 100.0 %')


# ---- the correlation and the attention explorer: a page from the disk, and a second notebook in JupyterLab

MORE = ['''import torch
from fsskit.attention_explorer import AttentionExplorer
from fsskit.correlation_explorer import CorrelationExplorer
from fsskit.smallworld import scene
support, query = (scene(5, number, 320, 0) for number in (0, 1))''',
        '''pairs = CorrelationExplorer(support.image, query.image, support.mask(5), backbone='rgb', size=160, after=torch.nn.Identity())
pairs.opacity = 0.8
pairs''',
        '''looks = AttentionExplorer.encoder(query.image, layers=[4, 5])
looks.opacity = 0.8
looks''']


@pytest.fixture(scope='module')
def pairs():
    support, query = (scene(5, number, 320, 0) for number in (0, 1))
    return correlation_view(support.image, query.image, support.mask(5), backbone='rgb', size=160,
                            after=torch.nn.Identity())


def colours_of(values, low, high, table) -> np.ndarray:
    return table[np.clip(np.rint((values - low) / (high - low) * 255), 0, 255).astype(int)].astype(float)


def assert_mixed(canvas, photo, values, low, high, table):
    """The canvas and the screen show a map over a photo of a payload."""
    wanted = (1 - OPACITY) * centres(decoded(photo)) + OPACITY * colours_of(values, low, high, table)

    def check():
        for pixels in (canvas_pixels(canvas), seen_pixels(canvas)):
            assert np.abs(centres(pixels) - wanted).mean() < 4, 'the picture is not the map of this point'
    eventually(canvas.page, check)


def assert_pairs(view, panels, **state):
    """Query, support and table show what Python says for a state."""
    shown, photos = view.shown(**state), view.payload()['photos']
    table = signed_colours() if shown.signed else view.colours
    for panel, photo, values in zip(panels, photos, (shown.column, shown.row)):
        assert_mixed(panel, photo, values, *shown.span, table)
    assert shown.pairs.shape == (400, 400)  # a pixel for a pair
    off = np.abs(np.arange(400) - shown.cells[0])[:, None], np.abs(np.arange(400) - shown.cells[1])[None]
    beside = (off[0] > 4) & (off[1] > 4)  # not on the lines

    def check():
        assert np.abs(canvas_pixels(panels[2]) - colours_of(shown.pairs, *shown.span, table))[beside].mean() < 2
    eventually(panels[2].page, check)


def test_the_correlation_page_answers_to_the_mouse_and_the_keyboard(page, pairs, tmp_path):
    page.goto(pairs.to_html(tmp_path / 'pairs.html', opacity=OPACITY).as_uri())
    panels, output = page.locator('canvas.fsskit-photo').all(), page.locator('output')
    hover(page, panels[0], [0.275, 0.725])
    hover(page, panels[1], [0.625, 0.325])
    places = dict(query=[0.275, 0.725], support=[0.625, 0.325])
    assert_pairs(pairs, panels, **places)
    assert_text(output, f"query row 5, column 14 × support row 12, column 6: {pairs.shown(**places).value:.2f}")
    box = panels[2].bounding_box()
    page.mouse.move(box['x'] + 222.5, box['y'] + 111.5)  # support cell 222, query cell 111
    assert_text(output, 'query row 5, column 11 × support row 11, column 2: ')
    places = dict(query=[5.5 / 20, 11.5 / 20], support=[11.5 / 20, 2.5 / 20])
    assert_pairs(pairs, panels, **places)
    page.get_by_label('mask').select_option('2')
    assert_pairs(pairs, panels, contrast='signed', **places)
    panels[2].focus()
    for key in ('ArrowDown', 'ArrowRight', 'n', 'c', 'c'):
        page.keyboard.press(key)
    places = dict(query=[5.5 / 20, 12.5 / 20], support=[11.5 / 20, 3.5 / 20])
    assert_pairs(pairs, panels, stage='after', contrast='none', **places)
    assert page.problems == [] and {url.split(':')[0] for url in page.addresses} <= {'file', 'data'}


@pytest.mark.alone  # milliseconds are measured
def test_these_two_answer_in_less_than_50_ms_on_37_x_37_cells_too(page, photos, tmp_path, record_property):
    cells, draw = 37 * 37, np.random.default_rng(0)
    table = make_table('random', draw.random((37, 37, 37, 37), dtype=np.float32))
    looks = Looks([Target('looked at', 0, (37, 37))], grid=(37, 37))
    views = {'correlation': CorrelationView(photos, [table], None,
                                            {'signed': draw.normal(size=cells).astype(np.float32)}),
             'attention': AttentionView(photos[:1], looks, {'layer': ['0']},
                                        [draw.random((cells, cells), dtype=np.float32)])}
    for name, view in views.items():
        page.goto(view.to_html(tmp_path / f'{name}.html').as_uri())
        page.wait_for_timeout(500)
        times = measure(page, (37, 37), moves=40)
        print(name, summary(times))
        record_property(name, json.dumps(summary(times)))
        assert np.quantile(times[:, 0], 0.5) < 50


@pytest.fixture(scope='module')
def explorers(browser, lab, notebook):
    """A second notebook beside the first, open and run to its end."""
    kernel = {'name': 'python3', 'display_name': 'python3', 'language': 'python'}
    cells = [nbformat.v4.new_code_cell(source) for source in MORE]
    text = nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': kernel}))
    kernel_says(notebook, f'__import__("pathlib").Path("explorers.ipynb").write_text({text!r})')
    page = run_all(browser, lab.replace('/lab/tree/widgets', '/lab/workspaces/explorers/tree/explorers'), 2)
    yield page
    if folder := os.environ.get('FSSKIT_SCREENSHOTS'):  # to look at
        page.screenshot(path=Path(folder) / 'explorers.png')
    page.close()


def test_lab_correlation_mouse_keyboard_and_kernel(explorers, pairs):
    panels = explorers.locator('.fsskit').first.locator('canvas.fsskit-photo').all()
    panels[0].scroll_into_view_if_needed()
    for place in ([0.125, 0.375], [0.775, 0.625]):
        hover(explorers, panels[0], place)
        assert_pairs(pairs, panels, query=place)
        wait_for_kernel(explorers, '[round(v, 2) for v in pairs.query]', [pytest.approx(v, abs=0.02) for v in place])
    before = cells_of(explorers)
    panels[1].focus()
    for key in ('ArrowUp', 'c', 'c', 'm', 'Enter', 'b'):
        explorers.keyboard.press(key)
    support = [9.5 / 20, 10.5 / 20]
    column = pairs.shown(query=place, support=support, contrast='signed').column
    query = (np.array(divmod(int(column.argmax()), 20)) + 0.5) / 20
    assert_pairs(pairs, panels, query=query, support=support, contrast='signed')
    wait_for_kernel(explorers, '[pairs.contrast, pairs.pinned]', ['signed', True])
    assert kernel_says(explorers, '[*pairs.query, *pairs.support]') == pytest.approx([*query, *support])
    assert cells_of(explorers) == before
    kernel_says(explorers, '[setattr(pairs, "contrast", "whole"), setattr(pairs, "stage", "after")]')
    assert_pairs(pairs, panels, query=query, support=support, stage='after')


def test_lab_attention_mouse_keyboard_and_kernel(explorers):
    view, widget = encoder_view(scene(5, 1, 320, 0).image, layers=[4, 5]), explorers.locator('.fsskit').nth(1)
    source, target = widget.locator('canvas.fsskit-photo').all()
    source.scroll_into_view_if_needed()

    def assert_looks(**state):
        seen = view.seen(**state)
        assert_mixed(target, view.payload()['photos'][0], seen.maps['looked at'], 0, seen.top, view.colours)

    hover(explorers, source, [0.325, 0.575])
    assert_looks(place=[0.325, 0.575])
    wait_for_kernel(explorers, '[round(v, 2) for v in looks.place]',
                    [pytest.approx(v, abs=0.02) for v in (0.325, 0.575)])
    before = cells_of(explorers)
    source.focus()
    for key in ('ArrowLeft', '[', '.', '.', 'Enter', 'a'):
        explorers.keyboard.press(key)
    assert_looks(place=[0.325, 0.525], choices=[0, 2])
    hover(explorers, target, [0.725, 0.225])
    value = view.seen(place=[0.325, 0.525], choices=[0, 2]).maps['looked at'][14, 4]
    assert_text(widget.locator('output'), f'{100 * value:.1f} %' if value < 0.0995 else f'{100 * value:.0f} %')
    assert_text(widget.locator('output'), 'under the cursor')
    wait_for_kernel(explorers, '[looks.choices, looks.pinned]', [[0, 2], True])
    widget.get_by_role('button', name='class token').click()
    assert_looks(token=0, choices=[0, 2])
    wait_for_kernel(explorers, 'looks.token', 0)
    kernel_says(explorers, '[setattr(looks, "token", -1), setattr(looks, "choices", [1, 0])]')
    assert_looks(place=[0.325, 0.525], choices=[1, 0])
    assert cells_of(explorers) == before
