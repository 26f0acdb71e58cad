// What the widgets of fsskit share: numbers from bytes, maps as colours, cells under the mouse, small pieces of a page.
// The first half is arithmetic and runs anywhere; `element` and below need a document.

/** Bytes as they come from a kernel (DataView) or from a page (base64 text), as a Uint8Array. */
export function bytes(data) {
  if (typeof data === 'string') return Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Little-endian bytes as numbers of a `kind` such as Float32Array; copied, since they may start anywhere. */
export function numbers(data, kind) {
  const raw = bytes(data);
  return new kind(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength));
}

/** Quantised unit vectors of one photo: `values` int8 (n, channels), `scales` float32 (n). */
export function readFeatures(data) {
  return { values: numbers(data.values, Int8Array), scales: numbers(data.scales, Float32Array) };
}

/** Cosines between vector `cell` of `source` and every vector of `target`; both come from `readFeatures`. */
export function cosines(source, target, cell, channels) {
  const key = Float64Array.from(source.values.subarray(cell * channels, (cell + 1) * channels));
  const { values, scales } = target, scale = source.scales[cell], found = new Float32Array(scales.length);
  for (let place = 0, at = 0; place < found.length; place++) {
    let sum = 0;
    for (let channel = 0; channel < channels; channel++, at++) sum += key[channel] * values[at];
    found[place] = sum * scales[place] * scale;
  }
  return found;
}

/** One row (side 0) or one column (side 1) of a table of bytes (n, m) that stand for numbers from low to high. */
export function tableLine(plane, side, cell) {
  const [n, m] = plane.grids.map(([h, w]) => h * w);
  const step = (plane.high - plane.low) / 255;
  const found = new Float32Array(side === 0 ? m : n);
  for (let place = 0; place < found.length; place++) {
    found[place] = plane.low + step * plane.table[side === 0 ? cell * m + place : place * m + cell];
  }
  return found;
}

/** The planes of a payload with their bytes turned into numbers. */
export function readPlanes(planes) {
  return planes.map((plane) => {
    if (plane.kind === 'table') return { ...plane, table: bytes(plane.table) };
    if (plane.kind === 'features') return { ...plane, features: plane.features.map(readFeatures) };
    return plane;
  });
}

/** Map over the other photo that belongs to one cell of the photo `side`; a plane of kind 'mean' averages the features. */
export function lookUp(planes, index, side, cell) {
  const plane = planes[index];
  if (plane.kind === 'table') return tableLine(plane, side, cell);
  if (plane.kind === 'features') return cosines(plane.features[side], plane.features[1 - side], cell, plane.channels);
  const parts = planes.flatMap((other, i) => (other.kind === 'features' ? [lookUp(planes, i, side, cell)] : []));
  const mean = new Float32Array(parts[0].length);
  for (const part of parts) for (let place = 0; place < mean.length; place++) mean[place] += part[place] / parts.length;
  return mean;
}

/** Smallest and largest value, and where the largest is. */
export function extremes(values) {
  let low = Infinity, high = -Infinity, best = 0;
  values.forEach((value, place) => {
    if (value < low) low = value;
    if (value > high) [high, best] = [value, place];
  });
  return { low, high, best };
}

/** Values as opaque pixels (r, g, b, 255): `low` gets the first of the 256 colours of `table`, `high` the last. */
export function colourise(values, low, high, table) {
  const pixels = new Uint8ClampedArray(values.length * 4);
  const factor = high > low ? 255 / (high - low) : 0;
  values.forEach((value, place) => {
    const colour = 3 * Math.min(255, Math.max(0, Math.round((value - low) * factor)));
    pixels.set([table[colour], table[colour + 1], table[colour + 2], 255], 4 * place);
  });
  return pixels;
}

/** A number kept within 0 .. count - 1. */
export const inside = (number, count) => Math.min(count - 1, Math.max(0, number));

/** Number of the cell that holds the place [y, x], both in 0..1 of the photo. */
export function cellAt([y, x], [h, w]) {
  return inside(Math.floor(y * h), h) * w + inside(Math.floor(x * w), w);
}

/** The middle of a cell as a place [y, x]. */
export function middleOf(cell, [h, w]) {
  return [(Math.floor(cell / w) + 0.5) / h, ((cell % w) + 0.5) / w];
}

/** What arrow keys mean: [down, right]. */
export const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** The cell that an arrow key leads to (with shift: five cells away), or null for any other key. */
export function stepFrom(cell, key, [h, w], shift = false) {
  if (!(key in STEPS)) return null;
  const [down, right] = STEPS[key].map((step) => step * (shift ? 5 : 1));
  return inside(Math.floor(cell / w) + down, h) * w + inside((cell % w) + right, w);
}

