// Requests to the service this page came from. Every failure is a `Refusal`.

let key = "";

/** Remembered until the page is closed, and nowhere else. */
export function useKey(value) {
  key = value.trim();
  document.dispatchEvent(new CustomEvent("key"));
}

export const hasKey = () => key !== "";

/** Why there is no answer: a problem of RFC 9457, or the code `unreachable`. */
export class Refusal extends Error {
  constructor({ status = 0, code = "unreachable", title = "", detail = "", field, index, id, wait }) {
    super(detail || title || code);
    Object.assign(this, { status, code, title, detail, field, index, id, wait });
  }
}

/**
 * @param {string} path relative to the page, so that a proxy may serve it under any prefix
 * @returns {Promise<Response>} one that is good
 */
export async function ask(path, { form, signal, method = form ? "POST" : "GET" } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { method, body: form, headers, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal({});
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** The body of a good answer; one that breaks off on its way is `unreachable` as well. */
export async function read(response, kind, signal) {
  try {
    return await response[kind]();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal({});
  }
}

async function refusal(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy's page, most likely: the status has to do.
  }
  return new Refusal({
    status: response.status,
    code: problem.code ?? `http_${response.status}`,
    title: problem.title ?? response.statusText,
    detail: problem.detail ?? "",
    field: problem.field,
    index: problem.index,
    id: response.headers.get("X-Request-Id"),
    wait: secondsToWait(response.headers.get("Retry-After")),
  });
}

function secondsToWait(value) {
  if (value === null) return undefined;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(1, Math.ceil(seconds)) : undefined;
}
