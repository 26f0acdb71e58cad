// The attention explorer: rows and their parts, states, and the whole widget in a make-believe page.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { base64, FakeElement, FakeModel, pause } from './fake_dom.mjs';

const { default: widget, ...explorer } = await import('../../fsskit/static/attention_explorer.js');
const { answer, compared, moved, nameOf, partsOf, picked, planeOf, pressed, readLooks, readOut, rowOf, weightsOf } = explorer;

// rows: one token, then 2 x 2 cells; columns: support 1 x 3, own memory 2 x 2, two pointers; row r has r + 1, r + 2, ...
const ROWS = 5, COLUMNS = 9;
const entries = Int8Array.from({ length: ROWS * COLUMNS }, (_, at) => Math.floor(at / COLUMNS) + (at % COLUMNS) + 1);
const scales = (factor) => base64(Float32Array.from({ length: ROWS }, (_, row) => factor / 2 ** row));
const sums = (factor) => Float32Array.from({ length: ROWS * 3 }, (_, at) => { // three parts of 3, 4 and 2 columns
  const row = Math.floor(at / 3), [from, to] = [[0, 3], [3, 7], [7, 9]][at % 3];
  return entries.subarray(row * COLUMNS + from, row * COLUMNS + to).reduce((a, b) => a + b, 0) * factor / 2 ** row;
});
const plane = (factor, top) => ({ values: base64(entries), scales: scales(factor), shares: base64(sums(factor)), top });
const photo = (name, width) => ({ name, width, height: 20, source: `data:${name}` });
const payload = (more = {}) => ({
  photos: [photo('query', 20), photo('support', 30)], tokens: ['class'], grid: [2, 2],
  targets: [{ name: 'support', photo: 1, grid: [1, 3] }, { name: 'own memory', photo: 0, grid: [2, 2] }],
  extras: [{ name: 'pointers', count: 2 }],
  choices: [{ name: 'layer', options: ['0', '1'] }, { name: 'calibration', options: ['before', 'after'] }], compare: 1,
  planes: [1, 2, 4, 8].map((factor) => plane(factor / 256, factor)),
  colours: base64(new Uint8Array(768).map((_, i) => Math.floor(i / 3))), note: 'a note', ...more,
});
const base = { place: [0.75, 0.25], token: -1, choices: [0, 0], opacity: 0.5, stretch: false, pinned: false };
const data = readLooks(payload());
const show = (state = {}, more = {}) => {
  const model = new FakeModel({ payload: payload(more), ...base, ...state }), el = new FakeElement('div');
  const close = widget.render({ model, el });
  return { model, el, close, canvases: el.named('canvas'), text: () => el.named('output')[0].textContent };
};
const mapOf = (canvas) => {
  const last = canvas.calls.filter(([kind]) => kind === 'drawImage').at(-1);
  return last[1].name === 'canvas' ? [...last[1].image.data].filter((_, i) => i % 4 === 0) : null;
};

test('rows, planes and parts', () => {
  assert.equal(rowOf(data, base), 3); // the token, then cell 2
  assert.equal(rowOf(data, { ...base, token: 0 }), 0);
  assert.deepEqual([[0, 0], [0, 1], [1, 0], [1, 1]].map((choices) => planeOf(data, choices)), [0, 1, 2, 3]);
  const weights = weightsOf(data.planes[1], 3); // 4 to 12, times 2 / 256 / 8
  assert.deepEqual([...weights], [4, 5, 6, 7, 8, 9, 10, 11, 12].map((n) => n / 1024));
  assert.deepEqual(partsOf(data, weights).map((part) => part.length), [3, 4, 2]);
});

test('what is shown: maps, shares, range', () => {
  const shown = answer(data, base), times = (numbers) => numbers.map((n) => n / 2048);
  assert.deepEqual(shown.maps.map((map) => [...map]), [times([4, 5, 6]), times([7, 8, 9, 10])]);
  assert.deepEqual([[...shown.extras[0]], shown.shares, shown.high, shown.columns], [times([11, 12]), times([15, 34, 23]), 1, 9]);
  assert.equal(answer(data, { ...base, stretch: true }).high, 10 / 2048);
});

test('before and after side by side', () => {
  const rows = compared(data, { ...base, choices: [1, 1] });
  assert.deepEqual(rows.map((row) => row.option), ['before', 'after']);
  assert.deepEqual(rows.map((row) => row.shares[0]), [4 * 15 / 2048, 8 * 15 / 2048]);
  assert.equal(compared({ ...data, compare: null }, base), null);
});

test('what is read out', () => {
  assert.equal(nameOf(data, { ...base, token: 0 }), "token 'class'");
  assert.equal(readOut(data, base, answer(data, base)), 'query row 1, column 0 · support: 0.7 % · own memory: 1.7 % · pointers: 1.1 %'
    + ' · most: 0.5 %, 0.0 times even, at own memory row 1, column 1');
  const cursor = { target: 0, place: [0.5, 0.5] }, high = { ...base, token: 0, choices: [1, 1], cursor };
  assert.match(readOut(data, high, answer(data, high)), /support: 19 % .* under the cursor: 6\.3 %, 0\.6 times even$/);
});

