// The page: one picture at a time or a grid of look-alikes, one key a class. What is drawn next lies here already;
// answers travel behind the person's back (outbox.js).
import { Outbox, newId } from "/outbox.js";

const AHEAD = 6; // pictures that lie here before they are needed
const GRID = 24;
const UNDOABLE = 100;
const SHOWN = 40; // class buttons at once where there are more classes than keys
const LOOK_AGAIN = 4_000; // milliseconds
const KEYS = [..."1234567890abcdefghijklmnopqrstuvwxyz"];
const element = (id) => document.getElementById(id);

const tab = newId();
const page = {
  name: "", round: null, classes: [], classesTag: "", progress: null, autoRelease: false,
  current: null, ahead: [], done: [], // done: batches of answers, newest last, for undo
  grid: null, gridTurn: 0, setAside: new Set(), // grid: {pictures: [{picture, image, out}]}
  note: "", predictionSeen: false, shownAt: 0, recent: [], filling: false, stopped: false,
};
let outbox = null;

// ---------------------------------------------------------------- the server
async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json", "x-al-page": "1" },
  };
  const response = await fetch(path, options);
  const reply = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw Object.assign(new Error(reply.error), { status: response.status });
  return reply;
}

async function sendAnswers(round, answers) {
  try {
    return await ask("/api/answers", { round, tab, answers });
  } catch (error) {
    // What the server will never take must not block what comes after it.
    if ([400, 404, 409, 413].includes(error.status)) {
      return { kept: [], refused: Object.fromEntries(answers.map((one) => [one.event_id, error.message])) };
    }
    throw error;
  }
}

function heard(waiting, reply) {
  if (reply.error) {
    if (reply.error.status === 401) tell(`${waiting} answers wait here: ${reply.error.message}`, true);
    else tell(`not saved yet: ${waiting} answers wait for the server; they are sent again by themselves`, true);
    return;
  }
  const refused = Object.values(reply.refused ?? {});
  if (refused.length) tell(`${refused.length} answers were not taken: ${refused[0]}`, true);
  else if (reply.released) tell(`every picture is answered: ${reply.released.labels} labels were released`);
  else if (element("message").classList.contains("bad")) tell("everything is saved");
  if (reply.progress) showProgress(reply.progress);
}

// ---------------------------------------------------------------- what people see
function tell(text, bad = false) {
  element("message").textContent = text;
  element("message").classList.toggle("bad", bad);
}

function showProgress(progress) {
  page.progress = progress;
  element("bar").max = Math.max(progress.total, 1);
  element("bar").value = progress.settled;
  const left = progress.seconds_left === null ? "" : ` · about ${time(progress.seconds_left)} left for you`;
  const others = [[progress.unsure, "unsure"], [progress.bad, "bad"]].filter(([count]) => count);
  const beside = others.length ? ` (${others.map(([count, what]) => `${count} ${what}`).join(", ")})` : "";
  element("progress").textContent = `${progress.settled} of ${progress.total}${beside}${left}`;
}

