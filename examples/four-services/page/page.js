// The page: a user who signs in and out, three services that are asked all the time, and a thief with a copy
// of the user's token.

import { ask, post } from "./accounts.js";
import { Levers } from "./levers.js";
import { Live } from "./live.js";
import { Session } from "./session.js";
import * as stage from "./stage.js";
import { Story } from "./story.js";
import { Tile, reason, verdict } from "./tiles.js";
import { tell } from "./timeline.js";

const SERVICES = ["A", "B", "C"];
/** How often each service is asked, and how long a revocation may take before the page gives up, in milliseconds. */
const EVERY = 1000;
const LIMIT = 10_000;
/** How long the thief's own try stays in sight, in milliseconds. */
const HELD = 4000;
/** After this number of answers in a row that let nobody in, a service counts as shut, though it refuses nobody. */
const SHUT = 2;
/** How often a sign-out that was not written is tried again, and an ended stream is opened again, in milliseconds. */
const AGAIN = 2000;
/** Why a token is refused whose session is over. */
const OVER = ["signed_out", "revoked"];

const find = (id) => document.getElementById(id);
const tiles = new Map(SERVICES.map((service) => [service, new Tile(service, find("tiles"))]));
/** What the demo's users begin with; a change of password is remembered here, in this window. */
const passwords = { alice: "wonderland", bob: "builder" };

let ending = null; // when the user asked for the end of the session
/** A stream that lives as long as the session, measured from the click. */
const live = new Live(find("live"), (at) => {
  if (ending === null) return tell({ kind: "info", text: "C’s live stream was ended", data: { event: "live" } });
  const ms = Math.max(0, at - ending).toFixed(1);
  live.measured(ms);
  tell({ kind: "good", text: "C’s live stream ended: click to end", figure: `${ms} ms`, data: { event: "live", ms } });
});

let session = null; // who is signed in here
let stolen = null; // {token, login, endsAt}: the thief's copy
let pending = null; // {session, what, call, at}: a sign-out that was not written yet
let heldUntil = 0; // until then the tiles show the thief's own try (performance.now())
let measuring = false; // while a revocation is measured, nothing else is asked
const looking = new Map(); // whose answer is awaited, and with which token
const named = (login) => login.charAt(0).toUpperCase() + login.slice(1);

// --- asking the services --------------------------------------------------------------

/** The token in use: the user's own, else the copy that the thief still has, else none. */
function credential() {
  if (session) return { which: "own", token: session.token };
  return stolen ? { which: "stolen", token: stolen.token } : { which: "none" };
}

async function look(service) {
  const { which, token } = credential();
  const isHeld = () => measuring || performance.now() < heldUntil;
  if (isHeld() || looking.get(service) === which) return;
  const asking = session;
  looking.set(service, which);
  const answer = await ask(service, token);
  if (looking.get(service) === which) looking.delete(service);
  if (isHeld() || credential().token !== token) return; // Another token is in use by now.
  tiles.get(service).show(answer, which);
  if (which !== "none") stage.request(which === "stolen" ? "thief" : "you", service, verdict(answer));
  if (which === "own" && typeof answer.body.email === "string") find("email").textContent = answer.body.email;
  if (which === "own" && verdict(answer) === "allowed") asking.accepted(token);
  if (which === "own" && answer.status === 401) await refused(asking, answer.body.reason);
}

/**
 * As every client does on a 401: new tokens, once. If these are refused in their turn, newer ones would not help; the
 * session is over when the reason says so, and nobody has accepted them meanwhile.
 */
async function refused(asking, why) {
  const isOver = OVER.includes(why);
  if (!asking.isSecond || (isOver && asking.wasAccepted)) return renew(asking, true);
  if (isOver) await over(asking);
}

async function renew(renewing, wasRefused = false) {
  const before = renewing.token;
  const alive = await renewing.renew(wasRefused);
  if (session !== renewing) return;
  if (!alive) await over(renewing);
  else if (renewing.token !== before && stolen?.token !== renewing.token) steal();
}

/** The session was ended, and not from here. */
async function over(ended) {
  if (session !== ended) return;
  leave();
  tell({ kind: "warning", text: `${named(ended.login)}’s session was ended elsewhere.`, data: { event: "over" } });
  await lookAtAll();
}