/** Call `action` once things have been quiet for `delay` ms. */
export function debounce(action, delay) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, delay);
  };
}

/** An HTML element with attributes (functions become listeners) and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') made.addEventListener(key, value);
    else if (value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A label with a slider; `change(number)` is called while it moves. `set(number)` moves it from the program. */
export function slider(label, { min, max, step, value }, change) {
  const input = element('input', { type: 'range', min, max, step, 'aria-label': label });
  input.value = value;
  input.addEventListener('input', () => change(Number(input.value)));
  const shown = element('label', { class: 'fsskit-control' }, label, input);
  return { shown, input, set: (number) => { input.value = number; } };
}

/** A label with a box to tick. */
export function tickBox(label, value, change) {
  const input = element('input', { type: 'checkbox', 'aria-label': label });
  input.checked = value;
  input.addEventListener('change', () => change(input.checked));
  return { shown: element('label', { class: 'fsskit-control' }, input, label), input, set: (on) => { input.checked = on; } };
}

/** A label with a list to choose from: `change(number)` of the chosen one. */
export function choice(label, names, value, change) {
  const options = names.map((name, number) => element('option', { value: number }, name));
  const input = element('select', { 'aria-label': label }, ...options);
  input.value = String(value);
  input.addEventListener('change', () => change(Number(input.value)));
  const shown = element('label', { class: 'fsskit-control' }, label, input);
  return { shown, input, set: (number) => { input.value = String(number); } };
}

/** A picture from a data address; `ready` is called when it can be drawn. */
export function picture(source, ready) {
  const image = new Image();
  image.addEventListener('load', ready);
  image.src = source;
  return image;
}

/** Place [y, x] in 0..1 of a pointer event on a canvas. */
export function placeOf(event, canvas) {
  const box = canvas.getBoundingClientRect();
  const within = (number) => Math.min(0.999999, Math.max(0, number));
  return [within((event.clientY - box.top) / box.height), within((event.clientX - box.left) / box.width)];
}

/** A canvas of a photo's size that takes the mouse, touch and the keyboard. `on`: move, pick, leave, key. */
export function photoCanvas(photo, label, on) {
  const canvas = element('canvas', {
    class: 'fsskit-photo', tabindex: 0, role: 'application', 'aria-label': label, width: photo.width, height: photo.height,
    pointermove: (event) => on.move?.(placeOf(event, canvas), event),
    pointerdown: (event) => { canvas.focus({ preventScroll: true }); on.pick?.(placeOf(event, canvas), event); },
    pointerup: (event) => on.up?.(placeOf(event, canvas), event),
    pointercancel: (event) => on.up?.(placeOf(event, canvas), event),
    pointerleave: (event) => on.leave?.(event),
    keydown: (event) => {
      event.stopPropagation(); // the notebook around it has shortcuts of its own
      if (on.key?.(event)) event.preventDefault();
    },
  });
  return canvas;
}

/** Draw the photo and over it the map (pixels of `colourise`, grid [h, w]) with an opacity from 0 to 1. */
export function paint(canvas, image, map, opacity) {
  const context = canvas.getContext('2d');
  context.globalAlpha = 1;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (!map) return;
  const [h, w] = map.grid;
  const small = element('canvas', { width: w, height: h });
  small.getContext('2d').putImageData(new ImageData(map.pixels, w, h), 0, 0);
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = map.smooth ?? true;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
}

/** A frame around [x, y, width, height] of a canvas: white within black, so that it is seen on any photo. */
export function frameBox(canvas, box, line = 2) {
  const context = canvas.getContext('2d');
  for (const [colour, width] of [['black', 2 * line], ['white', line]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(...box);
  }
}

/** A frame around one cell. */
export function frameCell(canvas, cell, [h, w]) {
  const [high, wide] = [canvas.height / h, canvas.width / w];
  frameBox(canvas, [(cell % w) * wide, Math.floor(cell / w) * high, wide, high]);
}

/** A cell in words. */
export const cellName = (cell, [, w]) => `row ${Math.floor(cell / w)}, column ${cell % w}`;

/** Draw the colours of a map from left to right. */
export function paintBar(canvas, table) {
  const pixels = colourise(Float32Array.from({ length: 256 }, (_, i) => i), 0, 255, table);
  const small = element('canvas', { width: 256, height: 1 });
  small.getContext('2d').putImageData(new ImageData(pixels, 256, 1), 0, 0);
  canvas.getContext('2d').drawImage(small, 0, 0, canvas.width, canvas.height);
}
