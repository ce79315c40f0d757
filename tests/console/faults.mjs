// The console when something fails, and when somebody enters what they should not: each check gets a page that shows the
// sign-in, and `tools`: `facts`, `signIn`, `go`, `revoke` of page.mjs.
import assert from 'node:assert/strict';

const sse = (...events) => ({ contentType: 'text/event-stream', body: events.map(([name, data]) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`).join('') });

const instance = (name, more = {}) => ({
  name, this: false, version: '0.2.0', role: 'service', uptime_seconds: 4000, view_age_ms: 40, position: '1780315200000-0',
  state: 'following', clock_skew_seconds: 0.004, streams: 3, ...more,
});
const fleet = (instances, more = {}) => ({ instances, complete: true, max_staleness_ms: 3000, missing: [], warnings: [], ...more });

/** Asks the API beside the page. */
async function api({ facts }, path, body) {
  const headers = { authorization: `Bearer ${facts.keys.operator}`, 'content-type': 'application/json' };
  const answer = await fetch(new URL(path, facts.url), { headers, ...(body && { method: 'POST', body: JSON.stringify(body) }) });
  // 429: the list is being made for somebody else.
  return answer.status === 429 ? api({ facts }, path, body) : answer.json();
}

/** All ids are stored before any is waited for, and nobody leaves by mistake before they are. */
export async function checkStoredFirst(page, tools) {
  const { facts, signIn, go, revoke } = tools;
  const ids = Array.from({ length: 12 }, (_, n) => `one-of-many-${n}`);
  await signIn(page);
  await page.getByText('All 5 instances are healthy').waitFor();
  await go(page, 'Revocations');
  process.kill(facts.frozen, 'SIGSTOP');
  try {
    await revoke(page, 'user', ids.join('\n'));
    await page.locator('#progress li').getByText('waiting for').first().waitFor();
    const unconfirmed = await page.locator('#progress li:not([data-state="good"])').count();
    let stored = 0;
    for (const id of ids) stored += (await api(tools, `/v1/revocations?id=${id}`)).revocations.length;
    assert.deepEqual([unconfirmed, stored], [12, 12], 'stored, though none is confirmed');
    await page.getByText(/^12 stored, \d+ of 12 revocations confirmed/).waitFor();
  } finally {
    process.kill(facts.frozen, 'SIGCONT');
  }
  await page.getByText('12 of 12 revocations confirmed by every instance').waitFor();

  const held = [];
  await page.route('**/v1/revocations', (route) => held.push(route));
  await revoke(page, 'user', 'left-1\nleft-2\nleft-3');
  await page.locator('#progress li').getByText('storing').nth(2).waitFor();
  await page.getByText('12 stored, 12 of 15 revocations confirmed').waitFor();
  const asked = [];
  page.on('dialog', (dialog) => {
    asked.push(dialog.message());
    return asked.length === 1 ? dialog.dismiss() : dialog.accept();
  });
  await page.getByRole('button', { name: 'Sign out' }).click();
  assert.equal(await page.locator('#app').isVisible(), true, 'stayed');
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByText('3 revocations were not stored').waitFor();
  assert.match(asked[0], /3 revocations are not stored yet/);
  console.log('several at once: stored before any is waited for; leaving before that asks');
}

/** The instance behind the page hangs: the page says since when, and no request goes on for ever. */
export async function checkSilence(page, { facts, signIn, go, revoke }) {
  await signIn(page);
  await page.getByText('All 5 instances are healthy').waitFor();
  process.kill(facts.pid, 'SIGSTOP');
  try {
    await page.getByRole('alert').getByText(/^No connection since \d/).waitFor();
    await page.getByText(/What is shown was so [\d.]+ (s|min) ago/).waitFor();
    assert.equal(await page.getByText('All 5 instances are healthy').isVisible(), false);
    assert.ok(Number(await page.locator('.figures').evaluate((element) => getComputedStyle(element).opacity)) < 1, 'old figures look old');
    assert.equal(await page.locator('#live').getAttribute('data-state'), 'bad');
    await go(page, 'Revocations');
    await revoke(page, 'user', 'while-all-hangs');
    await page.locator('#progress li[data-state="bad"]').getByText('did not answer within').waitFor();
  } finally {
    process.kill(facts.pid, 'SIGCONT');
  }
  await page.locator('#live[data-state="good"]').waitFor();
  await page.getByRole('alert').getByText('No connection').waitFor({ state: 'hidden' });
  console.log('an instance that hangs: no connection, since when; and live again');
}

/** A tab that nobody sees leaves its connection to others. */
export async function checkUnseen(page, { signIn }) {
  await page.clock.install();
  await signIn(page);
  await page.locator('#live[data-state="good"]').waitFor();
  const see = (hidden) => page.evaluate((is) => {
    Object.defineProperty(document, 'hidden', { configurable: true, value: is });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await see(true);
  await page.clock.runFor(31_000);
  await page.locator('#live').getByText('Paused').waitFor();
  await see(false);
  await page.clock.runFor(11_000);
  await page.locator('#live[data-state="good"]').waitFor();
}

/** The ways in which tokens are copied. */
const copies = (token) => [
  `"${token}"`, `Authorization: Bearer ${token}`, `access_token=${token}`, `${token},`, `${token};`, `(${token})`,
  token.replace(/.{64}/g, '$&\n'), `{"access_token": "${token}", "expires_in": 300}`, `session=${token}; Path=/; Secure`,
  `curl -H 'Authorization: Bearer ${token}' https://shop.test/a.b.c`, `${token} ${token}`, token.replace(/[^.]*$/, ''),
];

/** A token is read in its own field however it was copied, and sent from no field. */
export async function checkTokenAnywhere(page, { facts, signIn, go }) {
  const token = facts.tokens.named;
  const { jti } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
  const alert = page.locator('#revoke-problem').getByText('That is a token');
  await signIn(page);
  await go(page, 'Revocations');
  for (const copy of copies(token)) {
    await page.getByLabel('Paste a token').fill(copy);
    assert.deepEqual([await page.getByLabel('Paste a token').inputValue(), await page.locator('#revoke-ids').inputValue()], ['', jti], copy);
    await page.locator('#revoke-kind').selectOption('user');
    await page.locator('#revoke-ids').fill(copy);
    await page.getByRole('button', { name: 'Revoke…' }).click();
    await alert.waitFor();
    await page.locator('#revoke-ids').fill('somebody');
    await page.locator('#revoke-reason').fill(`pasted: ${copy}`);
    await page.getByRole('button', { name: 'Revoke…' }).click();
    await alert.waitFor();
    await page.locator('#revoke-reason').fill('');
    await page.getByLabel('Id, in full').fill(copy);
    await page.keyboard.press('Enter');
    assert.equal(await page.getByLabel('Id, in full').inputValue(), jti, copy);
  }
  await page.getByLabel('Paste a token').fill(token.slice(0, 60));
  await page.getByText('cannot be read here').waitFor();
  assert.equal(await page.getByLabel('Paste a token').inputValue(), '', 'a part of one is let go, too');
  const parts = Array.from({ length: Math.floor(token.length / 24) }, (_, n) => token.slice(n * 24, n * 24 + 24));
  assert.ok(page.sent.every((request) => parts.every((part) => !request.includes(part))), 'no part of it is sent');
  console.log('a token, however copied: read in its field, sent from none');
}

/** What one token named does not stand under another; claims that cannot be are not used. */
export async function checkTokenChanges(page, { facts, signIn, go }) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = JSON.parse(Buffer.from(facts.tokens.named.split('.')[1], 'base64url'));
  const token = (more) => `${part({ alg: 'ES256', kid: 'k' })}.${part({ ...claims, ...more })}.c2lnbmF0dXJl`;
  const [ids, expires] = [page.locator('#revoke-ids'), page.locator('#revoke-expires')];
  const paste = (text) => page.getByLabel('Paste a token').fill(text);
  await signIn(page);
  await go(page, 'Revocations');
  for (const other of [token({ iss: 'https://other.test' }), 'not a token']) {
    await paste(token({ jti: 'first' }));
    assert.equal(await ids.inputValue(), 'first');
    await paste(other);
    assert.deepEqual([await ids.inputValue(), await expires.inputValue(), await page.locator('#token-targets button').count()], ['', '', 0]);
    await page.getByLabel('Paste a token').fill('');
  }
  for (const exp of [1e300, -1e15, 'soon', undefined]) {
    await paste(token({ jti: `exp-${exp}`, exp }));
    await page.getByText('has no expiry').waitFor();
    assert.deepEqual([await ids.inputValue(), await expires.inputValue()], [`exp-${exp}`, '']);
  }
  await paste(token({ sub: 'alice\nbob\nceo' }));
  assert.deepEqual(await page.locator('#token-targets span').allTextContents(), ['token', 'session', 'key'], 'no user of several lines');
  await paste(token({ sub: 'a\u202elice' }));
  await page.locator('#token-targets').getByText('a⟨U+202E⟩lice').waitFor();
}

/** The list follows what happens, and does not search for what is being typed. */
export async function checkList(page, tools) {
  const { signIn, go } = tools;
  await signIn(page);
  await go(page, 'Revocations');
  await page.locator('#revocation-list .row[aria-rowindex="2"]').waitFor();
  await page.waitForFunction(() => document.querySelector('#figure-revoked').textContent !== '–');
  await page.getByLabel('Id, in full').fill('half-typed');
  const loaded = page.waitForRequest(/\/v1\/revocations\?/);
  await api(tools, '/v1/revocations', { kind: 'client', id: 'typed-meanwhile' });
  assert.ok(!(await loaded).url().includes('half-typed'));
  await page.locator('#revocation-list .row[aria-rowindex="2"]').waitFor();
  await api(tools, '/v1/revocations', { kind: 'user', id: 'late', reason: 'the first reason' });
  await page.getByLabel('Id, in full').fill('late');
  await page.keyboard.press('Enter');
  await page.locator('#revocation-list .why').getByText('the first reason').waitFor();
  await api(tools, '/v1/revocations', { kind: 'user', id: 'late', reason: 'the second reason' });
  await page.locator('#revocation-list .why').getByText('the second reason').waitFor();
  // Before a revocation is certain, its user must say so twice: the focus is not on the button.
  await page.locator('#revoke-kind').selectOption('key');
  await page.getByText(/is refused for \d+ (h|min|d)\. Remove the key/).waitFor();
  await page.locator('#revoke-ids').fill('k1');
  await page.locator('#submit-revoke').focus();
  await page.keyboard.press('Enter');
  await page.getByRole('dialog', { name: 'Revoke this key?' }).waitFor();
  await page.keyboard.press('Enter');
  assert.equal(await page.locator('#confirm').getAttribute('open'), '');
  await page.keyboard.press('Escape');
  console.log('the list: live when the number stays the same, and no search for what is typed');
}

/** What a fleet that is not well looks like: by events made for this. */
export async function checkVerdicts(page, { signIn, go }) {
  let events = [];
  await page.route('**/v1/events', (route) => route.fulfill(sse(...events)));
  const shows = async (...next) => {
    events = next;
    await page.goto(page.url().split('#')[0]);
    await signIn(page);
    await page.locator('#instances .row[aria-rowindex="2"]').waitFor();
  };
  const advice = () => page.locator('#advice').textContent();

  // The reports of others are up to three seconds old: that is not a fault, and no part of the page says that it is.
  await shows(['instances', fleet([instance('a', { this: true }), instance('b', { view_age_ms: 2600 })])]);
  assert.deepEqual([await page.locator('#view-meter').getAttribute('data-state'), await page.locator('#instances .row[data-state="good"]').count()], ['good', 2]);

  const reason = 'freshness: the view is older than max_staleness';
  await shows(['instances', fleet([instance('a', { this: true, state: 'unreachable', view_age_ms: null })], { complete: false, missing: [{ part: 'freshness', reason }] })]);
  assert.match(await advice(), /refuses every protected request \(503\)/);
  assert.doesNotMatch(await advice(), /decided by the last view/);

  const long = `${'x'.repeat(600)}\u202e`;
  await shows(['instances', fleet([instance(long, { this: true, state: 'unreachable' }), instance('b')], { warnings: [{ part: 'store', reason: long }] })]);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'a long name makes nothing wider');
  assert.match(await advice(), /⟨U\+202E⟩/);
  assert.ok(!(await advice()).includes('\u202e'));

  // To a screen reader: rows in groups of rows in a table, without anything between.
  const roles = await page.locator('#instances [role="row"]').evaluateAll((rows) => rows.map((row) => {
    const above = (one) => one.parentElement.closest('[role]:not([role="presentation"])');
    return [above(row).role, above(above(row)).role].join();
  }));
  assert.deepEqual([...new Set(roles)], ['rowgroup,table']);

  // The rate counts what began just now, and forgets what is over.
  const kind = (counts) => ({ slot_ms: 10_000, explained: [], kinds: [{ reason: 'expired', rule: 'default', issuer: 'dev', enforced: true, total: 7, counts }] });
  const before = Array(53).fill(0);
  await shows(['instances', fleet([instance('a', { this: true })])], ['refusals', kind([...before, 0, 0, 0, 0, 0, 0, 7])]);
  assert.equal(await page.locator('#figure-refusals').textContent(), '7');
  await shows(['instances', fleet([instance('a', { this: true })])], ['refusals', kind([...before, 7, 0, 0, 0, 0, 0, 0])]);
  assert.equal(await page.locator('#figure-refusals').textContent(), '0');
  console.log('verdicts: one for an instance, and what happens to requests');
}

/** Requests that fail say why. */
export async function checkFailures(page, { signIn, go, revoke }) {
  await signIn(page);
  await go(page, 'Refusals');
  await page.route('**/v1/refusals/*', (route) => route.abort());
  await page.locator('#explained button').first().click();
  await page.getByRole('dialog').getByText('Not loaded').waitFor();
  await page.keyboard.press('Escape');
  await page.route('**/v1/revocations*', (route) => (route.request().method() === 'POST' ? route.fulfill({ status: 403, contentType: 'application/problem+json', body: '{"title": "no"}' }) : route.continue()));
  await go(page, 'Revocations');
  await revoke(page, 'user', 'no-longer');
  await page.getByRole('alert').getByText('may do less than before').waitFor();
}
