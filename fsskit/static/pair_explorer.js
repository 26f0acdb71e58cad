// Two photos and the similarities between their cells: point at one photo, the map appears on the other.
import { LiveState } from './live.js';
import { bytes, cellAt, cellName, colourise, element, extremes, frameCell, lookUp, middleOf, paint, paintBar, photoCanvas,
  picture, readPlanes, slider, stepFrom, tickBox } from './maps.js';

export const SIDES = ['support', 'query'];

/** What both photos show for a state {side, place, plane, stretch, pinned, cursor}; arithmetic only. */
export function answer(planes, state) {
  const side = SIDES.indexOf(state.side), plane = planes[state.plane];
  const cell = cellAt(state.place, plane.grids[side]), grid = plane.grids[1 - side];
  const values = lookUp(planes, state.plane, side, cell), found = extremes(values);
  const [low, high] = state.stretch ? [found.low, found.high] : [plane.low, plane.high];
  return { side, cell, grid, values, low, high, best: found.best, top: found.high };
}

/** The line of text below the photos: where, the best match, and the value under the cursor. */
export function readOut(planes, state, shown) {
  const plane = planes[state.plane], [own, other] = [SIDES[shown.side], SIDES[1 - shown.side]];
  const parts = [`${own}: ${cellName(shown.cell, plane.grids[shown.side])}`,
    `most similar in the ${other}: ${shown.top.toFixed(2)} at ${cellName(shown.best, shown.grid)}`];
  if (state.cursor) {
    const under = cellAt(state.cursor, shown.grid);
    parts.push(`under the cursor: ${shown.values[under].toFixed(2)} at ${cellName(under, shown.grid)}`);
  }
  return parts.join(' · ');
}

/** The state after the pointer moved over a photo: it looks, unless a point is pinned; then it reads values. */
export function moved(state, side, place) {
  if (!state.pinned) return { ...state, side, place, cursor: null };
  return { ...state, cursor: side === state.side ? null : place };
}

/** The state after a click: pin a point, or let it go with a click on the same photo. */
export function picked(state, side, place) {
  if (state.pinned && side !== state.side) return { ...state, cursor: place };
  return { ...state, side, place, cursor: null, pinned: !state.pinned };
}

/** The state after a key on a photo, or null when the key means nothing here. */
export function pressed(state, side, key, shift, planes) {
  const reading = state.pinned && side !== state.side, grid = planes[state.plane].grids[SIDES.indexOf(side)];
  const from = reading ? state.cursor ?? [0.5, 0.5] : side === state.side ? state.place : [0.5, 0.5];
  const cell = stepFrom(cellAt(from, grid), key, grid, shift);
  if (cell !== null) {
    const place = middleOf(cell, grid);
    return reading ? { ...state, cursor: place } : { ...state, side, place, cursor: null };
  }
  if (key === 'Enter' || key === ' ') return picked(state, side, from);
  if (key === 'Escape') return { ...state, pinned: false, cursor: null };
  const step = { PageDown: 1, ']': 1, PageUp: -1, '[': -1 }[key];
  if (!step) return null;
  return { ...state, plane: Math.min(planes.length - 1, Math.max(0, state.plane + step)) };
}

const KEPT = ['side', 'place', 'plane', 'opacity', 'stretch', 'pinned'];

function render({ model, el }) {
  const payload = model.get('payload'), planes = readPlanes(payload.planes), colours = bytes(payload.colours);
  const live = new LiveState(model, KEPT, { cursor: null }, () => draw());
  const change = (next) => live.change(next);

  const label = (photo) => `${photo.name}: arrow keys move, Enter pins`;
  const canvases = SIDES.map((side, i) => photoCanvas(payload.photos[i], label(payload.photos[i]), {
    move: (place) => sameCells(moved(live.now, side, place)) || change(moved(live.now, side, place)),
    pick: (place) => change(picked(live.now, side, place)),
    leave: () => live.now.cursor && change({ ...live.now, cursor: null }),
    key: (event) => change(pressed(live.now, side, event.key, event.shiftKey, planes)),
  }));
  const sameCells = (next) => {
    const grids = planes[live.now.plane].grids, cell = (s, place) => place && cellAt(place, grids[SIDES.indexOf(s)]);
    return next.side === live.now.side && cell(next.side, next.place) === cell(live.now.side, live.now.place)
      && String(next.cursor) === String(live.now.cursor);
  };
  const images = payload.photos.map((photo) => picture(photo.source, () => draw()));

  const layer = slider('layer', { min: 0, max: planes.length - 1, step: 1, value: live.now.plane },
    (plane) => change({ ...live.now, plane }));
  const opacity = slider('opacity', { min: 0, max: 1, step: 0.05, value: live.now.opacity },
    (value) => change({ ...live.now, opacity: value }));
  const stretch = tickBox('stretch each map', live.now.stretch, (on) => change({ ...live.now, stretch: on }));
  const name = element('b'), low = element('span'), high = element('span');
  const bar = element('canvas', { class: 'fsskit-bar', width: 256, height: 12 });
  const value = element('output', { class: 'fsskit-value', 'aria-live': 'polite' });

  function draw() {
    const state = live.now, shown = answer(planes, state), plane = planes[state.plane];
    const pixels = colourise(shown.values, shown.low, shown.high, colours);
    canvases.forEach((canvas, side) => {
      paint(canvas, images[side], side === shown.side ? null : { pixels, grid: shown.grid }, state.opacity);
      const cell = side === shown.side ? shown.cell : state.cursor ? cellAt(state.cursor, shown.grid) : null;
      if (cell !== null) frameCell(canvas, cell, plane.grids[side]);
    });
    [name.textContent, low.textContent, high.textContent] = [plane.name, shown.low.toFixed(2), shown.high.toFixed(2)];
    layer.set(state.plane);
    opacity.set(state.opacity);
    stretch.set(state.stretch);
    value.textContent = readOut(planes, state, shown) + (state.pinned ? ' · pinned (Escape lets go)' : '');
  }

  el.append(element('div', { class: 'fsskit', 'data-lm-suppress-shortcuts': 'true' },
    element('div', { class: 'fsskit-photos' }, ...canvases.map((canvas, i) =>
      element('figure', {}, element('figcaption', {}, payload.photos[i].name), canvas))),
    element('div', { class: 'fsskit-controls' }, layer.shown, name, opacity.shown, stretch.shown,
      element('span', { class: 'fsskit-control' }, low, bar, high)),
    value, element('p', { class: 'fsskit-help' }, payload.note)));
  paintBar(bar, colours);
  draw();

  return () => live.close();
}

export default { render };
