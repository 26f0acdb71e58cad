// node --test tests/js : the arithmetic that the widgets share, each value against a slow or independent computation.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytes, cellAt, colourise, cosines, debounce, extremes, lookUp, middleOf, numbers, readFeatures, readPlanes, stepFrom,
  tableLine } from '../../fsskit/static/maps.js';

const base64 = (typed) => Buffer.from(typed.buffer, typed.byteOffset, typed.byteLength).toString('base64');
const view = (typed) => new DataView(typed.buffer, typed.byteOffset, typed.byteLength);
const features = (rows) => ({
  values: base64(Int8Array.from(rows.flatMap(([, ...row]) => row))),
  scales: base64(Float32Array.from(rows.map(([scale]) => scale))),
});

test('bytes come the same from text and from a kernel, also at odd addresses', () => {
  const typed = Uint8Array.from([9, 0, 1, 254, 255]).subarray(1);
  assert.deepEqual([...bytes(base64(typed))], [0, 1, 254, 255]);
  assert.deepEqual([...bytes(view(typed))], [0, 1, 254, 255]);
  const padded = new Uint8Array(9);
  padded.set(new Uint8Array(Float32Array.from([1.5, -2]).buffer), 1);
  assert.deepEqual([...numbers(view(padded.subarray(1)), Float32Array)], [1.5, -2]);
});

test('cosines are the dot products of the vectors that the bytes stand for', () => {
  const source = readFeatures(features([[0.5, 1, -2, 3], [2, 127, 0, -127]]));
  const target = readFeatures(features([[1, 1, 1, 1], [0.25, -1, 4, 100], [1, 0, 0, 0]]));
  assert.deepEqual([...cosines(source, target, 0, 3)], [0.5 * 2, 0.5 * 0.25 * (-1 - 8 + 300), 0].map(Math.fround));
  assert.deepEqual([...cosines(source, target, 1, 3)], [0, 2 * 0.25 * (-127 - 12700), 0].map(Math.fround));
});

test('a table is read along its rows and along its columns', () => {
  const plane = { grids: [[1, 2], [3, 1]], low: -1, high: 1, table: Uint8Array.from([0, 51, 255, 102, 204, 153]) };
  const number = (byte) => Math.fround(-1 + (2 / 255) * byte);
  assert.deepEqual([...tableLine(plane, 0, 1)], [102, 204, 153].map(number));
  assert.deepEqual([...tableLine(plane, 1, 2)], [255, 153].map(number));
});

test('look-up: layers, their mean, tables, both directions', () => {
  const layer = (name, scale) => ({ name, kind: 'features', channels: 2, grids: [[1, 2], [2, 1]],
    features: [features([[scale, 1, 2], [scale, 3, 4]]), features([[1, 5, 6], [1, 7, 8]])] });
  const table = { kind: 'table', grids: [[1, 2], [2, 1]], low: 0, high: 255, table: base64(Uint8Array.from([1, 2, 3, 4])) };
  const planes = readPlanes([layer('a', 1), layer('b', 3), { kind: 'mean' }, table]);
  assert.deepEqual([...lookUp(planes, 0, 0, 1)], [3 * 5 + 4 * 6, 3 * 7 + 4 * 8]);
  assert.deepEqual([...lookUp(planes, 1, 1, 0)], [3 * (5 + 12), 3 * (15 + 24)]);
  assert.deepEqual([...lookUp(planes, 2, 0, 1)], [2 * 39, 2 * 53]);
  assert.deepEqual([...lookUp(planes, 3, 0, 1)], [3, 4]);
  for (const index of [0, 1, 2, 3]) {
    for (const j of [0, 1]) {
      for (const i of [0, 1]) assert.equal(lookUp(planes, index, 0, j)[i], lookUp(planes, index, 1, i)[j]);
    }
  }
});

test('12 layers of 37 x 37 cells with 384 channels are looked up in well under 50 ms', () => {
  const n = 37 * 37, channels = 384;
  const random = () => ({ values: Int8Array.from({ length: n * channels }, (_, i) => (i * 7919) % 255 - 127), scales: new Float32Array(n).fill(1e-4) });
  const planes = [...Array(12)].map(() => ({ kind: 'features', channels, grids: [[37, 37], [37, 37]], features: [random(), random()] }));
  planes.push({ kind: 'mean' });
  const times = [...Array(20)].map((_, i) => {
    const start = process.cpuUsage().user; // time of this process alone, whatever else the machine does
    lookUp(planes, 12, 0, 60 * i);
    return (process.cpuUsage().user - start) / 1000;
  }).sort((a, b) => a - b);
  console.log(`mean of 12 layers: median ${times[10].toFixed(1)} ms`);
  assert.ok(times[10] < 50, `median ${times[10]} ms`);
});

test('extremes say where the largest value is', () => {
  assert.deepEqual(extremes(Float32Array.from([0.5, -1, 2, 2])), { low: -1, high: 2, best: 2 });
});

test('colours: ends, middle, out of range, constant map', () => {
  const table = Uint8Array.from({ length: 768 }, (_, i) => (i % 3 === 0 ? i / 3 : 7));
  const red = (values, low, high) => [...colourise(Float32Array.from(values), low, high, table)].filter((_, i) => i % 4 === 0);
  assert.deepEqual(red([-1, 0, 1], -1, 1), [0, 128, 255]);
  assert.deepEqual(red([-9, 9], -1, 1), [0, 255]);
  assert.deepEqual(red([3, 3], 3, 3), [0, 0]);
  assert.deepEqual([...colourise(Float32Array.from([1]), 0, 1, table)], [255, 7, 7, 255]);
});

test('places and cells: corners, middles, round trip', () => {
  const grid = [3, 5];
  assert.equal(cellAt([0, 0], grid), 0);
  assert.equal(cellAt([0.999, 0.999], grid), 14);
  assert.equal(cellAt([1, 1], grid), 14);
  assert.equal(cellAt([-0.1, 0.5], grid), 2);
  for (let cell = 0; cell < 15; cell++) assert.equal(cellAt(middleOf(cell, grid), grid), cell);
});

test('arrow keys move by one cell, with shift by five, and stop at the border', () => {
  const grid = [10, 10];
  assert.equal(stepFrom(55, 'ArrowUp', grid), 45);
  assert.equal(stepFrom(55, 'ArrowDown', grid), 65);
  assert.equal(stepFrom(55, 'ArrowLeft', grid), 54);
  assert.equal(stepFrom(55, 'ArrowRight', grid, true), 59);
  assert.equal(stepFrom(0, 'ArrowUp', grid), 0);
  assert.equal(stepFrom(55, 'a', grid), null);
});

test('debounce calls once, after it is quiet', async () => {
  let calls = 0;
  const act = debounce(() => { calls++; }, 10);
  act(); act(); act();
  assert.equal(calls, 0);
  await new Promise((done) => setTimeout(done, 40));
  assert.equal(calls, 1);
});
