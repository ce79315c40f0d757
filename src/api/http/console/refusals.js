// The refusals of the last minutes, and their reasons.
import { get } from './api.js';
import { $, bars, count, h, instant, sentence, show, some, spark, time } from './dom.js';

export class Refusals {
  constructor() {
    this.only = null;
    $('kinds').addEventListener('click', (event) => {
      const kind = event.target.closest('[data-kind]')?.dataset.kind;
      if (kind === undefined) return;
      this.only = this.only === kind ? null : kind;
      this.draw();
    });
    $('explained').addEventListener('click', (event) => {
      const id = event.target.closest('[data-id]')?.dataset.id;
      if (id) this.explain(id);
    });
    $('all-kinds').addEventListener('click', () => {
      this.only = null;
      this.draw();
      $('kinds').querySelector('button')?.focus();
    });
  }

  set(list) {
    this.list = list;
    this.draw();
  }

  draw() {
    const { kinds, explained, slot_ms: slot } = this.list;
    const minute = Math.round(60_000 / slot);
    // With the running slot, 50 to 60 seconds: what begins is seen at once.
    const recent = (counts) => counts.slice(-minute).reduce((sum, one) => sum + one, 0);
    const slots = kinds[0]?.counts.map((_, at) => kinds.reduce((sum, { counts }) => sum + counts[at], 0)) ?? [];
    const total = kinds.reduce((sum, kind) => sum + kind.total, 0);
    const perMinute = kinds.reduce((sum, { counts }) => sum + recent(counts), 0);
    $('figure-refusals').textContent = count(perMinute);
    $('nav-refusals').dataset.count = perMinute ? count(perMinute) : '';
    $('refusals-none').hidden = kinds.length > 0;
    $('refusals-some').hidden = kinds.length === 0;
    show($('refusals-chart'), slots.length ? bars(slots, `${some(total, 'refusal')} in the last ten minutes, ${count(perMinute)} in the last minute`) : '');
    show($('refusals-total'), h('strong', {}, count(total)), ' in ten minutes, ', h('strong', {}, count(perMinute)), ' in the last minute');

    const nameOf = (kind) => [kind.reason, kind.rule, kind.issuer ?? '', kind.enforced].join(' ');
    if (this.only && !kinds.some((kind) => nameOf(kind) === this.only)) this.only = null;
    show($('kinds'), ...kinds.map((kind) => {
      const name = nameOf(kind);
      return h('tr', { 'data-chosen': name === this.only },
        h('td', {}, h('button', { class: 'open', 'data-kind': name, 'aria-pressed': `${name === this.only}` }, kind.reason), !kind.enforced && h('span', { class: 'tag' }, 'shadow')),
        h('td', { 'data-title': 'Rule' }, kind.rule),
        h('td', { 'data-title': 'Issuer' }, kind.issuer ?? '–'),
        h('td', { 'data-title': 'Per minute', class: 'figure' }, count(recent(kind.counts))),
        h('td', { 'data-title': 'Ten minutes', class: 'figure' }, count(kind.total)),
        h('td', { class: 'chart' }, spark(kind.counts, Math.max(...kind.counts), `${count(kind.total)} in ten minutes`, 'bad')));
    }));

    const shown = explained.filter((refusal) => !this.only || nameOf(refusal) === this.only).slice(0, 60);
    $('all-kinds').hidden = this.only === null;
    $('explained-title').textContent = this.only ? `Latest: ${this.only.split(' ')[0]}` : 'Latest';
    show($('explained'), ...shown.map((refusal) => h('li', {},
      h('span', { class: 'figure soft' }, instant(refusal.at)),
      h('button', { class: 'open', 'data-id': refusal.id }, refusal.reason),
      h('span', { class: 'soft' }, [refusal.rule, refusal.issuer].filter(Boolean).join(' · ')),
      refusal.detail && h('span', { class: 'detail' }, sentence(refusal.detail)))));
  }

  /** The checks of one refusal, in a dialog. */
  async explain(id) {
    let refusal;
    try {
      refusal = await get(`/v1/refusals/${encodeURIComponent(id)}`);
    } catch (error) {
      if (error.status === 401) return;
      refusal = { reason: error.status === 404 ? 'No longer available' : 'Not loaded', checks: [], detail: error.message };
    }
    const known = [['When', refusal.at && time(refusal.at)], ['Rule', refusal.rule], ['Issuer', refusal.issuer], ['Request', refusal.request_id], ['From', refusal.source], ['Detail', refusal.detail && sentence(refusal.detail)]];
    show($('explain-facts'), ...known.filter(([, value]) => value).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, ...[value].flat()))));
    $('explain-title').textContent = refusal.reason;
    $('explain-meaning').textContent = refusal.meaning ?? '';
    const signs = { true: ['✓', 'passed'], false: ['✕', 'refused here'], null: ['–', 'not checked'] };
    show($('explain-checks'), ...refusal.checks.map((check) => {
      const [sign, said] = signs[check.passed];
      const values = ['expected', 'got'].filter((name) => check.passed === false && check[name] !== undefined);
      return h('li', { 'data-passed': `${check.passed}` },
        h('span', { class: 'sign', 'aria-hidden': 'true' }, sign),
        h('div', {}, h('span', { class: 'check' }, check.check), h('span', { class: 'said' }, said),
          values.length > 0 && h('dl', {}, ...values.map((name) => h('div', {}, h('dt', {}, name), h('dd', {}, h('code', {}, written(check[name]))))))));
    }));
    $('explain').showModal();
  }
}

function written(value) {
  if (typeof value === 'string') return value;
  const flat = JSON.stringify(value);
  return flat.length < 70 ? flat : JSON.stringify(value, null, 1);
}