const lookAtAll = () => Promise.all(SERVICES.map(look));

// --- the user -------------------------------------------------------------------------

async function signIn(event) {
  event.preventDefault();
  await signInAs(new FormData(find("sign-in")).get("login"), find("password").value);
}

async function signInAs(login, password) {
  const { session: begun, answer } = await Session.begin(login, password);
  complain(begun ? "" : answer.status === 401 ? "That password is wrong." : `Accounts answered ${reason(answer)}.`);
  if (!begun) return void find("password").focus();
  session = begun;
  steal();
  show();
  tell({ kind: "info", text: `${named(login)} signed in, and a thief copied the token.` });
  await lookAtAll();
}

/** The session is over here; the thief keeps the copy. */
function leave() {
  session = null;
  pending = null;
  complain("");
  find("password-dialog").close();
  show();
}

const signOut = (token) => post("/auth/logout", { token });
const signOutEverywhere = (token) => post("/auth/logout-everywhere", { token });

/** The last one that was asked for. It is not repeated by itself: the old password may be an old one by then. */
let passwordChange = null;

async function changePassword(event) {
  if (!session || event.submitter?.value !== "change") return;
  const [old, next] = [find("old-password").value, find("new-password").value];
  const { login } = session;
  passwordChange = (token) => post("/auth/password", { token, body: { old, new: next } });
  if (!(await end("changed the password", passwordChange))) return;
  passwords[login] = next;
  suggest();
}

/**
 * Ends the session by `call`, while the thief tries the copy at every service again and again.
 * Measured is the time from the call, and from its answer, to the first refusal at each.
 */
async function end(what, call) {
  if (!session || measuring) return false;
  const { login, token } = session;
  measuring = true;
  ending = performance.now();
  stage.signedOut();
  complain("");
  for (const figure of ["doorward", "browser"]) find(`figure-${figure}`).textContent = "–";
  const attempt = { token, failed: false, answered: false, began: performance.now() };
  const trying = SERVICES.map((service) => tryUntilRefused(service, attempt));
  const answer = await call(token);
  attempt.failed = answer.status !== 204;
  attempt.answered = true;
  if (!attempt.failed) leave();
  const tried = await Promise.all(trying);
  measuring = false;
  if (attempt.failed) {
    ending = null;
    if (answer.status === 403) complain("The old password is wrong.");
    else await notWritten({ session, what, call, at: performance.now() }, answer);
    return false;
  }
  report(`${named(login)} ${what}.`, attempt.began, answer, tried);
  return true;
}

/** A sign-out that the store did not take is not over: it is tried again until it is written. */
async function notWritten(ended, answer) {
  const trouble = await levers.trouble();
  const because = trouble ? `: ${trouble}` : "";
  const isRetried = ended.call !== passwordChange;
  if (isRetried && session === ended.session) pending = ended;
  complain(`Accounts answered ${reason(answer)}${because}. ${isRetried ? "The sign-out is tried again until it is written." : ""}`);
  tell({ kind: "bad", text: `Not written yet: ${named(ended.session.login)} ${ended.what}. Accounts answered ${reason(answer)}${because}.`, data: { event: "not-written" } });
}

async function tryPendingAgain() {
  if (!pending || measuring || performance.now() - pending.at < AGAIN) return;
  const trying = pending;
  trying.at = Infinity;
  const answer = await trying.call(trying.session.token);
  trying.at = performance.now();
  if (pending !== trying || session !== trying.session) return;
  // The services may refuse the token by now: Doorward wrote what it was told before the store failed.
  if (answer.status !== 204 && !OVER.includes(answer.body.reason)) return;
  leave();
  tell({ kind: "good", text: `Written at last: ${named(trying.session.login)} ${trying.what}.`, data: { event: "written" } });
  await lookAtAll();
}

