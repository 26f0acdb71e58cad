// The painter in a make-believe page: mouse, keyboard, buttons, kernel.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { base64, FakeElement, FakeModel, pause } from './fake_dom.mjs';
import { fromRuns, toRuns } from '../../fsskit/static/mask.js';
import { numbers } from '../../fsskit/static/maps.js';

const { default: widget, meaning, resized, status } = await import('../../fsskit/static/mask_painter.js');

const SIZE = [12, 16];
const show = (state = {}, payload = {}) => {
  const model = new FakeModel({
    payload: { photo: { name: 'photo', width: 16, height: 12, source: 'data:' }, sam: true, alpha: 0.5, note: '', ...payload },
    runs: base64(toRuns(new Uint8Array(192))), tool: 'brush', radius: 1, ...state,
  });
  const el = new FakeElement('div'), close = widget.render({ model, el });
  const canvas = el.named('canvas')[0], buttons = Object.fromEntries(el.named('button').map((b) => [b.children[0], b]));
  const mask = () => fromRuns(numbers(model.get('runs'), Uint32Array), 192);
  const count = (value = 1) => mask().filter((v) => v === value).length;
  return { model, el, close, canvas, buttons, mask, count, text: () => el.named('output')[0].textContent };
};
const drag = (canvas, points) => {
  canvas.pointer('pointerdown', ...points[0], { buttons: 1 });
  for (const point of points.slice(1)) canvas.pointer('pointermove', ...point, { buttons: 1 });
  canvas.pointer('pointerup', ...points.at(-1));
};

test('keys', () => {
  assert.deepEqual(['b', 'E', 'i', 'f', 's', ' ', 'Enter', 'Delete', '[', ']', 'ArrowUp', 'q', 'Tab'].map((key) => meaning(key, false)),
    ['brush', 'eraser', 'ignore', 'fill', 'sam', 'paint', 'pen', 'clear', 'smaller', 'larger', 'move', null, null]);
  assert.deepEqual(['z', 'y', 'Z', 'b'].map((key) => meaning(key, true)), ['undo', 'redo', 'redo', null]);
  assert.deepEqual([resized(4, true), resized(4, false), resized(0.5, false), resized(200, true)], [6, 2.5, 0.5, 200]);
});

test('the status line counts and reads', () => {
  assert.equal(status(Uint8Array.from([0, 1, 255, 1]), 'brush', 2, [1, 0], [2, 2]),
    'brush, radius 2 px · object: 2 px, 50.0 % of the photo · under the cursor: ignored (y 1, x 0)');
});

test('a drag is one stroke, told to the kernel once, when the button is released', () => {
  const { model, canvas, mask, count } = show();
  canvas.pointer('pointerdown', 3, 2, { buttons: 1 });
  canvas.pointer('pointermove', 3, 12, { buttons: 1 });
  assert.equal(model.saved, 0);
  canvas.pointer('pointerup', 3, 12);
  assert.equal(model.saved, 1);
  assert.equal(count(), 3 * 11 + 2);
  assert.deepEqual([...mask()].slice(3 * 16, 4 * 16), [0, ...Array(13).fill(1), 0, 0]);
});

test('an echo of the kernel in the middle of a stroke takes nothing away', () => {
  const { model, canvas, count } = show();
  drag(canvas, [[3, 3]]);
  const echo = new DataView(model.get('runs').buffer.slice(0));
  canvas.pointer('pointerdown', 8, 8, { buttons: 1 });
  model.set('runs', echo);
  canvas.pointer('pointermove', 8, 12, { buttons: 1 });
  canvas.pointer('pointerup', 8, 12);
  assert.equal(count(), 5 + 3 * 5 + 2);
});

test('hovering paints nothing, other buttons neither', () => {
  const { model, canvas, count } = show();
  canvas.pointer('pointermove', 3, 2);
  canvas.pointer('pointerdown', 3, 2, { button: 2, buttons: 2 });
  canvas.pointer('pointerup', 3, 2);
  assert.equal(model.saved, 0);
  assert.equal(count(), 0);
});

test('undo and redo, by buttons and by keys; clear', () => {
  const { canvas, buttons, count } = show();
  assert.equal(buttons.undo.disabled, true);
  drag(canvas, [[3, 3]]);
  drag(canvas, [[8, 8]]);
  assert.equal(count(), 10);
  buttons.undo.click();
  assert.equal(count(), 5);
  canvas.key('z', { ctrlKey: true });
  assert.equal(count(), 0);
  buttons.undo.click();
  canvas.key('y', { ctrlKey: true });
  buttons.redo.click();
  assert.equal(count(), 10);
  assert.equal(buttons.redo.disabled, true);
  canvas.key('Delete');
  assert.equal(count(), 0);
  buttons.undo.click();
  assert.equal(count(), 10);
});

