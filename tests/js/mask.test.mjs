// The arithmetic of the mask painter against slow versions of the same.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fill, filePixels, fromPixels, fromRuns, History, share, stroke, tint, toRuns } from '../../fsskit/static/mask.js';

const draw = (mask, width) => [...mask].map((v) => ({ 0: '.', 1: '#', 255: '?' }[v])).join('').match(new RegExp(`.{${width}}`, 'g'));

test('a dab is a disc', () => {
  const mask = new Uint8Array(35);
  stroke(mask, [5, 7], [2, 3], [2, 3], 1.5, 1);
  assert.deepEqual(draw(mask, 7), ['.......', '..###..', '..###..', '..###..', '.......']);
  stroke(mask, [5, 7], [2, 3], [2, 3], 0.5, 0);
  assert.deepEqual(draw(mask, 7)[2], '..#.#..');
});

test('a stroke is every pixel within the radius of the line, also beyond the border', () => {
  for (const [from, to, radius] of [[[2, 2], [9, 14], 2.5], [[-3, 4], [6, -2], 3], [[5, 5], [5, 5], 0.5], [[20, 30], [40, 50], 2]]) {
    const mask = new Uint8Array(12 * 16), wanted = new Uint8Array(12 * 16);
    stroke(mask, [12, 16], from, to, radius, 1);
    for (let y = 0; y < 12; y++) {
      for (let x = 0; x < 16; x++) {
        let nearest = Infinity;
        for (let t = 0; t <= 1; t += 1 / 1024) {
          nearest = Math.min(nearest, Math.hypot(y - from[0] - t * (to[0] - from[0]), x - from[1] - t * (to[1] - from[1])));
        }
        wanted[y * 16 + x] = nearest <= radius + 1e-4 ? 1 : 0;
      }
    }
    assert.deepEqual(draw(mask, 16), draw(wanted, 16));
  }
});

test('filling stays inside of an outline and goes round corners', () => {
  const rows = ['.#####.', '.#...#.', '.#.#.#.', '.#.#.#.', '.###.#.', '.....#.'];
  const mask = Uint8Array.from(rows.join(''), (letter) => (letter === '#' ? 1 : 0));
  fill(mask, [6, 7], [1, 2], 255);
  assert.equal(draw(mask, 7)[3], '?#?#?#.'); // the outline is open below: the outside belongs to the region, except at the right
  const closed = Uint8Array.from('###.#.###', (letter) => (letter === '#' ? 1 : 0));
  fill(closed, [3, 3], [1, 1], 1);
  assert.equal(draw(closed, 3)[1], '.#.');
  const before = closed.slice();
  fill(closed, [3, 3], [1, 1], 1);
  assert.deepEqual(closed, before);
});

test('runs go there and back', () => {
  let seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  for (const length of [1, 2, 17, 1000]) {
    const mask = Uint8Array.from({ length }, () => [0, 0, 1, 255][Math.floor(random() * 4)]);
    assert.deepEqual(fromRuns(toRuns(mask), length), mask);
  }
  assert.deepEqual([...toRuns(Uint8Array.from([0, 0, 1, 1, 1, 255]))], [2 * 256, 3 * 256 + 1, 256 + 255]);
});

test('history: undo, redo, a new state cuts the redo, old states are dropped', () => {
  const history = new History('a', 3);
  history.push('b');
  assert.deepEqual([history.undo(), history.canUndo, history.canRedo, history.redo(), history.redo()], ['a', false, true, 'b', 'b']);
  history.undo();
  history.push('c');
  assert.equal(history.canRedo, false);
  history.push('d');
  history.push('e');
  assert.deepEqual([history.undo(), history.undo(), history.undo()], ['d', 'c', 'c']);
});

test('pixels: what is saved is read back, ignored pixels become background', () => {
  const mask = Uint8Array.from([0, 1, 255, 1]);
  assert.deepEqual([...fromPixels(filePixels(mask))], [0, 1, 0, 1]);
  assert.deepEqual([...tint(mask, [230, 159, 0], 0.5)], [0, 0, 0, 0, 230, 159, 0, 128, 128, 128, 128, 128, 230, 159, 0, 128]);
  assert.deepEqual(share(mask), { count: 2, share: 0.5 });
});
