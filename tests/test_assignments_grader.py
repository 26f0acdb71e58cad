"""The grader: values on the wire, the sandbox, hostile submissions, marks that can be stopped, releases that hold no answer."""

import csv
import json
import struct
import sys
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pygments.formatters
import pygments.lexers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
COURSE = ROOT / 'assignments'
sys.path.insert(0, str(COURSE))
import course  # noqa: E402
import grader  # noqa: E402
from fsskit.photos import FSSKitError  # noqa: E402
from grader import Breach, Wrong, judge as judges, marks, release, same, selftest, wire  # noqa: E402
from grader.servant import PLACE, error_name  # noqa: E402

SECRET = b'0123456789abcdef0123456789abcdef'
SET_CHECKS = '''
import numpy as np, torch
from grader import Question, check, same
QUESTIONS = {'q1': Question('double', points=60, public=10, seconds=5), 'q2': Question('total', points=40, public=10)}

@check('q1', points=30, title='Twice the numbers', seconds=1)
def values(student, rng):
    x = torch.from_numpy(rng.standard_normal((int(rng.integers(2, 5)), 7)))
    same(student(x), x + x)

@check('q1', points=20, title='The argument stays as it is', seconds=1)
def untouched(student, rng):
    x = torch.from_numpy(rng.standard_normal(3))
    result, (after,) = student.after(x)
    same(after, x)
    same(result, x + x)

@check('q2', points=30, title='The sum of twice the numbers', cases=3)
def summed(student, rng):
    x = torch.from_numpy(rng.standard_normal(5))
    student.board['miou'] = 0.5
    same(student(x), float(2 * x.numpy().sum()))
'''
RIGHT = {'q1': 'def double(x):\n    ### BEGIN SOLUTION\n    return torch.add(x, x, alpha=1)\n    ### END SOLUTION',
         'q2': 'def total(x):\n    ### BEGIN SOLUTION\n    twice = double(x)\n    return twice.sum().item()\n    ### '
         'END SOLUTION'}
TESTS = {'q1': 'assert double(torch.ones(1)).item() == 2', 'q2': 'assert total(torch.ones(3)) == 6'}


def cell(source, grade_id, **more):
    entry = {'schema_version': 3, 'grade': False, 'solution': False, 'locked': False, 'task': False,
             'grade_id': grade_id, **more}
    return new_code_cell(source, metadata={'nbgrader': entry}, id=grade_id.replace('_', '-'))


@pytest.fixture(scope='module')
def small_set(tmp_path_factory):
    """A problem set of two exercises in a folder of its own."""
    folder = tmp_path_factory.mktemp('course') / 'ps9'
    folder.mkdir()
    written = cell('*Write your answer here.*', 'w1', grade=True, solution=True, points=4)
    cells = [new_markdown_cell('# Set', id='top'), cell('import torch', 'setup', locked=True)]
    for name in RIGHT:
        cells += [cell(RIGHT[name], name, solution=True), cell(TESTS[name], f'{name}_public', grade=True, locked=True,
                                                               points=10)]
    cells.append(new_markdown_cell(written.source, metadata=written.metadata, id='w1'))
    nbformat.write(new_notebook(cells=cells, metadata={'kernelspec': {'display_name': 'python3', 'language': 'python',
                                                                      'name': 'python3'}}), folder / 'ps9.ipynb')
    (folder / 'checks.py').write_text(SET_CHECKS)
    (folder / 'the.secret').write_bytes(SECRET)
    return folder


@pytest.fixture(scope='module')
def judge(small_set):
    problem_set = judges.load_set(small_set)
    with judges.Judge(problem_set, SECRET, hidden=[small_set]) as judge:
        yield judge


@pytest.fixture
def mark(judge, tmp_path, small_set):
    """mark(q1=source, ...) -> the result of a submission with the reference for the others."""
    def run(**sources):
        notebook = nbformat.reads(release.make_release(small_set), 4)
        for item in notebook.cells:
            name = item.metadata.get('nbgrader', {}).get('grade_id')
            if name in RIGHT: item.source = {**RIGHT, **sources}[name]
        nbformat.write(notebook, tmp_path / 'ps9.ipynb')
        return judge.mark(tmp_path / 'ps9.ipynb')
    return run


