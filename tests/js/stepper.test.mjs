// The stepper: its states, what it reads out, and the whole widget in a make-believe page.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { base64, FakeElement, FakeModel, pause } from './fake_dom.mjs';

const { default: widget, gridOf, pixelsOf, pressed, readOut, readSteps, valueAt, went } = await import('../../fsskit/static/stepper.js');

// two steps: a photo, a map 2 x 3 of 10 j + i (the second step: twice that), and in the second step cells 1 x 2 with numbers
const values = (factor) => base64(Uint8Array.from([0, 1, 2, 10, 11, 12], (v) => factor * v));
const none = { values: null, cells: null, grid: null, low: null, high: null, digits: 2 };
const map = (factor) => ({ name: 'map', reads: 'map', photo: 0, grid: [2, 3], values: values(factor), cells: null, low: 0, high: 25.5, digits: 1 });
const cells = { name: 'colours', reads: 'cosine', photo: 1, grid: [1, 2], values: base64(Uint8Array.from([0, 255])), low: -1, high: 1,
  digits: 2, cells: base64(Uint8Array.from([1, 2, 3, 4, 5, 6])) };
const STEPS = [
  { name: 'first', note: 'a note', panels: [{ ...none, name: 'photo', reads: 'photo', photo: 0 }, map(1)] },
  { name: 'second', note: '', panels: [{ ...none, name: 'photo', reads: 'photo', photo: 0 }, map(2), cells] },
];
const photo = (width, height) => ({ name: 'photo', width, height, source: `data:${width}` });
const makeModel = (state = {}, payload = {}) => new FakeModel({
  payload: { photos: [photo(30, 20), photo(40, 10)], steps: STEPS, colours: base64(new Uint8Array(768).map((_, i) => i / 3)),
    chain: true, note: 'help', ...payload },
  step: 0, place: [0.25, 0.5], opacity: 0.5, ...state,
});
const show = (state, payload) => {
  const model = makeModel(state, payload), el = new FakeElement('div'), close = widget.render({ model, el });
  const canvases = el.named('canvas').filter((c) => c.attributes.class === 'fsskit-photo');
  const buttons = Object.fromEntries(el.named('button').map((b) => [b.children[0], b]));
  return { model, el, close, canvases, buttons, text: () => el.named('output')[0].textContent, figures: el.named('figure') };
};
const last = (canvas) => canvas.calls.filter(([kind]) => kind === 'drawImage').at(-1);

test('numbers from bytes, and where there are none', () => {
  const steps = readSteps(STEPS);
  assert.equal(valueAt(steps[0].panels[0], [0.5, 0.5]), null);
  assert.equal(valueAt(undefined, [0.5, 0.5]), null);
  assert.ok(Math.abs(valueAt(steps[1].panels[1], [0.75, 0.5]) - 2.2) < 1e-9);
  assert.equal(valueAt(steps[1].panels[2], [0.9, 0.1]), -1);
  assert.equal(valueAt(steps[1].panels[2], [0.1, 0.9]), 1);
});

test('colours of maps and of cells', () => {
  const [first, second] = readSteps(STEPS), table = new Uint8Array(768).map((_, i) => i / 3);
  assert.equal(pixelsOf(first.panels[0], table), null);
  assert.deepEqual([...pixelsOf(first.panels[1], table)].filter((_, i) => i % 4 === 0), [0, 1, 2, 10, 11, 12]);
  assert.deepEqual([...pixelsOf(second.panels[2], table)], [1, 2, 3, 255, 4, 5, 6, 255]);
});

test('the line below: the place, the numbers, their changes where steps follow one another', () => {
  const steps = readSteps(STEPS), state = { step: 1, place: [0.75, 0.9] };
  assert.equal(readOut(steps, state, true), 'row 1, column 2 · map 2.4 (+1.2) · cosine 1.00');
  assert.equal(readOut(steps, state, false), 'row 1, column 2 · map 2.4 · cosine 1.00');
  assert.equal(readOut(steps, { ...state, step: 0 }, true), 'row 1, column 2 · map 1.2');
  const down = readSteps([STEPS[1], STEPS[0]]);
  assert.match(readOut(down, state, true), /map 1\.2 \(-1\.2\)/);
});

test('keys: arrows by the cells of the panel, brackets and Home and End by steps, and nothing else', () => {
  const steps = readSteps(STEPS), state = { step: 1, place: [0.25, 0.5], opacity: 1 };
  assert.deepEqual(pressed(state, 'ArrowDown', false, steps, 1).place, [0.75, 0.5]);
  assert.deepEqual(pressed(state, 'ArrowLeft', false, steps, 2).place, [0.5, 0.25]);
  assert.deepEqual(pressed(state, 'ArrowRight', false, steps, 0).place, [0.25, 5 / 6]); // the grid of the first map
  assert.deepEqual(['[', 'PageUp', 'Home', ']', 'End'].map((key) => pressed(state, key, false, steps, 0).step), [0, 0, 0, 1, 1]);
  assert.equal(pressed({ ...state, step: 0 }, 'PageDown', false, steps, 0).step, 1);
  assert.equal(pressed(state, 'Tab', false, steps, 0), null);
  assert.equal(went(state, -7, steps).step, 0);
  assert.deepEqual(gridOf({ panels: [{}] }, 0), [20, 20]);
});

