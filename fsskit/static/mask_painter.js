// Paint a mask on a photo: brush, eraser, fill, undo, keyboard, touch; a click of SAM when a kernel is there to run it.
import { element, numbers, photoCanvas, picture, slider, STEPS } from './maps.js';
import { fill, filePixels, fromPixels, fromRuns, History, share, stroke, tint, toRuns } from './mask.js';

export const TOOLS = {
  brush: { key: 'b', value: 1, help: 'marks the object' },
  eraser: { key: 'e', value: 0, help: 'makes background' },
  ignore: { key: 'i', value: 255, help: 'marks pixels that do not count' },
  fill: { key: 'f', value: 1, help: 'fills the region that is clicked' },
  sam: { key: 's', value: 1, help: 'marks what is clicked (shift: not this)' },
};
const ORANGE = [230, 159, 0];

/** Name of what a key does: a tool, 'undo', 'redo', 'clear', 'larger', 'smaller', 'paint', 'pen', 'move', or null. */
export function meaning(key, held) {
  if (held) return { z: 'undo', Z: 'redo', y: 'redo' }[key] ?? null;
  if (key in STEPS) return 'move';
  const named = { ' ': 'paint', Enter: 'pen', Delete: 'clear', ']': 'larger', '[': 'smaller' }[key];
  return named ?? Object.keys(TOOLS).find((tool) => TOOLS[tool].key === key.toLowerCase()) ?? null;
}

/** A brush half as large again, or two thirds of it; from 0.5 to 200 px. */
export const resized = (radius, larger) => Math.min(200, Math.max(0.5, Math.round(radius * (larger ? 1.5 : 2 / 3) * 2) / 2));

/** The line below the photo. */
export function status(mask, tool, radius, cursor, [, width]) {
  const marked = share(mask), parts = [`${tool}, radius ${radius} px`];
  parts.push(`object: ${marked.count} px, ${(100 * marked.share).toFixed(1)} % of the photo`);
  if (cursor) {
    const [y, x] = cursor.map(Math.floor), value = { 0: 'background', 1: 'object', 255: 'ignored' }[mask[y * width + x]];
    parts.push(`under the cursor: ${value} (y ${y}, x ${x})`);
  }
  return parts.join(' · ');
}