@pytest.fixture
def student(judge):
    """student(source) -> a proxy of its function `f`."""
    made = []
    def make(source, seconds=5.0):
        load = {'function': 'f', 'cells': [[PLACE, source]], 'others': [], 'functions': []}
        made.append(judges.Student(judge.zygote, load, seconds))
        return made[-1]
    yield make
    for one in made: one.close()


def points(result): return {name: row['points'] for name, row in result['questions'].items()}
def reasons(result, name='q1'): return [why for _, _, _, why in result['questions'][name]['checks']]


# ---- the wire ------------------------------------------------------------------------------------------------------

VALUES = [None, True, 3, -2.5, float('inf'), 'text', [], [1, [2]],
          (1, 'a'), {'a': (1,), 2: [None]}, torch.arange(6).reshape(2, 3),
          torch.zeros(0, 3), torch.tensor(2.), torch.tensor([True]),
          torch.randn(2, 1, 3).half(), torch.ones(2, dtype=torch.bfloat16),
          np.arange(3.), torch.arange(12.).reshape(3, 4).T, [torch.tensor([1.]), {'x': torch.tensor([2])}]]


def equal(a, b):
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    if isinstance(a, (list, tuple)): return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize('value', VALUES, ids=lambda v: type(v).__name__)
def test_values_come_back_as_they_were(value):
    message = wire.pack([value])
    assert equal(wire.unpack(message), [value])
    assert all(wire.unpack(message[:n]) is None for n in range(0, len(message), 7))


def test_numpys_scalars_become_numbers():
    assert wire.unpack(wire.pack([np.float32(.5), np.int64(3), np.bool_(True)])) == [.5, 3, True]


@pytest.mark.parametrize('value', [object(), {1, 2}, 1 << 70,
                                   torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse(), len,
                                   np.array(['a']), [[[[[[[[[[[[[[[1]]]]]]]]]]]]]]], b'bytes'],
                         ids=lambda v: type(v).__name__)
def test_what_cannot_travel_is_a_wrong_type(value):
    with pytest.raises(wire.Unfit, match='wrong type'): wire.pack(value)


def test_what_is_too_large_is_too_much_output():
    for value in (torch.zeros(1).expand(10 ** 10), 'x' * (wire.MAX_JSON + 1)):
        with pytest.raises(wire.Unfit, match='output limit'): wire.pack(value)
    with pytest.raises(wire.Unfit, match='output limit'): wire.unpack(struct.pack('!II', 10, wire.MAX_RAW + 1))


def message(tree, raw=b''):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return wire.HEADER.pack(len(text), len(raw)) + text + raw


@pytest.mark.parametrize('data', [
    message(b'{'), message(b'[' * 5000 + b']' * 5000), message({'tensor': ['float32', [2, 2]]},
                                                               b'1234'),
                                                               message({'tensor': ['object', [1]]}, b'12345678'),
    message({'tensor': ['float32', [-1, -4]]}, b'1234'), message({'tensor': ['float32', [1.5]]},
                                                                 b'1234'),
                                                                 message({'tensor': ['uint8', [1] * 9]}, b'1'),
    message({'tensor': [['uint8'], [1]]}, b'1'), message({'pickle': 'x'}),
    message({'a': 1, 'b': 2}), message({'dict': [[[1], 2]]}), message({'dict': 7}),
    message([{'tensor': ['uint8', [4]]}] * 3, b'12345678'), message(b'1' * 5000), message({'tuple': None}),
    message(b'\xff\xfe')])
