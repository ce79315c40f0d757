// Revocations: the list, and revoking, with the instances' confirmations.
import { get, revoke, store } from './api.js';
import { $, count, h, instant, show, some, span, time, visible } from './dom.js';
import { List } from './list.js';
import { expiry, holdsToken, issuerOf, read, targets } from './token.js';

/** Rows that are loaded at most: a search finds the others. */
const MOST = 100_000;
/** Targets of one go. */
const TOGETHER = 100;
/** Stored at once, so that a long list does not keep the API from others. */
const AT_ONCE = 4;
/** The patience with each of the others after one of them was not confirmed in time, in milliseconds. */
const BRIEFLY = 1000;

/** The revocations that were asked for and are not known to be stored yet, or to have failed. */
const unstored = new Set();
export const notStored = () => unstored.size;

const TOKEN_FOUND = 'That is a token: paste it into the field for tokens, so that it is not sent.';

const NAMED = {
  user: ['User id', 'Every token of the user that was issued until now is refused. The user can sign in again.'],
  session: ['Session id (sid)', 'Every token of this session is refused for {kept}: longer than any of its tokens of today lives. End the session at the issuer, too.'],
  token: ['Token id (jti)', 'This one token is refused.'],
  client: ['Client id', 'Every token that was issued to this client until now is refused, for every user.'],
  actor: ['Actor (act.sub)', 'Every token with this actor that was issued until now is refused.'],
  key: ['Key id (kid)', 'Every token that this key signed is refused for {kept}. Remove the key from the issuer’s key set (JWKS) before: after that, what it signs is accepted again.'],
  issuer: ['Issuer', 'Every token of the issuer that was issued until now is refused: every user must sign in again.'],
};

export class Revocations {
  constructor(about) {
    this.about = about;
    this.mayRead = about.may.includes('read');
    this.mayRevoke = about.may.includes('revoke');
    for (const id of ['search-issuer', 'revoke-issuer']) {
      const any = id === 'search-issuer' ? [h('option', { value: '' }, 'any')] : [];
      $(id).replaceChildren(...any, ...about.issuers.map(({ name }) => h('option', {}, name)));
      $(id).closest('.field').hidden = about.issuers.length < 2;
    }
    $('list-panel').hidden = !this.mayRead;
    $('revoke-panel').hidden = !this.mayRevoke;
    if (this.mayRead) this.setUpList();
    if (this.mayRevoke) this.setUpForm();
  }

  // --- the list of revocations

  setUpList() {
    this.items = [];
    this.list = new List($('revocation-list'), {
      label: 'Revocations',
      key: ({ issuer, kind, id, origin }) => [issuer, kind, id, origin].join(' '),
      open: (item) => this.details(item),
      onEnd: () => this.more(),
      columns: [
        { title: 'Id', class: 'wide id', cell: (one) => one.id },
        { title: 'Kind', cell: (one) => one.kind },
        { title: 'Issuer', cell: (one) => one.issuer },
        { title: 'Since', class: 'figure', cell: (one) => instant(one.since ?? (one.at === '*' ? null : one.at)) },
        { title: 'Until', class: 'figure', cell: (one) => instant(one.expires_at) },
        { title: 'By', cell: (one) => one.by ?? (one.origin === 'signed_out' ? 'signed out' : '–') },
        { title: 'Reason', class: 'why', cell: (one) => one.reason ?? '–' },
      ],
    });
    $('search').onsubmit = (event) => {
      event.preventDefault();
      this.search();
    };
    $('search').onreset = () => setTimeout(() => this.search());
    $('search-id').oninput = () => this.searchForToken();
    $('search-kind').onchange = () => this.search();
    $('search-origin').onchange = () => this.search();
    $('search-issuer').onchange = () => this.search();
    $('refresh').onclick = () => this.load();
    this.search();
  }

  /** A token in the search field: its id stands there instead, at once. */
  searchForToken() {
    const text = $('search-id').value;
    if (!holdsToken(text)) return;
    $('search-id').value = '';
    const [token] = read(text);
    const issuer = token && issuerOf(token.claims, this.about.issuers);
    const found = issuer && targets(token, issuer).find(({ kind }) => kind === 'token');
    $('search-problem').textContent = found ? 'That was a token. It was not sent: its id stands here instead.' : 'That is a token, and none that can be read here. It was not sent.';
    if (!found) return;
    $('search-id').value = found.id;
    $('search-kind').value = 'token';
  }

