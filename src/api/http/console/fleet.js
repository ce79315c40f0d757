// The fleet: the deciding instances, how current each one is, and their faults.
import { $, count, h, show, some, span, spark } from './dom.js';
import { List } from './list.js';

/** What stands in the way, by the state of an instance's replica, and what to do about it. */
const STATES = {
  starting: ['has not connected to the store yet', 'Wait some seconds; if the state lasts, check its log and revocation.redis.url.'],
  catching_up: ['is reading the log from its start', 'Wait: a million revocations take some seconds.'],
  adopting: ['is reading the keys of another service', 'Wait; if the state lasts, check revocation.redis.adopt.'],
  settling: ['waits until the store is certainly complete', 'Wait: other instances may be writing lost revocations back.'],
  repairing: ['is reading the log again, because it lost entries', 'Wait; then find out why the store lost data: a failover, a flush, an eviction.'],
  unreachable: ['cannot reach the store', 'Check that Redis runs and that this host reaches it.'],
  access_denied: ['is denied by the store', 'Check the user, the password and the ACL of Redis (docs/operations.md lists the commands).'],
  not_primary: ['is connected to a replica', 'Point revocation.redis.url to the primary, or use Sentinel.'],
  may_evict: ['uses a store that may evict revocations', 'Set maxmemory-policy noeviction.'],
  refusing: ['is refused by the store', 'Check the log: Redis is loading, too old, or full.'],
  names_differ: ['uses an issuer name that has another meaning in the log', 'Use the name from the log, or revocation.accept_loss for one start.'],
};

/** A clock that is off by more than this many seconds is worth a word. */
const SKEW = 1;
/** Another instance describes itself every two seconds or so: what is said of its view may be so much too old. */
const REPORTED = 3_000;
/** For so long an instance that has left is named, in milliseconds. */
const REMEMBERED = 600_000;
/** Samples of the view's age that are drawn. */
const SAMPLES = 60;

export class Fleet {
  constructor(about) {
    this.about = about;
    this.ages = new Map();
    this.lacking = new Map();
    this.left = new Map();
    const most = () => this.last.max_staleness_ms;
    this.list = new List($('instances'), {
      label: 'Instances',
      key: ({ name }) => name,
      state: (instance) => gravest(this.problems(instance)),
      columns: [
        { title: 'Instance', class: 'wide', cell: (one) => [h('span', { class: 'name' }, one.name), one.this && h('span', { class: 'tag' }, 'answers')] },
        { title: 'State', cell: (one) => sign(this.problems(one), one.state) },
        { title: 'View age', class: 'figure', cell: (one) => one.view_age_ms === null ? 'no view' : `${one.this ? '' : '≤ '}${span(one.view_age_ms)}` },
        { title: 'Last minute', class: 'chart', cell: (one) => this.line(one, most()) },
        { title: 'Behind', class: 'figure', cell: (one) => this.about.store === 'embedded' ? '–' : this.behind(one) },
        { title: 'Streams', class: 'figure', cell: (one) => count(one.streams) },
        { title: 'Clock', class: 'figure', cell: (one) => one.clock_skew_seconds === null ? '–' : skew(one.clock_skew_seconds) },
        { title: 'Role', cell: (one) => one.role },
        { title: 'Version', class: 'figure', cell: (one) => one.version },
        { title: 'Up', class: 'figure', cell: (one) => span(one.uptime_seconds * 1000) },
      ],
    });
  }

  line(one, most) {
    const ages = this.ages.get(one.name) ?? [];
    const label = `view age in the last minute, at most ${span(Math.max(...ages, 0))}`;
    return spark(ages, Math.max(...ages, most / 20), label, gravest(this.problems(one)), SAMPLES);
  }

  /** The age that a view has at least, in milliseconds: others report theirs from time to time. Null: there is no view. */
  age(one) {
    return one.view_age_ms === null || one.this ? one.view_age_ms : Math.max(one.view_age_ms - REPORTED, 0);
  }

  /** Whether an instance relies on no view. The answering one says so itself. */
  isStale(one) {
    const age = this.age(one);
    return age === null || age > this.last.max_staleness_ms || (one.this && this.last.missing.some(({ part }) => part === 'freshness'));
  }

  /** For how long an instance has lacked an entry that another one has applied; what it has not reported yet counts as applied. */
  behind(one) {
    const since = this.lacking.get(one.name);
    const lag = since === undefined ? 0 : Date.now() - since;
    return lag > REPORTED ? span(lag) : '0 ms';
  }

