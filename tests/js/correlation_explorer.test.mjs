// The correlation explorer: tables, rows and columns, states, and the whole widget in a make-believe page.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { base64, FakeElement, FakeModel, pause } from './fake_dom.mjs';

const { default: widget, ...explorer } = await import('../../fsskit/static/correlation_explorer.js');
const { answer, chosen, lineOf, moved, picked, pointed, pressed, readOut, readTables, spanOf, tablePixels } = explorer;

// query 2 x 3, support 2 x 2: entry (q, s) is 10 q + s, halved in the second layer; after the network one number a query cell
const table = (rows, columns) => Uint8Array.from({ length: rows * columns }, (_, at) => 10 * Math.floor(at / columns) + (at % columns));
const plane = (name, low, high, support = [2, 2], top = high) => ({ name, low, high, top, grids: [[2, 3], support],
  table: base64(table(6, support[0] * support[1])) });
const ramp = new Uint8Array(768).map((_, i) => Math.floor(i / 3));
const after = ['whole', 'none', 'signed'].map((name, i) => [name, [plane(`channel ${i}`, -50, 205, [1, 1], 100)]]);
const photo = (name, width) => ({ name, width, height: 20, source: `data:${name}` });
const payload = (more = {}) => ({
  photos: [photo('query', 30), photo('support', 20)], contrasts: ['whole', 'none', 'signed'],
  before: [plane('layer 0', 0, 255), plane('layer 1', 0, 127.5)], after: Object.fromEntries(after),
  weights: { none: base64(Float32Array.of(1, 0, 0.5, 1)), signed: base64(Float32Array.of(1, -1, 0, 1)) },
  colours: base64(ramp), signed: base64(ramp.map((n) => 255 - n)), note: 'a note', ...more,
});
const base = { query: [0.25, 0.5], support: [0.75, 0.25], stage: 'before', contrast: 'whole', layer: 0, channel: 0,
  opacity: 0.5, stretch: false, pinned: false };
const data = readTables(payload()), { grids } = data.before[0];
const show = (state = {}, more = {}) => {
  const model = new FakeModel({ payload: payload(more), ...base, ...state }), el = new FakeElement('div');
  const close = widget.render({ model, el });
  const [query, support, pairs, bar] = el.named('canvas');
  return { model, el, close, query, support, pairs, bar, text: () => el.named('output')[0].textContent };
};
const reds = (image) => [...image.data].filter((_, i) => i % 4 === 0);
const mapOf = (canvas) => {
  const last = canvas.calls.filter(([kind]) => kind === 'drawImage').at(-1);
  return { red: reds(last[1].image), alpha: last[2] };
};

test('a row and a column of the table, with and without the weights of the support cells', () => {
  const whole = answer(data, base); // query cell 1, support cell 2
  assert.deepEqual([whole.cells, [...whole.maps[1]], [...whole.maps[0]]], [[1, 2], [10, 11, 12, 13], [2, 12, 22, 32, 42, 52]]);
  assert.deepEqual([whole.value, whole.low, whole.high, whole.signed], [12, 0, 255, false]);
  const none = answer(data, { ...base, contrast: 'none' });
  assert.deepEqual([[...none.maps[1]], [...none.maps[0]], none.value], [[10, 0, 6, 13], [1, 6, 11, 16, 21, 26], 6]);
  const signed = answer(data, { ...base, contrast: 'signed', support: [0.25, 0.75], layer: 1 });
  assert.deepEqual([[...signed.maps[1]], signed.value, signed.low, signed.high], [[5, -5.5, 0, 6.5], -5.5, -127.5, 127.5]);
});

test('after the network: its own table for every contrast, signed where values are negative', () => {
  const shown = answer(data, { ...base, stage: 'after', contrast: 'none' });
  assert.deepEqual([shown.plane.name, shown.weights, shown.signed, shown.low, shown.high], ['channel 1', null, true, -100, 100]);
  assert.deepEqual([[...shown.maps[0]], [...shown.maps[1]]], [[-50, -40, -30, -20, -10, 0], [-40]]);
});

