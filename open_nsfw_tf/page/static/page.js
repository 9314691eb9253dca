/** The page: it takes pictures, asks the model, and keeps the list of results. */
import { OpenNsfw } from "./open-nsfw.js";
import { Card } from "./card.js";
import { openCamera } from "./camera.js";
import { csvOf } from "./table.js";

const PREVIEW = 560; // pixels of the longer side
const MEGABYTE = 1e6;
const $ = (id) => document.getElementById(id);
const megabytes = (bytes) => (bytes / MEGABYTE).toFixed(1);

const cards = [];
const names = new Set(); // of the cards
let model = null;
let failed = null;
let waiting = load(); // for the model, and then for the last picture that came in

async function load() {
  const state = $("model-state");
  try {
    model = await OpenNsfw.load({
      onProgress: (done, total) => {
        $("progress").max = total;
        $("progress").value = done;
        state.textContent = `Loading the model: ${megabytes(done)} of ${megabytes(total)} MB`;
      },
    });
  } catch (error) {
    failed = error;
    $("model-state").parentElement.classList.add("failed");
    state.textContent = `The model cannot be used: ${error.message}. Reload the page to try again.`;
    return;
  }
  const { threads, exact, version, server } = model.info;
  $("model-state").parentElement.classList.add("done");
  state.textContent = `Ready, with ${threads} thread${threads > 1 ? "s" : ""}`;
  $("version").textContent = version;
  $("exactness").textContent = exact
    ? "The scores of this page are those of Yahoo's Caffe model, to six digits."
    : "This page has the smaller 8-bit model: its scores are approximate, those of photographs off by up to 0.03.";
  for (const node of document.querySelectorAll(".server")) node.hidden = !server;
  keepOffline();
}

/** Let a service worker keep the page, once everything has been loaded. */
async function keepOffline() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("service-worker.js");
    await navigator.serviceWorker.ready;
    $("model-state").textContent += ". The page now works without a network";
  } catch {
    // The page does its work without one.
  }
}

// -- pictures come in

function add(files) {
  const found = Array.from(files, (file) => [file, file.webkitRelativePath || file.name]);
  for (const [picture, name] of found) addOne(picture, name || "pasted picture");
}

/** Another name, if one is taken: rows of a table are known by it. */
function unused(name) {
  let found = name;
  for (let number = 2; names.has(found); number += 1) found = `${name} (${number})`;
  return found;
}

function addOne(picture, name) {
  const card = new Card(unused(name), { changed: refresh, remove, send: () => send(card) });
  cards.push(card);
  names.add(card.name);
  $("list").append(card.node);
  $("results").hidden = false;
  refreshSoon();
  waiting = waiting.then(() => score(card, picture));
}

/** Ask the model, which gets one picture after the other: what is removed waits no more. */
async function score(card, picture) {
  if (card.removed) return;
  try {
    if (failed) throw failed;
    const result = await model.classify(picture, { preview: PREVIEW });
    if (card.removed) return;
    card.succeed(result);
  } catch (error) {
    if (card.removed) return;
    card.picture = error.code === "broken" ? null : picture;
    card.fail(error.message, Boolean(model?.info.server && card.picture instanceof Blob));
    if (card.sendable && $("send").checked) send(card); // while the next one is scored
  }
  refreshSoon();
}

/** Ask the server that the page came from, because its user wants that. */
async function send(card) {
  card.wait("sent to the server");
  const token = $("token").value.trim();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    const response = await fetch("v1/classify", { method: "POST", body: card.picture, headers });
    const { results, error } = await response.json();
    if (card.removed) return;
    if (error) throw new Error(error.message);
    const [{ sfw, nsfw }] = results;
    card.succeed({ sfw, nsfw, server: true });
    card.picture = null;
  } catch (error) {
    card.fail(`the server gave no score: ${error.message}`, true);
  }
  refresh();
}

$("files").addEventListener("change", ({ target }) => {
  add(target.files);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => add(clipboardData.files));
const drop = $("drop");
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
$("camera").addEventListener("click", () => openCamera($("booth"), addOne));

// -- thresholds, order, display

const band = () => [Number($("low").value), Number($("high").value)];

for (const [moved, other, push] of [["low", "high", Math.max], ["high", "low", Math.min]]) {
  $(moved).addEventListener("input", () => {
    $(other).value = push(Number($(moved).value), Number($(other).value));
    refresh();
  });
}
$("order").addEventListener("change", refresh);
$("blur").addEventListener("change", () => $("list").classList.toggle("blurred", $("blur").checked));
$("maps").addEventListener("change", () => {
  $("list").classList.toggle("maps", $("maps").checked);
  $("legend").hidden = !$("maps").checked;
  refresh();
});
$("list").classList.toggle("blurred", $("blur").checked);

const ORDERS = {
  added: () => 0,
  highest: (a, b) => (b.nsfw ?? -1) - (a.nsfw ?? -1),
  lowest: (a, b) => (a.nsfw ?? 2) - (b.nsfw ?? 2),
  name: (a, b) => a.name.localeCompare(b.name),
  wrong: (a, b) => b.wrong - a.wrong,
};

let asked = null;

/** Show what has changed, once for all that changes before the next frame. */
function refreshSoon() {
  asked ??= requestAnimationFrame(refresh);
}

function refresh() {
  asked = null;
  const [low, high] = band();
  for (const [id, value] of [["low", low], ["high", high]]) {
    $(`${id}-value`).textContent = value.toFixed(2);
    $("list").style.setProperty(`--${id}`, `${100 * value}%`);
  }
  const counts = { accept: 0, review: 0, block: 0, error: 0, pending: 0 };
  for (const card of cards) {
    counts[card.decide(low, high)] += 1;
    card.drawMap($("maps").checked);
  }
  const words = { accept: "accepted", review: "to review", block: "blocked", error: "without a score", pending: "waiting" };
  $("summary").textContent = Object.entries(counts)
    .filter(([, count]) => count)
    .map(([decision, count]) => `${count} ${words[decision]}`)
    .join(", ");
  const sorted = [...cards].sort(ORDERS[$("order").value]);
  sorted.forEach((card, index) => {
    const there = $("list").children[index];
    if (there !== card.node) $("list").insertBefore(card.node, there);
  });
}

function remove(card) {
  cards.splice(cards.indexOf(card), 1);
  names.delete(card.name);
  card.dispose();
  $("results").hidden = !cards.length;
  refresh();
  (cards.length ? $("pictures") : $("files")).focus();
}

$("clear").addEventListener("click", () => {
  for (const card of cards.splice(0)) card.dispose();
  names.clear();
  $("results").hidden = true;
  $("files").focus();
});

$("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csvOf(cards, $("others").checked)], { type: "text/csv" }));
  link.download = "scores.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});
