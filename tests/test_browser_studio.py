"""Stepper and studio in a real Chromium: the stepper's page from the disk; the studio as `fsskit studio` opens it, with a kernel.

Needs what tests/test_browser.py needs, and skips as it does. FSSKIT_SCREENSHOTS names a folder that gets pictures of the studio.
"""
import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsskit.mask_painter import stroke_mask
from fsskit.steppers import Panel, Step, Stepper, StepsView
from fsskit.studio import studio_server
from test_browser import (assert_text, browser, canvas_pixels, eventually, hover, IDLE, kernel_says, page,  # noqa: F401
                          seen_pixels, wait_for_kernel)



# ---- the stepper's page, without kernel and network

GRID = (4, 6)


@pytest.fixture(scope='module')
def walk():
    photo = np.full((160, 240, 3), 200, np.uint8)
    photo[:, :120] = 90
    maps = [np.arange(24, dtype=np.float32).reshape(GRID) * factor for factor in (1, 2)]
    cells = np.random.default_rng(0).integers(0, 256, (*GRID, 3), dtype=np.uint8)
    return StepsView([Step('first', [Panel('map', photo, maps[0])]),
                      Step('second', [Panel('map', photo, maps[1]), Panel('cells', photo, cells=cells)])])


def middles(pixels: np.ndarray) -> np.ndarray:
    """Pixels in the middle of every cell, float (h, w, 3)."""
    rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(GRID, pixels.shape))
    return pixels[rows[:, None], columns].astype(float)


def assert_picture(canvas, view, step, number, opacity):
    wanted = middles(view.picture(step, number, opacity))

    def check():
        for pixels in (canvas_pixels(canvas), seen_pixels(canvas)):
            assert np.abs(middles(pixels) - wanted).mean() < 4, 'the picture is not that of this step'
    eventually(canvas.page, check)


def test_the_steppers_page_answers_to_mouse_and_keyboard(page, walk, tmp_path):  # noqa: F811
    path = Stepper(walk).to_html(tmp_path / 'walk.html', opacity=.8)
    page.goto(path.as_uri())
    shown, output = page.locator('canvas.fsskit-photo'), page.locator('output')
    assert_picture(shown.nth(0), walk, 0, 0, .8)
    assert not shown.nth(1).is_visible()
    hover(page, shown.nth(0), [.9, .95])
    first, second = (walk.readings(n, [.9, .95])['map'] for n in (0, 1))
    assert abs(first - 23) < .1 and abs(second - 46) < .1
    assert_text(output, f'row 3, column 5 · map {first:.1f}')
    page.get_by_role('button', name='next').click()
    assert_text(output, f'row 3, column 5 · map {second:.1f} (+{second - first:.1f})')
    assert_picture(shown.nth(0), walk, 1, 0, .8)
    assert_picture(shown.nth(1), walk, 1, 1, .8)
    shown.nth(1).focus()
    for key in ('ArrowLeft', 'ArrowUp', '['):
        page.keyboard.press(key)
    assert_text(output, f"row 2, column 4 · map {walk.readings(0, [.6, .75])['map']:.1f}")
    assert_picture(shown.nth(0), walk, 0, 0, .8)
    page.get_by_label('opacity').fill('0.25')
    page.get_by_label('step', exact=True).fill('1')
    assert_picture(shown.nth(1), walk, 1, 1, .25)
    page.get_by_role('button', name='play').click()
    assert_text(page.locator('.fsskit-controls b'), 'first')
    assert_text(page.locator('.fsskit-controls b'), 'second')
    assert page.problems == [] and {url.split(':')[0] for url in page.addresses} <= {'file', 'data'}


# ---- the studio

