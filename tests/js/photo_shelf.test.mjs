// The shelf of photos: files in pieces, mouse, keyboard, what Python says.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FakeElement, FakeModel, pause } from './fake_dom.mjs';

FakeElement.prototype.replaceChildren = function replaceChildren(...children) { this.children = children; };
FakeElement.prototype.contains = function contains(other) { return this.children.includes(other); };

const { default: widget, MOST, pieces, pressed, send } = await import('../../fsskit/static/photo_shelf.js');

const entry = (name, role) => ({ name, role, source: `data:${name}`, width: 10, height: 8 });
const file = (name, numbers) => ({ name, size: numbers.length, arrayBuffer: async () => Uint8Array.from(numbers).buffer });
const show = (state = {}) => {
  const model = new FakeModel({ payload: { note: 'help' }, entries: [entry('a', 'query'), entry('b', 'support'), entry('c', 'query')], chosen: 0, ...state });
  model.send = (content, callbacks, buffers) => model.sent.push({ ...content, ...(buffers && { bytes: [...new Uint8Array(buffers[0].buffer)] }) });
  const el = new FakeElement('div'), close = widget.render({ model, el });
  const cards = () => el.all((e) => e.attributes.class === 'fsskit-card');
  const buttons = Object.fromEntries(el.named('button').map((b) => [b.children[0], b]));
  return { model, el, close, cards, buttons, box: el.children[0], text: () => el.named('output')[0].textContent,
    selected: () => cards().map((c) => c.attributes['aria-selected']) };
};

test('a file travels in pieces', () => {
  assert.deepEqual(pieces(25, 10), [[0, 10], [10, 20], [20, 25]]);
  assert.deepEqual(pieces(20, 10), [[0, 10], [10, 20]]);
  assert.deepEqual(pieces(0), [[0, 0]]);
});

test('keys on a photo', () => {
  assert.deepEqual(['ArrowRight', 'ArrowLeft', 'ArrowDown', 'ArrowUp', 'Home', 'End'].map((key) => pressed(key, 1, 3)), [2, 0, 2, 0, 0, 2]);
  assert.deepEqual([pressed('ArrowRight', 2, 3), pressed('Delete', 1, 3), pressed('x', 1, 3)], [2, 'remove', null]);
});

test('a file larger than what is taken is refused before it is read', async () => {
  const { model } = show();
  assert.match(await send(model, { name: 'huge.jpg', size: MOST + 1 }), /huge\.jpg has more than 64 MB/);
  assert.deepEqual(model.sent, []);
});

test('choosing by mouse and by keys; the focus goes along', () => {
  const { model, cards, selected } = show();
  assert.deepEqual(selected(), ['true', 'false', 'false']);
  cards()[2].click();
  assert.deepEqual([model.get('chosen'), model.saved, ...selected()], [2, 1, 'false', 'false', 'true']);
  const event = cards()[2].key('ArrowLeft');
  assert.deepEqual([model.get('chosen'), cards()[1].focused, event.prevented, event.stopped], [1, true, true, true]);
  assert.deepEqual([cards()[1].key('Tab').prevented, cards()[1].key('b').stopped], [undefined, true]);
});

test('taking away, by key and by button', () => {
  const { model, cards, buttons } = show({ chosen: 1 });
  cards()[2].key('Delete');
  buttons.remove.click();
  assert.deepEqual(model.sent, [{ kind: 'remove', number: 2 }, { kind: 'remove', number: 1 }]);
  model.set('entries', []);
  assert.deepEqual([cards().length, buttons.remove.disabled], [0, true]);
});

test('a redrawn shelf keeps the focus', () => {
  const { model, cards } = show({ chosen: 2 });
  document.activeElement = cards()[2];
  model.set('entries', [entry('a', 'query'), entry('b', 'support'), entry('c', 'support')]);
  assert.equal(cards()[2].focused, true);
  document.activeElement = null;
});

test('dropped, pasted and chosen files are sent, and nothing else happens with them', async () => {
  const { model, box, el } = show();
  const drop = box.fire('drop', { dataTransfer: { files: [file('x.png', [1, 2, 3]), file('y.png', [4])] } });
  assert.deepEqual([drop.prevented, drop.stopped], [true, true]);
  await pause(5);
  assert.deepEqual(model.sent.map(({ name, part, parts, bytes }) => [name, part, parts, ...bytes]), [['x.png', 0, 1, 1, 2, 3], ['y.png', 0, 1, 4]]);
  assert.equal(box.fire('paste', { clipboardData: { files: [] } }).prevented, undefined);
  box.fire('paste', { clipboardData: { files: [file('z.png', [5])] } });
  const chooser = el.all((e) => e.attributes.type === 'file')[0];
  chooser.files = [file('w.png', [6])];
  chooser.fire('change');
  await pause(5);
  assert.deepEqual(model.sent.slice(2).map(({ name }) => name).sort(), ['w.png', 'z.png']);
});

test('the box shows that it would take what hovers over it', () => {
  const { box } = show();
  box.fire('dragover');
  assert.equal(box.attributes['data-over'], 'true');
  box.fire('dragleave');
  assert.equal(box.attributes['data-over'], 'false');
});

test('what Python says is shown; closing ends it', () => {
  const { model, close, text } = show();
  model.emit('msg:custom', { kind: 'said', text: 'not a photo' });
  assert.equal(text(), 'not a photo');
  model.emit('msg:custom', { kind: 'other' });
  close();
  assert.equal(model.listeners.length, 0);
});