function time(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function matches() {
  const typed = element("search").value.trim().toLowerCase();
  if (typed) {
    const found = page.classes.filter((name) => name.toLowerCase().includes(typed));
    return found.sort((a, b) => b.toLowerCase().startsWith(typed) - a.toLowerCase().startsWith(typed)).slice(0, SHOWN);
  }
  if (page.classes.length <= KEYS.length) return page.classes;
  const recent = page.recent.filter((name) => page.classes.includes(name));
  return [...recent, ...page.classes.filter((name) => !recent.includes(name))].slice(0, SHOWN);
}

const many = () => page.classes.length > KEYS.length;

// A class that is called like a key has that key, the others have the keys that are left, in their order.
function keysOf(names) {
  const keys = many() ? KEYS.slice(0, 10) : [...KEYS];
  const own = new Map();
  for (const name of many() ? [] : names) {
    const key = name.toLowerCase();
    if (keys.includes(key) && ![...own.values()].includes(key)) own.set(name, key);
  }
  const left = keys.filter((key) => ![...own.values()].includes(key));
  return names.map((name) => own.get(name) ?? left.shift());
}

function showClasses() {
  element("search-line").hidden = !many();
  const names = matches();
  const keys = keysOf(names);
  element("classes").replaceChildren(...names.map((name, place) => {
    const button = document.createElement("button");
    button.append(name);
    if (keys[place]) {
      const key = document.createElement("kbd");
      key.textContent = keys[place];
      if (keys[place] !== name) button.append(" ", key);
      button.setAttribute("aria-keyshortcuts", keys[place]);
    }
    button.addEventListener("click", (event) => choose(name, event));
    return button;
  }));
}

function sentence(text) {
  const paragraph = document.createElement("p");
  paragraph.textContent = text;
  element("stage").className = "";
  element("stage").replaceChildren(paragraph);
}

function load(picture, small = false) {
  const image = new Image();
  image.alt = "picture to label";
  image.draggable = false;
  image.src = `/picture/${picture}${small ? "?small" : ""}`;
  const ready = image.decode().then(() => image.classList.toggle("tiny", image.naturalWidth <= 64), () => {
    image.failed = true;
  });
  return { picture, image, ready };
}

function draw(event) {
  const stage = element("stage");
  stage.className = "";
  element("zoom").setAttribute("aria-pressed", "false");
  element("prediction").textContent = "";
  page.note = "";
  page.predictionSeen = false;
  if (!page.current) return nothing();
  const { image } = page.current;
  stage.replaceChildren(image);
  if (image.failed) broken(page.current);
  page.current.ready.then(() => page.current?.image === image && image.failed && broken(page.current));
  drawn(event);
  return undefined;
}

function broken(current) {
  sentence("This picture cannot be shown. Shift B marks it as a bad image; the file is kept.");
  element("stage").firstChild.dataset.picture = current.picture;
}

// From the key to the picture on the screen, for whoever measures (User Timing).
function drawn(event) {
  page.shownAt = performance.now();
  if (!event) return;
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => performance.measure("key-to-picture", { start: event.timeStamp, end: performance.now() });
    channel.port2.postMessage(null);
  });
}

function nothing() {
  const progress = page.progress;
  if (page.round === null) sentence("No round is staged yet. This page shows the first one when it is.");
  else if (!progress || page.filling) sentence("Loading …");
  else if (progress.open_to_me === 0 && progress.settled >= progress.total) {
    sentence(page.autoRelease ? "Every picture of this round is answered and released. Thank you."
      : "Every picture of this round is answered. Release it, and training begins.");
  } else if (progress.open_to_me === 0) sentence("You have answered all that you can; the rest waits for others.");
  else sentence("The open pictures are on other people's screens. What they leave comes here by itself.");
}

// ---------------------------------------------------------------- pictures ahead
async function fill() {
  if (page.filling || page.stopped || page.round === null || page.grid || page.ahead.length >= AHEAD) return;
  page.filling = true;
  const round = page.round;
  try {
    await outbox.flush(); // an answer the server does not know yet would bring its picture again
    const have = [page.current, ...page.ahead].filter(Boolean).map((one) => one.picture);
    const reply = await ask("/api/next", { round, tab, want: AHEAD + 1 - have.length, have });
    if (round !== page.round) return;
    page.ahead.push(...reply.pictures.map((picture) => load(picture)));
    showProgress(reply.progress);
    if (reply.classes_tag !== page.classesTag) await takeClasses();
  } catch (error) {
    tell(error.message, true);
  } finally {
    page.filling = false;
  }
  if (!page.grid && !page.current) {
    page.current = page.ahead.shift() ?? null;
    draw();
  }
}

// Somebody else added, renamed or merged a class.
async function takeClasses() {
  const session = await ask(`/api/session?tab=${tab}&round=${page.round}`);
  Object.assign(page, { classes: session.classes, classesTag: session.classes_tag });
  showClasses();
  tell("the classes were changed: look at the keys");
}