  set(fleet) {
    this.last = fleet;
    const places = fleet.instances.map(({ position }) => position.split('-').map(BigInt));
    const [newest] = places.toSorted(([a, b], [c, d]) => (a === c ? Number(d - b) : Number(c - a)));
    const lacking = fleet.instances.filter((_, at) => places[at].some((part, which) => part !== newest[which]));
    this.lacking = new Map(lacking.map(({ name }) => [name, this.lacking.get(name) ?? Date.now()]));
    const ages = new Map();
    for (const { name, view_age_ms: age } of fleet.instances) {
      ages.set(name, [...(this.ages.get(name) ?? []), age ?? fleet.max_staleness_ms].slice(-SAMPLES));
    }
    const now = Date.now();
    for (const name of this.ages.keys()) if (!ages.has(name) && fleet.complete) this.left.set(name, now);
    for (const [name, at] of this.left) if (ages.has(name) || now - at > REMEMBERED) this.left.delete(name);
    this.ages = ages;
    const order = { bad: 0, warning: 1, good: 2 };
    const sorted = fleet.instances.map((one) => [order[gravest(this.problems(one))], one]);
    sorted.sort(([a, one], [b, other]) => a - b || Number(other.this) - Number(one.this) || one.name.localeCompare(other.name));
    this.list.set(sorted.map(([, one]) => one));
    this.figures(fleet);
    this.advise(fleet);
    show($('signals'), ...(fleet.signals ?? []).map(transmitter));
  }

  /** What is not well with one instance: `{grade, what, todo}`. */
  problems(one) {
    const found = [];
    const most = this.last.max_staleness_ms;
    const add = (grade, what, todo, short = null) => found.push({ grade, what, todo, short });
    const isStale = this.isStale(one);
    const then = { deny: 'It refuses every protected request (503).', allow: 'It accepts revoked tokens: on_stale is allow.', lookup: 'It asks the store for every request.' }[this.about.on_stale];
    if (one.state !== 'following') {
      const [what, todo] = STATES[one.state] ?? [`is in the state ${one.state}`, 'Check its log.'];
      const effect = isStale ? then : one.state === 'unreachable' ? `Requests are decided by the last view until it is ${span(most)} old.` : '';
      add(['catching_up', 'starting', 'adopting', 'settling', 'may_evict'].includes(one.state) ? 'warning' : 'bad', what, `${todo} ${effect}`.trim());
    }
    const silent = 'It is frozen or cut off, or its host is too busy. It does not decide by a view that is too old.';
    const age = this.age(one);
    if (!one.this && age > most / 2) {
      add(age > most ? 'bad' : 'warning', 'has not reported lately', silent, 'silent');
    } else if (isStale && one.state !== 'starting') {
      add('bad', age === null ? 'has no view that it relies on' : `has a view older than ${span(most)}`, `${then} Check its connection to the store.`, 'view too old');
    } else if (age > most / 2) {
      add('warning', 'has a view that is getting old', `At ${span(most)} it is no longer used. Check its connection to the store.`, 'view getting old');
    }
    const off = Math.abs(one.clock_skew_seconds ?? 0);
    if (off > SKEW) {
      add(off > 30 ? 'bad' : 'warning', `has a clock that is off by ${skew(one.clock_skew_seconds)}`, 'Set up NTP on its host: tokens are accepted and refused by this clock.', 'clock off');
    }
    return found;
  }

