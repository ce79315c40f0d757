// Elements, figures and times. Text is always inserted as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes (`class`, `data-…`, `on…` for listeners; null leaves one out) and children. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** As `h`, of SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false).map((child) => (typeof child === 'string' ? visible(child) : child)));
  return element;
}

/** A text in which no character changes the direction of the others (Unicode Standard Annex 9): their names instead. */
export const visible = (text) => text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (char) => `⟨U+${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`);

export const $ = (id) => document.getElementById(id);

const whole = new Intl.NumberFormat('en');

export const count = (number) => whole.format(number);

/** `1 instance`, `3 instances`. */
export const some = (number, noun, plural = `${noun}s`) => `${count(number)} ${number === 1 ? noun : plural}`;

/** A length of time for people: `12 ms`, `4.2 s`, `3 min`, `5 h`, `2 d`. */
export function span(ms) {
  if (ms === null || ms === undefined) return '–';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.floor(ms / 3_600_000)} h`;
  return `${Math.floor(ms / 86_400_000)} d`;
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
const two = (number) => `${number}`.padStart(2, '0');

/** An RFC 3339 instant in the reader's zone; the day only where it is not today. By hand: a list has thousands. */
export function instant(text) {
  if (!text) return '–';
  const [at, now] = [new Date(text), new Date()];
  if (Number.isNaN(at.getTime())) return text;
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const day = (date) => [date.getFullYear(), date.getMonth(), date.getDate()].join();
  const year = at.getFullYear() === now.getFullYear() ? '' : ` ${at.getFullYear()}`;
  return day(at) === day(now) ? clock : `${at.getDate()} ${MONTHS[at.getMonth()]}${year}, ${clock}`;
}

/** A `time` element: what is read in the reader's zone, what is meant in its title. */
export function time(text) {
  return h('time', { datetime: text, title: text }, instant(text));
}

/** A line of values, the newest at the right, with room for `size`; its label is what is read out. */
export function spark(values, most, label, state = 'plain', size = values.length) {
  const [width, height] = [96, 22];
  const top = Math.max(most, 1);
  const step = width / Math.max(size - 1, 1);
  const place = (index) => (width - (values.length - 1 - index) * step).toFixed(1);
  const at = (value, index) => `${place(index)},${(height - 1 - (Math.min(value, top) / top) * (height - 3)).toFixed(1)}`;
  const points = values.map(at).join(' ');
  return s('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label, 'data-state': state },
    values.length > 1 && s('polygon', { points: `${place(0)},${height} ${points} ${width},${height}` }),
    values.length > 1 && s('polyline', { points }));
}

/** A sentence of Doorward's, in which `code` stands between backticks. */
export function sentence(text) {
  return text.split('`').map((part, at) => (at % 2 ? h('code', {}, part) : part));
}

/** Bars, the newest at the right. */
export function bars(values, label) {
  const height = 100;
  const top = Math.max(...values, 1);
  const bar = (value, index) => {
    const size = value === 0 ? 0 : Math.max((value / top) * (height - 2), 3);
    return s('rect', { x: index * 10 + 1, y: height - size, width: 8, height: size });
  };
  return s('svg', { class: 'bars', viewBox: `0 0 ${values.length * 10} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    values.map(bar));
}

/**
 * Replaces the children that differ: the others stay, so that they can be clicked and read out. The focus goes to the
 * element of the same `data-kind` or `data-id`.
 */
export function show(element, ...children) {
  const next = h('div', {}, ...children);
  if (element.innerHTML === next.innerHTML) return;
  const { kind, id } = (element.contains(document.activeElement) && document.activeElement.dataset) || {};
  const kept = new Map([...element.children].map((child) => [child.outerHTML, child]));
  const wanted = [...next.childNodes].map((child) => {
    const old = kept.get(child.outerHTML);
    kept.delete(child.outerHTML); // Once.
    return old ?? child;
  });
  // As few as can be are moved: an element that is moved loses the focus, and the click that began on it.
  for (const child of [...element.childNodes]) if (!wanted.includes(child)) child.remove();
  wanted.forEach((child, at) => {
    if (element.childNodes[at] !== child) element.insertBefore(child, element.childNodes[at] ?? null);
  });
  if ((kind ?? id) === undefined || element.contains(document.activeElement)) return;
  [...element.querySelectorAll('[data-kind], [data-id]')].find(({ dataset }) => dataset.kind === kind && dataset.id === id)?.focus();
}
