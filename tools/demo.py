"""`make demo`: one photo and one mask each, real photos segmented on this computer, pictures and a table.

Photos come from the installed packages scikit-image and matplotlib, masks from data/demo (see its README.md).
Writes demo_output/NAME.png for every pair, demo_output/results.json and demo_output/index.html.
"""
import argparse, hashlib, html, importlib.util, json, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
from tqdm.auto import tqdm

from fsskit.photos import BLUE, ORANGE, FSSKitError, load_mask, load_photo, overlay

ROOT = Path(__file__).resolve().parents[1]
MASKS = ROOT / 'data' / 'demo'
INK, FAINT = '#1a1a1a', '#666666'  # colours of the text in the pictures


# ---------------------------------------------------------------- the pairs
@dataclass(frozen=True)
class Pair:
    "Two photos of one class; on both, the class was outlined by hand."
    name: str
    class_name: str
    sentence: str
    support: np.ndarray  # uint8 (H, W, 3)
    support_mask: np.ndarray  # uint8 (H, W), 1 foreground
    query: np.ndarray  # uint8 (H, W, 3)
    truth: np.ndarray  # uint8 (H, W), 1 foreground, never shown to the model


def photo_path(entry: dict) -> Path:
    "Where an installed package keeps a photo; `entry` has file, sha256 and credit, as in pairs.json."
    package, _, inside = entry['file'].partition('/')
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FSSKitError(f"The demo's photo '{entry['file']}' is part of the package '{package}', which is not "
                          'installed: run `make demo`, which installs it, or `pip install scikit-image matplotlib`.')
    path = Path(found.submodule_search_locations[0]) / inside
    if not path.is_file():
        raise FSSKitError(f"The demo's photo '{path}' is missing: reinstall the package '{package}'.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != entry['sha256']:
        raise FSSKitError(f"The photo '{path}' is not the one that the demo's masks were drawn on: install "
                          'scikit-image 0.26 and matplotlib 3.11, or draw new masks.')
    return path


def cropped(photo: np.ndarray, box: Optional[Sequence[int]]) -> np.ndarray:
    "The part of `photo` inside box = (left, top, right, bottom) px; all of it for None."
    if box is None: return photo
    left, top, right, bottom = box
    return photo[top:bottom, left:right].copy()


def read_pair(entry: dict, photos: dict[str, dict]) -> Pair:
    "One entry of pairs.json with its photos and masks."
    sides = []
    for side, mask in (('support', 'support_mask'), ('query', 'truth_mask')):
        photo = cropped(load_photo(photo_path(photos[entry[side]])), entry[f'{side}_crop'])
        sides += [photo, load_mask(MASKS / entry[mask], 'binary', photo.shape[:2], require_foreground=True)]
    return Pair(entry['name'], entry['class_name'], entry['sentence'], *sides)


def read_pairs(names: Sequence[str] = ()) -> list[Pair]:
    "The demo's pairs in their order; `names` chooses some of them."
    listed = json.loads((MASKS / 'pairs.json').read_text(encoding='utf-8'))
    known = [entry['name'] for entry in listed['pairs']]
    for name in names:
        if name not in known: raise FSSKitError(f"There is no pair '{name}': choose from {', '.join(known)}.")
    return [read_pair(e, listed['photos']) for e in listed['pairs'] if not names or e['name'] in names]


# ---------------------------------------------------------------- segmenting them
@dataclass(frozen=True)
class Outcome:
    "What the model made of a pair."
    mask: np.ndarray  # uint8 (H, W), at the size of the query photo
    scores: np.ndarray  # float (H, W), foreground where > 0
    iou: float  # with the outline drawn by hand
    colours_iou: float  # the same when the model sees colours only, no features
    encode_seconds: float  # support photo and mask
    predict_seconds: float  # query photo


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    "Intersection over union of two masks (H, W)."
    a, b = found == 1, truth == 1
    return float((a & b).sum() / max((a | b).sum(), 1))


def ask(predictor: Any, pair: Pair) -> Any:
    "Show the model the support photo with its mask, then ask about the query photo."
    return predictor.set_support(pair.support, pair.support_mask).predict(pair.query)


def segment(predictor: Any, colours: Any, pair: Pair) -> Outcome:
    "What `predictor` finds, beside the IoU of `colours`, the same model without an encoder."
    said, plain = ask(predictor, pair), ask(colours, pair)
    return Outcome(said.mask, said.score, iou(said.mask, pair.truth), iou(plain.mask, pair.truth),
                   predictor.support_seconds, said.seconds)


# ---------------------------------------------------------------- pictures
def panels(widths: Sequence[float], width: float = 13., margin: float = .3, gap: float = .14,
           right: float = .75) -> tuple[list[float], float]:
    "Left edges and the common height, in inches, of panels with these width / height ratios."
    height = (width - 2 * margin - right - gap * (len(widths) - 1)) / sum(widths)
    edges = [margin + i * gap + height * sum(widths[:i]) for i in range(len(widths))]
    return edges, height


def draw_scores(ax: Any, side: Any, scores: np.ndarray) -> None:
    "The score map in viridis, the line where it is 0, and its scale."
    low, high = float(scores.min()), float(scores.max())
    shown = ax.imshow(scores, cmap='viridis', vmin=low, vmax=high)
    ticks = {low: f'{low:.2f}', high: f'{high:.2f}'}
    if low < 0 < high:
        ax.contour(scores, [0], colors='white', linewidths=1.2)
        if min(-low, high) > .05 * (high - low): ticks[0.] = '0'
    bar = ax.figure.colorbar(shown, cax=side, ticks=list(ticks))
    bar.ax.set_yticklabels(list(ticks.values()))
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=FAINT)
    bar.outline.set_visible(False)


