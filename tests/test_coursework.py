"""The student's side of the course: reading notebooks, finding the code that counts, running it with a clock."""

import json
import time

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.utils import compute_checksum

from fsskit import coursework as cw
from fsskit.photos import FSSKitError

STUB = 'def double(x):\n    "Twice x."\n    # a hint\n    raise NotImplementedError'
RIGHT = 'def double(x):\n    return 2 * x'
TEST = 'assert double(3) == 6, "twice three"'


def marks(grade_id, **more):
    return {'nbgrader': {'schema_version': 3, 'grade': False, 'solution': False, 'locked': False, 'task': False,
                         'grade_id': grade_id, **more}}


def code(source, grade_id=None, **more):
    return new_code_cell(source, metadata=marks(grade_id, **more) if grade_id else {})


def solution(source, grade_id='q1'):
    return code(source, grade_id, solution=True)


SETUP = code('import math', 'setup', locked=True)
PUBLIC = code(TEST, 'q1_public', locked=True, grade=True, points=5)


@pytest.fixture
def notebook(tmp_path):
    """notebook(cell, ...) -> path of a file with these cells."""
    def write(*cells, name='ps1.ipynb'):
        path = tmp_path / name
        nbformat.write(new_notebook(cells=list(cells)), path)
        return path
    return write


def cells_of(*sources):
    return [cw.Cell('code', *(source if isinstance(source, tuple) else (source,))) for source in sources]


def blocks_of(*sources):
    return cw.join_cells(cells_of(*sources))


# ---- reading -------------------------------------------------------------------------------------------------------

def test_cells_have_nbgraders_marks(notebook):
    cells = cw.read_cells(notebook(SETUP, solution(STUB), PUBLIC, new_markdown_cell('# text'), code('1')))
    assert [c.kind for c in cells] == ['code'] * 3 + ['markdown', 'code']
    assert [c.locked for c in cells] == [True, False, True, False, False]
    assert [c.grade_id for c in cells] == ['setup', 'q1', 'q1_public', '', '']
    assert cells[2].points == 5 and cells[1].solution and cells[1].source == STUB


@pytest.mark.parametrize('content, word', [
    (b'PK\x03\x04', 'format 4'), (b'[1, 2]', 'format 4'), (b'{"cells": []}',
                                                           'format 4'), (b'{"nbformat": 4, "cells": 3}', 'format 4'),
    (b'{"nbformat": 3, "cells": []}', 'format 4'), (b'[' * 100_000,
                                                    'format 4'), (b' ' * (cw.MAX_BYTES + 1), 'clear its outputs'),
    (json.dumps({'nbformat': 4, 'cells': [{}] * (cw.MAX_CELLS + 1)}).encode(), '1001 cells')])
def test_what_is_no_notebook_is_named(tmp_path, content, word):
    (tmp_path / 'x.ipynb').write_bytes(content)
    with pytest.raises(FSSKitError, match=word):
        cw.read_cells(tmp_path / 'x.ipynb')


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FSSKitError, match='No such file'):
        cw.read_cells(tmp_path / 'x.ipynb')


@pytest.mark.parametrize('cell', [
    None, 3, [], {}, {'cell_type': 7}, {'source': {'a': 1}}, {'metadata': [1]}, {'metadata': {'nbgrader': 'x'}},
    {'cell_type': 'code', 'source': '\ud800',
     'metadata': {'nbgrader': {'points': 'many', 'grade': 1, 'locked': 'yes'}}},
    {'cell_type': 'code', 'source': ['a', 3], 'metadata': {'nbgrader': {'points': float('nan'), 'grade': True}}}])
def test_strange_cells_are_read_as_plain_ones(tmp_path, cell):
    (tmp_path / 'x.ipynb').write_text(json.dumps({'nbformat': 4, 'cells': [cell]}))
    (read,) = cw.read_cells(tmp_path / 'x.ipynb')
    assert read.points == 0 and isinstance(read.source, str)
    read.source.encode()


# ---- blocks --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('sources, joined', [
    (['def f(x):', '    return x', 'y = 1'], ['def f(x):\n    return x', 'y = 1']),
    (['def f(x):\n    y = x', '    return y'], ['def f(x):\n    y = x\n    return y']),
    (['def f(x):\n    y = x', '    z = y', '    return z'], ['def f(x):\n    y = x\n    z = y\n    return z']),
    (['x = (1,', '2,', '3)'], ['x = (1,\n2,\n3)']),
    (['x = 1', 'def f(x', 'y = 2'], ['x = 1', 'def f(x', 'y = 2']),
    (['    x = 1'], ['    x = 1']),
    ([], [])])
def test_split_cells_are_joined(sources, joined):
    assert [block.source for block in blocks_of(*sources)] == joined