def test_hostile_messages_are_refused(data):
    with pytest.raises(wire.Unfit): wire.unpack(data)


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_random_bytes_never_do_anything_else(data):
    try: wire.unpack(wire.HEADER.pack(len(data) // 2, len(data) - len(data) // 2) + data)
    except wire.Unfit: pass


# ---- comparing -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('got, want', [
    (torch.tensor([1.]), torch.tensor([1.000001])), (torch.tensor([1.]).double(),
                                                     torch.tensor([1.])), (3, 3), (3, 3.), (torch.tensor(3), 3),
    (torch.tensor(2.5), 2.5), ('a', 'a'), (None, None), ([1, 2.], (1, 2.)), ({'a': [1]}, {'a': (1,)}),
    (torch.tensor([float('nan')]), torch.tensor([float('nan')])),
    (float('inf'), float('inf')), (True, True), (torch.tensor([1], dtype=torch.int32), torch.tensor([1]))])
def test_same(got, want): same(got, want)


@pytest.mark.parametrize('got, want, reason', [
    (torch.tensor([1.1]), torch.tensor([1.]), 'values differ'),
    (torch.tensor([[1.]]), torch.tensor([1.]), 'wrong shape'), (torch.tensor([1]), torch.tensor([1.]), 'wrong type'),
    (torch.tensor([1.]), torch.tensor([1]), 'wrong type'), (torch.tensor([True]), torch.tensor([1]),
                                                            'wrong type'), (np.ones(1), torch.ones(1), 'wrong type'),
    (torch.tensor([float('nan')]), torch.tensor([1.]), 'not finite'), (float('nan'), 1., 'not finite'),
    (3., 3, 'wrong type'), (True, 1, 'wrong type'), (1, True, 'wrong type'),
    (None, 1., 'wrong type'), (0., None, 'wrong type'), ('a', 'b', 'values differ'),
    ([1], [1, 2], 'wrong shape'), ([1, 3], [1, 2], 'values differ'),
    ({'a': 1}, {'b': 1}, 'values differ'), ([], {}, 'wrong type'), (torch.ones(1), 1., 'wrong type'),
    (torch.tensor([float('inf')]), torch.tensor([float('-inf')]), 'values differ')])
def test_not_the_same(got, want, reason):
    with pytest.raises(Wrong, match=reason): same(got, want)


def test_a_verdict_can_only_be_a_fixed_reason():
    with pytest.raises(ValueError, match='expected 3.7'): Wrong('expected 3.7')
    assert {Wrong(reason).args[0] for reason in grader.WRONG} < set(grader.REASONS)


def test_draws_follow_from_the_secret_and_the_name():
    draw = lambda secret, *key: judges.generator(secret, *key).integers(0, 1 << 60, 4).tolist()
    assert draw(SECRET, 'ps1', 'q1', 'a', 0) == draw(SECRET, 'ps1', 'q1', 'a', 0)
    others = [draw(SECRET + b'x', 'ps1', 'q1', 'a', 0), draw(SECRET, 'ps1', 'q1', 'a', 1),
              draw(SECRET, 'ps1', 'q2', 'a', 0), draw(SECRET, 'ps2', 'q1', 'a', 0)]
    assert len({tuple(row) for row in [*others, draw(SECRET, 'ps1', 'q1', 'a', 0)]}) == 5


# ---- the servant ---------------------------------------------------------------------------------------------------

def test_calls_and_gradients(student):
    f = student('import torch\ndef f(x, y=1):\n    return (x ** 3).sum(0) * y')
    x = torch.tensor([[1., 2.], [3., 4.]])
    assert torch.equal(f(x, y=2), 2 * (x ** 3).sum(0))
    assert torch.allclose(f.grad((x,), weights=torch.tensor([1., 10.])), 3 * x ** 2 * torch.tensor([1., 10.]))
    assert f.error('a') == 'TypeError' and f.error(x) is None
    assert [float(v.sum()) for v in f.many([(x,), (2 * x,)], seconds=5)] == [100, 800] and 0 < f.seconds < 5


def test_a_detached_result_has_the_gradient_zero(student):
    f = student('def f(x, y):\n    return [x.detach() * 2, y * 3]')
    x = torch.ones(2)
    assert torch.equal(f.grad((x, x), 0, [x, x]), torch.zeros(2))
    assert torch.equal(f.grad((x, x), 1, [x, 5 * x]), torch.full((2,), 15.))


