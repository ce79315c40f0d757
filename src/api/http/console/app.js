// The console: signing in with an admin key, the views that the key permits, and the events that keep them current.
import { ApiError, forget, get, use, watch } from './api.js';
import { $ } from './dom.js';
import { Fleet } from './fleet.js';
import { Refusals } from './refusals.js';
import { Revocations } from './revoke.js';

/** Between attempts to watch again, in milliseconds; doubled up to the second. */
const AGAIN = [500, 10_000];

let session = null;

$('sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const key = $('key').value.trim();
  $('sign-in-problem').textContent = '';
  $('submit-sign-in').disabled = true;
  use(key, () => end('unknown'));
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

$('sign-out').addEventListener('click', () => end(null));

function begin(about) {
  const mayRead = about.may.includes('read');
  session = { stop: new AbortController() };
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
  withdrawn: 'You were signed out: the admin key is not configured any more, or may not read any more.',
};

/** Ends the session: by its user (`why` is null), or because the key is refused. */
function end(why) {
  if (!session) return;
  session.stop.abort();
  session = null;
  forget();
  // No data that was shown stays in the page.
  location.replace(why ? `#ended-${why}` : '#');
  location.reload();
}

/** Follows the events, over new connections whenever one ends. */
async function follow({ stop, views }) {
  let [pause] = AGAIN;
  while (!stop.signal.aborted) {
    try {
      for await (const { name, data } of watch(stop.signal)) {
        pause = AGAIN[0];
        if (name === 'end' && data.reason === 'credentials') return end('withdrawn');
        if (name === 'instances') views.fleet.set(data);
        if (name === 'refusals') views.refusals.set(data);
        if (name === 'revocations') views.revocations.changed(data);
        live('good', 'Live');
      }
    } catch (error) {
      if (stop.signal.aborted) return;
      if (error.status === 403) return end('withdrawn');
      if (error.status === 429) live('warning', 'Waiting: too many clients watch this instance');
      else live('bad', 'No connection');
    }
    await new Promise((wake) => setTimeout(wake, pause));
    pause = Math.min(pause * 2, AGAIN[1]);
  }
}

function live(state, text) {
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

const ended = ENDED[location.hash.replace('#ended-', '')];
if (ended) {
  $('sign-in-problem').textContent = ended;
  history.replaceState(null, '', location.pathname);
}
$('key').focus();
