// The console: signing in with an admin key, the views that the key permits, and the events that keep them current.
import { ApiError, forget, get, use, watch } from './api.js';
import { $, instant, some, span } from './dom.js';
import { Fleet } from './fleet.js';
import { Refusals } from './refusals.js';
import { Revocations, notStored } from './revoke.js';

/** Between attempts to watch again, in milliseconds; doubled up to the second. */
const AGAIN = [500, 10_000];
/** The service sends at least a comment every two seconds: three that are missing mean that there is no connection. */
const SILENT = 6000;
/** A tab that nobody sees gives its connection to the others after this time, in milliseconds: a browser has six of them. */
const UNSEEN = 30_000;

let session = null;

$('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const key = $('key').value.trim();
  $('sign-in-problem').textContent = '';
  $('submit-sign-in').disabled = true;
  use(key, end);
  try {
    // A key is ASCII; other characters cannot stand in a header.
    if (!/^[\x21-\x7e]+$/.test(key)) throw new ApiError(0, { detail: 'An admin key is printable ASCII with no spaces.' });
    const about = await get('/v1/about');
    $('key').value = '';
    begin(about);
  } catch (error) {
    forget();
    $('sign-in-problem').textContent = { 401: 'This key is not known.', 403: 'No admin keys are configured: set admin.keys.' }[error.status] ?? error.message;
    $('key').focus();
  } finally {
    $('submit-sign-in').disabled = false;
  }
});

$('sign-out').addEventListener('click', () => {
  const left = notStored();
  if (left === 0 || confirm(`${some(left, 'revocation is', 'revocations are')} not stored yet. Sign out all the same?`)) end(null);
});

addEventListener('beforeunload', (event) => session && notStored() > 0 && event.preventDefault());

function begin(about) {
  const mayRead = about.may.includes('read');
  session = { stop: new AbortController(), heard: null };
  document.body.dataset.signedIn = '';
  $('welcome').hidden = true;
  $('app').hidden = false;
  $('who').hidden = false;
  $('who-name').textContent = about.key;
  $('who-may').textContent = about.may.join(', ');
  $('version').textContent = about.version;
  for (const one of document.querySelectorAll('[data-needs="read"]')) one.hidden = !mayRead;
  $('nothing').hidden = mayRead || about.may.includes('revoke');
  for (const id of ['instances', 'revocation-list']) $(id).replaceChildren();
  const revocations = new Revocations(about);
  session.views = mayRead ? { fleet: new Fleet(about), refusals: new Refusals(), revocations } : { revocations };
  go();
  $(`title-${place()}`).focus();
  if (mayRead) follow(session);
}

/** Why a session ended that its user did not end; the address names one of these, never a text. */
const ENDED = {
  unknown: 'You were signed out: the admin key is not known any more.',
  withdrawn: 'You were signed out: the admin key is not configured any more, or may do less than before.',
  left: 'You signed out.',
};

/** Ends the session: by its user (`why` is null), or because the key is refused. */
function end(why) {
  if (!session) return;
  const left = notStored();
  session.stop.abort();
  session = null;
  forget();
  // No data that was shown stays in the page; the reload waits for the instance.
  $('app').hidden = true;
  for (const id of ['instances', 'revocation-list', 'progress', 'kinds', 'explained']) $(id).replaceChildren();
  location.replace(why || left ? `#ended-${why ?? 'left'}-${left}` : '#');
  location.reload();
}