  /** Searches for what was entered. */
  search() {
    this.searchForToken();
    const asked = { kind: $('search-kind').value, id: $('search-id').value.trim(), issuer: $('search-issuer').value, origin: $('search-origin').value };
    this.query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value));
    this.isFiltered = this.query.size > 0;
    this.query.set('order', 'newest');
    return this.load();
  }

  /** Loads the list again, of what was searched for last: not of what is being typed. */
  async load() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    this.loading = false;
    this.cursor = undefined;
    $('refresh').hidden = true;
    await this.more(turn, []);
  }

  /** The next page; `before`: what stands before it, if it is not what is shown. */
  async more(turn = this.turn, before = this.items) {
    if (this.loading || this.cursor === null || before.length >= MOST) return;
    this.loading = true;
    const query = new URLSearchParams(this.query);
    if (this.cursor) query.set('cursor', this.cursor);
    try {
      const page = await get(`/v1/revocations?${query}`);
      if (turn !== this.turn) return;
      this.items = before.concat(page.revocations);
      this.cursor = page.next_cursor;
      $('search-problem').textContent = '';
    } catch (error) {
      if (turn !== this.turn || error.status === 401) return;
      // Another client's list is being made: retry shortly.
      if (error.status === 429) return void setTimeout(() => turn === this.turn && this.again(turn, before), 500);
      $('search-problem').textContent = error.message;
      return;
    } finally {
      if (turn === this.turn) this.loading = false;
    }
    const isAll = this.cursor === null;
    const nothing = this.items.length === 0 ? (this.query.has('id') ? 'No revocation has this id' : 'No revocations') : null;
    $('found').textContent = nothing ?? (isAll ? some(this.items.length, 'revocation') : `The latest ${count(this.items.length)}${this.isFiltered || this.total === undefined ? '' : ` of ${count(this.total)}`}; scroll for more`);
    this.list.set(this.items, isAll);
  }

  again(turn, before) {
    this.loading = false;
    this.more(turn, before);
  }

  /** A revocation was made, or ended: how many there are of each kind. */
  changed(counts) {
    const total = Object.entries(counts).reduce((sum, [kind, one]) => sum + (kind === 'registration' ? 0 : one), 0);
    $('figure-revoked').textContent = count(total);
    this.total = total;
    const isFirst = this.counts === undefined;
    this.counts = counts;
    if (isFirst || !this.list) return;
    // Text that the user is reading does not move away.
    if (this.list.isAtTop && !this.list.element.contains(document.activeElement)) this.load();
    else $('refresh').hidden = false;
  }

  details(item) {
    const facts = [['Kind', item.kind], ['Id', h('code', {}, item.id)], ['Issuer', item.issuer], ['Refused', item.at === '*' ? 'every token, whenever issued' : h('span', {}, 'tokens issued until ', time(item.at))], ['Made', item.since && time(item.since)], ['Kept until', time(item.expires_at)], ['By', item.by ?? (item.origin === 'signed_out' ? 'the user, who signed out' : null)], ['Reason', item.reason]];
    $('revocation-title').textContent = `${item.kind[0].toUpperCase()}${item.kind.slice(1)} ${item.origin === 'signed_out' ? 'signed out' : 'revoked'}`;
    show($('revocation-facts'), ...facts.filter(([, value]) => value).map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
    $('revocation').showModal();
  }

  // --- revoking

  setUpForm() {
    this.rows = [];
    $('revoke-kind').onchange = () => {
      this.unchoose();
      this.named();
    };
    $('revoke-ids').oninput = () => this.unchoose();
    $('revoke-token').oninput = (event) => this.paste(event.inputType === 'insertFromPaste');
    $('revoke-issuer').onchange = () => this.named();
    $('revoke-form').onsubmit = (event) => {
      event.preventDefault();
      this.confirm();
    };
    $('confirm-form').onsubmit = (event) => {
      if (event.submitter?.value === 'revoke') this.go(this.bodies);
    };
    this.named();
  }

  named() {
    const kind = $('revoke-kind').value;
    const [label, meaning] = NAMED[kind];
    $('revoke-ids-label').textContent = `${label}${kind === 'issuer' ? '' : ', one per line'}`;
    $('revoke-meaning').textContent = this.meaning(kind, meaning);
    $('revoke-ids').closest('.field').hidden = kind === 'issuer';
    $('revoke-ids').required = kind !== 'issuer';
    $('revoke-expires').closest('.field').hidden = kind !== 'token';
  }

  /** What a revocation of this kind does, with the time for which the issuer's are kept. */
  meaning(kind, meaning = NAMED[kind][1]) {
    const issuer = this.about.issuers.find(({ name }) => name === $('revoke-issuer').value);
    return meaning.replace('{kept}', issuer ? span(issuer.retention_ms) : 'max_lifetime');
  }

  /** Reads the pasted token, and lets go of it at once. */
  paste(wasPasted) {
    const text = $('revoke-token').value;
    if (text.trim() === '') return;
    const isToken = holdsToken(text);
    if (isToken || wasPasted) $('revoke-token').value = '';
    // What an earlier token named does not stand under what is said of this one.
    if (this.chosen) for (const id of ['revoke-ids', 'revoke-expires']) $(id).value = '';
    this.chosen = null;
    show($('token-targets'));
    const [token, ...others] = read(text);
    if (!token) {
      $('token-read').textContent = isToken ? 'This is a token that cannot be read here: it is cut off, or encrypted. It was let go.' : 'This is not a JWT. An opaque token cannot be read here.';
      return;
    }
    const issuer = issuerOf(token.claims, this.about.issuers);
    if (!issuer) {
      $('token-read').textContent = visible(`Its issuer is not configured: ${String(token.claims.iss).slice(0, 120)}`);
      return;
    }
    const found = targets(token, issuer);
    const expires = expiry(token.claims);
    const left = expires - Date.now();
    const life = expires === null ? 'has no expiry' : left > 0 ? `expires in ${span(left)}` : 'has expired';
    const which = others.length ? `The first of ${count(others.length + 1)} pasted tokens: a` : 'A';
    $('token-read').textContent = `${which} token of ${issuer.name} that ${life}. The page has discarded it and sends only an id. Choose what to revoke:`;
    show($('token-targets'), ...found.map(({ kind, id }) => h('button', { type: 'button', 'data-kind': kind }, h('span', {}, kind), h('code', {}, id))));
    $('token-targets').onclick = (event) => {
      const kind = event.target.closest('button')?.dataset.kind;
      if (kind) this.choose(found.find((one) => one.kind === kind), issuer, expires);
    };
    if (found.length) this.choose(found[0], issuer, expires);
  }

  /** What is typed is not of the token any more. */
  unchoose() {
    if (this.chosen) $('revoke-expires').value = ''; // It was the pasted token's.
    this.chosen = null;
    for (const button of $('token-targets').children) button.setAttribute('aria-pressed', 'false');
  }

  choose({ kind, id }, issuer, expires) {
    this.chosen = { kind, id };
    for (const button of $('token-targets').children) button.setAttribute('aria-pressed', `${button.dataset.kind === kind}`);
    $('revoke-kind').value = kind;
    $('revoke-issuer').value = issuer.name;
    $('revoke-ids').value = id;
    $('revoke-expires').value = expires?.toISOString() ?? '';
    this.named();
  }

  /** Says what will happen, before it does: a revocation cannot be undone. */
  confirm() {
    const kind = $('revoke-kind').value;
    const issuer = $('revoke-issuer').value;
    const reason = $('revoke-reason').value.trim();
    const ids = kind === 'issuer' ? [issuer] : [...new Set($('revoke-ids').value.split('\n').map((id) => id.trim()).filter(Boolean))];
    $('revoke-problem').textContent = '';
    if (['revoke-ids', 'revoke-reason', 'revoke-expires'].some((id) => holdsToken($(id).value))) return void ($('revoke-problem').textContent = TOKEN_FOUND);
    if (ids.length === 0) return void ($('revoke-problem').textContent = 'Enter at least one id.');
    if (ids.length > TOGETHER) return void ($('revoke-problem').textContent = `At most ${TOGETHER} at once; these are ${count(ids.length)}.`);
    const expires = kind === 'token' && $('revoke-expires').value.trim();
    if (expires && !/^\d+$/.test(expires) && !/^\d{4}-\d\d-\d\dT.*(Z|[+-]\d\d:\d\d)$/i.test(expires)) {
      return void ($('revoke-problem').textContent = 'The time at which the token expires must be like 2026-12-01T12:00:00Z.');
    }
    if (kind === 'token' && !expires) return void ($('revoke-problem').textContent = 'Enter the time at which the token expires.');
    this.bodies = ids.map((id) => ({ kind, issuer, id, ...(reason && { reason }), ...(expires && { expires_at: expires }) }));
    $('confirm-title').textContent = ids.length === 1 ? `Revoke this ${kind}?` : `Revoke ${count(ids.length)} ${kind}s?`;
    show($('confirm-ids'), ...ids.slice(0, 8).map((id) => h('li', {}, h('code', {}, id))), ids.length > 8 && h('li', {}, `and ${count(ids.length - 8)} more`));
    const more = [kind !== 'issuer' && `Issuer: ${issuer}.`, reason && `Reason: ${visible(reason)}.`].filter(Boolean).join(' ');
    $('confirm-meaning').textContent = `${this.meaning(kind)} A revocation cannot be undone. ${more}`;
    $('confirm').showModal();
  }

  async go(bodies) {
    for (const id of ['revoke-ids', 'revoke-expires', 'revoke-reason']) $(id).value = '';
    show($('token-targets'));
    $('token-read').textContent = '';
    $('progress-panel').hidden = false;
    const { receipt_timeout_ms: patience, max_staleness_ms: most } = this.about;
    // An instance that is silent is waited for as long as its lease lasts (docs/signing-out.md).
    const lease = (most * 31) / 30 + 8000;
    const rows = bodies.map((body) => new Row(body, patience, lease, () => this.sum()));
    $('progress').prepend(...rows.map(({ element }) => element));
    while ($('progress').children.length > TOGETHER) $('progress').lastChild.remove();
    this.rows = [...rows, ...this.rows].filter(({ element }) => element.isConnected);
    this.sum();
    if (rows.length === 1) {
      await rows[0].run();
    } else {
      // All of them are stored before any of them is waited for: an instance that hangs delays no other revocation.
      const next = [...rows];
      const work = async () => {
        for (let row = next.shift(); row; row = next.shift()) {
          await row.store();
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, work));
      let isLate = false;
      for (const row of rows.filter((one) => one.isStored)) {
        await row.run(isLate ? Math.min(BRIEFLY, patience) : patience);
        isLate ||= row.state !== 'good';
      }
    }
    // What was not stored can be corrected and sent again.
    const left = rows.filter((row) => !row.isStored && row.element.isConnected).map(({ body }) => body);
    if (left.length && left[0].kind === $('revoke-kind').value && $('revoke-ids').value === '') {
      $('revoke-ids').value = left.map(({ id }) => id).join('\n');
      $('revoke-reason').value = left[0].reason ?? '';
      $('revoke-expires').value = left[0].expires_at ?? '';
    }
    if (this.list) this.load();
  }

  /** The sum over all revocations that are listed as in progress. */
  sum() {
    const [stored, good] = [this.rows.filter((row) => row.isStored).length, this.rows.filter(({ state }) => state === 'good').length];
    const isOver = this.rows.every(({ state }) => state && state !== 'info');
    const text = `${isOver ? '' : `${stored} stored, `}${good} of ${some(this.rows.length, 'revocation')} confirmed by every instance`;
    if ($('progress-said').textContent !== text) $('progress-said').textContent = text;
  }
}

