// The console in a real Chromium:
//
//     node page.mjs PLAYWRIGHT CHROMIUM FACTS     PLAYWRIGHT holds node_modules/playwright-core; FACTS: see page.rs
//
// Prints its observations on standard output, and exits 0; 1 with the fault; 77 if no Chromium starts here.
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';

import { checkContrast, closing, focused, launch, windows } from '../support/browser.mjs';
import * as faultChecks from './faults.mjs';

const [folder, executablePath, told] = process.argv.slice(2);
const facts = JSON.parse(told);
const origin = new URL(facts.url).origin;

/** A task of the page that takes longer than this is a pause, in milliseconds. */
const PAUSE = 50;

const browser = await launch(folder, executablePath);
const { faults, open: openAt } = windows(browser, { width: 1320, height: 860 }, {
  isExpected: (place) => /\/v1\//.test(place), // Some unsuccessful answers are intended here.
  isOwn: (place) => new URL(place).origin === origin,
});
const open = (options = {}) => openAt(facts.url, options);

async function signIn(page, key = facts.keys.operator) {
  await page.getByLabel('Admin key').fill(key);
  await page.keyboard.press('Enter');
  await page.locator('#app').waitFor();
}

const go = (page, name) => page.getByRole('link', { name }).click();

const inWindow = async (check, options = {}) => closing(await open(options), check);

/** The key is in no place that outlives the page, and a wrong one is refused. */
async function checkKey(page) {
  await page.getByLabel('Admin key').fill('unknown-key-0123456789');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('This key is not known.').waitFor();
  await page.getByLabel('Admin key').fill('schlüssel mit leerzeichen');
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('no spaces').waitFor();
  await signIn(page);
  await page.getByText('All 5 instances are healthy').waitFor();
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href, document.documentElement.outerHTML, document.querySelector('#key').value]));
  assert.ok(!kept.includes(facts.keys.operator));
  assert.ok(page.sent.every((request) => !request.includes(facts.keys.operator)), 'in no address and no body');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Admin key').waitFor();
  assert.equal(await page.locator('#instances *').count(), 0, 'nothing of what was shown stays');
  console.log('the key: in memory alone');
}

/** Signing in, looking, explaining and revoking with the keyboard alone; the focus is seen, and where one expects it. */
async function checkKeyboard(page) {
  const at = async (id) => {
    await page.waitForFunction((wanted) => document.activeElement?.id === wanted, id);
    return focused(page);
  };
  const press = async (key, id) => {
    await page.keyboard.press(key);
    assert.ok((await at(id)).outlined, `the focus is seen on ${id}`);
  };
  await at('key');
  await page.keyboard.type(facts.keys.operator);
  await page.keyboard.press('Enter');
  await at('title-fleet');
  await page.locator('#instances .row[aria-rowindex="2"]').waitFor();
  await page.locator('#instances[aria-rowcount="6"]').waitFor();
  for (const id of ['nav-fleet', 'nav-revocations', 'nav-refusals', 'sign-out']) await page.locator(`#${id}`).focus();
  await press('Shift+Tab', 'nav-refusals');
  await press('Shift+Tab', 'nav-revocations');
  await page.keyboard.press('Enter');
  await at('title-revocations');
  await press('Tab', 'revoke-token');
  await press('Tab', 'revoke-kind');
  await press('Tab', 'revoke-ids');
  await page.keyboard.type('by-keyboard\nby-keyboard-too');
  await press('Tab', 'revoke-reason');
  await page.keyboard.type('shown by a test');
  await press('Tab', 'submit-revoke');
  await page.keyboard.press('Enter');
  const dialog = page.getByRole('dialog', { name: 'Revoke 2 users?' });
  await dialog.waitFor();
  await page.keyboard.press('Escape');
  await at('submit-revoke');
  await page.keyboard.press('Enter');
  await dialog.getByRole('button', { name: 'Revoke' }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('status').getByText('2 of 2 revocations confirmed by every instance').waitFor();
  assert.equal(await page.locator('#progress [role="progressbar"][aria-valuenow="5"][aria-valuemax="5"]').count(), 2);
  // The list scrolls by keys, and its rows open.
  await page.locator('#revocation-list .sight').focus();
  await page.keyboard.press('End');
  await page.waitForFunction(() => document.querySelector('#revocation-list .sight').scrollTop > 1000);
  await page.locator('#revocation-list .row:not(.head) .open').first().focus();
  await page.keyboard.press('Enter');
  await page.locator('#revocation[open]').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#nav-refusals').focus();
  await page.keyboard.press('Enter');
  await at('title-refusals');
  await page.locator('#kinds button').first().focus();
  await page.keyboard.press('Enter');
  await page.locator('#kinds [aria-pressed="true"]').waitFor();
  await page.locator('#explained button').first().focus();
  await page.keyboard.press('Enter');
  await page.locator('#explain[open] #explain-checks [data-passed="false"]').waitFor();
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => document.activeElement?.closest('#explained'));
  console.log('keyboard: signed in, revoked, explained');
}

