// The same request as a line for a shell.

import { hasKey } from "./api.js";
import { h } from "./dom.js";

const shellWord = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** curl reads `;` and `,` in a file's name unless the name is quoted. */
function part(field, name) {
  const quoted = /[;,"\\]/.test(name) ? `"${name.replace(/[\\"]/g, "\\$&")}"` : name;
  return `-F ${shellWord(`${field}=@${quoted}`)}`;
}

/**
 * @param {string} path with its query, relative to the page
 * @param {[string, string][]} files field and file name
 * @param {string} out file to write
 */
export function curlLine(path, files, out) {
  const lines = ["curl --fail-with-body"];
  if (hasKey()) lines[0] += ' -H "Authorization: Bearer $MUTUALFORMER_KEY"';
  for (let i = 0; i < files.length; i += 2) {
    lines.push(files.slice(i, i + 2).map(([field, name]) => part(field, name)).join(" "));
  }
  lines.push(shellWord(new URL(path, document.baseURI).href), `-o ${shellWord(out)}`);
  return lines.join(" \\\n  ");
}

/** A block whose `show(line)` displays a line, with a button that copies it. */
export function curlBlock() {
  const code = h("code");
  const button = h("button", { type: "button", class: "quiet", text: "Copy" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      // Only pages over HTTPS and from this machine may write there: mark it for Ctrl-C.
      getSelection().selectAllChildren(code);
      button.textContent = "Marked; press Ctrl-C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  const element = h(
    "section",
    { class: "curl" },
    h("div", { class: "curl-head" }, h("h2", { class: "label", text: "The same, from a shell" }), button),
    h("pre", { tabindex: 0, "aria-label": "curl command" }, code),
  );
  return { element, show: (line) => (code.textContent = line) };
}