/** One revocation under way. */
class Row {
  /** `changed` is called at each change. */
  constructor(body, patience, lease, changed) {
    this.body = body;
    this.patience = patience;
    this.lease = lease;
    this.changed = changed;
    this.isStored = false;
    unstored.add(this);
    this.bar = h('span', { class: 'fill' });
    this.text = h('p', { class: 'what' }, 'queued');
    this.more = h('p', { class: 'todo' });
    this.sign = h('span', { class: 'sign', 'aria-hidden': 'true' }, '…');
    this.again = h('button', { type: 'button', hidden: true, onclick: () => this.run() }, 'Wait again');
    this.meter = h('span', { class: 'meter', role: 'progressbar', 'aria-label': 'instances that refuse', 'aria-valuemin': 0 }, this.bar);
    this.element = h('li', {}, this.sign,
      h('div', {}, h('p', { class: 'target' }, `${body.kind} `, h('code', {}, body.id)), this.text, this.meter, this.more), this.again);
  }

  set(state, sign, text, more = '') {
    this.state = this.element.dataset.state = state;
    this.sign.textContent = sign;
    this.text.textContent = text;
    this.more.textContent = more;
    this.changed();
  }

  progress(applied, instances) {
    this.meter.setAttribute('aria-valuemax', instances);
    this.meter.setAttribute('aria-valuenow', applied);
    this.bar.style.inlineSize = `${(applied / Math.max(instances, 1)) * 100}%`;
  }

