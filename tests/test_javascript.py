"""The scripts of the widgets: their own tests by node, and the same numbers as in Python."""
import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fsskit.mask_painter import fill_mask, from_runs, stroke_mask, to_runs
from fsskit.similarity_explorer import SimilarityView, pair_layer
from fsskit.widgets import STATIC, bundle

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.stem for path in Path(STATIC).glob('*.js'))


@pytest.fixture(scope='session')
def node():
    """run(script, value): the JSON that a module prints; `input` holds the value, `STATIC` the folder of the scripts."""
    program = shutil.which('node')
    if not program:
        pytest.skip('node is not installed (Debian: apt-get install nodejs): the scripts of the widgets are not tested')
    version = subprocess.run([program, '--version'], capture_output=True, text=True).stdout
    if int(re.match(r'v(\d+)', version)[1]) < 18:
        pytest.skip(f'node {version.strip()} has no test runner: 18 or later is needed')

    def run(script: str, value=None, *arguments: str):
        head = f"import {{ readFileSync }} from 'node:fs';\nconst input = JSON.parse(readFileSync(0, 'utf8'));\n"
        text = head + script.replace('STATIC', Path(STATIC).as_uri())
        command = [program, *(arguments or ('--input-type=module', '--eval', text))]
        done = subprocess.run(command, input=json.dumps(value), capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return done.stdout if arguments else json.loads(done.stdout)

    return run


def test_the_javascript_tests_pass(node):
    said = node('', None, '--test', *sorted(str(path) for path in (ROOT / 'tests' / 'js').glob('*.test.mjs')))
    assert int(re.search(r'pass (\d+)', said)[1]) > 15 and 'fail 0' in said


@pytest.mark.parametrize('name', SCRIPTS)
def test_scripts_fetch_nothing_and_run_no_text(name):
    text = (Path(STATIC) / f'{name}.js').read_text()
    assert not re.search(r'https?:|fetch\(|XMLHttpRequest|WebSocket|importScripts|import\(|eval\(|innerHTML', text)
    assert max(map(len, text.splitlines())) <= 130


USED = sorted({name for path in Path(STATIC).parent.glob('*.py')
               for name in re.findall(r"_esm = bundle\('(\w+)'\)", path.read_text())})


@pytest.mark.parametrize('name', USED)
def test_a_bundle_is_one_module_with_a_render_function(node, name):
    code = base64.b64encode(bundle(name).encode()).decode()
    script = f"const made = await import('data:text/javascript;base64,{code}');\n"
    assert node(script + "console.log(JSON.stringify(typeof made.default.render))") == 'function'


def test_the_browser_computes_what_python_computes(node):
    draw = np.random.default_rng(0)
    shapes = [((24, 3, 4), (24, 2, 5)), ((9, 3, 4), (9, 2, 5))]
    layers = [pair_layer(f'layer {i}', *(draw.normal(size=s).astype(np.float32) for s in pair), channels=16)
              for i, pair in enumerate(shapes)]
    photos = [draw.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(2)]
    view = SimilarityView(photos, layers)
    payload = json.loads(json.dumps(view.payload(), default=lambda value: base64.b64encode(value).decode()))
    asked = [(plane, side, place) for plane in range(3) for side in (0, 1)
             for place in ([0.1, 0.9], [0.6, 0.3], [0.99, 0])]
    script = '''import { answer } from 'STATIC/pair_explorer.js';
    import { readPlanes } from 'STATIC/maps.js';
    const planes = readPlanes(input.planes);
    const found = input.asked.map(([plane, side, place]) => {
      const shown = answer(planes, { plane, side: ['support', 'query'][side], place, stretch: false });
      return [[...shown.values], shown.low, shown.high, shown.best];
    });
    console.log(JSON.stringify(found));'''
    answers = node(script, {'planes': payload['planes'], 'asked': asked})
    for (plane, side, place), (values, low, high, best) in zip(asked, answers):
        wanted = view.map_at(('support', 'query')[side], place, plane)
        np.testing.assert_allclose(np.reshape(values, wanted.shape), wanted, atol=1e-6)
        assert best == wanted.argmax() and low < high


def test_painting_is_the_same_in_both_languages(node):
    draw, size = np.random.default_rng(1), (47, 61)
    steps = []
    for _ in range(60):
        value = int(draw.choice([0, 1, 1, 255]))
        if draw.random() < 0.25:
            steps.append(['fill', [int(draw.integers(0, n)) for n in size], value])
        else:
            start, end = draw.uniform(-5, 65, (2, 2)).tolist()
            steps.append(['stroke', start, start if draw.random() < 0.2 else end, float(draw.uniform(0.5, 6)), value])
    script = '''import { fill, fromRuns, stroke, toRuns } from 'STATIC/mask.js';
    const mask = new Uint8Array(input.size[0] * input.size[1]), states = [];
    for (const [kind, ...rest] of input.steps) {
      ({ fill, stroke })[kind](mask, input.size, ...rest);
      const runs = toRuns(mask);
      if (String(fromRuns(runs, mask.length)) !== String(mask)) throw new Error('runs do not come back');
      states.push([...runs]);
    }
    console.log(JSON.stringify(states));'''
    mask = np.zeros(size, np.uint8)
    for (kind, *rest), runs in zip(steps, node(script, {'steps': steps, 'size': size})):
        {'fill': fill_mask, 'stroke': stroke_mask}[kind](mask, *rest)
        assert np.array_equal(from_runs(np.array(runs, '<u4').tobytes(), size), mask), (kind, rest)
        assert np.array_equal(np.frombuffer(to_runs(mask), '<u4'), runs)
    assert len(np.unique(mask)) == 3