def test_every_call_starts_from_the_same_state(student):
    f = student('import torch\ndef f():\n    made = torch.rand(2), torch.is_grad_enabled()\n    '
                'torch.set_default_dtype(torch.float64)\n    torch.set_grad_enabled(False)\n    return made')
    (first, _), (second, grad) = f(), f()
    assert torch.equal(first, second) and second.dtype == torch.float32 and grad is True


def test_errors_have_pythons_names_and_a_line_of_the_cell(student):
    source = ('class The_answer_is_42(KeyError): pass\ndef f(x):\n    if x: raise The_answer_is_42("secret")\n'
              '    import json\n    json.loads("{")')
    f = student(source)
    with pytest.raises(Breach, match='^raised KeyError at line 3 of your cell$'): f(1)
    with pytest.raises(Breach, match='^raised ValueError at line 5 of your cell$'): f(0)
    assert error_name(FSSKitError('x')) == 'ValueError'


@pytest.mark.parametrize('source, reason', [
    ('def f(x:', 'raised SyntaxError at line 1 of your cell'),
    ('1 / 0\ndef f(x): pass', 'raised ZeroDivisionError at line 1 of your cell'),
    ('f = 3', 'raised LookupError'), ('import nothing_like_it\ndef f(x): pass',
                                      'raised ModuleNotFoundError at line 1 of your cell'),
                                      ('exit()', 'raised SystemExit')])
def test_cells_that_do_not_run_are_tried_once(student, source, reason):
    f = student(source)
    for _ in range(2):
        with pytest.raises(Breach, match=reason): f(1)
    assert f.line is None


ENDS = {
    'time limit': 'import time\ndef f(x):\n    time.sleep(60)',
    'output limit': 'def f(x):\n    while True: print("x" * 1000)',
    'memory limit': 'def f(x):\n    hoard = []\n    while True: hoard.append(bytearray(b"x") * 50_000_000)',
    'the process ended': 'import os\ndef f(x):\n    os._exit(0)'}


@pytest.mark.parametrize('reason', ENDS)
def test_a_broken_limit_ends_the_servant_and_the_next_call_gets_another(student, judge, reason):
    f = student(ENDS[reason])
    f.limit = 1.0 if reason == 'time limit' else 8.0
    with pytest.raises(Breach, match=reason): f(1)
    assert judge.zygote.family() == [] and f.restarts == 1


def test_after_three_breaches_it_is_over(student):
    f = student(ENDS['the process ended'])
    for _ in range(5):
        with pytest.raises(Breach, match='the process ended'): f(1)
    assert f.restarts == -1 and f.dead


HOSTILE = {  # what a servant may do to its socket and its surroundings -> what the judge hears
    'closes its socket': ('import os\ndef f(x):\n    os.close(3)\n    while True: pass', 'the process ended'),
    'sends rubbish': ('import os\ndef f(x):\n    os.write(3, bytes(8) + b"rubbish" * 99)\n    while True: pass',
                      'the process ended'),
    'announces a huge message': ('import os\ndef f(x):\n    os.write(3, b"\\xff" * 8)\n    while True: pass',
                                 'output limit'),
    'sends a part and waits': ('import os, time\ndef f(x):\n    os.write(3, b"\\0\\0\\0\\x09")\n    time.sleep(60)',
                               'time limit'),
    'returns too much': ('import torch\ndef f(x): return torch.zeros(1).expand(10 ** 9)', 'output limit'),
    'ends its parent': ('import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    os._exit(0)', 'the process ended'),
    'forks and forks': ('import os\ndef f(x):\n    for _ in range(7):\n        try: os.fork()\n        except OSError: '
                        'pass\n    while True: pass', 'limit|ended'),
    'crashes': ('import ctypes\ndef f(x): ctypes.string_at(0)', 'the process ended'),
    'recurses': ('def f(x): return f(x)', 'raised RecursionError'),
    'returns a class of its own': ('class K(int): pass\ndef f(x): return {K(1): lambda: 1}', 'wrong type')}


