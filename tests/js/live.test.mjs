// The state that a widget shares with its kernel.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeModel, pause } from './fake_dom.mjs';
import { LiveState } from '../../fsskit/static/live.js';

const make = () => {
  const model = new FakeModel({ place: [0, 0], layer: 1, other: 5 });
  const drawn = [], live = new LiveState(model, ['place', 'layer'], { cursor: null }, () => drawn.push(live.now));
  return { model, live, drawn };
};

test('changes are drawn at once and told once, when things are quiet', async () => {
  const { model, live, drawn } = make();
  assert.deepEqual(live.now, { place: [0, 0], layer: 1, cursor: null });
  assert.deepEqual([live.change(null), live.change(live.now)], [false, false]);
  for (let layer = 2; layer < 5; layer++) assert.ok(live.change({ ...live.now, layer, cursor: [layer] }));
  assert.deepEqual([drawn.length, model.saved, model.get('layer')], [3, 0, 1]);
  await pause(200);
  assert.deepEqual([model.saved, model.get('layer'), model.get('cursor'), drawn.length], [1, 4, undefined, 3]);
});

test('Python changes the state, an echo of what it was told does not', async () => {
  const { model, live, drawn } = make();
  live.change({ ...live.now, layer: 2, cursor: [1] });
  await pause(200);
  live.change({ ...live.now, layer: 3 });
  model.emit('change:layer'); // the kernel repeats the 2
  assert.equal(live.now.layer, 3);
  model.set('place', [1, 1]);
  assert.deepEqual([live.now, drawn.length], [{ place: [1, 1], layer: 3, cursor: null }, 3]);
  live.close();
  model.set('place', [2, 2]);
  assert.deepEqual([live.now.place, model.listeners.length], [[1, 1], 0]);
});
