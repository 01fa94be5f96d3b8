// Puts the page together: which view, which theme, and how the service is.

import { ask } from "./api.js";
import { find, sentence } from "./dom.js";
import * as models from "./models.js";
import * as reid from "./reid.js";
import * as saliency from "./saliency.js";
import { filesOf } from "./well.js";

const GOOD_POLL_MS = 15_000;
const BAD_POLL_MS = 3_000;

const views = { saliency: saliency.start(), reid: reid.start(), models: models.start() };
let current = "";

function show() {
  const wanted = location.hash.slice(1);
  const next = wanted in views ? wanted : current || "saliency";
  const moved = current !== "" && next !== current;
  current = next;
  for (const name of Object.keys(views)) find(`${name}-view`).hidden = name !== current;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (moved) scrollTo(0, 0);
}
addEventListener("hashchange", show);
show();
views.models.load();

// Files go to the view that is open, wherever they are dropped; without this the browser leaves.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  const files = filesOf(event.dataTransfer);
  if (files.length) views[current].take?.(files);
});
addEventListener("paste", (event) => {
  const files = filesOf(event.clipboardData);
  if (!files.length) return;
  event.preventDefault();
  const well = document.activeElement?.closest?.(".well-box")?.well;
  if (well && files.length === 1) well.put(files[0]);
  else views[current].take?.(files);
});

find("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // It holds until the page is closed.
  }
});

let next = 0;

/** How the service is, in the corner; asked less often while all is well. */
async function watch() {
  clearTimeout(next);
  let [state, text] = ["good", "Ready"];
  if (!document.hidden) {
    try {
      await ask("readyz");
    } catch (refusal) {
      state = refusal.status === 0 ? "gone" : "waiting";
      text = refusal.status === 0 ? "No connection" : sentence(refusal.detail || "Not ready").slice(0, -1);
    }
    const place = find("status");
    const before = place.dataset.state;
    place.dataset.state = state;
    // A live region is read out again only if its words change.
    const words = place.querySelector(".status-text");
    if (words.textContent !== text) words.textContent = text;
    if (state === "good" && before && before !== "good") views.models.load();
  }
  clearTimeout(next);
  next = setTimeout(watch, state === "good" ? GOOD_POLL_MS : BAD_POLL_MS);
}
document.addEventListener("trouble", watch);
watch();

fetch("docs", { method: "HEAD" }).then(
  (response) => (find("api-link").hidden = !response.ok),
  () => {},
);
