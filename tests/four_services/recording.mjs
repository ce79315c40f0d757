// A recording of the story as one animated SVG, from the page's states while it ran.
import { writeFileSync } from 'node:fs';

/** Between two looks, in milliseconds; dots at once; how long the last sight stays. */
const [EVERY, DOTS, REST] = [80, 8, 2500];

/** Watches the picture until the story is told, and writes the recording. */
export async function record(page, file) {
  const looks = await page.evaluate(watch, EVERY);
  writeFileSync(file, drawing(looks));
  console.log(`recorded ${looks.length} looks into ${file}`);
}

/** Runs in the page: what the picture and the story show, again and again. */
async function watch(every) {
  const looks = [];
  const began = performance.now();
  const stage = document.getElementById('stage');
  while (stage.dataset.story !== 'running') await new Promise(requestAnimationFrame);
  while (stage.dataset.story === 'running') {
    const dots = [...document.querySelectorAll('#picture .dot')].map((dot) => {
      dot.recorded ??= Math.random();
      const { e, f } = new DOMMatrix(getComputedStyle(dot).transform);
      return { key: dot.recorded, x: Math.round(e), y: Math.round(f), state: dot.dataset.state };
    });
    const nodes = Object.fromEntries([...document.querySelectorAll('#picture [data-node]')].map((node) => [node.dataset.node, node.dataset.state ?? '']));
    const figure = (id) => document.getElementById(id).textContent;
    looks.push({ t: performance.now() - began, dots, nodes, step: stage.querySelector('[data-state="now"]')?.textContent ?? '', figures: [figure('figure-doorward'), figure('figure-browser')] });
    await new Promise((wake) => setTimeout(wake, every));
  }
  return looks;
}

const BOXES = {
  you: [6, 30, 112, 56, 'You', 'a browser'], thief: [6, 168, 112, 56, 'Thief', 'with a copy'],
  envoy: [207, 99, 116, 56, 'Envoy', 'asks: may it?'], doorward: [207, 186, 116, 56, 'Doorward', 'list in memory'],
  store: [400, 186, 112, 56, 'Log', 'the sign-outs'], A: [522, 10, 112, 50, 'A'], B: [522, 68, 112, 50, 'B'], C: [522, 126, 112, 50, 'C'],
};