test('eraser, ignore, fill', () => {
  const { model, canvas, buttons, count } = show({ radius: 0.5 });
  drag(canvas, [[2, 2], [2, 9], [8, 9], [8, 2], [2, 2]]);
  buttons.fill.click();
  assert.deepEqual([model.get('tool'), buttons.fill.attributes['aria-pressed'], buttons.brush.attributes['aria-pressed']], ['fill', 'true', 'false']);
  canvas.pointer('pointerdown', 5, 5, { buttons: 1 });
  assert.equal(count(), 7 * 8);
  canvas.key('e');
  drag(canvas, [[5, 5]]);
  canvas.key('i');
  drag(canvas, [[6, 6]]);
  assert.deepEqual([count(), count(255)], [54, 1]);
  canvas.key('f');
  canvas.pointer('pointerdown', 3, 3, { buttons: 1, shiftKey: true });
  assert.deepEqual([count(), count(255)], [0, 1]);
});

test('without a mouse: move, dab, draw a line with the pen down, change the size', () => {
  const { model, canvas, mask, count, text } = show({ radius: 0.5 });
  canvas.key('ArrowUp');
  canvas.key(' ');
  assert.equal(mask()[5 * 16 + 8], 1);
  canvas.key('ArrowLeft', { shiftKey: true });
  assert.match(text(), /under the cursor: background \(y 5, x 0\)/);
  canvas.key('Enter');
  for (let i = 0; i < 3; i++) canvas.key('ArrowDown');
  canvas.key('Enter');
  assert.equal(count(), 1 + 4);
  canvas.key('ArrowDown');
  assert.equal(count(), 5);
  canvas.key(']');
  assert.equal(model.get('radius'), 1);
  assert.deepEqual([canvas.key('b').stopped, canvas.key('Tab').prevented], [true, undefined]);
});

test('a click of SAM is a message; the answer and a problem come back', () => {
  const { model, canvas, count, text } = show({ tool: 'sam' });
  canvas.pointer('pointerdown', 4, 7, { buttons: 1, shiftKey: true });
  assert.deepEqual(model.sent, [{ kind: 'click', point: [4, 7], positive: false }]);
  assert.match(text(), /asking SAM/);
  model.emit('msg:custom', { kind: 'problem', text: 'no weights' });
  assert.match(text(), /no weights/);
  model.set('runs', new DataView(toRuns(new Uint8Array(192).fill(1, 0, 50)).buffer));
  assert.equal(count(), 50);
  assert.doesNotMatch(text(), /weights/);
  canvas.key('z', { ctrlKey: true });
  assert.equal(count(), 0);
});

test('without a kernel there is no SAM', () => {
  const { canvas, model, buttons } = show({}, { sam: false });
  assert.equal(buttons.sam, undefined);
  canvas.key('s');
  assert.equal(model.get('tool'), 'brush');
});

test('a mask file is loaded and saved', async () => {
  const { el, canvas, buttons, count } = show();
  drag(canvas, [[3, 3]]);
  globalThis.URL.createObjectURL = () => 'blob:x';
  const chooser = el.all((e) => e.attributes.type === 'file')[0];
  const made = [];
  const create = document.createElement;
  document.createElement = (name) => { const e = create(name); made.push(e); if (name === 'canvas') e.image = { data: new Uint8ClampedArray(4 * 192).fill(255) }; return e; };
  chooser.files = [{}];
  chooser.fire('change');
  await pause(1);
  assert.equal(count(), 192);
  buttons.undo.click();
  buttons.save.click();
  document.createElement = create;
  const sheet = made.filter((e) => e.name === 'canvas').at(-1), link = made.filter((e) => e.name === 'a').at(-1);
  assert.equal([...sheet.image.data].filter((_, i) => i % 4 === 0).filter((red) => red === 255).length, 5);
  assert.equal(link.attributes.download, 'mask.png');
});

test('the view follows Python until it is closed', () => {
  const { model, close, el } = show();
  model.set('tool', 'eraser');
  assert.match(el.named('output')[0].textContent, /^eraser/);
  close();
  assert.equal(model.listeners.length, 0);
});
