// As much of a browser as the widgets touch: elements, listeners, canvases that remember what was drawn.

class Context {
  constructor(canvas) { Object.assign(this, { canvas, globalAlpha: 1, calls: canvas.calls }); }
  drawImage(source) { this.calls.push(['drawImage', source, this.globalAlpha]); }
  putImageData(image) { this.canvas.image = image; }
  getImageData() { return this.canvas.image; }
  strokeRect(...box) { this.calls.push(['strokeRect', ...box]); }
  beginPath() {}
  arc(...circle) { this.calls.push(['arc', ...circle]); }
  stroke() {}
}

export class FakeElement {
  constructor(name) {
    Object.assign(this, { name, children: [], listeners: {}, attributes: {}, calls: [], textContent: '', files: [] });
    this.classList = { add: (added) => { this.attributes.class += ` ${added}`; } };
  }
  setAttribute(key, value) {
    this.attributes[key] = String(value);
    if (['width', 'height'].includes(key)) this[key] = Number(value);
  }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  addEventListener(type, action) { (this.listeners[type] ??= []).push(action); }
  focus() { this.focused = true; }
  click() { this.fire('click'); }
  getContext() { return (this.context ??= new Context(this)); }
  getBoundingClientRect() { return { left: 10, top: 20, width: this.width, height: this.height }; }
  toDataURL() { return 'data:image/png;base64,'; }

  /** Run the listeners; returns the event, which says whether it was stopped or prevented. */
  fire(type, fields = {}) {
    const event = { type, target: this, buttons: 0, button: 0, ...fields };
    event.preventDefault = () => { event.prevented = true; };
    event.stopPropagation = () => { event.stopped = true; };
    for (const action of this.listeners[type] ?? []) action(event);
    return event;
  }
  /** A pointer event in the middle of a pixel of a canvas. */
  pointer(type, y, x, fields = {}) { return this.fire(type, { clientX: 10 + x + 0.5, clientY: 20 + y + 0.5, ...fields }); }
  key(key, fields = {}) { return this.fire('keydown', { key, ...fields }); }
  /** All elements below that satisfy a condition. */
  all(condition) {
    return this.children.flatMap((child) => (child instanceof FakeElement ? [...(condition(child) ? [child] : []), ...child.all(condition)] : []));
  }
  named(name) { return this.all((child) => child.name === name); }
}

globalThis.document = { createElement: (name) => new FakeElement(name) };
globalThis.ImageData = class { constructor(data, width, height) { Object.assign(this, { data, width, height }); } };
globalThis.Image = class extends FakeElement {
  constructor() { super('img'); }
  set src(address) { this.address = address; queueMicrotask(() => this.fire('load')); }
};

/** A kernel's model that remembers what was saved and sent. */
export class FakeModel {
  constructor(state) { Object.assign(this, { state, listeners: [], saved: 0, sent: [], changed: [] }); }
  get(name) { return this.state[name]; }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.changed.push(name);
    this.emit(`change:${name}`);
  }
  emit(event, content) { for (const [name, action] of [...this.listeners]) if (name === event) action(content); }
  on(event, action) { this.listeners.push([event, action]); }
  off(event, action) { this.listeners = this.listeners.filter(([e, a]) => e !== event || a !== action); }
  save_changes() { this.saved += 1; }
  send(content) { this.sent.push(content); }
}

export const base64 = (typed) => Buffer.from(typed.buffer, typed.byteOffset, typed.byteLength).toString('base64');
export const pause = (ms) => new Promise((done) => { setTimeout(done, ms); });
