"""Live widgets are taken out of stored notebooks, and nothing else is touched."""
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
import strip_widgets  # noqa: E402


def test_pictures_stay_and_a_second_time_changes_nothing(tmp_path):
    data = {strip_widgets.VIEW: {'model_id': 'x'}, 'image/png': 'AAAA', 'text/plain': '<Widget>'}
    cells = [new_markdown_cell('é'), new_code_cell('w', outputs=[new_output('display_data', data=data)])]
    path = tmp_path / 'a.ipynb'
    nbformat.write(new_notebook(cells=cells, metadata={'widgets': {'state': {}}}), path)
    assert strip_widgets.strip(path) == 1
    after = nbformat.read(path, as_version=4)
    assert after.cells[1].outputs[0].data == {'image/png': 'AAAA', 'text/plain': '<Widget>'}
    assert after.cells[0].source == 'é' and 'widgets' not in after.metadata
    before = path.read_bytes()
    assert strip_widgets.strip(path) == 0 and path.read_bytes() == before


@pytest.mark.parametrize('path', sorted((strip_widgets.ROOT / 'nbs').rglob('*.ipynb')), ids=lambda path: path.stem)
def test_no_stored_notebook_holds_a_live_widget(path):
    assert strip_widgets.VIEW not in path.read_text()


def test_stored_notebooks_of_widgets_show_their_picture():
    widgets = ('8[789]_*', '91_*', '93_*', '94_*', '95_*')
    paths = [path for name in widgets for path in (strip_widgets.ROOT / 'nbs').glob(f'{name}.ipynb')]
    assert len(paths) == 7 and all('image/png' in path.read_text() for path in paths)