def draw(pair: Pair, outcome: Outcome) -> Any:
    "A matplotlib figure: support and mask, query, result, scores."
    from matplotlib.figure import Figure
    h, w = pair.query.shape[:2]
    ratios = [pair.support.shape[1] / pair.support.shape[0]] + [w / h] * 3
    edges, height = panels(ratios)
    width, total = 13., height + 1.3
    figure = Figure(figsize=(width, total), facecolor='white')
    axes = [figure.add_axes([x / width, .15 / total, r * height / width, height / total])
            for x, r in zip(edges, ratios)]
    side = figure.add_axes([(edges[3] + ratios[3] * height + .1) / width, .15 / total, .1 / width, height / total])
    axes[0].imshow(overlay(pair.support, pair.support_mask, BLUE, .45))
    axes[1].imshow(pair.query)
    axes[2].imshow(overlay(pair.query, outcome.mask, ORANGE, .45))
    axes[0].contour(pair.support_mask == 1, [.5], colors=BLUE, linewidths=1.6)
    if outcome.mask.any(): axes[2].contour(outcome.mask == 1, [.5], colors=ORANGE, linewidths=1.6)
    axes[2].contour(pair.truth == 1, [.5], colors='white', linewidths=1., linestyles='dashed')
    draw_scores(axes[3], side, outcome.scores)
    captions = ('Support photo and its mask', 'Query photo', f'Result, IoU {outcome.iou:.2f} (dashed: by hand)',
                'Score map (white line: 0)')
    for ax, caption in zip(axes, captions):
        ax.set_axis_off()
        ax.set_title(caption, loc='left', fontsize=10, color=FAINT, pad=5)
    figure.text(edges[0] / width, 1 - .38 / total, pair.class_name.capitalize(), fontsize=17, weight='bold', color=INK)
    figure.text(edges[0] / width, 1 - .70 / total, pair.sentence, fontsize=11.5, color=INK)
    return figure


