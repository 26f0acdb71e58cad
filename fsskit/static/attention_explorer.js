// Attention: one thing looks, and the pictures show at what. Rows of a table are tokens and cells that look.
import { LiveState } from './live.js';
import { bytes, cellAt, cellName, choice, colourise, element, extremes, frameCell, inside, middleOf, numbers, paint,
  paintBar, photoCanvas, picture, readFeatures, slider, stepFrom, STEPS, tickBox } from './maps.js';

const cellsOf = ([h, w]) => h * w;
const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

/** The payload with its bytes turned into numbers. */
export const readLooks = (payload) =>
  ({ ...payload, planes: payload.planes.map((plane) =>
    ({ ...plane, ...readFeatures(plane), shares: numbers(plane.shares, Float32Array) })) });

/** Number of the plane of a choice, one option for each of the choices; the last one counts fastest. */
export const planeOf = (data, choices) => data.choices.reduce((at, { options }, i) => at * options.length + choices[i], 0);

/** The row that looks: a token, or the cell of a place. */
export const rowOf = (data, state) => (state.token >= 0 ? state.token : data.tokens.length + cellAt(state.place, data.grid));

/** Weights of one row of a plane. */
export function weightsOf(plane, row) {
  const columns = plane.values.length / plane.scales.length;
  return Float32Array.from(plane.values.subarray(row * columns, (row + 1) * columns), (value) => value * plane.scales[row]);
}

