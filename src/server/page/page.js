// What a page does beyond being read: it waits for news and brings its main part up to date, posts what a button says, and puts the
// line of a restore together. All text goes in as text. Without this script every page can still be read.
"use strict";

const main = document.getElementById("main");
const live = document.getElementById("live");
const problem = document.getElementById("problem");
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
// Pages are brought up to date at most so often.
const PACE_MS = 1500;
document.documentElement.classList.add("has-script");

// The page again, from where it came from. What did not change stays as it is: focus, selections and open parts with it.
async function refresh() {
  const answer = await fetch(location.origin + location.pathname + location.search, { headers: { Accept: "text/html" } });
  if (!answer.ok) throw new Error(answer.status);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const next = page.getElementById("main");
  const focused = document.activeElement;
  const log = main.querySelector(".log");
  const atEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  become(main, next);
  document.title = page.title;
  showChosen();
  if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  const newLog = main.querySelector(".log");
  if (newLog && atEnd) newLog.scrollTop = newLog.scrollHeight;
}

// Makes one element like another of the same kind, with as few changes as there are.
function become(old, wanted) {
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name) && !(old.localName === "details" && name === "open") && name !== "disabled") old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const byId = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let at = old.firstChild;
  for (const next of [...wanted.childNodes]) {
    const known = next.id && byId.get(next.id);
    if (known && known !== at) old.insertBefore(known, at);
    const here = known || at;
    const alike = here && here.nodeName === next.nodeName && (here.id || "") === (next.id || "");
    if (!alike) {
      old.insertBefore(document.importNode(next, true), at);
    } else {
      if (here.nodeType === Node.ELEMENT_NODE) become(here, next);
      else if (here.data !== next.data) here.data = next.data;
      at = here.nextSibling;
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

// One connection per page: either all events, or the log of the job that runs.
let cursor = "now";
// So that the browser is asked for what its user signed in with, wherever that was.
const OF_PAGE = { "X-Restic-Manager-Page": "1" };
async function news(signal) {
  const to = new URL(main.dataset.news, location.origin);
  const isLog = to.pathname.endsWith("/log");
  if (!isLog) to.searchParams.set("after", cursor);
  if (!isLog && cursor === "now") to.searchParams.set("wait", "0");
  const answer = await fetch(to, { signal, headers: OF_PAGE });
  if (!answer.ok) throw new Error(answer.status);
  if (isLog) {
    // Its first piece, or its end, is news enough: the page has the rest.
    const reader = answer.body.getReader();
    await Promise.race([reader.read(), pause(10000)]);
    reader.cancel().catch(() => {});
    return;
  }
  await answer.text();
  cursor = answer.headers.get("restic-manager-cursor") || cursor;
}

async function follow() {
  let patience = 1000;
  let isFirst = true;
  while (main.dataset.news) {
    try {
      const began = Date.now();
      await news();
      // What happened between the page and the first cursor is on the page then.
      await refresh();
      if (live.textContent !== "Live") live.textContent = "Live";
      patience = 1000;
      if (!isFirst) await pause(Math.max(0, PACE_MS - (Date.now() - began)));
      isFirst = false;
    } catch (error) {
      live.textContent = error.message === "401" ? "Signed out: load the page again" : "Not live: trying again";
      if (error.message === "401") return;
      cursor = "now";
      await pause(patience);
      patience = Math.min(patience * 2, 30000);
    }
    while (document.hidden) await pause(1000);
  }
  if (live.textContent) live.textContent = "";
}

// Posts JSON and gives the answer, or says what is wrong.
async function post(to, body) {
  problem.textContent = "";
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const headers = { ...OF_PAGE, "Content-Type": "application/json", "Idempotency-Key": key };
  try {
    const answer = await fetch(location.origin + to, { method: "POST", headers, body });
    const said = await answer.json();
    if (answer.ok) return said;
    problem.textContent = said.detail || said.title;
  } catch (error) {
    problem.textContent = "The server did not answer: look whether it was done before you try again.";
  }
  return null;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button || (button.dataset.ask && !confirm(button.dataset.ask))) return;
  button.disabled = true;
  const said = await post(button.dataset.post, button.dataset.body);
  button.disabled = false;
  if (!said) return;
  if (said.id && said.kind && button.dataset.post.endsWith("/jobs")) location.assign("/jobs/" + encodeURIComponent(said.id));
  else await refresh();
});

// The restore browser. What is selected is kept for the snapshot while its folders are gone through.
let showChosen = () => {};
const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";

function restore() {
  const form = document.getElementById("restore");
  if (!form) return;
  const place = "restore " + form.dataset.post + " " + form.dataset.snapshot;
  const stored = () => JSON.parse(sessionStorage.getItem(place) || "{}");
  let chosen = stored();
  const boxes = () => [...main.querySelectorAll("#entries input[value]")];
  const list = document.getElementById("chosen");

  const body = () => {
    const how = form.elements.where.value;
    const paths = Object.keys(chosen);
    const asked = { snapshot: form.dataset.snapshot, paths: paths.length ? paths : JSON.parse(form.dataset.all) };
    if (how === "directory") asked.target = form.elements.target.value;
    if (how === "in-place") Object.assign(asked, { in_place: true, confirm: form.elements.confirm.value });
    return asked;
  };
  const show = () => {
    for (const box of boxes()) box.checked = box.value in chosen;
    list.replaceChildren(
      ...Object.keys(chosen).map((path) => {
        const item = document.createElement("li");
        const remove = document.createElement("button");
        remove.type = "button";
        remove.textContent = "Remove";
        remove.setAttribute("aria-label", "Remove " + path);
        remove.addEventListener("click", () => keep(path, false));
        const name = document.createElement("code");
        // As the server shows it: what misleads by its number.
        name.textContent = path.replace(/[\p{Cc}\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu, (c) => "\u27e8U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9");
        item.append(name, " ", remove);
        return item;
      }),
    );
    document.getElementById("none-chosen").hidden = Object.keys(chosen).length > 0;
    document.getElementById("command").textContent = form.dataset.before + quoted(JSON.stringify(body())) + form.dataset.after;
  };
  const keep = (path, wanted) => {
    if (wanted) chosen[path] = true;
    else delete chosen[path];
    sessionStorage.setItem(place, JSON.stringify(chosen));
    show();
  };
  main.addEventListener("change", (event) => {
    const box = event.target.closest("#entries input[value]");
    if (box) keep(box.value, box.checked);
  });
  form.addEventListener("input", show);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    const said = await post(form.dataset.post, JSON.stringify(body()));
    button.disabled = false;
    if (said) location.assign("/jobs/" + encodeURIComponent(said.id));
  });
  showChosen = show;
  show();
}

restore();
const log = main.querySelector(".log");
if (log) log.scrollTop = log.scrollHeight;
follow();
