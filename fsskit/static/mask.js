// A mask as numbers: brush strokes, filling, runs, undo. The same arithmetic as fsskit.mask_painter's MaskEditor.

/** Set every pixel within `radius` of the line from [y, x] to [y, x] to `value`; px, pixel middles at whole numbers. */
export function stroke(mask, [height, width], from, to, radius, value) {
  const [y0, x0] = from, [dy, dx] = [to[0] - y0, to[1] - x0], length = dy * dy + dx * dx;
  const top = Math.max(0, Math.ceil(Math.min(y0, to[0]) - radius));
  const bottom = Math.min(height - 1, Math.floor(Math.max(y0, to[0]) + radius));
  const left = Math.max(0, Math.ceil(Math.min(x0, to[1]) - radius));
  const right = Math.min(width - 1, Math.floor(Math.max(x0, to[1]) + radius));
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const along = length > 0 ? ((y - y0) * dy + (x - x0) * dx) / length : 0;
      const t = Math.min(1, Math.max(0, along));
      const [oy, ox] = [y - (y0 + t * dy), x - (x0 + t * dx)];
      if (oy * oy + ox * ox <= radius * radius) mask[y * width + x] = value;
    }
  }
}

/** Set the connected region (up, down, left, right) of equal value around [y, x] to `value`. */
export function fill(mask, [height, width], [y, x], value) {
  const old = mask[y * width + x];
  if (old === value) return;
  const waiting = [y * width + x];
  while (waiting.length) {
    let first = waiting.pop();
    if (mask[first] !== old) continue;
    const start = first - (first % width);
    while (first > start && mask[first - 1] === old) first--;
    for (let at = first; at < start + width && mask[at] === old; at++) {
      mask[at] = value;
      if (at >= width && mask[at - width] === old) waiting.push(at - width);
      if (at + width < height * width && mask[at + width] === old) waiting.push(at + width);
    }
  }
}

/** The mask as runs of equal values, in reading order: each number is 256 * length + value. */
export function toRuns(mask) {
  const runs = [];
  for (let start = 0, at = 1; at <= mask.length; at++) {
    if (at < mask.length && mask[at] === mask[start] && at - start < 0xffffff) continue;
    runs.push((at - start) * 256 + mask[start]);
    start = at;
  }
  return Uint32Array.from(runs);
}

/** The mask, Uint8Array, that `toRuns` was made from. */
export function fromRuns(runs, size) {
  const mask = new Uint8Array(size);
  let at = 0;
  for (const run of runs) mask.fill(run % 256, at, (at += Math.floor(run / 256)));
  return mask;
}

/** States that can be taken back and brought again; at most `most` of them are kept. */
export class History {
  constructor(state, most = 100) { [this.states, this.at, this.most] = [[state], 0, most]; }
  get state() { return this.states[this.at]; }
  get canUndo() { return this.at > 0; }
  get canRedo() { return this.at < this.states.length - 1; }
  push(state) {
    this.states = [...this.states.slice(0, this.at + 1), state].slice(-this.most);
    this.at = this.states.length - 1;
  }
  undo() { this.at = Math.max(0, this.at - 1); return this.state; }
  redo() { this.at = Math.min(this.states.length - 1, this.at + 1); return this.state; }
}

/** Mask from the RGBA pixels of a mask picture: 128 and brighter is the object. */
export function fromPixels(rgba) {
  const bright = (i) => rgba[4 * i] + rgba[4 * i + 1] + rgba[4 * i + 2] >= 3 * 128;
  return Uint8Array.from({ length: rgba.length / 4 }, (_, i) => (bright(i) ? 1 : 0));
}

/** Pixels (r, g, b, a) of a mask, from the colours of its three values. */
function coloured(mask, colours) {
  const table = new Uint8ClampedArray(4 * 256);
  for (const [value, colour] of Object.entries(colours)) table.set(colour, 4 * value);
  const words = new Uint32Array(table.buffer), pixels = new Uint32Array(mask.length);
  for (let i = 0; i < mask.length; i++) pixels[i] = words[mask[i]];
  return new Uint8ClampedArray(pixels.buffer);
}

/** What is laid over the photo: a colour on the object, grey where ignored, nothing on the background. */
export function tint(mask, colour, alpha) {
  return coloured(mask, { 1: [...colour, 255 * alpha], 255: [128, 128, 128, 255 * alpha] });
}

/** What is saved as a file: white object, black background, dark grey where ignored. */
export function filePixels(mask) {
  return coloured(mask, { 0: [0, 0, 0, 255], 1: [255, 255, 255, 255], 255: [64, 64, 64, 255] });
}

/** How many pixels are marked, and which share of all that is. */
export function share(mask) {
  let count = 0;
  for (let i = 0; i < mask.length; i++) count += mask[i] === 1;
  return { count, share: count / mask.length };
}