test('hovering marks the place in every panel that has cells; the kernel hears of it once it rests', async () => {
  const { model, canvases, text } = show({ step: 1 });
  canvases[1].pointer('pointermove', 15, 25); // of 20 x 30: row 1, column 2
  assert.match(text(), /^row 1, column 2 · map 2\.4/);
  const frames = canvases.map((canvas) => canvas.calls.filter(([kind]) => kind === 'strokeRect').at(-1));
  assert.equal(frames[0], undefined);
  assert.deepEqual(frames[1], ['strokeRect', 20, 10, 10, 10]);
  assert.deepEqual(frames[2], ['strokeRect', 20, 0, 20, 10]);
  assert.equal(model.saved, 0);
  await pause(200);
  assert.equal(model.saved, 1);
  assert.deepEqual(model.get('place').map((n) => Math.round(n * 100)), [78, 85]);
  canvases[1].pointer('pointermove', 16, 26); // the same cell
  await pause(200);
  assert.equal(model.saved, 1);
});

test('what is drawn: the map with its opacity, the cells unsmoothed, hidden where a step has fewer panels', () => {
  const { canvases, buttons, figures, el } = show();
  assert.deepEqual(figures.map((f) => Boolean(f.hidden)), [false, false, true]);
  assert.equal(last(canvases[1])[2], 0.5);
  assert.equal(canvases[1].context.imageSmoothingEnabled, true);
  buttons.next.click();
  assert.deepEqual(figures.map((f) => Boolean(f.hidden)), [false, false, false]);
  assert.equal(canvases[2].context.imageSmoothingEnabled, false);
  assert.deepEqual([canvases[2].width, canvases[2].height], [40, 10]);
  assert.deepEqual([...last(canvases[2])[1].image.data], [1, 2, 3, 255, 4, 5, 6, 255]);
  assert.equal(el.named('b')[0].textContent, 'second');
  const [low, high] = figures[1].named('span').map((s) => s.textContent);
  assert.deepEqual([low, high, figures[0].named('div')[0].hidden, figures[2].named('div')[0].hidden], ['0.0', '25.5', true, true]);
});

test('buttons, slider and keys walk; the ends are ends', () => {
  const { model, canvases, buttons, el } = show();
  const [step, opacity] = el.named('input');
  assert.deepEqual([buttons.back.disabled, buttons.next.disabled, step.attributes.max], [true, false, '1']);
  buttons.next.click();
  assert.deepEqual([buttons.back.disabled, buttons.next.disabled, step.value], [false, true, 1]);
  assert.equal(canvases[0].key('[').prevented, true);
  assert.equal(step.value, 0);
  step.value = '1';
  step.fire('input');
  assert.equal(el.named('b')[0].textContent, 'second');
  opacity.value = '0.25';
  opacity.fire('input');
  assert.equal(last(canvases[1])[2], 0.25);
  assert.deepEqual([canvases[0].key('x').prevented, canvases[0].key('x').stopped, model.saved], [undefined, true, 0]);
});

test('playing goes to the end and stops there; from the end it starts again', () => {
  const real = [globalThis.setInterval, globalThis.clearInterval], running = new Map();
  globalThis.setInterval = (run, ms) => { running.set(running.size + 1, [run, ms]); return running.size; };
  globalThis.clearInterval = (number) => running.delete(number);
  const { buttons, el, close } = show({ step: 1 }), name = () => el.named('b')[0].textContent;
  buttons.play.click();
  assert.deepEqual([name(), buttons.play.textContent, buttons.play.attributes['aria-pressed']], ['first', 'stop', 'true']);
  const [[tick, ms]] = running.values();
  tick();
  assert.deepEqual([name(), buttons.play.textContent, running.size, ms], ['second', 'play', 0, 900]);
  buttons.play.click();
  buttons.play.click();
  assert.deepEqual([name(), running.size], ['first', 0]);
  buttons.play.click();
  close();
  assert.equal(running.size, 0);
  [globalThis.setInterval, globalThis.clearInterval] = real;
});

test('one step needs no buttons; Python is followed until the view is closed', () => {
  assert.equal(show({}, { steps: STEPS.slice(0, 1) }).el.named('button').length, 0);
  const { model, el, close } = show();
  model.set('step', 1);
  assert.equal(el.named('b')[0].textContent, 'second');
  close();
  assert.equal(model.listeners.length, 0);
});
