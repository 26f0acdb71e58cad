// The explorer: its states, and the whole widget in a make-believe page.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { base64, FakeElement, FakeModel, pause } from './fake_dom.mjs';

const { default: widget, answer, moved, picked, pressed, readOut } = await import('../../fsskit/static/pair_explorer.js');

// support 2 x 2, query 2 x 3: entry (j, i) of the table is 10 j + i, halved in the second plane
const table = Uint8Array.from({ length: 24 }, (_, at) => 10 * Math.floor(at / 6) + (at % 6));
const plane = (name, high) => ({ name, kind: 'table', grids: [[2, 2], [2, 3]], low: 0, high, table: base64(table) });
const photo = (name, width) => ({ name, width, height: 20, source: `data:${name}` });
const makeModel = (state = {}) => new FakeModel({
  payload: { photos: [photo('support', 20), photo('query', 30)], planes: [plane('one', 255), plane('two', 127.5)],
    colours: base64(new Uint8Array(768).map((_, i) => i / 3)), note: 'a note' },
  side: 'support', place: [0.25, 0.25], plane: 0, opacity: 0.5, stretch: false, pinned: false, ...state,
});
const show = (state) => {
  const model = makeModel(state), el = new FakeElement('div');
  const close = widget.render({ model, el });
  const [support, query, bar] = el.named('canvas');
  const text = () => el.named('output')[0].textContent;
  return { model, el, close, support, query, bar, text };
};
const mapOf = (canvas) => {
  const drawn = canvas.calls.filter(([kind]) => kind === 'drawImage');
  const last = drawn.at(-1);
  return last[1].name === 'canvas' ? { red: [...last[1].image.data].filter((_, i) => i % 4 === 0), alpha: last[2] } : null;
};
const base = { side: 'support', place: [0.25, 0.25], plane: 0, pinned: false, cursor: null, stretch: false, opacity: 1 };

test('states: hover looks, a click pins, then hovering the other photo reads', () => {
  const hover = moved(base, 'query', [0.9, 0.1]);
  assert.deepEqual([hover.side, hover.place, hover.cursor], ['query', [0.9, 0.1], null]);
  const pin = picked(hover, 'query', [0.9, 0.1]);
  assert.ok(pin.pinned);
  assert.deepEqual(moved(pin, 'support', [0.5, 0.5]).cursor, [0.5, 0.5]);
  assert.deepEqual(moved(pin, 'support', [0.5, 0.5]).place, [0.9, 0.1]);
  assert.equal(moved(pin, 'query', [0.5, 0.5]).cursor, null);
  assert.ok(picked(pin, 'support', [0.1, 0.1]).pinned);
  assert.ok(!picked(pin, 'query', [0.1, 0.1]).pinned);
});

test('keys: arrows by cells, Enter, Escape, layers, and nothing else', () => {
  const planes = makeModel().get('payload').planes;
  assert.deepEqual(pressed(base, 'support', 'ArrowRight', false, planes).place, [0.25, 0.75]);
  assert.deepEqual(pressed(base, 'query', 'ArrowLeft', false, planes), { ...base, side: 'query', place: [0.75, 1 / 6] });
  assert.equal(pressed(base, 'support', 'Enter', false, planes).pinned, true);
  const pinned = { ...base, pinned: true };
  assert.deepEqual(pressed(pinned, 'query', 'ArrowUp', false, planes).cursor, [0.25, 0.5]);
  assert.equal(pressed(pinned, 'query', 'Escape', false, planes).pinned, false);
  assert.equal(pressed(base, 'support', ']', false, planes).plane, 1);
  assert.equal(pressed({ ...base, plane: 1 }, 'support', 'PageDown', false, planes).plane, 1);
  assert.equal(pressed({ ...base, plane: 1 }, 'support', '[', false, planes).plane, 0);
  assert.equal(pressed(base, 'support', 'Tab', false, planes), null);
});