test('ranges: one for a table, or its own, around zero where values have a sign', () => {
  const shown = chosen(data, base), signed = chosen(data, { ...base, contrast: 'signed' });
  assert.deepEqual(spanOf(shown, [3, 9], false), [0, 255]);
  assert.deepEqual(spanOf(shown, [3, 9], true), [3, 9]);
  assert.deepEqual(spanOf(signed, [3, -9], true), [-9, 9]);
});

test('a place of the table means a query cell and a support cell', () => {
  assert.deepEqual(pointed([5.5 / 6, 3.5 / 4], grids), { query: [0.75, 5 / 6], support: [0.75, 0.75] });
  assert.deepEqual(pointed([0, 0], grids), { query: [0.25, 1 / 6], support: [0.25, 0.25] });
});

test('the picture of the table has the colours of its values', () => {
  for (const state of [base, { ...base, contrast: 'signed', layer: 1 }, { ...base, stage: 'after' }]) {
    const shown = chosen(data, state), found = reds({ data: tablePixels(shown, ramp) });
    const m = shown.plane.grids[1][0] * shown.plane.grids[1][1];
    found.forEach((red, at) => {
      const value = lineOf(shown, 0, Math.floor(at / m))[at % m];
      const wanted = Math.min(255, Math.max(0, Math.round(((value - shown.low) / (shown.high - shown.low)) * 255)));
      assert.ok(Math.abs(red - wanted) <= 1, `${red} is not ${wanted}`);
    });
  }
  assert.deepEqual([...tablePixels({ ...chosen(data, base), low: 1, high: 1 }, ramp)].slice(0, 4), [0, 0, 0, 255]);
});

test('the pointer chooses cells, a click pins them, then the pointer reads', () => {
  assert.deepEqual(moved(base, 0, [0.9, 0.9], grids), { ...base, query: [0.9, 0.9], cursor: null });
  assert.deepEqual(moved(base, 2, [0, 0.99], grids), { ...base, query: [0.25, 1 / 6], support: [0.75, 0.75], cursor: null });
  const pinned = picked(base, 1, [0.1, 0.1], grids);
  assert.deepEqual([pinned.pinned, pinned.support], [true, [0.1, 0.1]]);
  assert.deepEqual(moved(pinned, 0, [0.9, 0.9], grids), { ...pinned, cursor: { panel: 0, place: [0.9, 0.9] } });
  assert.equal(picked(pinned, 2, [0.5, 0.5], grids).pinned, false);
});

test('keys: arrows on the photos and on the table, contrast, network, best match, planes', () => {
  const key = (panel, name, state = base, shift = false) => pressed(data, state, panel, name, shift);
  assert.deepEqual(key(0, 'ArrowLeft').query, [0.25, 1 / 6]);
  assert.deepEqual(key(1, 'ArrowUp').support, [0.25, 0.25]);
  assert.deepEqual(key(2, 'ArrowDown').query, [0.25, 5 / 6]);
  assert.deepEqual(key(2, 'ArrowDown', base, true).query, [0.75, 5 / 6]);
  assert.deepEqual(key(2, 'ArrowRight').support, [0.75, 0.75]);
  assert.equal(key(0, 'c').contrast, 'none');
  assert.equal(key(0, 'c', { ...base, contrast: 'signed' }).contrast, 'whole');
  assert.equal(key(0, 'n').stage, 'after');
  assert.equal(pressed({ ...data, after: {} }, base, 0, 'n', false), null);
  assert.deepEqual(key(0, 'm').support, [0.75, 0.75]);
  assert.deepEqual(key(1, 'm').query, [0.75, 5 / 6]);
  assert.deepEqual([key(0, ']').layer, key(0, '[').layer, key(0, 'PageDown', { ...base, layer: 1 }).layer], [1, 0, 1]);
  assert.equal(key(0, ']', { ...base, stage: 'after' }).channel, 0);
  assert.deepEqual([key(0, 'Enter').pinned, key(0, 'Escape', { ...base, pinned: true }).pinned], [true, false]);
  assert.equal(key(0, 'Tab'), null);
});

test('what is read out', () => {
  const shown = answer(data, base);
  assert.equal(readOut(shown, null), 'query row 0, column 1 × support row 1, column 0: 12.00'
    + ' · largest in the row: 13.00 at support row 1, column 1 · in the column: 52.00 at query row 1, column 2');
  const under = (panel, place) => readOut(shown, { panel, place }).split(' · ').at(-1);
  assert.equal(under(0, [0.9, 0.9]), 'under the cursor: 52.00');
  assert.equal(under(1, [0.1, 0.1]), 'under the cursor: 10.00');
  assert.equal(under(2, [0.99, 0.99]), 'under the cursor: 53.00');
});