function render({ model, el }) {
  const payload = model.get('payload'), size = [payload.photo.height, payload.photo.width], pixels = size[0] * size[1];
  let mask = fromRuns(numbers(model.get('runs'), Uint32Array), pixels), cursor = null, last = null, painting = false;
  let message = '', sending = false, stale = true;
  const history = new History(toRuns(mask)), tools = Object.keys(TOOLS).filter((tool) => tool !== 'sam' || payload.sam);
  const layer = element('canvas', { width: size[1], height: size[0] });

  const tool = () => model.get('tool'), radius = () => model.get('radius');
  let known = String(toRuns(mask)); // what the kernel has; it may say so again in the middle of the next stroke
  const publish = () => {
    const runs = toRuns(mask);
    [sending, known] = [true, String(runs)];
    model.set('runs', new DataView(runs.buffer));
    model.save_changes();
    sending = false;
  };
  const commit = () => { stale = true; history.push(toRuns(mask)); publish(); draw(); };
  const restore = (runs) => { stale = true; mask = fromRuns(runs, pixels); publish(); draw(); };
  const choose = (name) => { model.set('tool', name); model.save_changes(); draw(); };
  const resize = (value) => { model.set('radius', value); model.save_changes(); draw(); };
  const whole = ([y, x]) => [Math.min(size[0] - 1, Math.floor(y)), Math.min(size[1] - 1, Math.floor(x))];
  const at = ([y, x]) => [y * size[0] - 0.5, x * size[1] - 0.5]; // pixel middles lie at whole numbers

  const actions = {
    undo: () => history.canUndo && restore(history.undo()),
    redo: () => history.canRedo && restore(history.redo()),
    clear: () => { mask = new Uint8Array(pixels); commit(); },
  };
  const press = (point, event) => {
    message = '';
    if (tool() === 'fill') { fill(mask, size, whole(point.map((n) => n + 0.5)), event.shiftKey ? 0 : 1); return commit(); }
    if (tool() === 'sam') {
      message = 'asking SAM ...';
      draw();
      return model.send({ kind: 'click', point: whole(point.map((n) => n + 0.5)), positive: !event.shiftKey });
    }
    [painting, last] = [true, point];
    dab(point);
  };
  const dab = (point) => {
    stroke(mask, size, last ?? point, point, radius(), TOOLS[tool()].value);
    [last, stale] = [point, true];
    draw();
  };
  const lift = () => { if (painting) { [painting, last] = [false, null]; commit(); } };

  const canvas = photoCanvas(payload.photo, `${payload.photo.name}: mask; arrow keys move, space paints, b e f tools`, {
    pick: (place, event) => {
      if (event.button) return; // only the main button, a finger, a pen
      canvas.setPointerCapture?.(event.pointerId);
      cursor = at(place);
      press(cursor, event);
    },
    move: (place, event) => { cursor = at(place); if (painting && event.buttons) dab(cursor); else draw(); },
    up: lift,
    leave: () => { if (!painting) { cursor = null; draw(); } },
    key: (event) => {
      const what = meaning(event.key, event.ctrlKey || event.metaKey);
      if (what === 'move') {
        const far = event.shiftKey ? 10 : 1, step = STEPS[event.key];
        cursor = (cursor ?? size.map((n) => Math.floor(n / 2)))
          .map((n, axis) => Math.min(size[axis] - 1, Math.max(0, Math.round(n) + far * step[axis])));
        if (painting) dab(cursor); else draw();
      } else if (what === 'paint' || what === 'pen') { // a dab, or the pen down until it is lifted
        cursor ??= size.map((n) => Math.floor(n / 2));
        const down = painting;
        lift();
        if (!down) press(cursor, event);
        if (what === 'paint') lift();
      } else if (what === 'larger' || what === 'smaller') resize(resized(radius(), what === 'larger'));
      else if (actions[what]) { lift(); actions[what](); }
      else if (tools.includes(what)) choose(what);
      else return false;
      return true;
    },
  });
  canvas.classList.add('fsskit-paint');
  const image = picture(payload.photo.source, () => draw());

  const toolButtons = tools.map((name) => element('button', { type: 'button', title: `${TOOLS[name].help} (${TOOLS[name].key})`,
    click: () => choose(name) }, name));
  const action = (name, title, run) => element('button', { type: 'button', title, click: run }, name);
  const buttons = {
    undo: action('undo', 'take back (Ctrl+Z)', actions.undo),
    redo: action('redo', 'bring back (Ctrl+Y)', actions.redo),
    clear: action('clear', 'everything background (Delete)', actions.clear),
  };
  const brush = slider('size', { min: 0.5, max: 100, step: 0.5, value: radius() }, resize);
  const value = element('output', { class: 'fsskit-value', 'aria-live': 'polite' });

  const save = () => {
    const sheet = element('canvas', { width: size[1], height: size[0] });
    sheet.getContext('2d').putImageData(new ImageData(filePixels(mask), size[1], size[0]), 0, 0);
    element('a', { href: sheet.toDataURL('image/png'), download: 'mask.png' }).click();
  };
  const load = (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const loaded = picture(URL.createObjectURL(file), () => {
      const sheet = element('canvas', { width: size[1], height: size[0] }), context = sheet.getContext('2d');
      context.imageSmoothingEnabled = false;
      context.drawImage(loaded, 0, 0, size[1], size[0]);
      mask = fromPixels(context.getImageData(0, 0, size[1], size[0]).data);
      commit();
    });
  };
  const chooser = element('input', { type: 'file', accept: 'image/png', hidden: '', change: load });

  function draw() {
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0, size[1], size[0]);
    if (stale) layer.getContext('2d').putImageData(new ImageData(tint(mask, ORANGE, payload.alpha), size[1], size[0]), 0, 0);
    stale = false;
    context.drawImage(layer, 0, 0);
    if (cursor) ring(context);
    toolButtons.forEach((button, i) => button.setAttribute('aria-pressed', String(tools[i] === tool())));
    [buttons.undo.disabled, buttons.redo.disabled] = [!history.canUndo, !history.canRedo];
    brush.set(radius());
    const inside = cursor && whole(cursor.map((n) => Math.max(0, n + 0.5)));
    value.textContent = status(mask, tool(), radius(), inside, size) + (message && ` · ${message}`);
  }

  function ring(context) {
    const reach = ['fill', 'sam'].includes(tool()) ? 2 : radius() + 0.5;
    for (const [colour, width] of [['black', 3], ['white', 1.5]]) {
      [context.strokeStyle, context.lineWidth] = [colour, width];
      context.beginPath();
      context.arc(cursor[1] + 0.5, cursor[0] + 0.5, reach, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  el.append(element('div', { class: 'fsskit', 'data-lm-suppress-shortcuts': 'true' },
    element('div', { class: 'fsskit-controls' }, ...toolButtons, brush.shown, buttons.undo, buttons.redo, buttons.clear,
      action('load', 'a mask from a PNG file', () => chooser.click()), action('save', 'the mask as a PNG file', save), chooser),
    element('div', { class: 'fsskit-photos' }, element('figure', {}, canvas)), value,
    element('p', { class: 'fsskit-help' }, payload.note)));
  draw();

  const outside = () => {
    if (sending) return;
    const runs = numbers(model.get('runs'), Uint32Array);
    if (String(runs) === known) return;
    known = String(runs);
    mask = fromRuns(runs, pixels);
    history.push(runs);
    [message, stale] = ['', true];
    draw();
  };
  const heard = (content) => { if (content.kind === 'problem') { message = content.text; draw(); } };
  const follow = () => draw();
  const listeners = [['change:runs', outside], ['change:tool', follow], ['change:radius', follow], ['msg:custom', heard]];
  for (const [event, run] of listeners) model.on(event, run);
  return () => { for (const [event, run] of listeners) model.off(event, run); };
}

export default { render };