test('the pointer and keys: cells, tokens, choices, the cursor on a picture', () => {
  assert.deepEqual(moved({ ...base, token: 0 }, [0.1, 0.1]), { ...base, place: [0.1, 0.1] });
  const pinned = picked(base, [0.1, 0.9]);
  assert.deepEqual([pinned.pinned, pinned.place, moved(pinned, [0.9, 0.9]) === pinned], [true, [0.1, 0.9], true]);
  assert.equal(picked(pinned, [0.5, 0.5]).pinned, false);
  const key = (name, target = null, state = base, shift = false) => pressed(data, state, target, name, shift);
  assert.deepEqual(key('ArrowRight').place, [0.75, 0.75]);
  assert.deepEqual([key(']').choices, key('.').choices, key(',').choices, key('PageUp').choices], [[1, 0], [0, 1], [0, 0], [0, 0]]);
  assert.deepEqual([key('t').token, key('Enter').pinned, key('Escape', 0, { ...base, pinned: true }).pinned], [0, true, false]);
  assert.deepEqual(key('ArrowRight', 0).cursor, { target: 0, place: [0.5, 5 / 6] });
  assert.deepEqual(key('ArrowUp', 1, { ...base, cursor: { target: 1, place: [0.9, 0.9] } }).cursor.place, [0.25, 0.75]);
  assert.deepEqual([key('Tab'), key('Enter', 0), pressed({ ...data, tokens: [] }, base, null, 't')], [null, null, null]);
  const decoder = { ...data, grid: null, tokens: ['a', 'b', 'c'], choices: data.choices.slice(0, 1) };
  const walk = (name, token) => pressed(decoder, { ...base, token }, null, name, false);
  assert.deepEqual([walk('ArrowRight', 0).token, walk('ArrowUp', 0).token, walk('ArrowDown', 2).token], [1, 0, 2]);
  assert.deepEqual([walk('x', 0), walk('.', 0)], [null, null]);
});

test('the widget: the cell that looks, what it looks at, shares before and after, the kernel', async () => {
  const { model, el, canvases, text } = show(), [source, support, own, strip] = canvases;
  await pause(1);
  assert.equal(mapOf(source), null);
  assert.deepEqual(mapOf(support), [4, 5, 6].map((n) => Math.round(255 * n / 2048)));
  source.pointer('pointermove', 2, 15); // cell 1, row 2
  assert.deepEqual(mapOf(own), [6, 7, 8, 9].map((n) => Math.round(255 * n / 1024)));
  assert.deepEqual([...strip.image.data].filter((_, i) => i % 4 === 0), [10, 11].map((n) => Math.round(255 * n / 1024)));
  assert.match(text(), /^query row 0, column 1 · support: 1\.2 %/);
  const cells = el.named('table')[0].named('tr').map((row) => row.children.map((child) => child.children[0]));
  assert.deepEqual(cells, [['', 'support', 'own memory', 'pointers'], ['before', '1.2 %', '2.9 %', '2.1 %'], ['after', '2.3 %', '5.9 %', '4.1 %']]);
  const before = source.calls.length;
  source.pointer('pointermove', 3, 16);
  assert.equal(source.calls.length, before);
  support.pointer('pointermove', 10, 29);
  assert.match(text(), /under the cursor: 0\.5 %/);
  support.fire('pointerleave');
  assert.doesNotMatch(text(), /under/);
  await pause(200);
  assert.deepEqual([model.saved, model.get('place')], [1, [0.125, 0.775]]);
});

test('tokens are buttons, choices are lists, and their keys do not reach the notebook', async () => {
  const { model, el, canvases, text } = show(), [button] = el.named('button'), [layer, calibration] = el.named('select');
  assert.equal(button.attributes['aria-pressed'], 'false');
  button.click();
  assert.equal(button.attributes['aria-pressed'], 'true');
  assert.match(text(), /^token 'class'/);
  assert.deepEqual(mapOf(canvases[1]), [1, 2, 3].map((n) => Math.round(255 * n / 256)));
  layer.value = '1';
  layer.fire('change');
  calibration.value = '1';
  calibration.fire('change');
  const key = (name) => button.fire('keydown', { key: name }), used = key('['), enter = key('Enter');
  assert.deepEqual([used.stopped, used.prevented, enter.stopped, enter.prevented], [true, true, true, undefined]);
  const [opacity, stretch] = el.named('input');
  opacity.value = '1';
  opacity.fire('input');
  stretch.checked = true;
  stretch.fire('change');
  assert.deepEqual(mapOf(canvases[2]), [4, 5, 6, 7].map((n) => Math.round(255 * n / 7)));
  await pause(200);
  assert.deepEqual([model.get('choices'), model.get('token'), model.get('opacity')], [[0, 1], 0, 1]);
});

test('a decoder has tokens and no cells that look; Python moves the token until the view is closed', () => {
  const { model, el, close, text } = show({ token: 1 }, { grid: null, tokens: ['a', 'b', 'c', 'd', 'e'], compare: null });
  assert.equal(el.named('canvas').length, 4); // two pictures, the pointers, the colours
  assert.match(text(), /^token 'b'/);
  assert.equal(el.named('tr').length, 0);
  model.set('token', 3);
  assert.match(text(), /^token 'd'/);
  close();
  assert.equal(model.listeners.length, 0);
});