@given(st.lists(st.sampled_from(['def f(x):\n    a = x\n    b = a\n    return b', 'y = 1',
                                 'for k in (1, 2):\n    y = k\n    y += 1']),
                min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_one_cut_is_mended(whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    lines = whole[place].split('\n')
    cut = data.draw(st.integers(1, max(1, len(lines) - 1)))
    halves = ['\n'.join(part) for part in (lines[:cut], lines[cut:]) if part]
    mended = '\n'.join(block.source for block in blocks_of(*whole[:place], *halves, *whole[place + 1:]))
    assert mended == '\n'.join(whole)
    assert all(block.tree for block in blocks_of(*whole[:place], *halves, *whole[place + 1:]))


def test_jupyter_lines_go_where_they_are_no_python():
    assert cw.plain_python('%time x = 3\nif x:\n    !ls\nnp.sum?') == 'pass\nif x:\n    pass\npass'
    assert cw.plain_python('x = (7\n% 4)') == 'x = (7\n% 4)'
    (block,) = blocks_of('%matplotlib inline\nx = 1')
    assert block.magics and block.tree and block.source.count('\n') == 1


@pytest.mark.parametrize('source', ['def', '\0', '-' * 100_000 + '1', '(' * 5000, 'def f(a, a): pass', 'nonlocal x'])
def test_hostile_text_is_not_python_and_nothing_worse(source):
    assert cw.parse(source) is None


# ---- the block that counts -----------------------------------------------------------------------------------------

def test_names_that_code_binds_and_needs():
    bound, used = cw.names_of('import numpy as np\nfrom a import b as c\ndef f(x, y=D):\n    z = g(x)\n    return [q '
                              'for q in z if h(q)]\nclass K(B): pass')
    assert bound == {'np', 'c', 'f', 'K'} and used == {'D', 'g', 'h', 'B'}


@pytest.mark.parametrize('source, stub', [
    (STUB, True), (RIGHT, False), (RIGHT + '\n    raise NotImplementedError',
                                   False), (STUB.replace('raise', 'x = 1\n    raise'), True),
    ('def double(x):\n    if x: return 1\n    else: return 2\n    raise NotImplementedError()', False),
    ('double = lambda x: x', False), ('def double(x): pass', False), (STUB + '\n' + RIGHT, False),
    (RIGHT + '\n' + STUB, True)])
def test_stubs(source, stub):
    (block,) = blocks_of(source)
    assert cw.is_stub(block, 'double') == stub


OTHER, BROKEN = RIGHT.replace('2', '3'), 'def double(x:'


@pytest.mark.parametrize('sources, wanted', [
    ([(RIGHT, 'q1'), (STUB, 'q1')], RIGHT), ([(STUB, 'q1'), RIGHT], RIGHT), ([(RIGHT, 'q1'), OTHER], RIGHT),
    ([(OTHER, 'q1'), (RIGHT, 'q1')], RIGHT), ([OTHER, RIGHT], RIGHT), ([(RIGHT, 'q7')], RIGHT), ([STUB], STUB),
    ([RIGHT, 'x = 1', (BROKEN, 'q1')], RIGHT), ([(BROKEN, 'q1')], BROKEN), (['double = 2'], 'double = 2')])
def test_which_block_counts(sources, wanted):
    assert cw.solution_block(blocks_of(*sources), 'double', 'q1').source == wanted


def test_nothing_counts_when_nothing_defines_the_function():
    assert cw.solution_block(blocks_of('x = double(3)', 'def double_it(): pass'), 'double', 'q1') is None


def test_helpers_come_along_and_nothing_else():
    blocks = blocks_of('import numpy as np\nN = 3', 'print(N)\nK = [N]', 'def help(x):\n    return K + [x]',
                       'np = 4\nsum = 5', 'def double(x):\n    return help(x) + [sum([1]), np]',
                       'unrelated = double(3)')
    taken = cw.graft(blocks, [blocks[4]], given=['np'])
    assert taken == ['N = 3', 'K = [N]', 'def help(x):\n    return K + [x]', blocks[4].source]
    namespace = {'np': 0}
    for source in taken: exec(source, namespace)
    assert namespace['double'](9) == [3, 9, 1, 0]


def test_decorators_and_loops_of_helpers_survive():
    blocks = blocks_of('T = {}\nfor k in range(3):\n    T[k] = k\nimport functools',
                       '@functools.lru_cache\ndef half(x):\n    return T[x]', 'def double(x):\n    return half(x)')
    taken = cw.graft(blocks, [blocks[2]])
    assert taken[0] == 'T = {}' and any(part.startswith('@functools') for part in taken) and 'import functools' in taken


def test_broken_code_is_taken_alone():
    blocks = blocks_of('x = 1', BROKEN)
    assert cw.graft(blocks, [blocks[1]]) == [BROKEN]


# ---- running -------------------------------------------------------------------------------------------------------

def test_errors_say_where():
    assert cw.run_sources({'a': 'x = 1',
                           'b': '\n\ny = x / 0'}) == 'ZeroDivisionError: division by zero - line 3 of b: y = x / 0'
    assert cw.run_sources({'a': 'def f(:'}).startswith('SyntaxError')
    assert 'line 1 of a' in cw.run_sources({'a': 'def f(:'})
    assert cw.run_sources({'a': 'exit(3)'}).startswith('SystemExit')


def test_noise_and_names_are_no_error():
    noise = 'import sys\nprint("x" * 10**6)\nprint("y" * 10**6, file=sys.stderr)\nassert __name__ == "__main__"'
    assert cw.run_sources({'a': noise}) == ''


def test_time_limit_ends_the_children_too(tmp_path):
    mark = tmp_path / 'alive'
    child = f'import time\nwhile True:\n    open({str(mark)!r}, "a").write("x")\n    time.sleep(.05)'
    start = time.monotonic()
    why = cw.run_sources({'a': f'import subprocess, sys\nsubprocess.Popen([sys.executable, "-c", {child!r}]).wait()'},
                         seconds=3)
    assert why == 'time limit: not done after 3 s' and time.monotonic() - start < 20
    size = mark.stat().st_size if mark.exists() else 0
    time.sleep(.3)
    assert (mark.stat().st_size if mark.exists() else 0) == size


def test_a_process_that_leaves_is_told():
    assert 'ended before' in cw.run_sources({'a': 'import os\nos._exit(0)'})


@pytest.mark.parametrize('source, why', [('x = 1', ''), ('x = 1\ny = z',
                                                         "NameError: name 'z' is not defined - line 2 of a: y = z")])
def test_the_program_inside_writes_its_verdict_and_leaves(tmp_path, monkeypatch, source, why):
    left = []
    monkeypatch.setattr('os._exit', left.append)
    monkeypatch.setattr('sys.argv', ['-c', str(tmp_path)])
    (tmp_path / 'job.json').write_text(json.dumps([['a', source]]))
    cw._serve()
    assert (tmp_path / 'why.txt').read_text() == why and left == [0]


# ---- the check -----------------------------------------------------------------------------------------------------

def sealed(cell):
    cell = nbformat.from_dict(cell)
    cell.metadata.nbgrader['checksum'] = compute_checksum(cell)
    return cell


@pytest.mark.parametrize('cell', [SETUP, PUBLIC, solution(STUB), code('x', 'q2_public', grade=True, points=2.5)])
def test_checksums_are_nbgraders(notebook, cell):
    (read,) = cw.read_cells(notebook(cell))
    assert cw.nbgrader_checksum(read) == compute_checksum(cell)


def test_a_notebook_from_start_to_end(notebook):
    second = [solution('def triple(x):\n    return double(x) + x', 'q2'),
              code('assert triple(2) == 6\nassert math.pi > 3', 'q2_public', locked=True, grade=True, points=4)]
    report = cw.check_notebook(notebook(SETUP, solution(OTHER), PUBLIC, *second), progress=False)
    assert [(row.question, row.points) for row in report.rows] == [('q1', 5), ('q2', 4)]
    assert report.rows[0].why == 'AssertionError: twice three - line 1 of the public test: ' + TEST
    assert report.rows[1].why.startswith('AssertionError') and not report.passed and not report.warnings
    right = cw.check_notebook(notebook(SETUP, solution(RIGHT), PUBLIC, *second), progress=False)
    assert right.passed and str(right).count('passed') == 2


def test_the_stub_says_so_and_an_edited_test_is_told(notebook):
    edited = sealed(PUBLIC)
    edited.source = 'pass'
    report = cw.check_notebook(notebook(SETUP, solution(STUB), edited), progress=False)
    assert report.passed and report.warnings == ['the locked cell q1_public was changed; the grader uses its own copy.']
    assert 'warning' in str(report)
    blank = cw.check_notebook(notebook(sealed(SETUP), solution(STUB), sealed(PUBLIC)), progress=False)
    assert blank.rows[0].why.startswith('NotImplementedError') and not blank.warnings and 'FAILED' in str(blank)


def test_answers_in_strange_places_pass(notebook):
    half, rest = RIGHT.split('\n')
    for cells in ([solution(half), solution(rest)], [solution(STUB), code(RIGHT)], [solution(RIGHT), solution(STUB)],
                  [code('FACTOR = 2'), solution(RIGHT.replace('2', 'FACTOR')), code('1 / 0')]):
        assert cw.check_notebook(notebook(SETUP, *cells, PUBLIC), progress=False).passed


def test_a_notebook_without_tests_is_refused(notebook):
    with pytest.raises(FSSKitError, match='no public test'):
        cw.check_notebook(notebook(SETUP, solution(RIGHT)), progress=False)


def test_an_edited_test_that_is_no_python_fails_by_itself(notebook):
    broken = code('assert (', 'q1_public', locked=True, grade=True, points=5)
    (row,) = cw.check_notebook(notebook(SETUP, solution(RIGHT), broken), progress=False).rows
    assert row.why.startswith('SyntaxError')