/** The first answer that refuses the token, or that of a service which lets nobody in; `null` when none came, or when the revocation failed. */
async function tryUntilRefused(service, attempt) {
  let [shut, last] = [0, null];
  while (!attempt.failed && performance.now() - attempt.began < LIMIT) {
    const answer = await ask(service, attempt.token);
    if (attempt.failed) return null;
    tiles.get(service).show(answer, "stolen");
    stage.request("thief", service, verdict(answer));
    if (answer.status === 401) return answer;
    shut = verdict(answer) === "unavailable" ? shut + 1 : 0;
    last = answer;
    if (shut >= SHUT && attempt.answered) return answer;
  }
  return shut >= SHUT && !attempt.failed ? last : null;
}

function report(what, began, answer, tried) {
  const after = (from, to) => Math.max(0, to - from).toFixed(1);
  tell({ kind: "info", text: what, figure: `answered in ${answer.ms.toFixed(1)} ms` });
  const answers = SERVICES.map((service, index) => ({ service, refused: tried[index] }));
  const refusals = answers.filter(({ refused }) => refused === null || refused.status === 401);
  for (const { service, refused } of answers.filter((one) => !refusals.includes(one))) {
    tell({ kind: "warning", text: `${service} lets nobody in: ${reason(refused)}`, data: { event: "closed", service } });
  }
  for (const { service } of refusals.filter(({ refused }) => !refused)) {
    tell({ kind: "bad", text: `${service} did not refuse the stolen token within ${LIMIT / 1000} s.`, data: { event: "alive" } });
  }
  const dead = refusals.filter(({ refused }) => refused).sort((a, b) => a.refused.at - b.refused.at);
  for (const { service, refused } of dead) {
    const text = `${service} refused the stolen token: ${reason(refused)}`;
    tell({ kind: "good", text, figure: `${after(began, refused.at)} ms`, data: { event: "refused", service } });
  }
  find("figure-doorward").textContent = answer.doorward ? `${answer.doorward.ms} ms` : "–";
  if (answer.doorward) {
    const text = `Doorward: written, and refused by every instance (${instances(answer.doorward.instances)})`;
    tell({ kind: "good", text, figure: `${answer.doorward.ms} ms`, data: { event: "doorward", ms: answer.doorward.ms } });
  } else if (levers.seen) {
    const { frozen, pulled } = levers.seen;
    const who = pulled.doorward ? `the frozen one of ${frozen}` : "one of the Doorwards";
    tell({ kind: "warning", text: `Doorward: written; ${who} has not confirmed it yet`, data: { event: "unconfirmed" } });
  }
  if (dead.length < SERVICES.length) return;
  const last = dead.at(-1).refused.at;
  const data = { event: "dead", sinceAnswer: after(answer.at, last), sinceClick: after(began, last) };
  find("figure-browser").textContent = `${after(began, last)} ms`;
  tell({ kind: "good", text: "Refused by A, B and C: click to last refusal", figure: `${after(began, last)} ms`, data });
}

/** How many confirmed; and what of the others, where the stage has more. */
function instances(confirmed) {
  const { doorwards = [], frozen, pulled } = levers.seen ?? {};
  if (doorwards.length <= confirmed) return confirmed;
  return `${confirmed} of ${doorwards.length}; ${pulled?.doorward ? `the frozen one of ${frozen}` : "one without a lease"} lets nobody in`;
}

// --- the thief ------------------------------------------------------------------------

function steal() {
  stolen = { token: session.token, login: session.login, endsAt: session.endsAt };
  ending = null;
  heldUntil = 0;
  live.open(session.token); // The token of a stream is the one that opened it.
  const { token } = stolen;
  stage.copied();
  const code = document.createElement("code");
  code.textContent = `${token.slice(0, 14)}…${token.slice(-8)}`;
  find("loot").replaceChildren(`Has ${named(stolen.login)}’s token: `, code);
  find("try-stolen").disabled = false;
}

async function tryStolen() {
  const { token, login } = stolen;
  const answers = await Promise.all(SERVICES.map((service) => ask(service, token)));
  for (const [index, answer] of answers.entries()) {
    tiles.get(SERVICES[index]).show(answer, "stolen");
    stage.request("thief", SERVICES[index], verdict(answer));
  }
  heldUntil = performance.now() + HELD;
  const inside = SERVICES.filter((_, index) => verdict(answers[index]) === "allowed");
  const reasons = [...new Set(answers.map(reason))];
  const said = reasons.length === 1 ? `${reasons[0]} at ${SERVICES.join(", ")}` : reasons.join(", ");
  const data = { event: "tried", inside: inside.length };
  const text = inside.length ? `The thief came in as ${named(login)}: ${said}` : `The thief stays outside: ${said}`;
  tell({ kind: inside.length ? "warning" : "good", text, data });
  return inside.length;
}