/** The contrast of every view. */
async function lookAtViews(page, look) {
  await look('signed out');
  await page.route('**/v1/events', (route) => route.fulfill({ contentType: 'text/event-stream', body: largeFleet(30) }));
  await signIn(page);
  await page.getByText('cannot reach the store').waitFor();
  await look('a fleet that is not well');
  await page.unrouteAll({ behavior: 'ignoreErrors' });
  await go(page, 'Revocations');
  await page.locator('#revocation-list .row[aria-rowindex="2"]').waitFor();
  await page.getByLabel('Paste a token').fill(facts.tokens.named);
  await look('a token that was pasted');
  await page.getByRole('button', { name: 'Revoke…' }).click();
  await look('before it is revoked');
  await page.keyboard.press('Escape');
  await go(page, 'Refusals');
  await page.locator('#kinds button').first().click();
  await look('refusals');
  await page.locator('#explained button').first().click();
  await page.locator('#explain[open]').waitFor();
  await look('an explanation');
}

/** WCAG 2.2, 1.4.10: 320 pixels are enough, without scrolling sideways. */
async function checkNarrow(page) {
  const width = async (what) => {
    const needed = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(needed <= 320, `${what}: a window of 320 pixels needs ${needed}`);
  };
  await width('signed out');
  await signIn(page);
  await page.locator('#instances .row[aria-rowindex="2"]').waitFor();
  await width('fleet');
  await go(page, 'Revocations');
  await page.locator('#revocation-list .row[aria-rowindex="2"]').waitFor();
  await page.getByLabel('Paste a token').fill(facts.tokens.named);
  await width('revocations');
  await go(page, 'Refusals');
  await page.locator('#explained button').first().click();
  await page.locator('#explain[open]').waitFor();
  await width('refusals');
  console.log('320 pixels are enough');
}

/** Markup in reasons and claims is text. */
async function checkText(page) {
  await signIn(page);
  await go(page, 'Revocations');
  await page.locator('#revocation-list .why').getByText(facts.html).waitFor();
  await page.getByRole('button', { name: '0-markup' }).click();
  await page.locator('#revocation-facts').getByText(facts.html).waitFor();
  await page.keyboard.press('Escape');
  await go(page, 'Refusals');
  await page.locator('#kinds').getByRole('button', { name: 'wrong_audience' }).click();
  await page.locator('#explained button').first().click();
  await page.locator('#explain-checks [data-passed="false"]').getByText(facts.html.replaceAll('"', '\\"')).or(page.locator('#explain-checks [data-passed="false"]').getByText(facts.html)).waitFor();
  await page.locator('#explain-meaning').getByText(/^The token is for another service/).waitFor();
  await page.keyboard.press('Escape');
  await page.locator('#kinds').getByRole('button', { name: 'unknown_issuer' }).click();
  await page.locator('#explained').getByText('evil.test').first().waitFor();
  assert.equal(await page.locator('main img:not([src="/console/icon.svg"]), main b, dialog img, dialog b').count(), 0);
  assert.notEqual(await page.title(), 'owned');
  console.log('markup in reasons and claims: shown as it is');
}

