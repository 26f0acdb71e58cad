// Steps of a computation, a row of pictures for each: one place is marked in all of them, and its values are read out.
import { bytes, cellAt, cellName, colourise, element, frameCell, middleOf, paint, paintBar, photoCanvas, picture, slider,
  stepFrom } from './maps.js';
import { LiveState } from './live.js';

const COARSE = [20, 20]; // what arrow keys move over where no panel has cells

/** The steps of a payload with their bytes turned into arrays. */
export function readSteps(steps) {
  const read = (data) => (data ? bytes(data) : null);
  return steps.map((step) => ({ ...step,
    panels: step.panels.map((panel) => ({ ...panel, values: read(panel.values), cells: read(panel.cells) })) }));
}

/** What lies over a panel's photo as pixels (r, g, b, 255), or null where nothing does. */
export function pixelsOf(panel, table) {
  if (!panel.cells) return panel.values && colourise(panel.values, 0, 255, table);
  const pixels = new Uint8ClampedArray((panel.cells.length / 3) * 4).fill(255);
  panel.cells.forEach((value, i) => { pixels[4 * Math.floor(i / 3) + (i % 3)] = value; });
  return pixels;
}

/** The number that a panel has at a place [y, x] in 0..1, or null where it has none. */
export function valueAt(panel, place) {
  if (!panel?.values) return null;
  return panel.low + ((panel.high - panel.low) / 255) * panel.values[cellAt(place, panel.grid)];
}

/** The grid of a panel, else the first one of its step. */
export function gridOf({ panels }, number) {
  return panels[number]?.grid ?? panels.find((panel) => panel.grid)?.grid ?? COARSE;
}

/** The line below the pictures: the place, and what every panel says there; with `chain` also how that changed. */
export function readOut(steps, { step, place }, chain) {
  const grid = gridOf(steps[step], 0), parts = [cellName(cellAt(place, grid), grid)];
  const before = chain && step > 0 ? steps[step - 1].panels : [];
  for (const panel of steps[step].panels) {
    const value = valueAt(panel, place);
    if (value === null) continue;
    const old = valueAt(before.find((other) => other.name === panel.name), place), change = value - old;
    const sign = change < 0 ? '-' : '+', moved = old === null ? '' : ` (${sign}${Math.abs(change).toFixed(panel.digits)})`;
    parts.push(`${panel.reads} ${value.toFixed(panel.digits)}${moved}`);
  }
  return parts.join(' · ');
}

/** The state one step on (or back), within the steps that there are. */
export function went(state, by, steps) {
  return { ...state, step: Math.min(steps.length - 1, Math.max(0, state.step + by)) };
}

/** The state after a key on a panel, or null when the key means nothing here. */
export function pressed(state, key, shift, steps, number) {
  const by = { ']': 1, PageDown: 1, '[': -1, PageUp: -1, Home: -steps.length, End: steps.length }[key];
  if (by) return went(state, by, steps);
  const grid = gridOf(steps[state.step], number), cell = stepFrom(cellAt(state.place, grid), key, grid, shift);
  return cell === null ? null : { ...state, place: middleOf(cell, grid) };
}

function render({ model, el }) {
  const payload = model.get('payload'), steps = readSteps(payload.steps), colours = bytes(payload.colours);
  const live = new LiveState(model, ['step', 'place', 'opacity'], {}, () => draw()), change = (next) => live.change(next);
  let timer = 0;
  const move = (place, number) => {
    const grid = gridOf(steps[live.now.step], number);
    if (cellAt(place, grid) !== cellAt(live.now.place, grid)) change({ ...live.now, place });
  };
  const tick = () => {
    change(went(live.now, 1, steps));
    if (live.now.step === steps.length - 1) play(false);
  };
  const play = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(tick, 900) : 0;
    playing.textContent = on ? 'stop' : 'play';
    playing.setAttribute('aria-pressed', String(on));
  };

  const most = Math.max(...steps.map((step) => step.panels.length));
  const images = payload.photos.map((photo) => picture(photo.source, () => draw()));
  const figures = Array.from({ length: most }, (_, number) => {
    const name = element('figcaption'), low = element('span'), high = element('span');
    const bar = element('canvas', { class: 'fsskit-bar', width: 256, height: 12 });
    const legend = element('div', { class: 'fsskit-control' }, low, bar, high);
    const canvas = photoCanvas(payload.photos[0], `picture ${number + 1}: arrow keys move, [ and ] change the step`, {
      move: (place) => move(place, number),
      pick: (place) => move(place, number),
      key: (event) => change(pressed(live.now, event.key, event.shiftKey, steps, number)),
    });
    paintBar(bar, colours);
    return { name, low, high, legend, canvas, shown: element('figure', {}, name, canvas, legend) };
  });
  const button = (name, title, run) => element('button', { type: 'button', title, click: run }, name);
  const back = button('back', 'one step back ([)', () => change(went(live.now, -1, steps)));
  const next = button('next', 'one step on (])', () => change(went(live.now, 1, steps)));
  const playing = button('play', 'all steps, one after the other', () => {
    if (!timer && live.now.step === steps.length - 1) change({ ...live.now, step: 0 });
    play(!timer);
  });
  const setting = (name, max, step) => slider(name, { min: 0, max, step, value: live.now[name] },
    (value) => change({ ...live.now, [name]: value }));
  const chosen = setting('step', steps.length - 1, 1), opacity = setting('opacity', 1, 0.05);
  const title = element('b'), note = element('span');
  const value = element('output', { class: 'fsskit-value', 'aria-live': 'polite' });

  function draw() {
    const step = steps[live.now.step];
    figures.forEach((figure, number) => {
      figure.shown.hidden = number >= step.panels.length;
      if (!figure.shown.hidden) drawPanel(figure, step.panels[number]);
    });
    [title.textContent, note.textContent] = [step.name, step.note];
    [back.disabled, next.disabled] = [live.now.step === 0, live.now.step === steps.length - 1];
    chosen.set(live.now.step);
    opacity.set(live.now.opacity);
    value.textContent = readOut(steps, live.now, payload.chain);
  }

  function drawPanel({ name, low, high, legend, canvas }, panel) {
    const { width, height } = payload.photos[panel.photo], pixels = pixelsOf(panel, colours);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    paint(canvas, images[panel.photo], pixels && { pixels, grid: panel.grid, smooth: !panel.cells }, live.now.opacity);
    if (panel.grid) frameCell(canvas, cellAt(live.now.place, panel.grid), panel.grid);
    name.textContent = panel.name;
    legend.hidden = !panel.values || Boolean(panel.cells);
    [low.textContent, high.textContent] = [panel.low, panel.high].map((n) => n?.toFixed(panel.digits) ?? '');
  }

  const walk = steps.length > 1 ? [back, chosen.shown, next, playing] : [];
  el.append(element('div', { class: 'fsskit', 'data-lm-suppress-shortcuts': 'true' },
    element('div', { class: 'fsskit-controls' }, ...walk, title, note, opacity.shown),
    element('div', { class: 'fsskit-photos' }, ...figures.map((figure) => figure.shown)),
    value, element('p', { class: 'fsskit-help' }, payload.note)));
  draw();
  return () => { clearInterval(timer); live.close(); };
}

export default { render };
