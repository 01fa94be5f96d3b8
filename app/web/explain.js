// What the service says, in the words of someone who looks at pictures.

import { bytes, sentence } from "./dom.js";

const FIELDS = {
  rgb: "the colour picture",
  depth: "the depth map",
  nir: "the near-infrared picture",
};

/** By the problem's `code`: a title, what to do, and which action helps. */
const ADVICE = {
  unreachable: {
    title: "The service does not answer",
    advice:
      "It may have been stopped, or the connection is down. Your pictures are still here; they are sent again as soon as the service is back.",
    again: "Try now",
  },
  unauthorized: {
    title: "This service asks for a key",
    advice: "Enter an API key that its operator gave you. It stays in this tab until you close it.",
    key: true,
  },
  overloaded: {
    title: "The service is busy",
    advice: "It has more work than it may queue. This page sends your pictures again by itself.",
    again: "Try now",
  },
  rate_limited: {
    title: "You have sent more than this service lets one client send",
    advice: "This page sends your pictures again by itself, when they are let in.",
    again: "Try now",
  },
  not_ready: {
    title: "The service is not ready",
    advice: "This page sends your pictures again by itself, as soon as it is.",
    again: "Try now",
  },
  deadline_exceeded: {
    title: "The answer would have come too late",
    advice: "The service gives every request only so long. Try again, or send smaller pictures.",
    again: "Try again",
  },
  request_too_large: {
    title: "These files are too large together",
    advice: "Send smaller ones: a photo as JPEG rather than PNG, or both scaled down by the same factor. The network looks at a few hundred pixels a side.",
  },
  picture_too_large: {
    title: "This picture has too many pixels",
    advice: "Scale it down, and its partner by the same factor.",
  },
  picture_too_small: { title: "This picture is too small", advice: "Choose a larger one." },
  unreadable_picture: {
    title: "This file is no picture that can be read",
    advice: "Choose another file, or save this one again as PNG or JPEG.",
  },
  unsupported_picture: {
    title: "This kind of picture is not taken here",
    advice:
      "A colour picture has three channels of 8 bits. Save it again as an ordinary PNG or JPEG, unless the two pictures are the wrong way round.",
    swap: "Swap the two",
  },
  multiple_frames: {
    title: "This file holds more than one picture",
    advice: "Save the frame or page that you mean as a file of its own.",
  },
  not_depth: {
    title: "This is not a depth map",
    advice: "Depth is one grey channel of 8 or 16 bits. Perhaps the two pictures are the wrong way round?",
    swap: "Swap the two",
  },
  not_near_infrared: {
    title: "This is not a near-infrared picture",
    advice: "Near-infrared is one grey channel of 8 or 16 bits. Perhaps two pictures are the wrong way round?",
  },
  pair_mismatch: {
    title: "The two pictures differ in size",
    advice: "Both must show the same view.",
    resize: "Fit one to the other",
  },
  unknown_model: {
    title: "No model here does this",
    advice: "See under Models what this service has loaded.",
  },
  inference_failed: {
    title: "The network failed",
    advice: "Try again. If it goes on, tell the operator the request's number below.",
    again: "Try again",
  },
  internal_error: {
    title: "Something went wrong in the service",
    advice: "Try again. If it goes on, tell the operator the request's number below.",
    again: "Try again",
  },
  http_502: {
    title: "The service behind this address does not answer",
    advice: "A proxy answered in its place. Your pictures are sent again by themselves.",
    again: "Try now",
  },
};
const SAME = { http_503: "not_ready", http_504: "deadline_exceeded", http_401: "unauthorized",
  http_429: "overloaded", http_413: "request_too_large" };
ADVICE.http_403 = { ...ADVICE.unauthorized, title: "This key is not accepted" };

/** `{title, said, advice, again, key, swap, resize}` of a `Refusal`. */
export function explain(refusal) {
  const code = refusal.status === 401 ? "unauthorized" : SAME[refusal.code] ?? refusal.code;
  const known = ADVICE[code] ?? {
    title: refusal.title || "The service refused",
    advice: "",
    again: "Try again",
  };
  const words = { ...known, said: said(refusal) };
  if (code === "pair_mismatch" && !refusal.detail.includes("resize=true")) {
    words.resize = undefined; // their shapes differ, too
    words.advice = "Choose a pair that was taken together and cut alike.";
  }
  if (code === "not_ready" && refusal.detail) words.title = "The service is getting ready";
  return words;
}

/** The problem's own sentence, less the words that only programs use. */
function said({ code, detail }) {
  if (!detail || code === "unreachable" || code === "unauthorized") return "";
  const plain = detail
    .replace(/\b\d{4,}(?= bytes)/, (count) => bytes(Number(count)))
    .replace(/(?<=[kM]B) bytes/, "")
    .replace(/; resize=true takes them.*/, "")
    .replace(/\b(query_|gallery_)?(rgb|depth|nir)(\[\d+\])?(?= (is|and|\d)|: )/g, (all, _, field, at) =>
      at ? `${FIELDS[field]} of pair ${Number(at.slice(1, -1)) + 1}` : FIELDS[field],
    );
  return sentence(plain);
}

/** One of the service's warnings. */
export function warning(text) {
  if (text === "depth is constant") {
    return "The depth map has the same value everywhere, so it says nothing about near and far: the answer rests on the photo alone.";
  }
  if (text.includes("turned upright")) {
    return "Only one of the two pictures says how it was held. If they no longer show the same view, turn one of them.";
  }
  const constant = /^(rgb|nir)\[(\d+)\] is constant$/.exec(text);
  if (constant) {
    return `Pair ${Number(constant[2]) + 1}: ${FIELDS[constant[1]]} has one value everywhere, so it says nothing.`;
  }
  return sentence(text);
}

const STAGES = {
  receive: "Receive",
  admit: "Admit",
  wait: "Wait for room",
  decode: "Decode",
  preprocess: "Prepare",
  queue: "Queue",
  batch: "Gather a batch",
  infer: "Neural network",
  encode: "Write",
};

/** A stage of `Server-Timing`; an unknown one keeps its name. */
export const stageName = (name) => STAGES[name] ?? sentence(name.replaceAll("_", " ")).slice(0, -1);

const METRICS = {
  s_measure: "S-measure",
  max_f: "max F",
  max_e: "max E",
  mae: "MAE",
  images: "images",
  mean_ap: "mAP",
  rank1: "rank 1",
  rank5: "rank 5",
  rank10: "rank 10",
  minp: "mINP",
  queries: "queries",
};

export const metricName = (name) => METRICS[name] ?? name.replaceAll("_", " ");
