// The page of the demo in a real Chromium, as several people use it:
//
//     node page.mjs PLAYWRIGHT CHROMIUM URL VARIANT [PICTURE RECORDING]     PLAYWRIGHT holds node_modules/playwright-core
//
// Prints its observations on standard output, and exits 0; 1 with the fault; 77 when no Chromium
// starts here. VARIANT is how the demo was started; PICTURE and RECORDING are the files for a picture of the page and
// for its story.
import assert from 'node:assert/strict';

import { checkContrast, closing, launch, windows } from '../support/browser.mjs';
import { button, checkKeyboard, checkLevers, checkLooks, checkNarrow, checkStory, checkText, lookAtStates, signIn, tiles } from './page_checks.mjs';
import { record } from './recording.mjs';

const [folder, executablePath, url, variant, picture, recording] = process.argv.slice(2);

/** How soon after the answer to a sign-out the stolen token must be dead everywhere, in milliseconds. */
const BOUND = 100;
/** How often a busy machine may miss it before that counts. */
const ATTEMPTS = 20;

const browser = await launch(folder, executablePath);
const isAsked = /^\/([abc]\/(orders|live)|auth\/\w+|page\/stage(\.json|\/\w+))$/;
const { faults, open: openAt } = windows(browser, { width: 1100, height: 780 }, {
  isExpected: (place) => isAsked.test(new URL(place || '/', url).pathname), // Refused requests are intended here.
  isOwn: (place) => place.startsWith(url),
});
const open = (options = {}, hash = '#try') => openAt(url + hash, options);

const words = (page, part) => page.locator(`.tile ${part}`).allTextContents();

/** What the services answer to somebody else who has the token. */
async function asThief(request, token) {
  const answers = [];
  for (const path of ['a/orders', 'b/orders', 'c/orders']) {
    const answer = await request.get(url + path, { headers: { authorization: `Bearer ${token}` } });
    answers.push(`${answer.status()} ${(await answer.json()).reason ?? 'ok'}`);
  }
  return answers;
}

/** When C's live stream ended after each click, in milliseconds. */
const lived = [];

const thrice = (text) => [text, text, text];

/** Signs in, ends it, and returns how long after the answer the last service let the stolen token in, in ms. */
async function endOnce(page, bob, thief, reason, end) {
  const token = await signIn(page, 'Alice');
  await page.locator('#live[data-state="open"]').waitFor();
  assert.deepEqual(await asThief(thief, token), thrice('200 ok'));
  await page.locator('#timeline').evaluate((list) => list.replaceChildren());
  await end();
  const dead = page.locator('#timeline [data-event="dead"]');
  await dead.waitFor();
  await tiles(page, 'refused', 'stolen');
  assert.deepEqual(await words(page, '.reason'), thrice(`401 ${reason}`));
  assert.deepEqual(await words(page, '.saw'), thrice('nothing at all'));
  assert.equal(await page.locator('#timeline [data-event="refused"]').count(), 3);
  // C's stream of events, open until then, has ended as well; Bob's stays open.
  const live = page.locator('#timeline [data-event="live"]');
  await live.waitFor();
  lived.push(Number(await live.getAttribute('data-ms')));
  assert.equal(await page.locator('#live[data-state="ended"] .detail').textContent(), `${lived.at(-1).toFixed(1)} ms after the sign-out`);
  await bob.locator('#live[data-state="open"]').waitFor();
  assert.deepEqual(await asThief(thief, token), thrice(`401 ${reason}`));
  await tiles(bob, 'allowed', 'own');
  return Number(await dead.getAttribute('data-since-answer'));
}

async function endsInTime(what, attempt) {
  const took = [];
  do took.push(await attempt());
  while (took.at(-1) >= BOUND && took.length < ATTEMPTS);
  console.log(`${what}: dead everywhere ${took.map((ms) => `${ms} ms`).join(', ')} after the answer`);
  assert.ok(took.at(-1) < BOUND, `${what}: never within ${BOUND} ms`);
}

/** Types into the dialog, by the labels. */
async function changePassword(page, old, next) {
  await button(page, 'Change password').click();
  await page.getByLabel('Old password').fill(old);
  await page.getByLabel('New password').fill(next);
  await page.getByRole('dialog').getByRole('button', { name: 'Change password' }).click();
}

