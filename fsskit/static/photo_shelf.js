// A shelf of photos: drop, paste or choose files, pick one to work on, take one away.
import { element } from './maps.js';

export const PIECE = 1 << 20; // bytes of a message; servers refuse very large ones
export const MOST = 64 << 20; // bytes of a file

/** Begin and end of every piece of a file. */
export function pieces(size, piece = PIECE) {
  const starts = Array.from({ length: Math.max(1, Math.ceil(size / piece)) }, (_, i) => i * piece);
  return starts.map((start) => [start, Math.min(size, start + piece)]);
}

/** What a key on a photo means: the number of the photo that is chosen then, 'remove', or null. */
export function pressed(key, number, count) {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -count, End: count }[key];
  if (by) return Math.min(count - 1, Math.max(0, number + by));
  return key === 'Delete' ? 'remove' : null;
}

/** Send a file to the kernel, piece by piece; says why not where it does not. */
export async function send(model, file) {
  if (file.size > MOST) return `${file.name} has more than ${MOST >> 20} MB: make it smaller first.`;
  const data = await file.arrayBuffer(), parts = pieces(data.byteLength);
  parts.forEach(([start, end], part) => {
    const content = { kind: 'photo', name: file.name, part, parts: parts.length };
    model.send(content, undefined, [new DataView(data.slice(start, end))]);
  });
  return '';
}

function render({ model, el }) {
  const list = element('div', { class: 'fsskit-shelf', role: 'listbox', 'aria-label': 'photos' });
  const value = element('output', { class: 'fsskit-value', 'aria-live': 'polite' });
  const choose = (number) => { model.set('chosen', number); model.save_changes(); };
  const remove = (number) => model.send({ kind: 'remove', number });
  const take = async (files) => {
    for (const file of files) {
      value.textContent = `reading ${file.name} ...`;
      value.textContent = await send(model, file); // one after the other
    }
  };
  const chooser = element('input', { type: 'file', accept: 'image/*', multiple: '', hidden: '',
    change: () => { take([...chooser.files]); chooser.value = ''; } });
  const button = (name, title, run) => element('button', { type: 'button', title, click: run }, name);
  const add = button('add photos', 'photos from your computer', () => chooser.click());
  const taking = button('remove', 'take the chosen photo away (Delete)', () => remove(model.get('chosen')));
  const onKey = (event, number) => {
    event.stopPropagation(); // the notebook around it has shortcuts of its own
    const what = pressed(event.key, number, list.children.length);
    if (what === null) return;
    event.preventDefault();
    if (what === 'remove') remove(number);
    else { choose(what); list.children[what].focus(); }
  };
  const card = (entry, number) => element('button', {
    type: 'button', class: 'fsskit-card', role: 'option', 'aria-selected': String(number === model.get('chosen')),
    'aria-label': `${entry.name}, ${entry.role}`, title: `${entry.name}: ${entry.role}; Delete takes it away`,
    click: () => choose(number), keydown: (event) => onKey(event, number),
  }, element('img', { src: entry.source, width: entry.width, height: entry.height, alt: '' }),
  element('span', {}, entry.name), element('b', {}, entry.role));

  const draw = () => {
    const focused = list.contains(document.activeElement);
    list.replaceChildren(...model.get('entries').map(card));
    taking.disabled = !model.get('entries').length;
    if (focused) list.children[model.get('chosen')]?.focus();
  };
  const mark = () => [...list.children].forEach((shown, number) =>
    shown.setAttribute('aria-selected', String(number === model.get('chosen'))));

  const over = (event) => { event.preventDefault(); event.stopPropagation(); box.setAttribute('data-over', 'true'); };
  const left = () => box.setAttribute('data-over', 'false');
  const taken = (files, event) => { over(event); left(); take([...files]); };
  const box = element('div', { class: 'fsskit fsskit-drop', 'data-lm-suppress-shortcuts': 'true',
    dragenter: over, dragover: over, dragleave: left, drop: (event) => taken(event.dataTransfer.files, event),
    paste: (event) => { if (event.clipboardData.files.length) taken(event.clipboardData.files, event); } },
  element('div', { class: 'fsskit-controls' }, add, taking, chooser), list, value,
  element('p', { class: 'fsskit-help' }, model.get('payload').note));
  el.append(box);
  draw();
  const heard = (content) => { if (content.kind === 'said') value.textContent = content.text; };
  const listeners = [['change:entries', draw], ['change:chosen', mark], ['msg:custom', heard]];
  for (const [event, run] of listeners) model.on(event, run);
  return () => { for (const [event, run] of listeners) model.off(event, run); };
}

export default { render };