// --- what is shown --------------------------------------------------------------------

function show() {
  const focused = document.activeElement;
  find("sign-in").hidden = session !== null;
  find("signed-in").hidden = session === null;
  if (session) {
    find("user").textContent = named(session.login);
    find("email").textContent = "";
  }
  suggest();
  tick();
  // What had the focus is hidden by now; the keyboard goes on in the same place.
  if (!focused.checkVisibility()) find(session ? "sign-out" : "submit-sign-in").focus();
}

function suggest() {
  const known = passwords[new FormData(find("sign-in")).get("login")];
  find("password").value = known;
  find("password-known").textContent = known;
}

const complain = (text) => {
  find("problem").textContent = text;
};

function left(endsAt) {
  const seconds = Math.max(0, Math.round((endsAt - Date.now()) / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

function tick() {
  if (session) find("own-left").textContent = left(session.endsAt);
  find("loot-left").hidden = stolen === null;
  if (stolen) find("loot-left").querySelector(".figure").textContent = left(stolen.endsAt);
}

// --- start ----------------------------------------------------------------------------

find("sign-in").addEventListener("submit", signIn);
find("sign-in").addEventListener("change", (event) => event.target.name === "login" && suggest());
find("sign-out").addEventListener("click", () => end("signed out", signOut));
find("sign-out-everywhere").addEventListener("click", () => end("signed out everywhere", signOutEverywhere));
find("change-password").addEventListener("click", () => {
  find("password-form").reset();
  find("password-dialog").showModal();
});
find("password-form").addEventListener("submit", changePassword);
find("try-stolen").addEventListener("click", tryStolen);

setInterval(() => {
  tick();
  if (session?.isDue) renew(session);
  if (session && !measuring && live.hasEndedFor(AGAIN)) live.openAgain(session.token);
  tryPendingAgain();
  lookAtAll();
}, EVERY);

// --- the story, until its reader takes over -------------------------------------------

const levers = new Levers(find("broken"));
/** Each says what is so, and checks it: null, or what is not so. */
const story = new Story(find("stage"), () => levers.trouble(), {
  "signed-in": async () => {
    if (session) await end("signed out", signOut);
    if (!session) await signInAs("alice", passwords.alice);
    const isIn = await until(() => SERVICES.every((service) => tiles.get(service).shows("allowed", "own")));
    return isIn ? null : "not every service lets Alice in";
  },
  copied: async () => {
    stage.copied();
    return stolen ? null : "there is no token to copy";
  },
  inside: async () => {
    const inside = await tryStolen();
    return inside === SERVICES.length ? null : `the copy opens ${inside} of ${SERVICES.length} doors`;
  },
  "signed-out": async () => ((await end("signed out", signOut)) ? null : "the sign-out was not written"),
  shut: async () => {
    const inside = await tryStolen();
    return inside === 0 ? null : `the copy opens ${inside} of ${SERVICES.length} doors`;
  },
});

/** Waits for a condition, as long as a request may take. */
async function until(holds) {
  for (const began = performance.now(); performance.now() - began < LIMIT / 2; ) {
    if (holds()) return true;
    await new Promise((wake) => setTimeout(wake, 50));
  }
  return holds();
}
for (const action of ["pointerdown", "keydown"]) {
  document.querySelector("main").addEventListener(action, (event) => {
    if (!event.target.closest("#broken")) story.stop(); // It waits while something is broken, and goes on.
  });
}

levers.start();
show();
lookAtAll();
// With #try there is no story: it goes on from a window in which it was told. Nor does anything move by itself for those
// who want it still.
if (location.hash !== "#try" && matchMedia("(prefers-reduced-motion: no-preference)").matches) story.play();
else find("stage").querySelector(".play").hidden = false;