  /** The same problem of several instances is one. */
  advise(fleet) {
    const found = new Map();
    const add = (grade, what, todo, name) => {
      const known = found.get(what) ?? { grade, what, todo, names: [] };
      if (name) known.names.push(name);
      found.set(what, known);
    };
    const parts = { keys: 'Check keys.jwks_url and the network path to it.', revocations: 'Check the store.', freshness: 'Check the connection to the store.', process: 'It is shutting down, or must be restarted.' };
    // The answering instance lists its own missing parts exactly.
    const answers = fleet.instances.find((one) => one.this);
    for (const { part, reason } of fleet.missing) {
      if (part !== 'freshness' || !answers || !this.problems(answers).length) add('bad', `is not ready: ${reason}`, parts[part], answers?.name);
    }
    for (const { reason } of fleet.warnings) add('warning', `warns: ${reason}`, 'See the log.', answers?.name);
    for (const one of fleet.instances) for (const { grade, what, todo } of this.problems(one)) add(grade, what, todo, one.name);
    const versions = [...new Set(fleet.instances.map(({ version }) => version))].sort();
    const all = [...found.values()].sort((a, b) => Number(a.grade !== 'bad') - Number(b.grade !== 'bad') || b.names.length - a.names.length);
    const items = all.map(({ grade, what, todo, names }) => advice(grade, names.length > 1 ? `Each of ${some(names.length, 'instance')} ${what}` : `${names[0] ?? 'The service'} ${what}`, todo, names));
    if (!fleet.complete) items.unshift(advice('bad', 'The store does not answer: only this instance is listed', 'Check the store; the other instances may be healthy.', []));
    if (this.left.size) items.push(advice('info', `${some(this.left.size, 'instance')} left the fleet in the last ten minutes`, 'An instance without a lease makes no decisions. If nobody stopped it, check its host.', [...this.left.keys()]));
    if (versions.length > 1) items.push(advice('info', `${versions.length} versions run: ${versions.join(', ')}`, 'This is expected during an upgrade.', []));
    if (!all.length && fleet.complete) items.push(advice('good', fleet.instances.length === 1 ? 'The instance is healthy' : `All ${count(fleet.instances.length)} instances are healthy`, null, []));
    show($('advice'), ...items);
    const bad = all.filter(({ grade }) => grade === 'bad').length;
    $('nav-fleet').dataset.state = bad || !fleet.complete ? 'bad' : all.length ? 'warning' : 'good';
  }

  figures(fleet) {
    const ages = fleet.instances.map((one) => this.age(one));
    const oldest = ages.includes(null) ? null : Math.max(...ages);
    const most = fleet.max_staleness_ms;
    const share = oldest === null ? 1 : Math.min(oldest / most, 1);
    $('figure-instances').textContent = count(fleet.instances.length);
    $('figure-view').textContent = this.about.store === 'embedded' ? '0 ms' : oldest === null ? 'none' : span(oldest);
    $('figure-view-of').textContent = this.about.store === 'embedded' ? 'one instance, its own store' : `of ${span(most)} at most`;
    $('view-meter').style.inlineSize = `${(this.about.store === 'embedded' ? 0 : share) * 100}%`;
    $('view-meter').dataset.state = share >= 1 || fleet.instances.some((one) => this.isStale(one)) ? 'bad' : share > 0.5 ? 'warning' : 'good';
    $('figure-streams').textContent = count(fleet.instances.reduce((sum, one) => sum + one.streams, 0));
  }
}

function gravest(problems) {
  if (problems.some(({ grade }) => grade === 'bad')) return 'bad';
  return problems.length ? 'warning' : 'good';
}

/** An instance's state, or what is not well although it follows. */
function sign(problems, state) {
  const grade = gravest(problems);
  const text = (state === 'following' && problems.find(({ short }) => short)?.short) || state.replaceAll('_', ' ');
  return h('span', { class: 'status', 'data-state': grade }, text);
}

function skew(seconds) {
  const size = Math.abs(seconds);
  const text = size < 1 ? `${Math.round(size * 1000)} ms` : size < 100 ? `${size.toFixed(1)} s` : span(size * 1000);
  return `${seconds < 0 && !text.startsWith('0 ') ? '−' : '+'}${text}`;
}

/** A transmitter of security events. */
function transmitter({ name, issuer, state, owner, problem, events }) {
  const grade = { enabled: 'good', setting_up: 'warning', null: 'info' }[state] ?? 'bad';
  const counts = `events here: ${count(events.applied)} applied, ${count(events.ignored)} ignored, ${count(events.unmapped + events.unseen)} without a known subject, ${count(events.refused)} refused`;
  const said = [counts, owner && `owned by ${owner}`, problem].filter(Boolean).join('; ');
  return advice(grade, `${name}, ${issuer}: ${state?.replaceAll('_', ' ') ?? 'set up by hand'}`, said, []);
}

const SIGNS = { bad: '!', warning: '!', good: '✓', info: 'i' };

function advice(grade, title, todo, names) {
  const shown = names.length > 1 || grade === 'info' ? names.slice(0, 5).join(', ') + (names.length > 5 ? ` and ${names.length - 5} more` : '') : null;
  return h('li', { 'data-state': grade },
    h('span', { class: 'sign', 'aria-hidden': 'true' }, SIGNS[grade]),
    h('div', {}, h('p', { class: 'what' }, title), todo && h('p', { class: 'todo' }, todo), shown && h('p', { class: 'names' }, shown)));
}
