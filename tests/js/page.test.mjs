// The model of a page without a kernel.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PageModel, startPage } from '../../fsskit/static/page.js';

test('set tells listeners once, off silences them, saving does nothing', () => {
  const model = new PageModel({ plane: 1 }), heard = [];
  const listen = () => heard.push(model.get('plane'));
  model.on('change:plane', listen);
  model.set('plane', 2);
  model.set('plane', 2);
  model.set('opacity', 1);
  model.save_changes();
  model.send({});
  model.off('change:plane', listen);
  model.set('plane', 3);
  assert.deepEqual(heard, [2]);
});

test('a page starts the widget on the state that it carries', () => {
  globalThis.document = { getElementById: (id) => ({ id, textContent: '{"plane":4}' }) };
  let shown = null;
  startPage((given) => { shown = given; });
  assert.equal(shown.model.get('plane'), 4);
  assert.equal(shown.el.id, 'widget');
});