// ---------------------------------------------------------------- answers
function answerOf(kind, picture, more, milliseconds) {
  return {
    event_id: newId(), picture, kind, note: page.note, mode: page.grid ? "grid" : "single",
    milliseconds, prediction_seen: page.predictionSeen, ...more,
  };
}

function answer(kind, event, more = {}) {
  if (page.grid || !page.current) return;
  const { current } = page;
  const given = answerOf(kind, current.picture, more, performance.now() - page.shownAt);
  page.current = page.ahead.shift() ?? null;
  draw(event); // first the next picture, then everything else
  remember({ answers: [given], shown: [current] });
  outbox.push(page.round, [given]);
  fill();
}

function choose(name, event) {
  page.recent = [name, ...page.recent.filter((one) => one !== name)].slice(0, 9);
  if (element("search").value || document.activeElement === element("search")) {
    element("search").value = "";
    element("search").blur();
    showClasses();
  } else if (many()) showClasses();
  if (page.grid) labelGrid(name);
  else answer("label", event, { label: name });
}

function remember(batch) {
  page.done.push(batch);
  if (page.done.length > UNDOABLE) page.done.shift();
}

function undo() {
  const batch = page.done.pop();
  if (!batch) {
    tell("there is nothing to take back on this page");
    return;
  }
  outbox.push(page.round, batch.answers.map((one) => answerOf("undo", one.picture, { undoes: one.event_id }, 0)));
  tell(`taken back: ${batch.answers.length === 1 ? "the last answer" : `${batch.answers.length} answers`}`);
  if (batch.grid) {
    if (page.grid) showGrid(batch.grid);
  } else if (!page.grid) {
    if (page.current) page.ahead.unshift(page.current);
    [page.current] = batch.shown;
    draw();
  }
}

// ---------------------------------------------------------------- the grid
async function switchGrid() {
  if (page.grid) {
    handBack(page.grid.map((one) => one.picture));
    page.grid = null;
    element("grid").setAttribute("aria-pressed", "false");
    page.setAside.clear();
    page.current = null;
    draw();
    await fill();
    return;
  }
  handBack([page.current, ...page.ahead].filter(Boolean).map((one) => one.picture));
  page.ahead = [];
  page.current = null;
  page.grid = [];
  element("grid").setAttribute("aria-pressed", "true");
  await nextGrid();
}

async function nextGrid() {
  const turn = ++page.gridTurn; // what is asked for last is shown: an undo may come in between
  page.grid = [];
  await outbox.flush();
  const body = { round: page.round, tab, want: GRID, have: [...page.setAside] };
  const reply = await ask("/api/grid", body).catch((error) => { tell(error.message, true); return null; });
  if (!reply) return;
  if (!page.grid || turn !== page.gridTurn) {
    handBack(reply.pictures);
    return;
  }
  showProgress(reply.progress);
  if (!reply.pictures.length) {
    tell("no more look-alikes: what is left comes one by one");
    await switchGrid();
    return;
  }
  const pictures = reply.pictures.map((picture) => ({ ...load(picture, true), out: false }));
  await Promise.all(pictures.map((one) => one.ready));
  if (page.grid && turn === page.gridTurn) showGrid(pictures);
}

function showGrid(pictures) {
  page.gridTurn += 1;
  page.grid = pictures;
  page.note = "";
  page.predictionSeen = false;
  element("stage").className = "many";
  element("prediction").textContent = "Click what differs, then one key labels the rest.";
  element("stage").replaceChildren(...pictures.map((one, place) => {
    const button = document.createElement("button");
    one.image.alt = `picture ${place + 1}`;
    button.setAttribute("aria-pressed", String(one.out));
    button.append(one.image);
    button.addEventListener("click", () => {
      one.out = !one.out;
      button.setAttribute("aria-pressed", String(one.out));
      button.blur();
    });
    return button;
  }));
  drawn();
}