@pytest.mark.parametrize('what', HOSTILE)
def test_hostile_servants_end_and_disturb_nobody(student, judge, what):
    source, reason = HOSTILE[what]
    f = student(source)
    f.limit = 1.5
    with pytest.raises((Breach, Wrong), match=reason): f(1)
    f.close()
    assert judge.zygote.family() == []
    assert student('def f(x): return x + 1')(1) == 2


def test_a_process_in_the_background_does_not_stay(student, judge):
    f = student('import subprocess\ndef f(x):\n    subprocess.Popen(["sleep", "600"], start_new_session=True)\n    '
                'return x')
    assert f(1) == 1
    f.close()
    assert judge.zygote.family() == []


@pytest.fixture
def walls(judge):
    if not judge.zygote.walls.startswith('namespaces'): pytest.skip('no namespaces can be made here')


def test_what_the_walls_hide(student, walls, small_set):
    f = student('import os, glob, socket\ndef f(code):\n    try: return eval(code)\n    except OSError as error: '
                'return error.strerror')
    assert f(f'os.listdir({str(COURSE)!r})') == [] and f(f'os.listdir({str(small_set)!r})') == []
    assert f(f'open({str(small_set / "the.secret")!r}).read()') == 'No such file or directory'
    assert f(f'open({str(ROOT / "x.txt")!r}, "w")') == 'Read-only file system'
    assert f('open("own.txt", "w").write("x" * 99)') == 99 and f('os.listdir(".")') == ['own.txt']
    assert f('socket.create_connection(("1.1.1.1", 53), timeout=2)') in ('Network is unreachable',
                                                                         'Network unreachable')
    assert f('sorted(int(p[6:]) for p in glob.glob("/proc/[0-9]*"))') in ([1], []) and f('os.getpid()') == 1
    assert f('sorted(os.environ)') == ['HOME', 'MPLBACKEND', 'OMP_NUM_THREADS', 'PATH', 'TMPDIR']
    assert f('open("big", "wb").write(bytes(20_000_000))') == 'File too large'


def test_the_servant_never_imported_the_judge_or_a_check(student):
    loaded = student('import sys\ndef f(): return sorted(sys.modules)')()
    assert 'grader.wire' in loaded and not [name for name in loaded if 'judge' in name or 'checks_of' in name]


def test_without_namespaces_limits_still_hold_and_a_lost_zygote_is_replaced():
    zygote = judges.Zygote(['import torch'], namespaces=False)
    make = lambda source: judges.Student(zygote, {'function': 'f', 'cells': [[PLACE, source]], 'others': [],
                                                  'functions': []}, 5.)
    try:
        assert zygote.walls.startswith('no namespaces')
        for source in ('def f(x):\n    while True: pass',
                       'import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    while True: pass',
                       'import os\ndef f(x):\n    if not os.fork(): os.setsid()\n    while True: pass'):
            bad = make(source)
            bad.limit = 1.
            with pytest.raises(Breach, match='time limit'): bad(1)
            running = bad.zygote.family()
            good = make('def f(x): return x + 1')
            assert not running and good(1) == 2
            good.close()
    finally: zygote.close()


# ---- marks of submissions ------------------------------------------------------------------------------------------

def test_the_reference_has_all_points(mark):
    result = mark()
    assert result['total'] == 100 and result['notes'] == result['trouble'] == [] and result['board'] == {'miou': .5}
    assert {why for name in RIGHT for why in reasons(result, name)} == {'passed'}


def test_a_mistake_costs_its_own_check_and_its_own_exercise(mark):
    result = mark(q1='def double(x):\n    x += x\n    return x')
    assert points(result) == {'q1': 40, 'q2': 40} and reasons(result) == ['passed', 'passed', 'values differ']
    result = mark(q1='def double(x):\n    return 3 * x\ndef total(x):\n    return 0')
    assert points(result) == {'q1': 0, 'q2': 40}