  /** Stores it without waiting for instances. */
  async store() {
    this.set('info', '…', 'storing');
    try {
      this.wasStored(await store(this.body));
      this.set('info', '…', 'stored; waits for its turn to be confirmed');
    } catch (error) {
      this.failed(error);
    }
  }

  wasStored({ at }) {
    this.isStored = true;
    unstored.delete(this);
    // Asked again, it must not reach further than it did at first.
    if (at && at !== '*') this.body = { ...this.body, at };
  }

  failed(error) {
    const isRefused = error.status >= 400 && error.status < 500;
    if (isRefused) unstored.delete(this); // Otherwise it is asked about at the end of the session.
    this.set('bad', '✕', this.isStored ? 'stored, not confirmed' : isRefused ? 'refused' : 'not stored, as far as is known', error.message);
    this.again.hidden = isRefused;
  }

  /** Stores it if it is not, and waits until every instance refuses. */
  async run(patience = this.patience) {
    this.again.hidden = true;
    if (!this.isStored) unstored.add(this);
    const [wasStored, began] = [this.isStored, this.isStored ? 'stored; its confirmation is asked for' : 'storing'];
    this.set('info', '…', began);
    let isOver = false;
    try {
      for await (const { name, data } of revoke(this.body, patience)) {
        if (name === 'problem') throw new Error(data.detail);
        if (name !== 'progress' && name !== 'receipt') continue;
        this.wasStored(data);
        isOver = name === 'receipt';
        this.progress(data.confirmed ? data.instances : data.applied, data.instances);
        if (data.confirmed) {
          const streams = data.streams ? `, ${some(data.streams, 'stream')} ended` : '';
          this.set('good', '✓', `refused everywhere${wasStored ? '' : ` after ${data.took_ms} ms`}: ${data.instances} of ${some(data.instances, 'instance')}${streams}`,
            data.seen === false ? 'This instance has verified no token of the issuer that names this kind: check the id.' : '');
        } else {
          const waits = data.waiting.length ? `waiting for ${data.waiting.slice(0, 4).join(', ')}${data.waiting.length > 4 ? ` and ${data.waiting.length - 4} more` : ''}` : '';
          this.storedAt ??= Date.now();
          const clock = (at) => new Date(at).toLocaleTimeString('en-GB');
          const until = data.uncertain_until ? `certain by ${clock(data.uncertain_until)} at the latest: until then the store may not list every instance`
            : waits && `certain by about ${clock(this.storedAt + this.lease)}, when the lease of a silent instance has ended`;
          this.set(isOver ? 'warning' : 'info', isOver ? '!' : '…', `stored; ${data.applied} of ${some(data.instances, 'instance')} ${data.instances === 1 ? 'refuses' : 'refuse'}`, [waits, until].filter(Boolean).join('; '));
          this.again.hidden = !isOver;
        }
      }
      if (!isOver) throw new Error('The service ended the connection before it confirmed.');
    } catch (error) {
      this.failed(error);
    }
  }
}
