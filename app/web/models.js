// What is served: a card for each bundle, and the choice between several of one task.

import { ask, read } from "./api.js";
import { Attempt } from "./attempt.js";
import { find, h } from "./dom.js";
import { metricName } from "./explain.js";

const TASKS = { saliency: "Saliency", reid: "Re-identification" };
const choosers = [];
let listed = [];

/**
 * A field that appears once a task has several models; `value` is "" for the default one.
 * `changed` is called after another choice, `filled` once it is known what there is.
 */
export function chooser(place, task, changed, filled = () => {}) {
  const select = h("select", { id: `${task}-model-select`, change: changed });
  let mine = [];
  const made = {
    get value() {
      return select.value;
    },
    /** Whether the chosen model answers a photo alone. */
    get doesWithout() {
      const chosen = mine.find((model) => (select.value ? model.name === select.value : model.default));
      return chosen?.manifest.modality_policy === "substitute";
    },
    fill(models) {
      mine = models.filter(({ manifest }) => manifest.task === task);
      filled();
      place.hidden = mine.length < 2;
      if (mine.length < 2) {
        select.replaceChildren();
        return;
      }
      const chosen = select.value;
      select.replaceChildren(
        ...mine.map((model) =>
          h("option", { value: model.default ? "" : model.name, text: model.model_id + (model.default ? ", the default" : "") }),
        ),
      );
      select.value = [...select.options].some(({ value }) => value === chosen) ? chosen : "";
    },
  };
  place.append(h("label", { class: "label", for: select.id, text: "Model" }), select);
  choosers.push(made);
  made.fill(listed);
  return made;
}

export function start() {
  const notices = h("div", { class: "notices" });
  const cards = h("div", { class: "cards-grid" });
  find("models-output").append(notices, cards);
  const attempt = new Attempt(notices, { failed: () => cards.replaceChildren() });
  return {
    load: () =>
      attempt.run(async (signal) => {
        const response = await ask("v1/models", { signal });
        const { models } = await read(response, "json", signal);
        const place = ({ manifest }) => Object.keys(TASKS).indexOf(manifest.task);
        listed = models.sort((a, b) => place(a) - place(b));
        for (const each of choosers) each.fill(listed);
        cards.replaceChildren(...listed.map(card));
      }),
  };
}

function card(model) {
  const { manifest } = model;
  const [height, width] = manifest.input_size;
  const weights = manifest.weights_precision === "fp16" ? "16-bit weights" : "32-bit weights";
  const fell = !model.device.startsWith(model.requested_device);
  return h(
    "article",
    { class: "model" },
    h("header", {},
      h("p", { class: "label", text: TASKS[manifest.task] ?? manifest.task }),
      h("h2", {}, model.name, h("span", { class: "version", text: ` ${manifest.version}` })),
      model.default ? h("span", { class: "badge", text: "default" }) : null,
    ),
    facts([
      ["Runs on", `${model.device}, ${model.runtime}${fell ? `; asked for ${model.requested_device}` : ""}`],
      ["Looks at", `${width} × ${height} pixels`],
      ["Answers", manifest.dim ? `a vector of ${manifest.dim} numbers` : "a map"],
      ["Without " + (manifest.task === "reid" ? "near-infrared" : "depth"), manifest.modality_policy === "substitute" ? "answers, and says so" : "refuses"],
      ["Stored as", `${weights}, ${manifest.precision} arithmetic, opset ${manifest.opset}`],
      ["Self-test", `off by ${small(model.canary_max_error)} at most`],
      ["Made", manifest.created],
    ]),
    metrics(manifest.metrics),
    parity(model.parity),
    h("h3", { class: "label", text: "Trained on" }),
    h("ul", { class: "plain" }, manifest.training_data.map((line) => h("li", { text: line }))),
    h("p", { class: "hint licence", text: manifest.licence }),
  );
}

const facts = (rows) =>
  h("dl", { class: "facts facts-column" }, rows.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value }))));

/** 2.9e-06 -> "2.9 × 10⁻⁶". */
function small(value) {
  if (!value) return "0";
  if (value >= 0.001) return value.toPrecision(2);
  const [digits, power] = value.toExponential(1).split("e");
  const raised = [...String(Number(power))].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("");
  return `${digits} × 10${raised}`;
}

const shown = (value) =>
  typeof value !== "number" ? String(value) : Number.isInteger(value) && value > 1 ? String(value) : value.toFixed(3);

/** A table of test sets by measures; anything of another form is left out. */
function metrics(sets) {
  const rows = Object.entries(sets).filter(([, values]) => values && typeof values === "object");
  if (!rows.length) return null;
  const names = [...new Set(rows.flatMap(([, values]) => Object.keys(values)))].filter((name) => name !== "skipped");
  return h("div", {},
    h("h3", { class: "label", text: "Measured at" }),
    table(["test set", ...names.map(metricName)], rows.map(([set, values]) => [set, ...names.map((name) => (name in values ? shown(values[name]) : ""))])),
  );
}

function parity(report) {
  const steps = Array.isArray(report.steps)
    ? report.steps.map((step) => [step.step, step])
    : Object.entries(report).filter(([, values]) => values && typeof values === "object");
  const rows = steps.filter(([, values]) => typeof values.max_abs_error === "number");
  if (!rows.length) return null;
  const versions = Object.entries(report.versions ?? {}).map(([name, version]) => `${name} ${version}`).join(", ");
  return h("div", {},
    h("h3", { class: "label", text: "How far each step of the export strays" }),
    table(
      ["step", "largest", "mean", "allowed"],
      rows.map(([name, { max_abs_error: most, mean_abs_error: mean, tolerance }]) => [
        name.replaceAll("_", " "),
        small(most),
        typeof mean === "number" ? small(mean) : "",
        typeof tolerance === "number" ? small(tolerance) : "measured only",
      ]),
    ),
    versions ? h("p", { class: "hint", text: versions }) : null,
  );
}

const table = (head, rows) =>
  h("div", { class: "table-box" },
    h("table", { class: "numbers" },
      h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col", text })))),
      h("tbody", {}, rows.map(([name, ...values]) => h("tr", {}, h("th", { scope: "row", text: name }), values.map((text) => h("td", { text }))))),
    ),
  );
