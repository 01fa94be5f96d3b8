// Where the time went, from `Server-Timing` and this browser's clock.

import { duration, h } from "./dom.js";
import { stageName } from "./explain.js";

const LEAST_MS = 0.05; // less would read 0.0
// A stage keeps its colour from answer to answer; one that is not known here takes what its place gives.
const COLOURS = { receive: 0, wait: 1, decode: 2, preprocess: 3, queue: 4, infer: 5, encode: 6, other: "other", transfer: "transfer" };

/** `decode;dur=3.1, infer;dur=40;desc="batch of 2"` -> [{name, ms, note}] */
export function parseTiming(header) {
  const stages = [];
  // Commas and semicolons may stand within quotes.
  for (const entry of (header ?? "").match(/(?:"(?:\\.|[^"])*"|[^,"])+/g) ?? []) {
    const [name, ...parameters] = entry.match(/(?:"(?:\\.|[^"])*"|[^;"])+/g).map((part) => part.trim());
    const given = Object.fromEntries(
      parameters.map((parameter) => {
        const [key, ...rest] = parameter.split("=");
        return [key.trim().toLowerCase(), rest.join("=").trim().replace(/^"|"$/g, "")];
      }),
    );
    const ms = Number(given.dur);
    if (name && Number.isFinite(ms)) stages.push({ name, ms, note: given.desc ?? "" });
  }
  return stages;
}

/**
 * A bar of the round trip.
 *
 * @param {string | null} header of the answer
 * @param {number} tripMs from sending to the last byte, as seen from here
 */
export function timingBar(header, tripMs) {
  const stages = parseTiming(header);
  const total = stages.find(({ name }) => name === "total")?.ms;
  const parts = stages.filter(({ name, ms }) => name !== "total" && ms >= LEAST_MS);
  const counted = parts.reduce((sum, { ms }) => sum + ms, 0);
  const inside = total ?? counted;
  // Pairs of one request pass stages side by side, so their sum may exceed the total.
  if (inside - counted >= LEAST_MS) parts.push({ name: "other", ms: inside - counted, note: "" });
  const outside = Math.max(0, tripMs - inside);
  parts.push({ name: "transfer", ms: outside, note: "" });
  const whole = parts.reduce((sum, { ms }) => sum + ms, 0);
  const shown = parts.map((part, index) => ({ ...part, colour: COLOURS[part.name] ?? index % 8 }));

  const bar = h("div", { class: "time-bar", "aria-hidden": "true" });
  for (const { ms, colour, name } of shown) {
    const piece = h("span", { "data-colour": colour, title: `${stageName(name)}: ${duration(ms)}` });
    piece.style.setProperty("flex-grow", Math.max(ms / whole, 0.002));
    bar.append(piece);
  }
  return h(
    "section",
    { class: "times" },
    h("h2", { class: "label", text: "Where the time went" }),
    h("p", { class: "times-sum" }, h("strong", { text: duration(tripMs) }), ` round trip, ${duration(inside)} of it in the service`),
    bar,
    h(
      "ul",
      { class: "time-list" },
      shown.map(({ name, ms, note, colour }) =>
        h(
          "li",
          { "data-stage": name },
          h("span", { class: "swatch", "data-colour": colour }),
          h("span", { text: stageName(name) + (note ? `, ${note}` : "") }),
          h("span", { class: "time-value", text: duration(ms) }),
        ),
      ),
    ),
  );
}