/** What a key may do bounds what is shown. */
async function checkPermissions() {
  await inWindow(async (page) => {
    await signIn(page, facts.keys.reader);
    await page.locator('#instances .row[aria-rowindex="2"]').waitFor();
    for (const name of ['Revocations', 'Refusals', 'Fleet']) {
      await go(page, name);
      assert.equal(await page.getByRole('button', { name: /^Revoke/ }).count(), 0, 'no button revokes');
    }
    assert.equal(await page.locator('#revoke-form').isVisible(), false);
  });
  await inWindow(async (page) => {
    await signIn(page, facts.keys.revoker);
    await page.getByRole('heading', { name: 'Revoke', exact: true }).waitFor();
    assert.deepEqual(await page.getByRole('navigation').getByRole('link').allTextContents(), ['Revocations']);
    assert.equal(await page.locator('#list-panel').isVisible(), false);
    await revoke(page, 'user', 'by-the-revoker');
    await page.getByText('refused everywhere after').waitFor();
    assert.ok(page.sent.every((request) => !request.includes('/v1/events')), 'it does not even ask');
  });
  console.log('a key that may only read sees no button; one that may only revoke, no list');
}

async function revoke(page, kind, ids) {
  await page.locator('#revoke-kind').selectOption(kind);
  await page.locator('#revoke-ids').fill(ids);
  await page.getByRole('button', { name: 'Revoke…' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
}

/** Of a pasted token nothing is sent but its id, and a token without one is found by its digest. */
async function checkToken(page) {
  await signIn(page);
  await go(page, 'Revocations');
  await page.getByLabel('Paste a token').fill('not a token');
  await page.getByText('This is not a JWT').waitFor();
  for (const [name, token] of Object.entries(facts.tokens)) {
    await page.getByLabel('Paste a token').fill(token);
    assert.equal(await page.getByLabel('Paste a token').inputValue(), '', 'it is let go');
    const claims = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    assert.deepEqual(await page.locator('#token-targets span').allTextContents(), ['token', 'session', 'user', 'key']);
    const id = await page.locator('#revoke-ids').inputValue();
    if (name === 'named') assert.equal(id, claims.jti);
    else assert.match(id, /^sha256:[0-9a-f]{64}$/);
    await page.getByRole('button', { name: 'Revoke…' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
    await page.locator('#progress li[data-state="good"]', { hasText: id }).waitFor();
    assert.ok(page.sent.every((request) => token.split('.').every((part) => !request.includes(part))), 'no part of it is sent');
    const answer = await fetch(facts.auth, { headers: { authorization: `Bearer ${token}` } });
    assert.deepEqual([answer.status, (await answer.json()).reason], [401, 'revoked'], name);
  }
  // A token among the ids is not sent either.
  await page.locator('#revoke-kind').selectOption('token');
  await page.locator('#revoke-ids').fill(facts.tokens.named);
  await page.locator('#revoke-expires').fill('2099-01-01T00:00:00Z');
  await page.getByRole('button', { name: 'Revoke…' }).click();
  await page.getByRole('alert').getByText('That is a token').waitFor();
  console.log('a pasted token: read in the page, only its id is sent');
}

/** Who is waited for is named, and asked again when it is back. */
async function checkProgress(page) {
  await signIn(page);
  await page.getByText('All 5 instances are healthy').waitFor();
  await go(page, 'Revocations');
  process.kill(facts.frozen, 'SIGSTOP');
  try {
    const row = page.locator('#progress li').first();
    // Shown for some seconds only, so both are awaited from before the click.
    const shown = Promise.all(['stored; 4 of 5 instances refuse', 'waiting for'].map((text) => row.getByText(text).waitFor()));
    await revoke(page, 'session', 'while-one-is-frozen');
    await shown;
    await go(page, 'Fleet');
    await page.locator('#advice').getByText(/has not reported|left the fleet/).waitFor();
    await page.locator('#instances .row[data-state="bad"], #instances .row[data-state="warning"], #advice [data-state="info"]').first().waitFor();
    await go(page, 'Revocations');
    await row.getByText('refused everywhere after').or(row.getByRole('button', { name: 'Wait again' })).first().waitFor();
    process.kill(facts.frozen, 'SIGCONT');
    if (await row.getByRole('button', { name: 'Wait again' }).isVisible()) await row.getByRole('button', { name: 'Wait again' }).click();
    await row.getByText('refused everywhere after').waitFor();
  } finally {
    process.kill(facts.frozen, 'SIGCONT');
  }
  console.log('a frozen instance: named while it is waited for');
}

/** The tasks of the page's main thread while `work` goes on, in milliseconds: of the thread, and by the clock. */
async function tasks(page, work) {
  await browser.startTracing(page, { categories: ['toplevel', 'disabled-by-default-devtools.timeline', '__metadata'] });
  await work();
  const { traceEvents } = JSON.parse(await browser.stopTracing());
  const main = new Set(traceEvents.filter(({ name, args }) => name === 'thread_name' && args.name === 'CrRendererMain').map(({ pid, tid }) => `${pid} ${tid}`));
  const found = traceEvents.filter(({ name, pid, tid, tdur }) => name.endsWith('RunTask') && tdur !== undefined && main.has(`${pid} ${tid}`));
  return found.map(({ tdur, dur }) => ({ cpu: tdur / 1000, wall: dur / 1000 }));
}

/** All of the revocations, scrolled from the top to the end. */
async function checkScroll(page) {
  await signIn(page);
  await go(page, 'Revocations');
  await page.locator('#revocation-list .row[aria-rowindex="2"]').waitFor();
  const scroll = () => tasks(page, () => page.evaluate(async () => {
    const list = document.querySelector('#revocation-list');
    const sight = list.querySelector('.sight');
    sight.scrollTop = 0;
    const began = performance.now();
    for (let quiet = 0; quiet < 30 && performance.now() - began < 60_000; ) {
      await new Promise(requestAnimationFrame);
      const before = sight.scrollTop;
      sight.scrollTop += 900;
      // -1: the page waits for more of them, on a busy machine for longer than 30 frames.
      quiet = sight.scrollTop === before && list.getAttribute('aria-rowcount') !== '-1' ? quiet + 1 : 0;
    }
  }));
  // A busy machine may hold up one task; one of the page takes too long each time.
  let pauses = await scroll();
  for (let again = 0; again < 2 && Math.max(...pauses.map(({ cpu }) => cpu)) > PAUSE; again += 1) pauses = await scroll();
  const rows = await page.locator('#revocation-list .row:not(.head)').count();
  const total = Number(await page.locator('#revocation-list').getAttribute('aria-rowcount')) - 1;
  const longest = Math.max(...pauses.map(({ cpu }) => cpu));
  const wall = Math.max(...pauses.map(({ wall }) => wall));
  console.log(`${total} revocations scrolled, ${rows} rows in the page; the longest of ${pauses.length} tasks: ${longest.toFixed(1)} ms (${wall.toFixed(1)} ms on this machine with all that runs beside)`);
  assert.ok(total >= facts.revocations && rows < 100);
  assert.ok(pauses.length > 100 && longest <= PAUSE, `a task of ${longest} ms`);
  // A search finds one of them at once.
  await page.getByLabel('Id, in full').fill('user-04711');
  await page.keyboard.press('Enter');
  await page.locator('#found').getByText('1 revocation').waitFor();
  await page.getByLabel('Id, in full').fill('no-such-user');
  await page.keyboard.press('Enter');
  await page.getByText('No revocation has this id').waitFor();
}

/** Events of a fleet in which some are not well. */
function largeFleet(size) {
  const instance = (_, n) => ({
    name: `gateway-${String(n).padStart(4, '0')}`, this: n === 0, version: '0.2.0', role: 'service', uptime_seconds: 4000,
    view_age_ms: n === 20 ? 9000 : 40 + n, position: '1780315200000-0', state: n === 21 ? 'unreachable' : 'following',
    clock_skew_seconds: n === 22 ? -2.5 : 0.004, streams: 3,
  });
  const fleet = { instances: Array.from({ length: size }, instance), complete: true, max_staleness_ms: 5000, missing: [], warnings: [] };
  return `event: instances\ndata: ${JSON.stringify(fleet)}\n\n`;
}

/** A thousand instances: those that are not well stand first, and the page has the rows in sight alone. */
async function checkLargeFleet(page) {
  await page.route('**/v1/events', (route) => route.fulfill({ contentType: 'text/event-stream', body: largeFleet(1000) }));
  await signIn(page);
  await page.locator('#instances[aria-rowcount="1001"]').waitFor();
  assert.ok((await page.locator('#instances .row').count()) < 100);
  const first = await page.locator('#instances .row:not(.head)').evaluateAll((rows) => rows.sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).slice(0, 4).map((row) => [row.querySelector('.name').textContent, row.dataset.state]));
  assert.deepEqual(first, [['gateway-0020', 'bad'], ['gateway-0021', 'bad'], ['gateway-0022', 'warning'], ['gateway-0000', 'good']]);
  assert.deepEqual(await page.locator('#advice .what').allTextContents(), [
    'gateway-0020 has not reported lately', 'gateway-0021 cannot reach the store', 'gateway-0022 has a clock that is off by −2.5 s']);
  assert.equal(await page.locator('#advice .todo').count(), 3, 'each says what to do');
  console.log('a thousand instances: those that are not well first');
}

/** What the documentation shows. */
async function takePicture(page) {
  await signIn(page);
  await go(page, 'Revocations');
  process.kill(facts.frozen, 'SIGSTOP');
  await page.locator('#revoke-reason').fill('laptop stolen');
  await revoke(page, 'user', 'alice\nalice@old');
  await page.locator('#progress').getByText('waiting for').first().waitFor();
  await page.screenshot({ path: facts.picture.replace('.png', '-revoke.png'), animations: 'disabled' });
  await go(page, 'Fleet');
  await page.locator('#advice [data-state="bad"], #advice [data-state="warning"]').first().waitFor();
  await page.screenshot({ path: facts.picture, clip: { x: 0, y: 0, width: 1320, height: 660 } });
  process.kill(facts.frozen, 'SIGCONT');
}

/** The key is taken out of the configuration while somebody is signed in. */
async function checkEnd(page) {
  await signIn(page);
  await page.locator('#instances .row[aria-rowindex="2"]').waitFor();
  writeFileSync(facts.config, readFileSync(facts.config, 'utf8').replace(/^.*name: operator.*\n/m, ''));
  process.kill(facts.pid, 'SIGHUP');
  await page.getByRole('alert').getByText('You were signed out').waitFor();
  assert.equal(await page.locator('#app').isVisible(), false);
  assert.equal(await page.locator('#instances *').count(), 0, 'nothing of what was shown stays');
  await page.getByLabel('Admin key').fill(facts.keys.operator);
  await page.keyboard.press('Enter');
  await page.getByRole('alert').getByText('This key is not known.').waitFor();
  console.log('a session that ends meanwhile: signed out, nothing is left');
}

try {
  await inWindow(checkKey);
  await inWindow(checkKeyboard);
  for (const colorScheme of ['light', 'dark']) await inWindow((page) => checkContrast(page, colorScheme, lookAtViews), { colorScheme });
  await inWindow(checkNarrow, { viewport: { width: 320, height: 640 } });
  await inWindow(checkText);
  await checkPermissions();
  await inWindow(checkToken);
  await inWindow(checkScroll);
  await inWindow(checkLargeFleet);
  await inWindow(checkProgress);
  for (const check of Object.values(faultChecks)) await inWindow((page) => check(page, { facts, signIn, go, revoke }));
  if (facts.picture) await inWindow(takePicture);
  await inWindow(checkEnd); // Last: it leaves no operator.
  assert.deepEqual(faults, []);
} finally {
  await browser.close();
}