function labelGrid(name) {
  if (!page.grid.length) return; // the next screen is on its way
  const chosen = page.grid.filter((one) => !one.out);
  const out = page.grid.filter((one) => one.out);
  if (!chosen.length) {
    tell("everything is taken out; Space skips this screen");
    return;
  }
  const each = (performance.now() - page.shownAt) / chosen.length;
  const given = chosen.map((one) => answerOf("label", one.picture, { label: name }, each));
  remember({ answers: given, grid: page.grid });
  outbox.push(page.round, given);
  setAside(out);
  tell(`${given.length} labeled; ${out.length} taken out come later, one by one`);
  nextGrid();
}

function setAside(pictures) {
  for (const one of pictures) page.setAside.add(one.picture);
  handBack(pictures.map((one) => one.picture));
}

function handBack(pictures) {
  if (!pictures.length || page.round === null) return;
  const body = JSON.stringify({ round: page.round, tab, pictures });
  const headers = { "content-type": "application/json", "x-al-page": "1" };
  fetch("/api/hand_back", { method: "POST", body, headers, keepalive: true }).catch(() => {});
}

// ---------------------------------------------------------------- tools
async function showPrediction() {
  if (page.grid || !page.current) return;
  const { picture } = page.current;
  page.predictionSeen = true;
  const found = await ask(`/api/prediction?round=${page.round}&picture=${picture}`).catch((error) => ({ error }));
  if (page.current?.picture !== picture) return;
  if (found.error) tell(found.error.message, true);
  else if (!found.label) element("prediction").textContent = "no model has seen this picture";
  else element("prediction").textContent = `the model says ${found.label}, ${Math.round(100 * found.confidence)} % sure`;
}

function zoom() {
  const zoomed = element("stage").classList.toggle("zoomed");
  element("zoom").setAttribute("aria-pressed", String(zoomed));
}

function showChange() {
  const names = page.classes.map((name) => new Option(name, name));
  element("change-name").replaceChildren(new Option("a new one", ""), ...names);
  element("change-into").value = "";
  element("change-effect").textContent = "";
  element("change-confirm").disabled = true;
  element("classes-dialog").showModal();
}

function wantedChange(confirmed) {
  const name = element("change-name").value;
  const into = element("change-into").value.trim();
  if (!name) return { kind: "add", name: into, confirmed };
  return { kind: page.classes.includes(into) ? "merge" : "rename", name, into, confirmed };
}

async function tellChange() {
  const change = wantedChange(false);
  element("change-confirm").disabled = true;
  try {
    const effect = await ask("/api/classes", change);
    const does = {
      add: `A new class ${change.name}. Labels that stand are not touched.`,
      rename: `${change.name} will be called ${change.into}`,
      merge: `${change.name} will be part of ${change.into}, for good`,
    }[change.kind];
    const counts = ` — ${effect.merged_labels} merged labels and ${effect.labels_here} given on this page follow.`;
    element("change-effect").textContent = does + (change.kind === "add" ? "" : counts);
    element("change-confirm").disabled = false;
  } catch (error) {
    element("change-effect").textContent = error.message;
  }
}

async function doChange() {
  try {
    const { classes, classes_tag: classesTag } = await ask("/api/classes", wantedChange(true));
    Object.assign(page, { classes, classesTag });
    showClasses();
    element("classes-dialog").close();
    tell("the classes are changed");
  } catch (error) {
    element("change-effect").textContent = error.message;
  }
}

function showRelease() {
  const { progress } = page;
  if (!progress) return;
  const open = progress.total - progress.settled;
  element("release-text").textContent =
    `${progress.labeled} of ${progress.total} pictures have a label; they go into the dataset, and a model is trained. ` +
    (open ? `${open} are open and stay so: release again when they are answered.` : "Every picture is answered.");
  element("release-dialog").showModal();
}

async function release() {
  await outbox.flush();
  try {
    const { released, progress } = await ask("/api/release", { round: page.round, tab });
    showProgress(progress);
    tell(released.new ? `released: ${released.labels} labels wait for the next training`
      : "nothing new since the last release");
  } catch (error) {
    tell(error.message, true);
  }
  element("release-dialog").close();
}