/** A row cut into its parts: a map for each picture, then the groups of columns that are no places. */
export function partsOf(data, weights) {
  let at = 0;
  const sizes = [...data.targets.map(({ grid }) => cellsOf(grid)), ...data.extras.map(({ count }) => count)];
  return sizes.map((size) => weights.subarray(at, (at += size)));
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** What is shown for a state: maps, extra columns, the share of every part, the range of the colours. */
export function answer(data, state) {
  const plane = data.planes[planeOf(data, state.choices)], row = rowOf(data, state), weights = weightsOf(plane, row);
  const parts = partsOf(data, weights), maps = parts.slice(0, data.targets.length), extras = parts.slice(maps.length);
  const high = state.stretch ? Math.max(...maps.map((map) => extremes(map).high)) : plane.top;
  const shares = [...plane.shares.subarray(row * parts.length, (row + 1) * parts.length)]; // sums of what was not yet rounded
  return { maps, extras, shares, high, columns: weights.length };
}

/** Shares of every part for each option of the choice that is compared, such as before and after; null without one. */
export function compared(data, state) {
  if (data.compare === null) return null;
  return data.choices[data.compare].options.map((option, number) => {
    const choices = state.choices.map((chosen, i) => (i === data.compare ? number : chosen));
    return { option, shares: answer(data, { ...state, choices }).shares };
  });
}

/** Names of the parts: pictures, then the others. */
export const partNames = (data) => [...data.targets, ...data.extras].map(({ name }) => name);

/** Who looks, in words. */
export function nameOf(data, state) {
  if (state.token >= 0) return `token '${data.tokens[state.token]}'`;
  return `${data.photos[0].name} ${cellName(cellAt(state.place, data.grid), data.grid)}`;
}

/** The line of text: who looks, how much at what, the brightest place, and what is under the cursor. */
export function readOut(data, state, shown) {
  const even = 1 / shown.columns, say = (weight) => `${percent(weight)}, ${(weight / even).toFixed(1)} times even`;
  const tops = shown.maps.map(extremes), first = tops.reduce((best, top, i) => (top.high > tops[best].high ? i : best), 0);
  const parts = [nameOf(data, state), ...partNames(data).map((name, i) => `${name}: ${percent(shown.shares[i])}`),
    `most: ${say(tops[first].high)}, at ${data.targets[first].name} ${cellName(tops[first].best, data.targets[first].grid)}`];
  if (state.cursor) {
    const cell = cellAt(state.cursor.place, data.targets[state.cursor.target].grid);
    parts.push(`under the cursor: ${say(shown.maps[state.cursor.target][cell])}`);
  }
  return parts.join(' · ');
}

/** The pointer moved over the picture that looks: its cell looks, unless another one is pinned. */
export const moved = (state, place) => (state.pinned ? state : { ...state, place, token: -1 });

/** A click there: pin a cell, or let it go. */
export const picked = (state, place) =>
  (state.pinned ? { ...state, pinned: false } : { ...state, place, token: -1, pinned: true });

const FORWARD = { ']': [0, 1], '[': [0, -1], PageDown: [0, 1], PageUp: [0, -1], '.': [1, 1], ',': [1, -1] };

/** The state after a key, or null: arrows move the cell that looks (target null) or the cursor on a picture. */
export function pressed(data, state, target, key, shift) {
  if (key in FORWARD && FORWARD[key][0] < data.choices.length) {
    const [which, step] = FORWARD[key];
    const move = (chosen, i) => (i === which ? inside(chosen + step, data.choices[i].options.length) : chosen);
    return { ...state, choices: state.choices.map(move) };
  }
  if (key === 't' && data.tokens.length) return { ...state, token: (state.token + 1) % data.tokens.length };
  if (key === 'Escape') return { ...state, pinned: false, cursor: null };
  if (target === null && (key === 'Enter' || key === ' ')) return { ...state, pinned: !state.pinned };
  const grid = target === null ? data.grid : data.targets[target].grid;
  if (!grid) { // only tokens look
    const step = sum(STEPS[key] ?? []);
    return step ? { ...state, token: inside(state.token + step, data.tokens.length) } : null;
  }
  const from = target === null ? state.place : state.cursor?.target === target ? state.cursor.place : [0.5, 0.5];
  const cell = stepFrom(cellAt(from, grid), key, grid, shift);
  if (cell === null) return null;
  const place = middleOf(cell, grid);
  return target === null ? { ...state, place, token: -1 } : { ...state, cursor: { target, place } };
}

const KEPT = ['place', 'token', 'choices', 'opacity', 'stretch', 'pinned'];

function render({ model, el }) {
  const data = readLooks(model.get('payload')), colours = bytes(data.colours);
  const live = new LiveState(model, KEPT, { cursor: null }, () => draw()), change = (next) => live.change(next);
  const keys = (target) => (event) => change(pressed(data, live.now, target, event.key, event.shiftKey));
  const images = data.photos.map((photo) => picture(photo.source, () => draw()));

  const { name: own } = data.photos[0];
  const source = data.grid && photoCanvas(data.photos[0], `${own}, who looks: arrow keys move, Enter pins`, {
    move: (place) => sameRow(moved(live.now, place)) || change(moved(live.now, place)),
    pick: (place) => change(picked(live.now, place)),
    key: keys(null),
  });
  const sameRow = (next) => rowOf(data, next) === rowOf(data, live.now);
  const label = (name) => `${name}: arrow keys read values`;
  const targets = data.targets.map(({ name, photo }, target) => photoCanvas(data.photos[photo], label(name), {
    move: (place) => sameCell(target, place) || change({ ...live.now, cursor: { target, place } }),
    leave: () => live.now.cursor && change({ ...live.now, cursor: null }),
    key: keys(target),
  }));
  const sameCell = (target, place) => live.now.cursor?.target === target
    && cellAt(place, data.targets[target].grid) === cellAt(live.now.cursor.place, data.targets[target].grid);
  const buttons = data.tokens.map((name, token) => element('button', {
    click: () => change({ ...live.now, token }),
    keydown: (event) => {
      event.stopPropagation();
      if (!['Enter', ' '].includes(event.key) && keys(null)(event)) event.preventDefault();
    },
  }, name));

  const selects = data.choices.map(({ name, options }, i) => choice(name, options, live.now.choices[i],
    (number) => change({ ...live.now, choices: live.now.choices.map((old, j) => (i === j ? number : old)) })));
  const opacity = slider('opacity', { min: 0, max: 1, step: 0.05, value: live.now.opacity },
    (number) => change({ ...live.now, opacity: number }));
  const stretch = tickBox('stretch each row', live.now.stretch, (on) => change({ ...live.now, stretch: on }));
  const strips = data.extras.map(({ name, count }) =>
    element('canvas', { class: 'fsskit-bar fsskit-strip', width: count, height: 1, 'aria-label': name }));
  const bar = element('canvas', { class: 'fsskit-bar', width: 256, height: 12 }), high = element('span');
  const table = element('table', { class: 'fsskit-shares' });
  const value = element('output', { class: 'fsskit-value', 'aria-live': 'polite' });

  function drawStrips(shown) {
    shown.extras.forEach((values, i) => {
      const pixels = colourise(values, 0, shown.high, colours);
      strips[i].getContext('2d').putImageData(new ImageData(pixels, values.length, 1), 0, 0);
    });
  }
  function drawShares() {
    const rows = compared(data, live.now);
    if (!rows) return;
    const line = (head, cells) => element('tr', {}, element('th', {}, head), ...cells.map((text) => element('td', {}, text)));
    table.replaceChildren(line('', partNames(data)), ...rows.map(({ option, shares }) => line(option, shares.map(percent))));
  }
  function draw() {
    const state = live.now, shown = answer(data, state);
    if (source) {
      paint(source, images[0], null, 1);
      if (state.token < 0) frameCell(source, cellAt(state.place, data.grid), data.grid);
    }
    shown.maps.forEach((values, i) => {
      const { grid, photo } = data.targets[i];
      paint(targets[i], images[photo], { pixels: colourise(values, 0, shown.high, colours), grid }, state.opacity);
      if (state.cursor?.target === i) frameCell(targets[i], cellAt(state.cursor.place, grid), grid);
    });
    drawStrips(shown);
    drawShares();
    buttons.forEach((button, token) => button.setAttribute('aria-pressed', token === state.token));
    selects.forEach((select, i) => select.set(state.choices[i]));
    high.textContent = percent(shown.high);
    opacity.set(state.opacity);
    stretch.set(state.stretch);
    value.textContent = readOut(data, state, shown) + (state.pinned ? ' · pinned (Escape lets go)' : '');
  }

  const figure = (name, ...content) => element('figure', {}, element('figcaption', {}, name), ...content);
  const strip = (name, canvas) => element('span', { class: 'fsskit-control' }, name, canvas);
  el.append(element('div', { class: 'fsskit', 'data-lm-suppress-shortcuts': 'true' },
    element('div', { class: 'fsskit-controls' }, ...buttons),
    element('div', { class: 'fsskit-photos' }, ...(source ? [figure(`${own}: who looks`, source)] : []),
      ...targets.map((canvas, i) => figure(data.targets[i].name, canvas))),
    element('div', { class: 'fsskit-controls' }, ...selects.map((select) => select.shown), opacity.shown, stretch.shown,
      ...strips.map((canvas, i) => strip(data.extras[i].name, canvas)),
      element('span', { class: 'fsskit-control' }, '0 %', bar, high)),
    table, value, element('p', { class: 'fsskit-help' }, data.note)));
  paintBar(bar, colours);
  draw();
  return () => live.close();
}

export default { render };
