#!/usr/bin/env python
"""Milliseconds from a movement of the mouse to the new picture of the similarity explorer, in an exported page.

    python benchmarks/explorer.py [--moves 200] [--backbone vit_small_patch14_dinov2] [--size 518] [--out FILE]

An exported page is opened from the disk in Chromium (headless, no kernel, no network), and the mouse is moved over the support
photo, each time into another cell. `computed` is the time from the event to the end of the script's answer, when the new pixels
are in the canvas. `painted` is the time from the event to the first task after the next frame; it contains the wait for that
frame, up to 17 ms at 60 Hz. The largest case: 12 layers on 37 x 37 cells, DINOv2's architecture with random weights, since the
values do not change the time. Writes benchmarks/results/explorer.json and explorer.md. Needs `chromium` and `playwright`.
"""
import argparse
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common import write_results
from fsskit.evaluation import versions
from fsskit.similarity_explorer import similarity_view
from fsskit.smallworld import scene

WATCH = """() => {
    window.times = [];
    const canvas = document.querySelector('canvas.fsskit-photo');
    canvas.addEventListener('pointermove', (event) => {
        const computed = performance.now() - event.timeStamp;
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => window.times.push([computed, performance.now() - event.timeStamp]);
            channel.port2.postMessage(0);
        });
    });
}"""


def find_chromium() -> str | None:
    "The program that drives the pages: FSSKIT_CHROMIUM, else chromium on the path."
    return os.environ.get('FSSKIT_CHROMIUM') or shutil.which('chromium')


@contextmanager
def open_browser(program: str):
    "A headless Chromium without a network of its own services."
    from playwright.sync_api import sync_playwright
    quiet = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking', '--no-first-run']
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=quiet)
        try:
            yield browser
        finally:
            browser.close()


def measure(page, cells: tuple[int, int], moves: int, seed: int = 0) -> np.ndarray:
    "(moves, 2) milliseconds, computed and painted, of movements between random cells of the support photo."
    box = page.locator('canvas.fsskit-photo').first.bounding_box()
    page.evaluate(WATCH)
    draw = np.random.default_rng(seed)
    for _ in range(moves):
        y, x = (draw.integers(0, n) + 0.5 for n in cells)
        page.mouse.move(box['x'] + x / cells[1] * box['width'], box['y'] + y / cells[0] * box['height'])
        page.wait_for_timeout(30)
    page.wait_for_function(f'window.times.length >= {moves - 2}', timeout=5000)
    return np.array(page.evaluate('window.times'))


def summary(times: np.ndarray) -> dict[str, float]:
    "Median and 95th percentile of both columns, ms."
    names = ('computed', 'painted')
    return {f'{name}_{what}_ms': round(float(np.quantile(times[:, i], q)), 1)
            for i, name in enumerate(names) for what, q in (('median', 0.5), ('p95', 0.95))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--moves', type=int, default=200)
    parser.add_argument('--backbone', default='vit_small_patch14_dinov2')
    parser.add_argument('--size', type=int, default=518, help='px of the squashed photos')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results' / 'explorer.json')
    args = parser.parse_args()
    program = find_chromium()
    if not program: sys.exit('benchmarks/explorer.py: chromium is missing (Debian: apt-get install chromium)')
    photos = [scene(3, number, 448, 0)[0] for number in (0, 1)]
    view = similarity_view(*photos, backbone=args.backbone, weights=None, size=args.size)
    rows = []
    with tempfile.TemporaryDirectory() as folder, open_browser(program) as browser:
        path = view.to_html(Path(folder) / 'explorer.html')
        page = browser.new_page(viewport={'width': 1200, 'height': 800})
        page.goto(path.as_uri())
        for plane in (len(view.layers) - 1, len(view.names) - 1):
            page.locator('input[type=range]').first.fill(str(plane))
            page.wait_for_timeout(200)
            rows.append({'plane': view.names[plane], **summary(measure(page, view.layers[0].grids[0], args.moves))})
        facts = dict(backbone=args.backbone, layers=len(view.layers), grid=list(view.layers[0].grids[0]),
                     channels=[v.vectors[0].values.shape[1] for v in view.layers], page_mb=round(path.stat().st_size / 1e6, 2),
                     largest_error=view.error, moves=args.moves, browser=browser.version)
    write_results(args.out, {'facts': facts, 'rows': rows, 'versions': versions()}, table(facts, rows))


def table(facts: dict, rows: list[dict]) -> str:
    "The results as Markdown."
    h, w = facts['grid']
    head = (f"From mouse to picture: {facts['layers']} layers, {h} x {w} cells, {facts['moves']} movements, a page of "
            f"{facts['page_mb']} MB, Chromium {facts['browser']}.\n\n"
            '| shown | computed, median | computed, 95 % | painted, median | painted, 95 % |\n|---|--:|--:|--:|--:|\n')
    keys = ('computed_median_ms', 'computed_p95_ms', 'painted_median_ms', 'painted_p95_ms')
    return head + ''.join(f"| {row['plane']} | {' | '.join(f'{row[key]} ms' for key in keys)} |\n" for row in rows)


if __name__ == '__main__':
    main()