def box_photo(seed: int, boxes) -> np.ndarray:
    """Red boxes (top, left, bottom, right) on green, uint8 (200, 300, 3)."""
    draw = np.random.default_rng(seed)
    photo = draw.normal((60, 140, 70), 10, (200, 300, 3))
    for top, left, bottom, right in boxes:
        photo[top:bottom, left:right] = draw.normal((200, 50, 40), 10, (bottom - top, right - left, 3))
    return photo.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def desk(browser, tmp_path_factory):  # noqa: F811
    """The studio's page, as the command opens it, with two photos of which none is marked."""
    folder = tmp_path_factory.mktemp('studio')
    files = [folder / 'one.png', folder / 'two.png', folder / 'three.png']
    for n, (file, boxes) in enumerate(zip(files, ([(60, 100, 140, 200)], [(20, 30, 100, 120), (120, 200, 190, 290)],
                                                  [(5, 5, 90, 90)]))):
        Image.fromarray(box_photo(n, boxes)).save(file)
    with studio_server(files[:2], None, False, folder / 'results') as (_, address):
        page = browser.new_page(viewport={'width': 1200, 'height': 1700})  # noqa: F811
        page.files, page.out = files, folder / 'results'
        page.goto(address)
        page.locator('.fsskit-card').nth(1).wait_for(timeout=150_000)
        page.wait_for_function(IDLE, timeout=60_000)
        yield page
        if place := os.environ.get('FSSKIT_SCREENSHOTS'):  # to look at
            page.screenshot(path=Path(place) / 'studio.png')
        page.close()


def said(page, text):  # noqa: F811
    """The line below the controls says this."""
    assert_text(page.locator('.widget-html output'), text)


def paint_box(page):  # noqa: F811
    """Fill the box of the first photo by strokes of the mouse; returns the mask."""
    canvas = page.locator('canvas.fsskit-paint')
    canvas.scroll_into_view_if_needed()
    box, wanted = canvas.bounding_box(), np.zeros((200, 300), np.uint8)
    for y in range(70, 140, 12):
        for x, press in ((108, page.mouse.down), (192, page.mouse.up)):
            page.mouse.move(box['x'] + x + .5, box['y'] + y + .5)
            press()
        stroke_mask(wanted, (y, 108), (y, 192), 7.5)
    return wanted


def test_the_studio_opens_by_itself_and_takes_marks(desk):
    assert kernel_says(desk, '[s.name for s in studio.desk.sheets]') == ['one', 'two']
    desk.locator('.fsskit-card').first.click()
    kernel_says(desk, '[setattr(studio.bench.children[0], "radius", 7.5)] and 0')
    desk.wait_for_timeout(300)
    wanted = paint_box(desk)
    wait_for_kernel(desk, 'int(studio.desk.sheets[0].mask.sum())', int(wanted.sum()))
    assert_text(desk.locator('.fsskit-card').first, 'support')
    assert_text(desk.locator('.fsskit-card').nth(1), 'query')


def test_the_studio_runs_and_its_result_is_that_of_the_kernel(desk):
    desk.locator('.widget-dropdown select').nth(1).select_option('rgb')
    wait_for_kernel(desk, 'studio.controls.backbone.value', 'rgb')
    desk.get_by_role('button', name='run', exact=True).click()
    said(desk, '1 photo segmented')
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(kernel_says(desk,
                                                                         '__import__("base64").b64encode((lambda b: '
        '(__import__("PIL.Image").Image.fromarray(studio.desk.sheets[1].answer.mask * 255).save(b, "PNG"), '
                                                                         'b.getvalue())[1])'
        '(__import__("io").BytesIO())).decode()'))))) > 127
    truth = box_photo(1, [(20, 30, 100, 120), (120, 200, 190, 290)])[..., 0] > 150
    assert (mask & truth).sum() / (mask | truth).sum() > .7
    stage = desk.locator('.fsskit').nth(2)
    result = stage.locator('canvas.fsskit-photo').nth(1)
    result.scroll_into_view_if_needed()

    def coloured():
        pixels, photo = canvas_pixels(result).astype(int), box_photo(1, [(20, 30, 100, 120), (120, 200, 190, 290)])
        inside = np.asarray(Image.fromarray(mask).resize(pixels.shape[1::-1]))
        before = np.asarray(Image.fromarray(photo).resize(pixels.shape[1::-1])).astype(int)
        assert np.abs(pixels - before)[~inside].mean() < 12 < 30 < np.abs(pixels - before)[inside].mean()
    eventually(desk, coloured)
    score = stage.locator('canvas.fsskit-photo').nth(2)
    hover(desk, score, [.3, .25])
    if place := os.environ.get('FSSKIT_SCREENSHOTS'):  # to look at
        desk.screenshot(path=Path(place) / 'studio_result.png')
    value = kernel_says(desk, 'studio.stage.children[0].view.readings(0, (.3, .25))["score (object above 0)"]')
    digits = kernel_says(desk, 'studio.stage.children[0].payload["steps"][0]["panels"][2]["digits"]')
    assert_text(stage.locator('output'), f'score (object above 0) {value:.{digits}f}')
    assert value > 0
    wait_for_kernel(desk, '[round(v, 2) for v in studio.stage.children[0].place]',
                    [pytest.approx(.3, abs=.02), pytest.approx(.25, abs=.02)])