/** Follows the events, over new connections whenever one ends or is silent. */
async function follow(following) {
  const { stop, views } = following;
  let [pause] = AGAIN;
  while (!stop.signal.aborted) {
    await seen(stop.signal);
    const silent = new AbortController();
    const [watched, hidden] = [timer(SILENT, () => silent.abort()), timer(UNSEEN, () => silent.abort())];
    const look = () => (document.hidden ? hidden.start() : hidden.stop());
    document.addEventListener('visibilitychange', look);
    try {
      for await (const { name, data } of watch(AbortSignal.any([stop.signal, silent.signal]))) {
        watched.start();
        pause = AGAIN[0];
        if (name === 'instances') following.heard = Date.now();
        if (name === 'end' && data.reason === 'credentials') return end('withdrawn');
        if (name === 'instances') views.fleet.set(data);
        if (name === 'refusals') views.refusals.set(data);
        if (name === 'revocations') views.revocations.changed(data);
        if (following.heard) live('good', 'Live');
      }
      lost(following, 'bad', 'No connection');
    } catch (error) {
      if (stop.signal.aborted) return;
      if (document.hidden) lost(following, 'warning', 'Paused');
      else if (error.status === 429) lost(following, 'warning', 'Waiting: too many clients watch this instance');
      else lost(following, 'bad', 'No connection');
    } finally {
      watched.stop();
      hidden.stop();
      document.removeEventListener('visibilitychange', look);
    }
    await new Promise((wake) => setTimeout(wake, pause));
    pause = Math.min(pause * 2, AGAIN[1]);
  }
}

/** Calls once, `after` milliseconds from its last start. */
function timer(after, call) {
  let id = null;
  const stop = () => clearTimeout(id);
  return { stop, start: () => (stop(), (id = setTimeout(call, after))) };
}

/** Waits until somebody sees the page. */
async function seen(signal) {
  while (document.hidden && !signal.aborted) {
    await new Promise((wake) => {
      document.addEventListener('visibilitychange', wake, { once: true });
      signal.addEventListener('abort', wake, { once: true });
    });
  }
}

/** Says since when nothing was heard: all that is shown below was so then. */
function lost(following, state, text) {
  const { heard } = following;
  live(state, heard ? `${text} since ${instant(new Date(heard).toISOString())}` : text);
  const say = () => {
    $('stale-age').textContent = heard ? `What is shown was so ${span(Math.max(Date.now() - heard, 0))} ago.` : 'Nothing was received yet.';
  };
  $('stale-title').textContent = `${text}${heard ? ` since ${instant(new Date(heard).toISOString())}` : ''}`;
  say();
  document.body.dataset.stale = state;
  clearInterval(following.aging);
  following.aging = setInterval(() => (session === following && 'stale' in document.body.dataset ? say() : clearInterval(following.aging)), 1000);
}

function live(state, text) {
  if (state === 'good') delete document.body.dataset.stale;
  if ($('live').dataset.state === state && $('live').textContent === text) return;
  $('live').dataset.state = state;
  $('live').textContent = text;
}

// --- the views, by the address

const VIEWS = ['fleet', 'revocations', 'refusals'];

function place() {
  const asked = location.hash.slice(1);
  const open = VIEWS.filter((name) => session?.views[name]);
  return open.includes(asked) ? asked : open[0];
}

function go() {
  if (!session) return;
  const name = place();
  for (const view of VIEWS) {
    $(`view-${view}`).hidden = view !== name;
    if (view === name) $(`nav-${view}`).setAttribute('aria-current', 'page');
    else $(`nav-${view}`).removeAttribute('aria-current');
  }
  document.title = `${$(`title-${name}`).textContent} · Doorward`;
}

addEventListener('hashchange', () => {
  go();
  if (session) $(`title-${place()}`).focus();
});

for (const dialog of document.querySelectorAll('dialog')) {
  // A click beside it closes it.
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  for (const button of dialog.querySelectorAll('[data-close]')) button.addEventListener('click', () => dialog.close());
}

const [, why, unstored] = /^#ended-([a-z]+)-(\d{1,6})$/.exec(location.hash) ?? [];
if (why in ENDED) {
  const lost = Number(unstored) ? ` ${some(Number(unstored), 'revocation was', 'revocations were')} not stored, as far as this page knows: revoke again.` : '';
  $('sign-in-problem').textContent = ENDED[why] + lost;
  history.replaceState(null, '', location.pathname);
}
$('key').focus();