test('the widget shows both maps and the table, and follows the mouse on each', async () => {
  const { model, query, support, pairs, text } = show();
  await pause(1);
  assert.deepEqual(mapOf(support), { red: [10, 11, 12, 13], alpha: 0.5 });
  assert.deepEqual(mapOf(query).red, [2, 12, 22, 32, 42, 52]);
  assert.deepEqual(mapOf(pairs).red.slice(0, 8), [0, 1, 2, 3, 10, 11, 12, 13]);
  query.pointer('pointermove', 15, 25);
  assert.deepEqual(mapOf(support).red, [50, 51, 52, 53]);
  support.pointer('pointermove', 2, 15);
  assert.deepEqual(mapOf(query).red, [1, 11, 21, 31, 41, 51]);
  pairs.pointer('pointermove', 0, 0);
  assert.match(text(), /^query row 0, column 0 × support row 0, column 0: 0\.00/);
  assert.equal(model.saved, 0);
  await pause(200);
  assert.equal(model.saved, 1);
  assert.deepEqual([model.get('query'), model.get('support')], [[0.25, 1 / 6], [0.25, 0.25]]);
});

test('moving within a cell draws nothing again; the table is painted once', () => {
  const { query, pairs } = show();
  const drawn = () => pairs.calls.filter(([kind]) => kind === 'drawImage').map(([, image]) => image);
  query.pointer('pointermove', 15, 25);
  const before = query.calls.length;
  query.pointer('pointermove', 16, 24);
  assert.equal(query.calls.length, before);
  assert.equal(new Set(drawn()).size, 1);
});

test('contrast, network, plane, opacity and stretching by their controls', async () => {
  const { model, support, query, el } = show(), [stage, contrast] = el.named('select'), [plane, opacity, stretch] = el.named('input');
  const set = (input, type, value) => { input[type === 'check' ? 'checked' : 'value'] = value; input.fire(type === 'input' ? 'input' : 'change'); };
  set(contrast, 'change', '2');
  assert.deepEqual(mapOf(support).red, [133, 122, 128, 134].map((n) => 255 - n)); // the other colours
  set(plane, 'input', '1');
  assert.equal(el.named('b')[0].textContent, 'layer 1');
  set(stage, 'change', '1');
  assert.equal(el.named('b')[0].textContent, 'channel 2');
  assert.equal(plane.attributes.max, '0');
  assert.equal(mapOf(support).red.length, 1);
  set(opacity, 'input', '0.9');
  set(stretch, 'check', true);
  assert.deepEqual([mapOf(query).alpha, mapOf(query).red[0]], [0.9, 255]);
  await pause(200);
  assert.deepEqual([model.get('stage'), model.get('contrast'), model.get('layer'), model.get('stretch')], ['after', 'signed', 1, true]);
});

test('pinned cells stay; keys do not reach the notebook; Python moves them until the view is closed', async () => {
  const { model, query, support, text, close, el } = show();
  query.pointer('pointerdown', 15, 25);
  support.pointer('pointermove', 2, 2);
  assert.match(text(), /under the cursor: 50\.00 · pinned/);
  assert.deepEqual(mapOf(support).red, [50, 51, 52, 53]);
  support.fire('pointerleave');
  assert.doesNotMatch(text(), /under/);
  const used = support.key('Escape'), other = support.key('Tab');
  assert.deepEqual([used.stopped, used.prevented, other.stopped, other.prevented], [true, true, true, undefined]);
  assert.equal(el.all((e) => e.attributes['data-lm-suppress-shortcuts'] === 'true').length, 1);
  await pause(200);
  model.set('query', [0.1, 0.1]);
  assert.deepEqual(mapOf(support).red, [0, 1, 2, 3]);
  close();
  assert.equal(model.listeners.length, 0);
});

test('without a mask and without a network there is nothing to choose', () => {
  const { el } = show({}, { after: {}, weights: {}, contrasts: ['whole'] });
  assert.deepEqual(el.named('option').map((option) => option.children[0]), ['before the network', 'whole support']);
});
