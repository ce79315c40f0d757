// The picture: who asks whom, and the requests that run along it.

/** Where the requests pass, in the picture's own units. */
const PLACES = {
  you: [118, 58], thief: [118, 196], envoy: [265, 127], doorward: [265, 214], store: [400, 214],
  A: [522, 35], B: [522, 93], C: [522, 151],
};
/** A leg of the way, in milliseconds; and how soon another request of the same kind is drawn. */
const [LEG, AGAIN] = [190, 700];

const SVG = "http://www.w3.org/2000/svg";
const picture = document.getElementById("picture");
const moves = matchMedia("(prefers-reduced-motion: no-preference)");
const drawn = new Map();

const node = (name) => picture.querySelector(`[data-node="${name}"]`);

/** A dot that runs from place to place, each leg in a state of its own. */
async function run(legs) {
  if (!moves.matches || document.hidden) return;
  const dot = document.createElementNS(SVG, "circle");
  dot.setAttribute("r", "7");
  dot.setAttribute("class", "dot");
  dot.dataset.of = legs[0][0];
  picture.querySelector("[data-node]").before(dot); // Under the boxes: their names stay readable.
  for (const [from, to, state] of legs) {
    dot.dataset.state = state;
    const at = ([x, y]) => `translate(${x}px, ${y}px)`;
    const leg = dot.animate([{ transform: at(PLACES[from]) }, { transform: at(PLACES[to]) }], { duration: LEG, easing: "ease-in-out", fill: "forwards" });
    await leg.finished.catch(() => {});
  }
  dot.remove();
}

/** A request of `you` or of the `thief`, and what became of it. */
export function request(from, service, state) {
  node(service).dataset.state = state;
  if (from === "thief") node("thief").dataset.state = state;
  const key = `${from} ${service} ${state}`;
  if (performance.now() - (drawn.get(key) ?? -AGAIN) < AGAIN) return;
  drawn.set(key, performance.now());
  const asks = [[from, "envoy", "asks"], ["envoy", "doorward", "asks"], ["doorward", "envoy", state]];
  run([...asks, state === "allowed" ? ["envoy", service, state] : ["envoy", from, state]]);
}

/** A sign-out: Doorward writes it. */
export function signedOut() {
  run([["you", "envoy", "asks"], ["envoy", "doorward", "asks"], ["doorward", "store", "good"], ["store", "doorward", "good"]]);
}

/** The thief has a copy. */
export function copied() {
  node("thief").dataset.state = "";
  run([["you", "thief", "asks"]]);
}

/** What holds the sign-outs: Redis, or a file beside the one Doorward; and how many Doorwards there are. */
export function nameStore({ store, doorwards }) {
  picture.dataset.doorwards = doorwards.length > 1 ? "several" : "one";
  node("store").querySelector("text").textContent = store === "redis" ? "Redis" : "Log";
  node("store").querySelector(".sub").textContent = store === "redis" ? "the sign-outs" : "a file";
}

/** What is broken. One Doorward of several is named: the others go on. */
export function broken({ pulled: { redis, doorward, clock }, frozen, clock: stepped, doorwards }) {
  node("store").dataset.state = redis ? "unavailable" : "";
  node("doorward").dataset.state = doorward || clock ? "unavailable" : "";
  const which = [doorward && `${frozen}’s is frozen`, clock && `${stepped}’s clock is off`].filter(Boolean);
  node("doorward").querySelector(".sub").textContent = which.length > 1 ? "two of them are off" : (which[0] ?? (doorwards.length > 1 ? `${doorwards.length} instances` : "list in memory"));
}
