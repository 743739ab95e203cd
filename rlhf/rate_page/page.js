// Asks one question after another. The server decides what is asked, and keeps every answer
// before the next question is shown.

import { Closeup } from "./closeup.js";
import { Finish, agreementOf } from "./finish.js";
import { Instruction } from "./instruction.js";
import { listenToKeys } from "./keys.js";
import { rememberName, rememberedName } from "./memory.js";
import { Player } from "./player.js";
import { get, post } from "./requests.js";
import { Score } from "./score.js";

const byId = (id) => document.getElementById(id);
const PREFERRED = ["first", "neither", "second"];
const HEADINGS = { single: [""], pairs: ["First", "Second"] };
const TASKS = {
  single: (attribute) => (attribute ? `How ${attribute} is this?` : "How well is this played?"),
  pairs: (attribute) => (attribute ? `Which is more ${attribute}?` : "Which is played better?"),
};

const score = new Score(byId("slider"), byId("score"));
const players = [0, 1].map(
  () => new Player(byId("player"), byId("players"), begun, ended),
);
let current = players[0]; // The player that the keys are for.
const finish = new Finish(byId);
const instruction = new Instruction(byId, startQuestion);
const closeup = new Closeup(byId, players, instruction.players, () => current);
let rater = "";
let attribute = "";
let mode = new URLSearchParams(location.search).get("mode") === "pairs" ? "pairs" : "single";
let question = null;
let waiting = false; // For the server: meanwhile nothing else is answered.
let loaded = null; // Fulfilled when the first player can play.
let heard = false; // Whether the second of a pair has been begun.

// --- Playing --------------------------------------------------------------------------------

function makeCurrent(player) {
  current = player;
  for (const other of players) other.root.dataset.current = String(other === player);
}

function begun(player) {
  makeCurrent(player);
  heard ||= player === players[1];
  for (const other of players) if (other !== player) other.media?.pause();
}

// The second of a pair follows the first by itself, once.
function ended(player) {
  player.show();
  if (mode === "pairs" && player === players[0] && !heard) players[1].play();
}

function replay() {
  if (mode === "pairs") heard = false;
  players[0].replay();
}

// --- Questions ------------------------------------------------------------------------------

// Does what has to wait for the server; whatever fails is said, and nothing on the page changes.
async function attempt(work, failure) {
  if (waiting) return false;
  waiting = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
    say("error", "");
    return true;
  } catch (error) {
    say("error", `${failure} ${error.message}`.trim());
    return false;
  } finally {
    waiting = false;
    document.body.removeAttribute("aria-busy");
  }
}

function ask(names = [], asked = mode) {
  return attempt(async () => {
    show(await get("/api/question", { rater, mode: asked, show: names.join(",") }));
  }, "The next question could not be asked.");
}

function answer(path, values, words) {
  return attempt(async () => {
    const { repetition } = question;
    show(await post(path, { rater, attribute, repetition, ...values }));
    say("message", words);
  }, "Not saved, please try again.");
}

function show(next) {
  question = next;
  mode = next.mode;
  const some = next.segments.length > 0;
  document.body.dataset.mode = mode;
  history.replaceState(null, "", mode === "pairs" ? "?mode=pairs" : "/");
  for (const name of ["single", "pairs"]) {
    byId(name).setAttribute("aria-pressed", String(name === mode));
  }
  byId("naming").hidden = true;
  for (const id of ["question", "progress", "who"]) byId(id).hidden = false;
  byId("rater").textContent = rater;
  byId("task").textContent = some ? TASKS[mode](attribute) : finished();
  byId("question").dataset.segments = next.segments.join(",");
  byId("question").dataset.finished = String(!some);
  byId("correcting").textContent = some ? correcting() : "Earlier answers can still be corrected.";
  byId("earlier").disabled = !next.position.earlier.length;
  byId("later").disabled = !next.position.answered;
  showProgress();
  score.set(next.score);
  byId("comment").value = next.comment;
  for (const name of PREFERRED) {
    byId(name).setAttribute("aria-pressed", String(name === next.preferred));
  }
  say("message", "");
  closeup.reset();
  finish.hide();
  if (!some) {
    finish.show(rater).catch((error) => say("error", `No summary can be shown. ${error.message}`));
  }
  loaded = showPlayers();
  focusQuestion();
  scrollTo({ top: 0 });
  if (!some || !instruction.openOnce(rater, mode, attribute)) startQuestion();
}

function focusQuestion() {
  byId("question").focus({ preventScroll: true });
}

// Loads the players; the promise is fulfilled when the first can play.
function showPlayers() {
  heard = false;
  makeCurrent(players[0]);
  const all = players.map((player, index) => {
    const name = question.segments[index];
    player.root.hidden = name === undefined;
    if (name === undefined) return player.unload();
    return player.load(name, HEADINGS[mode][index]);
  });
  return all[0];
}

// Plays as soon as that is possible.
async function startQuestion() {
  const shown = question;
  await loaded;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (shown === question && !still) players[0].play();
}

function finished() {
  if (mode === "single") return `Thank you: you have been through all ${question.total}.`;
  return question.done
    ? "Thank you: more answers would hardly change the order."
    : "There is nothing to compare.";
}

function correcting() {
  if (!question.position.answered) return "";
  if (mode === "pairs") return "You have answered this before. A new answer replaces the old one.";
  return question.score === null
    ? "You have skipped this before. You can rate it now."
    : `You gave this ${question.score}. A new score replaces it.`;
}

