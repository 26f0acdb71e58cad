"""`make screenshots`: each widget as a browser shows it, into nbs/images/widget_NAME.jpg.

The explorers are opened as exported pages, from the disk; the studio as `fsskit studio` opens it, in JupyterLab. Photos are
those of the demonstration. Needs Chromium (Debian: apt-get install chromium; FSSKIT_CHROMIUM names another one).
"""
import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'tools'), str(ROOT / 'benchmarks')]
from demo import read_pairs  # noqa: E402
from explorer import find_chromium, open_browser  # noqa: E402

from fsskit.attention_explorer import encoder_view  # noqa: E402
from fsskit.correlation_explorer import correlation_view  # noqa: E402
from fsskit.mask_painter import MaskPainter  # noqa: E402
from fsskit.predictor import create_model, FewShotPredictor  # noqa: E402
from fsskit.similarity_explorer import similarity_view  # noqa: E402
from fsskit.steppers import explore_refinement  # noqa: E402
from fsskit.studio import studio_server  # noqa: E402

WIDTH, QUALITY = 1150, 85  # px of the browser window; of the JPEG files


def save(picture: bytes, path: Path) -> Path:
    "A screenshot without its empty right and lower border."
    image = Image.open(io.BytesIO(picture)).convert('RGB')
    right, low = ImageChops.difference(image, Image.new('RGB', image.size, 'white')).getbbox()[2:]
    image.crop((0, 0, min(right + 8, image.width), min(low + 8, image.height))).save(path, quality=QUALITY)
    return path


def shoot_page(browser, page_file: Path, place: tuple[float, float], keys: str, path: Path) -> Path:
    "An exported page with the mouse at (y, x), 0 to 1, of its first photo; then these keys are pressed."
    page = browser.new_page(viewport={'width': WIDTH, 'height': 600})
    page.goto(page_file.as_uri())
    canvas = page.locator('canvas').first
    canvas.wait_for()
    box = canvas.bounding_box()
    page.mouse.move(box['x'] + place[1] * box['width'], box['y'] + place[0] * box['height'])
    canvas.focus()
    for key in keys: page.keyboard.press(key)
    page.wait_for_timeout(500)
    return save(page.screenshot(full_page=True), path)


def shoot_studio(browser, path: Path) -> Path:
    "The studio with its example, segmented."
    with tempfile.TemporaryDirectory() as folder, studio_server([], None, False, folder) as (_, address):
        page = browser.new_page(viewport={'width': 1300, 'height': 1800})
        page.goto(address)
        page.get_by_role('button', name='example').click(timeout=150_000)
        page.locator('.fsskit-card').nth(1).wait_for(timeout=60_000)
        page.get_by_role('button', name='run', exact=True).click()
        page.locator('.widget-html output', has_text='segmented').wait_for(timeout=120_000)
        page.wait_for_timeout(1500)
        return save(page.locator('.jp-OutputArea-output').first.screenshot(), path)


def views(face) -> dict:
    "What is exported, the place (y, x) that the mouse shows, and keys that are pressed there."
    memory = FewShotPredictor(create_model('fssam', head=None)).set_support(face.support, face.support_mask)
    return {
        'similarity': (similarity_view(face.support, face.query, face.support_mask), (.27, .43), ''),
        'correlation': (correlation_view(face.support, face.query, face.support_mask), (.45, .5), 'm'),
        'attention': (encoder_view(face.support), (.27, .43), ''),
        'painter': (MaskPainter(face.support, face.support_mask, segmenter=None), (.3, .5), ''),
        'stepper': (explore_refinement(memory, face.query, face.truth), (.45, .5), ']]'),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog='screenshots', description='Each widget as a browser shows it.')
    parser.add_argument('--out', type=Path, default=ROOT / 'nbs' / 'images')
    parser.add_argument('--only', nargs='*', default=(), help='names, such as similarity studio')
    chosen = parser.parse_args()
    if not (program := find_chromium()): raise SystemExit('screenshots: Chromium is not installed (Debian: apt-get install chromium).')
    with open_browser(program) as browser, tempfile.TemporaryDirectory() as folder:
        for name, (view, place, keys) in views(read_pairs(['face'])[0]).items():
            if chosen.only and name not in chosen.only: continue
            print(shoot_page(browser, view.to_html(Path(folder) / f'{name}.html'), place, keys, chosen.out / f'widget_{name}.jpg'))
        if not chosen.only or 'studio' in chosen.only: print(shoot_studio(browser, chosen.out / 'widget_studio.jpg'))
    return 0


if __name__ == '__main__':
    sys.exit(main())
