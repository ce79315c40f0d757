// What tests of a page in a real Chromium share: its windows, and what each page must be.
import assert from 'node:assert/strict';
import { pathToFileURL } from 'node:url';

/** Chromium, by the playwright-core of a folder; exits with 77 when none starts here. */
export async function launch(folder, executablePath) {
  const { chromium } = await import(pathToFileURL(`${folder}/node_modules/playwright-core/index.mjs`).href);
  return chromium.launch({ executablePath }).catch((error) => {
    console.error(error.message);
    process.exit(77);
  });
}

/**
 * Windows of a browser, each of which shares nothing with another. `faults` is what went wrong in them: errors, messages
 * on the console that are not `isExpected`, and requests to addresses that are not `isOwn`. A window keeps what it sends
 * in `page.sent`.
 */
export function windows(browser, viewport, { isExpected, isOwn }) {
  const faults = [];
  const open = async (url, options = {}) => {
    const context = await browser.newContext({ viewport, ...options });
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    page.sent = [];
    page.on('pageerror', (error) => faults.push(`${error}`));
    page.on('console', (message) => {
      // Chromium logs each unsuccessful answer; some are intended.
      const expected = message.text().startsWith('Failed to load resource') && isExpected(message.location().url);
      if (['error', 'warning'].includes(message.type()) && !expected) faults.push(message.text());
    });
    page.on('request', (request) => {
      if (!isOwn(request.url())) faults.push(`a request to ${request.url()}`);
      page.sent.push(`${request.url()} ${request.postData() ?? ''}`);
    });
    await page.goto(url);
    return page;
  };
  return { faults, open };
}

/** One check in a window of its own, which is closed then: it would go on asking. */
export async function closing(page, check) {
  await check(page);
  await page.unrouteAll({ behavior: 'ignoreErrors' });
  await page.context().close();
}

/** Of the element that has the focus: its id or value, and whether one sees that it has it. */
export function focused(page) {
  return page.evaluate(() => {
    const element = document.activeElement;
    const outlined = [element, element.parentElement].some((one) => {
      const { outlineStyle, outlineWidth } = getComputedStyle(one);
      return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
    });
    return { name: element.id || element.value, outlined };
  });
}

/** WCAG 2.2, 1.4.3: 4.5 to 1 for all text that is there, each time that `walk` calls the function that it gets. */
export async function checkContrast(page, scheme, walk) {
  let least = Infinity;
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
  assert.equal(Math.max(...ground) < 64, scheme === 'dark', `${scheme}: the ground is ${ground}`);
  await walk(page, async (when) => {
    for (const { text, ratio } of await page.evaluate(contrasts)) {
      assert.ok(ratio >= 4.5, `${scheme}, ${when}: ${text} has a contrast of ${ratio.toFixed(2)}`);
      least = Math.min(least, ratio);
    }
  });
  console.log(`${scheme}: the least contrast is ${least.toFixed(1)} to 1`);
}

/** Runs in the page: each visible text with the contrast to what is behind it. */
function contrasts() {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.data.trim();
    if (!text || element.closest('template, noscript, button:disabled') || !element.checkVisibility({ visibilityProperty: true })) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    found.push({ text, ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) });
  }
  return found;
}