def test_noise_costs_nothing_and_a_flood_its_exercise(mark):
    noise = 'import sys, warnings\nprint("x" * 100_000, file=sys.stderr)\nwarnings.warn("careful")\n' + RIGHT['q1']
    assert mark(q1=noise)['total'] == 100
    flood = RIGHT['q1'].replace('return', 'print("x" * 10 ** 6)\n    return')
    assert points(mark(q1=flood)) == {'q1': 0, 'q2': 40}


def test_lying_about_the_public_test_gains_its_points_only(mark):
    lie = 'import builtins\nclass Two(float):\n    def item(self): return 2\ndef double(x): return Two()'
    result = mark(q1=lie)
    assert points(result) == {'q1': 10, 'q2': 40} and reasons(result)[0] == 'passed'


def test_values_that_a_check_does_not_expect_are_wrong_types(mark):
    result = mark(q1='def double(x): return {"a": [None]}')
    assert reasons(result) == ['raised AttributeError', 'wrong type', 'wrong type'] and not result['trouble']


def test_endless_loops_at_both_places(mark, judge):
    judge.patience = .2
    try:
        assert set(reasons(mark(q1=RIGHT['q1'] + '\nwhile True: pass'))) == {'time limit'}
        assert set(reasons(mark(q1='def double(x):\n    while True: pass'))) == {'time limit'}
    finally: judge.patience = 1.


@pytest.mark.parametrize('content, note', [(b'{', 'not a notebook'), (b'{"nbformat": 4, "cells": []}', ''),
                                           (b' ' * 5_000_001, 'clear its outputs'),
    (json.dumps({'nbformat': 4, 'cells': [{'cell_type': 'code', 'source': 'def other(): pass'}]}).encode(),
     'another set'),
    (json.dumps({'nbformat': 4, 'cells': [{'cell_type': 'code', 'source': 'x = 1\n' * 100_000}]}).encode(),
     'characters of code')])
def test_what_is_no_submission_gets_nothing_and_a_note(judge, tmp_path, content, note):
    (tmp_path / 'x.ipynb').write_bytes(content)
    result = judge.mark(tmp_path / 'x.ipynb')
    assert result['total'] == 0 and note in '; '.join(result['notes']) and set(reasons(result)) == {'no solution found'}
    assert bool(result['notes']) == bool(note)


def test_a_judge_whose_zygote_was_ended_goes_on(mark, judge):
    psutil.Process(judge.zygote.process.pid).kill()
    judge.zygote.process.wait()
    assert mark()['total'] == 100


# ---- a folder of submissions ---------------------------------------------------------------------------------------

def hand_in(folder, small_set, **students):
    """Students with q1 as given, in the layouts that are understood."""
    places = ['{0}/ps9.ipynb', '{0}/ps9/ps9.ipynb', '{0}.ipynb', '{0}_ps9.ipynb', '{0}/renamed.ipynb']
    for place, (student, source) in zip(places, students.items()):
        notebook = nbformat.reads(release.make_release(small_set), 4)
        for item in notebook.cells:
            name = item.metadata.get('nbgrader', {}).get('grade_id')
            if name in RIGHT: item.source = {**RIGHT, 'q1': source}[name]
            if name == 'w1': item.source = f'I am {student}.'
        path = folder / place.format(student)
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)


