// Every cell of the query against every cell of the support: two photos, and the table between them as a picture.
import { LiveState } from './live.js';
import { bytes, cellAt, cellName, choice, colourise, element, extremes, frameBox, frameCell, inside, middleOf, numbers, paint,
  paintBar, photoCanvas, picture, slider, stepFrom, tableLine, tickBox } from './maps.js';

export const SIDES = ['query', 'support']; // rows of a table, and its columns
export const STAGES = ['before', 'after'];
const STAGE_NAMES = ['before the network', 'after the network'];
const CONTRAST_NAMES = { whole: 'whole support', none: 'object only', signed: 'object − background',
  difference: 'object − background, apart' };

/** The payload with its bytes turned into numbers. */
export function readTables(payload) {
  const read = (planes) => planes.map((plane) => ({ ...plane, table: bytes(plane.table) }));
  const all = (dict, change) => Object.fromEntries(Object.entries(dict).map(([name, value]) => [name, change(value)]));
  return { ...payload, before: read(payload.before), after: all(payload.after, read),
    weights: all(payload.weights, (data) => numbers(data, Float32Array)) };
}

/** Tables that the state can choose from: layers before the network, channels after it. */
export const planesOf = (data, state) => (state.stage === 'after' ? data.after[state.contrast] : data.before);
const indexOf = (state) => (state.stage === 'after' ? state.channel : state.layer);

/** The table of a state: its plane, the weights of its support cells (null: all 1), the range of its colours. */
export function chosen(data, state) {
  const plane = planesOf(data, state)[indexOf(state)];
  const weights = state.stage === 'before' ? data.weights[state.contrast] ?? null : null;
  const signed = plane.low < 0 || (weights?.some((weight) => weight < 0) ?? false);
  return { plane, weights, signed, low: signed ? -plane.top : 0, high: plane.top };
}

/** Side 0: the row of a query cell, for all support cells. Side 1: the column of a support cell, for all query cells. */
export function lineOf(table, side, cell) {
  const found = tableLine(table.plane, side, cell), { weights } = table;
  if (weights) found.forEach((value, place) => { found[place] = value * weights[side === 0 ? place : cell]; });
  return found;
}

/** What is shown for a state: the table, both cells, `maps` (on the query the column, on the support the row), the value. */
export function answer(data, state) {
  const table = chosen(data, state), { grids } = table.plane;
  const cells = SIDES.map((side, i) => cellAt(state[side], grids[i]));
  const [row, column] = [0, 1].map((side) => lineOf(table, side, cells[side]));
  return { ...table, cells, maps: [column, row], value: row[cells[1]] };
}

/** Range of the colours of one map; with stretching its own, around 0 where values have a sign. */
export function spanOf(shown, values, stretch) {
  if (!stretch) return [shown.low, shown.high];
  const { low, high } = extremes(values), far = Math.max(-low, high);
  return shown.signed ? [-far, far] : [low, high];
}

/** Both cells that a place [y, x] of the table means. */
export function pointed(place, grids) {
  const [n, m] = grids.map(([h, w]) => h * w);
  const cell = cellAt(place, [n, m]);
  return { query: middleOf(Math.floor(cell / m), grids[0]), support: middleOf(cell % m, grids[1]) };
}

/** The state that pointing at panel 0 (query), 1 (support) or 2 (table) leads to. */
export const aimed = (state, panel, place, grids) =>
  ({ ...state, ...(panel === 2 ? pointed(place, grids) : { [SIDES[panel]]: place }), cursor: null });

/** After a movement of the pointer: it chooses cells, unless they are pinned; then it reads. */
export const moved = (state, panel, place, grids) =>
  (state.pinned ? { ...state, cursor: { panel, place } } : aimed(state, panel, place, grids));

/** After a click: cells are chosen and pinned, or let go. */
export const picked = (state, panel, place, grids) =>
  (state.pinned ? { ...state, pinned: false, cursor: null } : { ...aimed(state, panel, place, grids), pinned: true });

/** Arrow keys: on a photo they move its cell; on the table up and down move the query's, left and right the support's. */
export function stepped(state, panel, key, shift, grids) {
  const side = panel < 2 ? panel : Number(key === 'ArrowLeft' || key === 'ArrowRight');
  const grid = panel < 2 ? grids[side] : side ? [1, grids[1][0] * grids[1][1]] : [grids[0][0] * grids[0][1], 1];
  const cell = stepFrom(cellAt(state[SIDES[side]], grids[side]), key, grid, shift);
  return cell === null ? null : { ...state, [SIDES[side]]: middleOf(cell, grids[side]), cursor: null };
}