// ---------------------------------------------------------------- keys
const COMMANDS = {
  Backspace: undo,
  " ": (event) => (page.grid ? skipGrid() : answer("unsure", event)),
  B: (event) => answer("bad_image", event),
  N: () => page.current && element("note-dialog").showModal(),
  Z: zoom,
  P: showPrediction,
  G: switchGrid,
  "?": () => element("help-dialog").showModal(),
  "/": () => { element("search-line").hidden = false; element("search").focus(); },
};

function skipGrid() {
  setAside(page.grid);
  nextGrid();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (target === element("search")) {
    if (event.key === "Enter" && matches().length) choose(matches()[0], event);
    if (event.key === "Escape") { element("search").value = ""; showClasses(); element("search").blur(); }
    return;
  }
  if (target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement) return;
  if (!element("keys-on").checked && event.key !== "?") return;
  if (target instanceof HTMLButtonElement && [" ", "Enter"].includes(event.key)) return; // the button's own keys
  if (event.repeat) return; // a key held down is one answer
  const place = keysOf(matches()).indexOf(event.key);
  if (place >= 0) choose(matches()[place], event);
  else if (COMMANDS[event.key]) COMMANDS[event.key](event);
  else if (many() && event.key.length === 1) { element("search").focus(); return; } // the letter lands in the field
  else return;
  event.preventDefault();
});

// ---------------------------------------------------------------- begin
function connect() {
  const clicks = {
    undo, bad: (event) => answer("bad_image", event), zoom, ask: showPrediction, grid: switchGrid,
    unsure: (event) => (page.grid ? skipGrid() : answer("unsure", event)),
    note: COMMANDS.N, help: COMMANDS["?"], release: showRelease, "edit-classes": showChange,
    "change-tell": tellChange, "change-confirm": doChange, "change-close": () => element("classes-dialog").close(),
    "release-confirm": release, "release-close": () => element("release-dialog").close(),
  };
  for (const [id, work] of Object.entries(clicks)) {
    element(id).addEventListener("click", (event) => { work(event); element(id).blur(); });
  }
  element("search").addEventListener("input", showClasses);
  for (const id of ["change-name", "change-into"]) {
    element(id).addEventListener("input", () => { element("change-confirm").disabled = true; });
  }
  element("note-dialog").addEventListener("close", () => {
    page.note = element("note-text").value.trim();
    element("note-text").value = "";
  });
  element("round").addEventListener("change", () => open(element("round").value));
  window.addEventListener("pagehide", () => {
    handBack([page.current, ...page.ahead, ...(page.grid ?? [])].filter(Boolean).map((one) => one.picture));
  });
}

async function open(round) {
  const session = await ask(`/api/session?tab=${tab}${round === undefined ? "" : `&round=${round}`}`);
  Object.assign(page, {
    name: session.name, round: session.round, classes: session.classes, classesTag: session.classes_tag, autoRelease: session.auto_release,
    current: null, ahead: [], done: [], grid: null, setAside: new Set(),
  });
  element("grid").setAttribute("aria-pressed", "false");
  element("who").textContent = session.name;
  element("round").replaceChildren(...session.rounds.map((one) => new Option(one, one, false, one === session.round)));
  outbox ??= new Outbox(tab, session.name, sendAnswers, heard);
  showClasses();
  if (session.progress) showProgress(session.progress);
  if (!session.classes.length) tell("there are no classes yet: add some under Classes");
  await fill();
  draw();
}

async function lookAgain() {
  if (page.current || page.grid || page.stopped) return;
  try {
    if (page.round === null || !page.name) await open(new URLSearchParams(location.search).get("round") ?? undefined);
    else await fill();
    if (!page.current) nothing();
  } catch (error) {
    sentence(error.message);
  }
}

connect();
lookAgain();
setInterval(lookAgain, LOOK_AGAIN);