def test_a_folder_becomes_tables_and_feedback_and_goes_on_where_it_stopped(small_set, tmp_path, monkeypatch):
    sent, out = tmp_path / 'in', tmp_path / 'out'
    hand_in(sent, small_set, ada=RIGHT['q1'], ben='def double(x): return x',
            eve='import os\nos.kill(os.getppid(), 9)\nos._exit(0)\ndef double(x): pass', kim=RIGHT['q1'])
    (sent / 'zoe').mkdir()
    (sent / 'yan.docx').write_text('x')
    rows = marks.grade(small_set, sent, out, SECRET, jobs=1, progress=False)
    assert {row['student']: row['total'] for row in rows} == {'ada': 100, 'ben': 40, 'eve': 40, 'kim': 100, 'yan': 0,
                                                              'zoe': 0}
    table = list(csv.reader((out / 'marks_ps9.csv').open()))
    assert table[0] == ['student', 'set', 'q1', 'q2', 'total', 'notes']
    assert table[2] == ['ben', 'ps9', '0', '40', '40', '']
    assert table[5][-1] == 'yan.docx is not a notebook' and table[6][-1] == 'no notebook'
    assert ['kim', 'w1', '3', ''] in list(csv.reader((out / 'written_ps9.csv').open()))
    assert 'I am kim.' in (out / 'written/ps9/w1.md').read_text()
    assert list(csv.reader((out / 'leaderboard.csv').open()))[:2] == [['student', 'miou'], ['ada', '0.5']]
    page = (out / 'feedback/ben/ps9.md').read_text()
    assert '40 of 100' in page and '| Twice the numbers | 0 of 30 | values differ |' in page
    assert release.prove([small_set], [out / 'feedback'], least=1) == []

    asked = []
    monkeypatch.setattr(marks, 'mark_all', lambda order, todo, jobs: asked.extend(todo) or [])
    (out / 'written_ps9.csv').write_text('my marks')
    again = marks.grade(small_set, sent, out, SECRET, jobs=1, progress=False)
    assert [row['total'] for row in again] == [row['total'] for row in rows] and not asked
    assert (out / 'written_ps9.csv').read_text() == 'my marks'
    with pytest.raises(KeyError): marks.grade(small_set, sent, out, SECRET + b'x', jobs=1, progress=False)
    assert len(asked) == 4  # another secret: all are marked again