async function story() {
  const [alice, bob, stranger] = [await open(), await open(), await browser.newContext()];
  const thief = stranger.request;
  await tiles(alice, 'refused', 'none');
  assert.equal(await alice.locator('#play').textContent(), 'Tell the story');
  assert.deepEqual(await words(alice, '.reason'), thrice('401 missing_token'));

  await signIn(bob, 'Bob');
  assert.deepEqual(await words(bob, '.saw'), thrice('x-user-id: bob'));

  await alice.getByLabel('Password', { exact: true }).fill('guessed');
  await button(alice, 'Sign in').click();
  await alice.getByRole('alert').getByText('That password is wrong.').waitFor();
  await alice.getByLabel('Password', { exact: true }).fill('wonderland');

  await endsInTime('sign out', () => endOnce(alice, bob, thief, 'signed_out', () => button(alice, 'Sign out').click()));
  await endsInTime('sign out everywhere', () =>
    endOnce(alice, bob, thief, 'revoked', () => button(alice, 'Sign out everywhere').click()));
  let [old, count] = ['wonderland', 0];
  await endsInTime('change password', () =>
    endOnce(alice, bob, thief, 'revoked', async () => {
      const next = `looking-glass-${(count += 1)}`;
      await changePassword(alice, old, next);
      old = next;
    }));

  // A wrong old password changes nothing, and the session continues.
  await signIn(alice, 'Alice');
  await changePassword(alice, 'forgotten', 'looking-glass');
  await alice.getByRole('alert').getByText('The old password is wrong.').waitFor();
  await tiles(alice, 'allowed', 'own');

  // Signed out everywhere in one window: the other one notices it at its next request.
  const elsewhere = await open();
  await elsewhere.getByLabel('Password', { exact: true }).fill(old);
  await signIn(elsewhere, 'Alice');
  await button(alice, 'Sign out everywhere').click();
  await elsewhere.getByText('Alice’s session was ended elsewhere.').waitFor();
  await tiles(elsewhere, 'refused', 'stolen');

  await tiles(bob, 'allowed', 'own');
  assert.equal(await bob.locator('#timeline li').count(), 1, 'Bob never noticed');
  // Envoy closes a connection of HTTP/1.1 `delayed_close_timeout` (100 ms) after the end of a stream; the token lives
  // for minutes, and a busy machine takes its time.
  console.log(`the live stream ended ${lived.map((ms) => `${ms} ms`).join(', ')} after the click`);
  assert.ok(Math.min(...lived) < BOUND + 900, 'the stream ends with the sign-out, not by a timeout');
  console.log('bob: allowed throughout');
}

/** What the README shows. */
async function takePicture(page) {
  await signIn(page, 'Alice');
  await button(page, 'Try the stolen token').click();
  await page.locator('#timeline [data-event="tried"][data-inside="3"]').waitFor();
  // Enough answers for the strips.
  await page.waitForFunction(() => document.querySelector('.strip').childElementCount > 8);
  await button(page, 'Sign out').click();
  await page.locator('#timeline [data-event="dead"]').waitFor();
  await page.waitForFunction(() => document.querySelector('.strip').childElementCount > 15);
  await button(page, 'Try the stolen token').click();
  await page.locator('#timeline [data-event="tried"][data-inside="0"]').waitFor();
  await page.evaluate(() => document.activeElement.blur());
  await page.screenshot({ path: picture, fullPage: true });
}

const inWindow = async (options, check, ...more) => closing(await open(options), (page) => check(page, ...more));

try {
  for (const colorScheme of ['light', 'dark']) await inWindow({ colorScheme }, checkContrast, colorScheme, lookAtStates);
  await inWindow({}, checkKeyboard);
  await inWindow({ viewport: { width: 320, height: 640 } }, checkNarrow);
  await inWindow({}, checkText, url);
  const teller = await open({}, '');
  const recorded = recording ? record(teller, recording) : null;
  await checkStory(teller);
  await recorded;
  await teller.context().close();
  await inWindow({}, checkLooks, variant);
  if (variant === '--sidecars') await inWindow({}, checkLevers);
  if (picture) await inWindow({}, takePicture);
  await story(); // Last: it leaves Alice with another password.
  assert.deepEqual(faults, []);
} finally {
  await browser.close();
}