/** The other photo's best cell for the cell of this photo. */
export function best(data, state, panel) {
  const shown = answer(data, state), side = 1 - panel;
  return { ...state, [SIDES[side]]: middleOf(extremes(shown.maps[side]).best, shown.plane.grids[side]) };
}

/** Another table: as many steps on in its stage as there are tables. */
export function turned(data, state, step) {
  const name = state.stage === 'after' ? 'channel' : 'layer';
  return { ...state, [name]: inside(state[name] + step, planesOf(data, state).length) };
}

/** The state after a key on a panel, or null when the key means nothing here. */
export function pressed(data, state, panel, key, shift) {
  const { grids } = chosen(data, state).plane, step = { PageDown: 1, ']': 1, PageUp: -1, '[': -1 }[key];
  const next = (list, value) => list[(list.indexOf(value) + 1) % list.length];
  if (step) return turned(data, state, step);
  if (key === 'Enter' || key === ' ') return { ...state, pinned: !state.pinned, cursor: null };
  if (key === 'Escape') return { ...state, pinned: false, cursor: null };
  if (key === 'c') return { ...state, contrast: next(data.contrasts, state.contrast) };
  if (key === 'n' && Object.keys(data.after).length) return { ...state, stage: next(STAGES, state.stage) };
  if (key === 'm' && panel < 2) return best(data, state, panel);
  return stepped(state, panel, key, shift, grids);
}

/** The line of text: both cells, their value, the best of the row and of the column, and what is under the cursor. */
export function readOut(shown, cursor) {
  const { grids } = shown.plane, [column, row] = shown.maps.map(extremes), say = (value) => value.toFixed(2);
  const [q, s] = SIDES.map((side, i) => `${side} ${cellName(shown.cells[i], grids[i])}`);
  const parts = [`${q} × ${s}: ${say(shown.value)}`,
    `largest in the row: ${say(row.high)} at support ${cellName(row.best, grids[1])}`,
    `in the column: ${say(column.high)} at query ${cellName(column.best, grids[0])}`];
  if (cursor) {
    const there = cursor.panel === 2 ? pointed(cursor.place, grids) : { [SIDES[cursor.panel]]: cursor.place };
    const cells = SIDES.map((side, i) => (there[side] ? cellAt(there[side], grids[i]) : shown.cells[i]));
    parts.push(`under the cursor: ${say(lineOf(shown, 0, cells[0])[cells[1]])}`);
  }
  return parts.join(' · ');
}

/** All values of a table as pixels: a row for a query cell, a column for a support cell. */
export function tablePixels(shown, colours) {
  const { plane, weights, low, high } = shown, [n, m] = plane.grids.map(([h, w]) => h * w);
  const four = new Uint8ClampedArray(1024).map((_, i) => (i % 4 < 3 ? colours[3 * (i >> 2) + (i % 4)] : 255));
  const palette = new Uint32Array(four.buffer), pixels = new Uint32Array(n * m), factor = high > low ? 255 / (high - low) : 0;
  const step = ((plane.high - plane.low) / 255) * factor, start = plane.low * factor, zero = -low * factor + 0.5;
  for (let place = 0, at = 0; place < n; place++) {
    for (let other = 0; other < m; other++, at++) {
      const level = (start + step * plane.table[at]) * (weights ? weights[other] : 1) + zero;
      pixels[at] = palette[level < 0 ? 0 : level > 255 ? 255 : level | 0];
    }
  }
  return new Uint8ClampedArray(pixels.buffer);
}

const KEPT = ['query', 'support', 'stage', 'contrast', 'layer', 'channel', 'opacity', 'stretch', 'pinned'];
const TABLE = { name: 'query × support', width: 400, height: 400 };