function showProgress() {
  const { done, total, passage, passages, seconds_left: seconds } = question;
  byId("bar").max = Math.max(total, 1);
  byId("bar").value = done;
  const most = mode === "pairs" && done < total ? "about " : "";
  byId("count").textContent = `${done} of ${most}${total} answered`;
  byId("passage").textContent =
    passage && passages > 1 ? `Passage ${passage} of ${passages}` : "";
  byId("left").textContent = seconds === null || done === total ? "" : timeLeft(seconds);
}

function timeLeft(seconds) {
  const minutes = Math.max(1, Math.round(seconds / 60));
  return minutes < 90 ? `about ${minutes} min left` : `about ${Math.round(minutes / 60)} h left`;
}

function say(id, words) {
  byId(id).textContent = words;
  if (id === "error") byId(id).hidden = !words;
}

// --- Answers --------------------------------------------------------------------------------

function save() {
  if (mode !== "single" || !question.segments.length) return;
  if (score.value === null) {
    say("error", "Choose a score from 1 to 100 first.");
    return;
  }
  const values = { segment: question.segments[0], score: score.value };
  answer("/api/rate", { ...values, comment: byId("comment").value }, `Saved: ${score.value}.`);
}

function choose(preferred) {
  const [first, second] = question.segments;
  if (mode !== "pairs" || !second) return;
  const words = { first: "the first", second: "the second", neither: "cannot tell" }[preferred];
  answer("/api/compare", { first, second, preferred }, `Saved: ${words}.`);
}

function skip() {
  if (mode !== "single" || !question.segments.length) return;
  answer("/api/skip", { segment: question.segments[0] }, "Skipped.");
}

function undo() {
  attempt(async () => {
    show(await post("/api/undo", { rater, attribute, mode }));
    say("message", "Your last answer has been taken back.");
  }, "Nothing was taken back:");
}

function goEarlier() {
  if (question.position.earlier.length) ask(question.position.earlier);
}

function goLater() {
  if (question.position.answered) ask(question.position.later);
}

// --- Keys -----------------------------------------------------------------------------------

const ALWAYS = {
  " ": () => current.toggle(),
  r: replay,
  z: undo,
  ArrowLeft: goEarlier,
  ArrowRight: goLater,
  i: () => closeup.markBegin(),
  o: () => closeup.markEnd(),
  u: () => closeup.clear(),
  h: () => closeup.toggleHalf(),
  "-": () => closeup.stepVolume(-1),
  "+": () => closeup.stepVolume(1),
  "=": () => closeup.stepVolume(1), // Where + needs Shift.
  "?": explain,
};
const SINGLE = {
  Enter: save,
  ArrowUp: () => score.step(1),
  ArrowDown: () => score.step(-1),
  PageUp: () => score.step(10),
  PageDown: () => score.step(-10),
  Backspace: () => score.rubOut() || undo(),
  s: skip,
  c: () => byId("comment").focus(),
  ...Object.fromEntries([..."0123456789"].map((digit) => [digit, () => score.type(digit)])),
};
const PAIRS = {
  1: () => choose("first"),
  a: () => choose("first"),
  2: () => choose("second"),
  b: () => choose("second"),
  0: () => choose("neither"),
  n: () => choose("neither"),
  Backspace: undo,
};

function keys() {
  if (instruction.open || byId("question").hidden) return null;
  return { ...ALWAYS, ...(mode === "pairs" ? PAIRS : SINGLE) };
}

function explain() {
  for (const player of players) player.media?.pause();
  instruction.show(rater, mode, attribute);
}

// --- Who is rating --------------------------------------------------------------------------

function askName() {
  for (const player of players) player.unload();
  for (const id of ["question", "progress", "who"]) byId(id).hidden = true;
  byId("naming").hidden = false;
  byId("name").value = rater;
  byId("name").focus();
}

async function begin() {
  let given = "";
  await attempt(async () => ({ rater: given, attribute } = await get("/api/start")), "");
  byId("lowest").textContent = attribute ? "1: not at all" : "1: nothing is right";
  byId("highest").textContent = attribute ? "100: fully" : "100: perfect";
  byId("naming").addEventListener("submit", async (event) => {
    event.preventDefault();
    rater = byId("name").value.trim();
    if (rater && (await ask())) rememberName(rater, given);
  });
  rater = rememberedName(given);
  if (!rater || !(await ask())) askName();
}

async function showAgreement() {
  if (!byId("agreement").open) return;
  await attempt(async () => {
    byId("agreed").textContent = agreementOf((await get("/api/summary", { rater })).agreement);
  }, "");
}

const BUTTONS = { save, skip, undo, earlier: goEarlier, later: goLater, change: askName, explain };
for (const [id, act] of Object.entries(BUTTONS)) byId(id).addEventListener("click", act);
for (const name of PREFERRED) byId(name).addEventListener("click", () => choose(name));
for (const name of ["single", "pairs"]) {
  byId(name).addEventListener("click", () => rater && question && ask([], name));
}
byId("less").addEventListener("click", () => score.step(-1));
byId("more").addEventListener("click", () => score.step(1));
byId("agreement").addEventListener("toggle", showAgreement);
listenToKeys(keys, () => waiting, byId("comment"), focusQuestion);
// What was clicked with a pointer gives the keys back to the page.
document.addEventListener("click", (event) => {
  if (event.detail > 0) event.target.closest("button")?.blur();
});
for (const id of ["slider", "volume"]) {
  byId(id).addEventListener("pointerup", () => byId(id).blur());
}
begin();
