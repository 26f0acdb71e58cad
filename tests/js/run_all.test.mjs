// The script that runs the studio's notebook: it waits for the kernel, runs once, saves once the last cell has ended; elsewhere it does nothing.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

const text = readFileSync(new URL('../../fsskit/static/run_all.js', import.meta.url), 'utf8');
/** The script in a window of ours; `pass(ms)` lets time pass in a clock of ours. */
function start(window) {
  let now = 0, waiting = [];
  const later = (run, ms) => waiting.push([now + ms, run]);
  new Function('window', 'setTimeout', 'Date', text)(window, later, { now: () => now });
  return (ms) => {
    for (const end = now + ms; now < end;) {
      now += 250;
      const due = waiting.filter(([at]) => at <= now);
      waiting = waiting.filter(([at]) => at > now);
      for (const [, run] of due) run();
    }
  };
}

test('it runs when the kernel rests, and saves when the last cell has ended', async () => {
  const done = [], kernel = { status: 'starting' }, currentWidget = { sessionContext: { session: null } };
  let ended;
  const execute = (name) => {
    done.push(name);
    return new Promise((resolve) => { ended = resolve; });
  };
  const pass = start({ jupyterapp: { shell: { currentWidget }, commands: { execute } } });
  pass(500);
  currentWidget.sessionContext.session = { kernel };
  pass(500);
  assert.deepEqual(done, []);
  kernel.status = 'idle';
  pass(250);
  assert.deepEqual(done, ['notebook:run-all-cells']);
  pass(60000);
  await new Promise(setImmediate);
  assert.equal(done.length, 1, 'cells still run');
  ended();
  await new Promise(setImmediate);
  assert.deepEqual(done, ['notebook:run-all-cells', 'docmanager:save']);
  ended();
  pass(60000);
  await new Promise(setImmediate);
  assert.equal(done.length, 2);
});

test('it gives up after three minutes, and does nothing without JupyterLab', () => {
  const done = [], shell = {};
  const pass = start({ jupyterapp: { shell, commands: { execute: (name) => done.push(name) } } });
  pass(200000);
  shell.currentWidget = { sessionContext: { session: { kernel: { status: 'idle' } } } };
  pass(5000);
  assert.deepEqual(done, []);
  start({})(1000);
});