function drawing(looks) {
  const total = looks.at(-1).t + REST;
  const percent = (t) => `${((t / total) * 100).toFixed(2)}%`;
  const styles = [];
  const animate = (selector, name, frames, timing = 'step-end') => {
    styles.push(`${selector}{animation:${name} ${(total / 1000).toFixed(1)}s ${timing} infinite}@keyframes ${name}{${frames.join('')}}`);
  };
  /** Keyframes where a value changes. */
  const changes = (value, write) => {
    let last;
    const frames = [];
    looks.forEach((look) => {
      const now = value(look);
      if (now === last) return;
      frames.push(`${frames.length ? percent(look.t) : '0%'}{${write(now)}}`);
      last = now;
    });
    return frames;
  };
  for (const name of Object.keys(BOXES)) {
    if (name === 'doorward') continue;
    const frames = changes(({ nodes }) => nodes[name], (state) => (state ? `stroke:var(--${state});fill:var(--${state}-ground)` : 'stroke:var(--field);fill:var(--ground)'));
    if (frames.length > 1) animate(`#${name} rect`, `n-${name}`, frames);
  }
  // A dot keeps its place among the dots for as long as it runs.
  const places = Array.from({ length: DOTS }, () => []);
  const placed = new Map();
  for (const { t, dots } of looks) {
    for (const key of placed.keys()) if (!dots.some((dot) => dot.key === key)) placed.delete(key);
    const free = [...places.keys()].filter((place) => ![...placed.values()].includes(place));
    for (const { key } of dots) if (!placed.has(key) && free.length) placed.set(key, free.shift());
    places.forEach((frames, place) => {
      const dot = dots.find(({ key }) => placed.get(key) === place);
      frames.push({ t, dot });
    });
  }
  const used = places.map((frames, place) => {
    const kept = [];
    let last = 'none';
    frames.forEach(({ t, dot }) => {
      const text = dot ? `transform:translate(${dot.x}px,${dot.y}px);fill:var(--${dot.state});opacity:1` : 'opacity:0';
      if (!dot && last === text) return;
      last = text;
      kept.push(`${kept.length ? percent(t) : '0%'}{${text}}`);
    });
    if (kept.length > 1) animate(`#d${place}`, `d${place}`, kept);
    return kept.length > 1;
  });
  const steps = [...new Set(looks.map(({ step }) => step).filter(Boolean))];
  steps.forEach((step, at) => animate(`#s${at}`, `s${at}`, changes((look) => look.step === step, (now) => `opacity:${Number(now)}`)));
  const figures = looks.at(-1).figures;
  animate('#f', 'f', changes((look) => look.figures.join() === figures.join() && !figures.includes('–'), (now) => `opacity:${Number(now)}`));
  const box = ([name, [x, y, width, height, title, sub]]) => {
    const middle = x + width / 2;
    return `<g id="${name}"><rect x="${x}" y="${y}" width="${width}" height="${height}" rx="10"/><text x="${middle}" y="${y + (sub ? 25 : 31)}">${title}</text>${sub ? `<text class="sub" x="${middle}" y="${y + 44}">${sub}</text>` : ''}</g>`;
  };
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 330" width="860" role="img" aria-label="${steps.join(' ')}">
<style>
svg{--ground:#f6f5f1;--card:#fff;--ink:#1b2530;--soft:#56616d;--line:#dcdad2;--field:#8a929b;--asks:#155e63;--on:#fff;--good:#12693f;--allowed:#12693f;--allowed-ground:#e6f3eb;--refused:#a8231c;--refused-ground:#fbeae8;--unavailable:#7a4b00;--unavailable-ground:#fdf1da;font-family:system-ui,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif}
@media(prefers-color-scheme:dark){svg{--ground:#11161b;--card:#1a2128;--ink:#e9edf0;--soft:#a3aeb8;--line:#303a44;--field:#77838e;--asks:#7fd0d3;--on:#08262a;--good:#74d69f;--allowed:#74d69f;--allowed-ground:#163024;--refused:#ff9a90;--refused-ground:#3b1e1c;--unavailable:#f1c26b;--unavailable-ground:#362a12}}
rect{fill:var(--ground);stroke:var(--field);stroke-width:1.75}text{fill:var(--ink);font-size:17px;font-weight:650;text-anchor:middle}.sub{fill:var(--soft);font-size:13px;font-weight:400}
.card{fill:var(--card);stroke:none}path{fill:none;stroke:var(--line);stroke-width:2.5}#doorward rect{fill:var(--asks);stroke:var(--asks)}#doorward text{fill:var(--on)}circle{stroke:var(--card);stroke-width:2;opacity:0}
.s,#f{opacity:0}.s text{font-size:16px}#f text{font-size:13px;font-weight:400;fill:var(--soft)}#f .n{font:650 15px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:var(--good)}
${styles.join('\n')}
</style>
<rect class="card" width="640" height="330" rx="14"/>
<path d="M118 58 265 127M118 196 265 127M265 127V214M325 214H400M265 127 522 35M265 127 522 93M265 127 522 151"/>
${Object.entries(BOXES).map(box).join('\n')}
${used.map((is, place) => (is ? `<circle id="d${place}" r="7"/>` : '')).join('')}
${steps.map((step, at) => `<g class="s" id="s${at}"><text x="320" y="280">${step}</text></g>`).join('\n')}
<g id="f"><text x="320" y="308">written, and refused by every Doorward: <tspan class="n">${figures[0]}</tspan> · the browser’s round trip: <tspan class="n">${figures[1]}</tspan></text></g>
</svg>
`;
}