def test_submissions_are_found_where_systems_put_them(tmp_path):
    for name in ('a/ps1.ipynb', 'b/ps1/ps1.ipynb', 'c/.ipynb_checkpoints/ps1.ipynb', 'c/ps1 (1).ipynb', 'd/x.ipynb',
                 'd/y.ipynb', 'e.ipynb', 'f_ps1.ipynb', '.hidden/ps1.ipynb'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{}')
    (tmp_path / 'g.ipynb').symlink_to('/etc/passwd')
    found = {item.student: item.path.relative_to(tmp_path).as_posix() if item.path else item.reason
             for item in marks.find_submissions(tmp_path, 'ps1')}
    assert found == {'a': 'a/ps1.ipynb', 'b': 'b/ps1/ps1.ipynb',
                     'c': 'c/ps1 (1).ipynb', 'd': 'several notebooks, none of them ps1.ipynb',
                     'e': 'e.ipynb', 'f': 'f_ps1.ipynb', 'g': 'g.ipynb is not a notebook'}


# ---- releases ------------------------------------------------------------------------------------------------------

def test_a_release_holds_no_answer_and_is_the_same_again(small_set, tmp_path):
    path = release.write_release(small_set, tmp_path)
    text = path.read_text()
    assert path == tmp_path / 'ps9/ps9.ipynb'
    assert 'torch.add' not in text
    assert 'twice' not in text
    assert text.count('NotImplementedError') == 2
    assert release.write_release(small_set, tmp_path / 'again', run=False).read_bytes() == path.read_bytes()
    notebook = nbformat.reads(text, 4)
    assert [c.metadata.get('deletable') for c in notebook.cells] == [None, *[False] * 6]
    assert all('checksum' in c.metadata.nbgrader for c in notebook.cells[1:])
    assert notebook.cells[-1].source == release.ANSWER


def test_leaks_are_found(small_set, tmp_path):
    secret = release.secret_lines(small_set)
    assert set(secret) == {'solution q1', 'solution q2', 'solution w1', 'checks.py'}
    found = release.leaks(secret, 'you may write\n  return  torch.add(x,x, alpha = 1)')
    assert found == ['solution q1: returntorch.add(x,x,alpha=1)']
    assert release.leaks(secret, 'import torch\ndef double(x):') == []
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site/page.html').write_text(SET_CHECKS)
    (faults,) = release.prove([small_set], [tmp_path / 'site'])
    assert 'page.html holds ps9 checks.py' in faults and release.prove([small_set], [small_set / 'the.secret']) == []
    coloured = pygments.highlight(SET_CHECKS, pygments.lexers.PythonLexer(),
                                  pygments.formatters.HtmlFormatter(full=True))
    assert not release.leaks(secret, coloured, 3)  # a tag around every word
    (tmp_path / 'site/page.html').write_text(coloured)
    (fault,) = release.prove([small_set], [tmp_path / 'site'])
    assert 'page.html holds ps9 checks.py' in fault
    checks = (small_set / 'checks.py').read_bytes()
    (tmp_path / 'weights.bin').write_bytes(bytes(range(256)) * 3 + checks + bytes(100))
    (fault,) = release.prove([small_set], [tmp_path / 'weights.bin'])
    assert 'weights.bin holds ps9 checks.py' in fault


def test_the_course_itself_can_be_released():
    for folder in course.sets(None):
        text = release.make_release(folder)
        assert text == release.make_release(folder) and 'BEGIN SOLUTION' not in text
        assert release.leaks(release.secret_lines(folder), text.replace('\\"', '"')) == [], folder.name


# ---- the self-test and the command line ----------------------------------------------------------------------------

def test_set_faults_are_found(small_set, tmp_path):
    faults = '\n'.join(selftest.set_faults(judges.load_set(small_set)))
    assert 'q1: it has 0 wrong solutions' in faults and 'sum' not in faults
    (small_set / 'wrong').mkdir(exist_ok=True)
    (small_set / 'wrong/q1.py').write_text('# %% thrice | It is multiplied by 3 | 0\ndef double(x):\n    return 3 * '
                                           'x\n\n\n# %% kept | none | 60\ndef double(x):\n    return 2 * x\n')
    listed = selftest.wrong_solutions(small_set, 'q1')
    assert [(w.name, w.kept) for w in listed] == [('thrice', 0), ('kept', 60)]
    assert listed[0].source == 'def double(x):\n    return 3 * x'
    assert "wrong solution 'kept' keeps all points" in '\n'.join(selftest.set_faults(judges.load_set(small_set)))


def test_the_self_test_notices_a_wrong_mark(judge, small_set):
    maker = selftest.Maker(judge.set)
    good = selftest.Case('reference', maker.solved(), {'q1': 60, 'q2': 40}, reason='passed')
    assert selftest.mark_case(judge, good) == []
    told = selftest.mark_case(judge, selftest.Case('wrong', maker.solved(q1='def double(x): return x'),
                                                   {'q1': 60, 'q2': 40}))
    assert told and 'q1 has 0 points, not 60' in told[0]
    for case in selftest.ordinary_cases(maker): assert selftest.mark_case(judge, case) == [], case.name


def test_secrets(tmp_path, capsys):
    path = tmp_path / 'secret'
    assert course.main(['secret', str(path)]) == 0
    assert len(judges.read_secret(path)) == 64
    assert path.stat().st_mode & 0o77 == 0
    before = path.read_bytes()
    assert course.main(['secret', str(path)]) == 2
    assert path.read_bytes() == before
    assert 'exists' in capsys.readouterr().err
    (tmp_path / 'short').write_text('123')
    with pytest.raises(FSSKitError, match='3 bytes'): judges.read_secret(tmp_path / 'short')
    with pytest.raises(FSSKitError, match='make a secret'): judges.read_secret(tmp_path / 'none')


def test_the_public_secret_marks_nobody(tmp_path, capsys):
    words = ['grade', 'ps1', str(tmp_path), '--out', str(tmp_path / 'out'), '--secret', str(COURSE / 'secret.example')]
    assert course.main(words) == 2 and 'is public' in capsys.readouterr().err
    assert course.main(['selftest', '--set', 'ps77']) == 2 and 'no set ps77' in capsys.readouterr().err


def test_the_command_line_does_what_it_says(tmp_path, capsys):
    assert course.main(['release', '--set', 'ps1', '--out', str(tmp_path), '--no-run']) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / 'ps1/ps1.ipynb')
    assert course.main(['prove', str(tmp_path)]) == 0 and '0 leaks' in capsys.readouterr().out
    assert course.main(['prove', str(COURSE / 'ps1')]) == 1 and 'holds ps1 solution q1' in capsys.readouterr().out
