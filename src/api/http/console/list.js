// A table of any length: only the rows in sight are in the page.
//
// Every row has the height that the style sheet gives to `--row`, so that a row's place is known without laying out
// those before it. To a screen reader it is a table with all its rows (ARIA 1.2, aria-rowcount).
import { h } from './dom.js';

/** Rows above and below the sight, so that a turn of the wheel finds them there. */
const BEYOND = 10;

export class List {
  /**
   * `columns`: `{title, cell(item) → node or text, class}`; `key(item)`: what is the same row; `open(item)`: what its
   * first cell's button does; `onEnd`: called when the last row comes near.
   */
  constructor(element, { columns, label, key, open, state, onEnd }) {
    Object.assign(this, { element, columns, key, open, state, onEnd });
    this.items = [];
    this.rows = new Map();
    const head = columns.map(({ title, class: name }) => h('div', { role: 'columnheader', class: name }, title));
    this.head = h('div', { role: 'row', class: 'row head', 'aria-rowindex': 1 }, ...head);
    this.body = h('div', { role: 'rowgroup', class: 'rows' });
    this.sight = h('div', { class: 'sight', tabindex: 0, role: 'group', 'aria-label': `${label}, scrollable` }, this.body);
    element.classList.add('list');
    element.setAttribute('role', 'table');
    element.setAttribute('aria-label', label);
    element.append(h('div', { role: 'rowgroup' }, this.head), this.sight);
    this.sight.addEventListener('scroll', () => this.later(), { passive: true });
    new ResizeObserver(() => (this.height ? this.later() : this.measure())).observe(this.sight);
    matchMedia('(max-width: 48rem)').addEventListener('change', () => this.measure());
  }

  /** Shows these items, and keeps the place. `isAll`: there are no others. */
  set(items, isAll = true) {
    this.items = items;
    this.element.setAttribute('aria-rowcount', isAll ? items.length + 1 : -1);
    this.measure();
  }

  get isAtTop() {
    return this.sight.scrollTop < 4;
  }

  measure() {
    if (!this.element.checkVisibility()) return void (this.height = 0); // A hidden list is drawn once it is shown.
    const style = getComputedStyle(this.element);
    this.height = parseFloat(style.getPropertyValue('--row')) * parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.body.style.height = `${this.items.length * this.height}px`;
    this.rows.forEach((row) => (row.item = null));
    this.draw();
  }

  later() {
    if (this.due) return;
    this.due = requestAnimationFrame(() => {
      this.due = null;
      this.draw();
    });
  }

  draw() {
    if (!this.height) return;
    const top = this.sight.scrollTop;
    const from = Math.max(Math.floor(top / this.height) - BEYOND, 0);
    const to = Math.min(Math.ceil((top + this.sight.clientHeight) / this.height) + BEYOND, this.items.length);
    const spare = [];
    for (const [index, row] of this.rows) {
      if (index >= from && index < to) continue;
      // The row that has the focus stays, wherever it is.
      if (index < this.items.length && row.element.contains(document.activeElement)) continue;
      this.rows.delete(index);
      spare.push(row);
    }
    for (let index = from; index < to; index += 1) {
      const row = this.rows.get(index) ?? spare.pop() ?? this.row();
      this.rows.set(index, row);
      this.put(row, index);
    }
    spare.forEach(({ element }) => element.remove());
    if (this.onEnd && to > this.items.length - 200) this.onEnd();
  }

  row() {
    const row = { item: null, cells: [] };
    row.cells = this.columns.map(({ title, class: name }) => h('div', { role: 'cell', class: name, 'data-title': title }));
    row.element = h('div', { role: 'row', class: 'row' }, ...row.cells);
    if (this.open) {
      row.button = h('button', { class: 'open', onclick: () => this.open(row.item) });
      row.cells[0].append(row.button);
    }
    this.body.append(row.element);
    return row;
  }

  put(row, index) {
    const item = this.items[index];
    if (row.item === item && row.index === index) return;
    Object.assign(row, { item, index });
    row.element.style.transform = `translateY(${index * this.height}px)`;
    row.element.setAttribute('aria-rowindex', index + 2);
    row.element.dataset.state = this.state?.(item) ?? '';
    this.columns.forEach(({ cell }, at) => {
      const place = at === 0 && row.button ? row.button : row.cells[at];
      const content = cell(item);
      if (typeof content === 'string') {
        // The text of the row that was here before is changed in place: no node is created while the user scrolls.
        if (place.firstChild?.nodeType === Node.TEXT_NODE && !place.firstChild.nextSibling) place.firstChild.data = content;
        else place.textContent = content;
      } else {
        place.replaceChildren(...[content].flat().filter(Boolean));
      }
    });
  }
}