function render({ model, el }) {
  const data = readTables(model.get('payload')), tables = [bytes(data.colours), bytes(data.signed)];
  const live = new LiveState(model, KEPT, { cursor: null }, () => draw()), change = (next) => live.change(next);
  const grids = () => chosen(data, live.now).plane.grids;
  const sameCells = (next) => {
    const cells = (state) => SIDES.map((side, i) => cellAt(state[side], grids()[i]));
    return String(cells(next)) === String(cells(live.now)) && JSON.stringify(next.cursor) === JSON.stringify(live.now.cursor);
  };
  const panels = [...data.photos, TABLE], label = (panel) => `${panel.name}: arrow keys move, Enter pins`;
  const canvases = panels.map((panel, i) => photoCanvas(panel, label(panel), {
    move: (place) => { const next = moved(live.now, i, place, grids()); return sameCells(next) || change(next); },
    pick: (place) => change(picked(live.now, i, place, grids())),
    leave: () => live.now.cursor && change({ ...live.now, cursor: null }),
    key: (event) => change(pressed(data, live.now, i, event.key, event.shiftKey)),
  }));
  const images = data.photos.map((photo) => picture(photo.source, () => draw()));

  const { now } = live, stages = Object.keys(data.after).length ? STAGES : [STAGES[0]];
  const stage = choice('table', stages.map((_, i) => STAGE_NAMES[i]), stages.indexOf(now.stage),
    (number) => change({ ...live.now, stage: STAGES[number] }));
  const contrast = choice('mask', data.contrasts.map((name) => CONTRAST_NAMES[name]), data.contrasts.indexOf(now.contrast),
    (number) => change({ ...live.now, contrast: data.contrasts[number] }));
  const plane = slider('plane', { min: 0, max: planesOf(data, now).length - 1, step: 1, value: indexOf(now) },
    (number) => change(turned(data, live.now, number - indexOf(live.now))));
  const opacity = slider('opacity', { min: 0, max: 1, step: 0.05, value: now.opacity },
    (number) => change({ ...live.now, opacity: number }));
  const stretch = tickBox('stretch each map', now.stretch, (on) => change({ ...live.now, stretch: on }));
  const name = element('b'), low = element('span'), high = element('span');
  const bar = element('canvas', { class: 'fsskit-bar', width: 256, height: 12 });
  const value = element('output', { class: 'fsskit-value', 'aria-live': 'polite' });

  let drawn = null, small = null; // the table that `small` shows: it is painted anew only when another one is chosen
  function drawTable(shown, colours) {
    const key = [live.now.stage, live.now.contrast, indexOf(live.now)].join();
    const [n, m] = shown.plane.grids.map(([h, w]) => h * w);
    if (key !== drawn) {
      small = element('canvas', { width: m, height: n });
      small.getContext('2d').putImageData(new ImageData(tablePixels(shown, colours), m, n), 0, 0);
      drawn = key;
      paintBar(bar, colours);
    }
    const canvas = canvases[2], context = canvas.getContext('2d');
    context.imageSmoothingEnabled = m > canvas.width || n > canvas.height;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    const [high, wide] = [canvas.height / n, canvas.width / m];
    frameBox(canvas, [-4, shown.cells[0] * high - 1, canvas.width + 8, high + 2], 1);
    frameBox(canvas, [shown.cells[1] * wide - 1, -4, wide + 2, canvas.height + 8], 1);
  }
  function draw() {
    const state = live.now, shown = answer(data, state), colours = tables[Number(shown.signed)];
    shown.maps.forEach((values, i) => {
      const grid = shown.plane.grids[i], pixels = colourise(values, ...spanOf(shown, values, state.stretch), colours);
      paint(canvases[i], images[i], { pixels, grid }, state.opacity);
      frameCell(canvases[i], shown.cells[i], grid);
      if (state.cursor?.panel === i) frameCell(canvases[i], cellAt(state.cursor.place, grid), grid);
    });
    drawTable(shown, colours);
    [name.textContent, low.textContent, high.textContent] = [shown.plane.name, shown.low.toFixed(2), shown.high.toFixed(2)];
    plane.input.setAttribute('max', planesOf(data, state).length - 1);
    plane.set(indexOf(state));
    stage.set(STAGES.indexOf(state.stage));
    contrast.set(data.contrasts.indexOf(state.contrast));
    opacity.set(state.opacity);
    stretch.set(state.stretch);
    value.textContent = readOut(shown, state.cursor) + (state.pinned ? ' · pinned (Escape lets go)' : '');
  }

  el.append(element('div', { class: 'fsskit', 'data-lm-suppress-shortcuts': 'true' },
    element('div', { class: 'fsskit-photos' }, ...canvases.map((canvas, i) =>
      element('figure', {}, element('figcaption', {}, panels[i].name), canvas))),
    element('div', { class: 'fsskit-controls' }, stage.shown, contrast.shown, plane.shown, name,
      opacity.shown, stretch.shown, element('span', { class: 'fsskit-control' }, low, bar, high)),
    value, element('p', { class: 'fsskit-help' }, data.note)));
  draw();
  return () => live.close();
}

export default { render };
