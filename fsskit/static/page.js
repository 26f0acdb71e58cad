// An exported page has no kernel: this stands for the model that Jupyter would give to a widget.

/** The state of a widget: get, set, listeners; everything else of a kernel does nothing. */
export class PageModel {
  constructor(state) {
    this.state = { ...state, alone: true };
    this.listeners = [];
  }
  get(name) { return this.state[name]; }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    for (const [event, action] of this.listeners) if (event === `change:${name}`) action();
  }
  on(event, action) { this.listeners.push([event, action]); }
  off(event, action) {
    this.listeners = this.listeners.filter(([e, a]) => (event && e !== event) || (action && a !== action));
  }
  save_changes() {}
  send() {}
}

/** Show a widget with the state that the page carries. */
export function startPage(render) {
  const state = JSON.parse(document.getElementById('state').textContent);
  const model = new PageModel(state);
  render({ model, el: document.getElementById('widget') });
  return model;
}