test('what is shown and read out', () => {
  const planes = [{ ...plane('one', 255), table }];
  const shown = answer(planes, { ...base, place: [0.75, 0.25] });
  assert.deepEqual([...shown.values], [20, 21, 22, 23, 24, 25]);
  assert.deepEqual([shown.low, shown.high, shown.best, shown.top], [0, 255, 5, 25]);
  assert.deepEqual(answer(planes, { ...base, stretch: true, place: [0.75, 0.25] }).low, 20);
  assert.equal(readOut(planes, { ...base, cursor: [0.1, 0.5] }, shown),
    'support: row 1, column 0 · most similar in the query: 25.00 at row 1, column 2 · under the cursor: 21.00 at row 0, column 1');
});

test('the widget shows a map on the other photo, follows the mouse, and tells the kernel once it rests', async () => {
  const { model, support, query, text } = show();
  await pause(1);
  assert.deepEqual(mapOf(query), { red: [0, 1, 2, 3, 4, 5], alpha: 0.5 });
  assert.equal(mapOf(support), null);
  support.pointer('pointermove', 15, 15);
  assert.deepEqual(mapOf(query).red, [30, 31, 32, 33, 34, 35]);
  assert.match(text(), /^support: row 1, column 1 .* 35\.00/);
  assert.equal(model.saved, 0);
  query.pointer('pointermove', 2, 25);
  assert.deepEqual(mapOf(support).red, [2, 12, 22, 32]);
  assert.equal(mapOf(query), null);
  await pause(200);
  assert.equal(model.saved, 1);
  assert.equal(model.get('side'), 'query');
});

test('moving within a cell draws nothing again', () => {
  const { support, query } = show();
  support.pointer('pointermove', 15, 15);
  const before = query.calls.length;
  support.pointer('pointermove', 12, 18);
  assert.equal(query.calls.length, before);
});

test('an echo of the kernel does not move the point back', async () => {
  const { model, support, query } = show();
  support.pointer('pointermove', 15, 15);
  await pause(200);
  support.pointer('pointermove', 5, 15);
  model.emit('change:place'); // the kernel repeats what it was told before
  assert.deepEqual(mapOf(query).red, [10, 11, 12, 13, 14, 15]);
});

test('a pinned point stays, and the value under the mouse is read', async () => {
  const { model, support, query, text, el } = show();
  support.pointer('pointerdown', 15, 5);
  await pause(200);
  assert.ok(model.get('pinned') && support.focused);
  query.pointer('pointermove', 5, 15);
  assert.match(text(), /under the cursor: 21\.00 at row 0, column 1 · pinned/);
  assert.deepEqual(mapOf(query).red, [20, 21, 22, 23, 24, 25]);
  query.fire('pointerleave');
  assert.doesNotMatch(text(), /under/);
  assert.equal(query.key('Escape').prevented, true);
  await pause(200);
  assert.ok(!model.get('pinned'));
  assert.equal(el.all((e) => e.attributes['data-lm-suppress-shortcuts'] === 'true').length, 1);
});

test('keys do not reach the notebook, and only those that are used are prevented', async () => {
  const { model, support } = show();
  const used = support.key('ArrowDown'), other = support.key('Tab');
  assert.deepEqual([used.stopped, used.prevented, other.stopped, other.prevented], [true, true, true, undefined]);
  await pause(200);
  assert.deepEqual(model.get('place'), [0.75, 0.25]);
});

test('layer, opacity and stretching', async () => {
  const { model, query, el } = show();
  const [layer, opacity, stretch] = el.named('input');
  layer.value = '1';
  layer.fire('input');
  await pause(200);
  assert.equal(model.get('plane'), 1);
  assert.deepEqual(mapOf(query).red, [0, 1, 2, 3, 4, 5]);
  opacity.value = '0.9';
  opacity.fire('input');
  assert.equal(mapOf(query).alpha, 0.9);
  stretch.checked = true;
  stretch.fire('change');
  assert.deepEqual(mapOf(query).red, [0, 51, 102, 153, 204, 255]);
  assert.equal(el.named('b')[0].textContent, 'two');
});

test('Python moves the point too, until the view is closed', () => {
  const { model, query, close } = show();
  model.set('place', [0.9, 0.9]);
  assert.deepEqual(mapOf(query).red, [30, 31, 32, 33, 34, 35]);
  close();
  model.set('place', [0.1, 0.1]);
  assert.deepEqual(mapOf(query).red, [30, 31, 32, 33, 34, 35]);
  assert.equal(model.listeners.length, 0);
});