def test_the_studio_looks_behind_and_saves(desk):
    desk.get_by_role('button', name='similarity').click()
    stage = desk.locator('.fsskit').nth(2)
    assert_text(stage.locator('output'), 'most similar in the query')
    hover(desk, stage.locator('canvas.fsskit-photo').first, [.5, .5])
    wait_for_kernel(desk, 'studio.stage.children[0].side', 'support')
    desk.get_by_role('button', name='memory').click()
    said(desk, 'makes no memory of the query')
    desk.get_by_role('button', name='save', exact=True).last.click()
    said(desk, 'two_mask.png, studio.html')
    assert sorted(file.name for file in desk.out.iterdir()) == ['studio.html', 'two_mask.png']


def test_the_studio_takes_files_and_keys(desk):
    desk.locator('.fsskit-drop input[type=file]').set_input_files(str(desk.files[2]))
    wait_for_kernel(desk, '[s.name for s in studio.desk.sheets]', ['one', 'two', 'three'])
    data = base64.b64encode(desk.files[2].read_bytes()).decode()
    desk.evaluate('''(data) => {
        const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], '../dropped.png', { type: 'image/png' }));
        transfer.items.add(new File(['no photo'], 'letter.txt'));
        const event = new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true });
        document.querySelector('.fsskit-shelf').dispatchEvent(event);
    }''', data)
    wait_for_kernel(desk, '[s.name for s in studio.desk.sheets]', ['one', 'two', 'three', 'dropped'])
    assert_text(desk.locator('.fsskit-drop output'), 'letter.txt: ')
    cards = desk.locator('.fsskit-card')
    before = desk.evaluate('window.jupyterapp.shell.currentWidget.content.widgets.length')
    cards.nth(3).focus()
    desk.keyboard.press('Delete')
    wait_for_kernel(desk, 'len(studio.desk.sheets)', 3)
    cards.nth(2).focus()
    for key in ('ArrowLeft', 'ArrowLeft', 'ArrowRight', 'b', 'd', 'd'):
        desk.keyboard.press(key)

    def chosen():  # the first key's step passes through the same card: wait until page and kernel have come to rest
        assert cards.nth(1).get_attribute('aria-selected') == 'true'
    eventually(desk, chosen)
    wait_for_kernel(desk, 'studio.shelf.chosen', 1)
    eventually(desk, chosen)
    cards.nth(2).focus()
    desk.keyboard.press('Delete')
    wait_for_kernel(desk, '[s.name for s in studio.desk.sheets]', ['one', 'two'])
    assert desk.evaluate('window.jupyterapp.shell.currentWidget.content.widgets.length') == before


SAVED = "fetch('/api/contents/studio.ipynb?content=1').then(answer => answer.text())"


def test_a_reload_finds_the_same_studio(desk):
    def saved():
        assert 'widget-view' in desk.evaluate(SAVED), 'the notebook on disk has no studio'
    eventually(desk, saved, seconds=60)
    kernel_says(desk, '[setattr(studio, "stamp", 42)] and 0')
    marked = kernel_says(desk, 'int(studio.desk.sheets[0].mask.sum())')
    desk.reload()
    desk.locator('.fsskit-card').nth(1).wait_for(timeout=150_000)
    desk.wait_for_function(IDLE, timeout=60_000)
    assert kernel_says(desk, '[studio.stamp, int(studio.desk.sheets[0].mask.sum())]') == [42, marked]
    assert_text(desk.locator('.fsskit-card').first, 'support')
