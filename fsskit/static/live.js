// The state of a widget: the user changes it at once, and the kernel hears of it when the mouse rests.
import { debounce } from './maps.js';

/** `now` holds the model's traits `names` and the page's `own` fields; `draw` is called after every change. */
export class LiveState {
  constructor(model, names, own, draw) {
    this.known = Object.fromEntries(names.map((name) => [name, model.get(name)])); // to the kernel, which may echo it later
    Object.assign(this, { model, names, own, draw, now: { ...this.known, ...own } });
    this.tell = debounce(() => this.save(), 120);
    this.listen = () => this.hear();
    for (const name of names) model.on(`change:${name}`, this.listen);
  }
  /** Take another state, unless it is null or the same; says whether it was taken. */
  change(next) {
    if (!next || next === this.now) return false;
    this.now = next;
    this.draw();
    this.tell();
    return true;
  }
  save() {
    for (const name of this.names) {
      this.known[name] = this.now[name];
      this.model.set(name, this.now[name]);
    }
    this.model.save_changes();
  }
  /** Python changed something; an echo of what it was told changes nothing. */
  hear() {
    const fresh = this.names.filter((name) => String(this.model.get(name)) !== String(this.known[name]));
    if (!fresh.length) return;
    for (const name of fresh) this.known[name] = this.model.get(name);
    this.now = { ...this.now, ...Object.fromEntries(fresh.map((name) => [name, this.known[name]])), ...this.own };
    this.draw();
  }
  close() { for (const name of this.names) this.model.off(`change:${name}`, this.listen); }
}