# ---------------------------------------------------------------- words
def table(pairs: Sequence[Pair], outcomes: Sequence[Outcome]) -> str:
    "Pair, IoU and seconds, as plain text."
    head = f"{'pair':<12}{'query photo':>14}{'IoU':>8}{'colours only':>15}{'support s':>12}{'query s':>10}"
    rows = [f'{p.name:<12}{f"{p.query.shape[1]} x {p.query.shape[0]}":>14}{o.iou:>8.3f}{o.colours_iou:>15.3f}'
            f'{o.encode_seconds:>12.2f}{o.predict_seconds:>10.2f}' for p, o in zip(pairs, outcomes)]
    return '\n'.join([head, '-' * len(head), *rows])


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>fsskit demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
img {{ width: 100%; margin: .5rem 0 1.5rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .2rem 1.2rem .2rem 0; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} th {{ font-weight: 600; border-bottom: 1px solid #999 }}
code {{ background: #f2f2f2; padding: .1rem .3rem }}
</style>
<h1>One photo, one mask, another photo</h1>
<p>Blue: the mask that the model was given. Orange: what it found. Dashed: our own outline, which it never saw.
Model: <code>{model}</code> on the encoder <code>{backbone}</code>, without any training on these classes.
<q>Colours only</q> is the same model without an encoder.</p>
<table><tr><th>pair<th>IoU<th>colours only<th>support, s<th>query, s</tr>
{rows}
</table>
{pictures}
</html>
"""


def page(pairs: Sequence[Pair], outcomes: Sequence[Outcome], model: str, backbone: str) -> str:
    "A small page with the table and all pictures."
    rows = '\n'.join(f'<tr><td><a href="#{p.name}">{html.escape(p.class_name)}</a><td>{o.iou:.3f}'
                     f'<td>{o.colours_iou:.3f}<td>{o.encode_seconds:.2f}<td>{o.predict_seconds:.2f}</tr>'
                     for p, o in zip(pairs, outcomes))
    pictures = '\n'.join(f'<img id="{p.name}" src="{p.name}.png" alt="{html.escape(p.class_name)}: support, query, '
                         f'result with IoU {o.iou:.2f}, similarity map">' for p, o in zip(pairs, outcomes))
    return PAGE.format(model=html.escape(model), backbone=html.escape(backbone), rows=rows, pictures=pictures)


def short(path: Path) -> str:
    "The path as one would type it here: relative to this folder if inside it."
    relative = os.path.relpath(path)
    return str(path) if relative.startswith('..') else relative


def next_steps(out: Path) -> str:
    "What to type next; the first command works as it stands."
    photos = json.loads((MASKS / 'pairs.json').read_text(encoding='utf-8'))['photos']
    support, query = (short(photo_path(photos[name])) for name in ('astronaut', 'grace_hopper'))
    mask = short(MASKS / 'face_support.png')
    return (f'Look at the pictures: open {short(out / "index.html")}\n\n'
            'What to try next\n'
            f'  the same by hand   fsskit segment --mask {mask} --out {short(out / "mine")} \\\n'
            f'                       --support {support} \\\n'
            f'                       --query {query}\n'
            '  your own photos    fsskit segment --support A.jpg --mask A.png --query B.jpg --out DIR\n'
            '                     (A.png: white where the object is, black elsewhere; any paint program draws it)\n'
            '  the notebooks      make lab, then nbs/index.ipynb; nbs/30_similarity.ipynb explains what ran here\n'
            '  (fsskit not found? Type .venv/bin/fsskit, or `source .venv/bin/activate` once)')


# ---------------------------------------------------------------- all of it
def save(out: Path, pairs: Sequence[Pair], outcomes: Sequence[Outcome], model: str, backbone: str,
         settings: dict) -> None:
    "results.json and index.html beside the pictures; `settings` is what the model says of itself."
    rows = [{'pair': p.name, 'iou': round(o.iou, 4), 'colours_iou': round(o.colours_iou, 4),
             'encode_seconds': round(o.encode_seconds, 4), 'predict_seconds': round(o.predict_seconds, 4)}
            for p, o in zip(pairs, outcomes)]
    found = {'settings': settings, 'pairs': rows}
    (out / 'results.json').write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')
    (out / 'index.html').write_text(page(pairs, outcomes, model, backbone), encoding='utf-8')


def run(out: Path, names: Sequence[str] = (), model: str = 'dense_match', backbone: str = 'embedded',
        weights: str = 'embedded', progress: bool = True) -> tuple[list[Pair], list[Outcome]]:
    "Segment the pairs and write everything to the folder `out`."
    pairs, outcomes = read_pairs(names), []
    from fsskit.predictor import FewShotPredictor, create_model
    predictor = FewShotPredictor(create_model(model, backbone=backbone, weights=weights))
    colours = FewShotPredictor(create_model(model, backbone='rgb'))
    out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(pairs, unit='pair', disable=not progress, leave=False)
    for pair in bar:
        bar.set_description(pair.name)
        outcomes.append(segment(predictor, colours, pair))
        draw(pair, outcomes[-1]).savefig(out / f'{pair.name}.png', dpi=110)
    save(out, pairs, outcomes, model, backbone, predictor.model.describe())
    return pairs, outcomes


def main(argv: Optional[Sequence[str]] = None) -> int:
    "The command line; returns the exit status."
    parser = argparse.ArgumentParser(prog='demo', description='Segment real photos from one example each.')
    parser.add_argument('pairs', nargs='*', help='pairs to run (default: all of data/demo/pairs.json)')
    parser.add_argument('--out', type=Path, default=ROOT / 'demo_output', help='folder for pictures and page')
    parser.add_argument('--model', default='dense_match', help='dense_match, prior_mask or prototype')
    parser.add_argument('--backbone', default='embedded', help='see `fsskit backbones`')
    parser.add_argument('--weights', default='embedded', help="'embedded', 'hub' or a file")
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try: pairs, outcomes = run(args.out, args.pairs, args.model, args.backbone, args.weights, not args.quiet)
    except FSSKitError as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    print(f'{table(pairs, outcomes)}\n\n{len(pairs)} pairs in {time.perf_counter() - start:.1f} s, with model '
          f'{args.model} and encoder {args.backbone}\n{next_steps(args.out)}')
    return 0


if __name__ == '__main__': sys.exit(main())
