// The page: ask the service, draw what it says. No library, no build step.

import { bitsOf, drawHits, drawRisk, shares, show, titleOf } from "./drawing.js";
import { $, json, listenForToken, say } from "./service.js";

const NARROW = matchMedia("(max-width: 40rem)"); // as in style.css
let query = null; // {file, name, url} or {item, name}
let about = null;
let seed = 0;
let searching = null; // so that a later search ends an earlier one, and so on
let sampling = null;
let attacking = null;
let attacked = false; // this query, so that a change of the form attacks it again
let again = false; // after the attack that runs: one at a time, for the service lets few wait

function body(fields) {
  const form = new FormData();
  if (query.file) form.append("image", query.file, "query"); else form.append("item", query.item);
  for (const [name, value] of Object.entries(fields)) if (value !== "") form.append(name, value);
  return form;
}

function summary(distances) {
  const nearest = distances[0], farthest = distances.at(-1);
  const found = distances.length === 1 ? "1 image; its code differs" : `${distances.length} images; their codes differ`;
  return `${found} in ${nearest === farthest ? nearest : `${nearest} to ${farthest}`} of ${about.code_length} bits.`;
}

async function search() {
  if (!query) return;
  searching?.abort();
  const mine = searching = new AbortController();
  const { signal } = mine;
  $("found").hidden = false;
  $("hits").setAttribute("aria-busy", "true");
  say($("status"), "Searching …");
  try {
    await learn({ signal }); // an image may be here before that is known
    if (!sampling) loadSamples();
    $("lab").hidden = $("past").hidden = !about.lab;
    const fields = { k: $("k").value, where: $("where").value.trim() };
    const answer = await json("/search", { method: "POST", body: body(fields), signal });
    const chosen = $("hits").contains(document.activeElement); // what has the focus is about to go
    drawHits($("hits"), answer.hits, { length: about.code_length, choose: useItem, signal });
    if (chosen) ($("hits").querySelector("button") ?? $("where")).focus({ preventScroll: true });
    drawRisk($("risk"), answer.risk);
    say($("status"), answer.hits.length ? summary(answer.hits.map((hit) => hit.distance)) : "No image satisfies this condition.");
  } catch (error) {
    if (error.name === "AbortError") return;
    if ($("hits").contains(document.activeElement)) $("where").focus({ preventScroll: true });
    $("hits").replaceChildren();
    drawRisk($("risk"), null);
    say($("status"), error.message, true);
  } finally {
    if (searching === mine) $("hits").setAttribute("aria-busy", "false");
  }
}

function setQuery(next) {
  if (query?.url) URL.revokeObjectURL(query.url);
  query = next;
  attacking?.abort();
  attacking = null;
  attacked = again = false;
  $("sides").replaceChildren();
  say($("query-status"), "");
  say($("lab-status"), "");
  $("lab-heard").textContent = "";
  drawRisk($("risk"), null);
  $("attack").setAttribute("aria-busy", "false");
  $("drop-text").hidden = true;
  $("preview").hidden = $("drop-again").hidden = false;
  $("preview").alt = `The query: ${next.name}`;
  $("query-name").textContent = next.name;
  for (const button of $("samples").children) button.setAttribute("aria-pressed", String(Number(button.dataset.item) === next.item));
  search();
  const [seen, block] = NARROW.matches ? [$("found"), "start"] : [$("query"), "nearest"];
  seen.scrollIntoView({ block });
}

async function useFile(file) {
  if (!file) return;
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch { // a folder, or a file that is gone
    say($("query-status"), "This is no file that can be read.", true);
    return;
  }
  const url = URL.createObjectURL(file);
  setQuery({ file, name: file.name || "pasted image", url });
  $("preview").src = $("preview").dataset.of = url;
}

function useItem(item) {
  setQuery({ item: item.id, name: titleOf(item) });
  show($("preview"), item.id);
}

async function loadSamples() {
  sampling?.abort();
  const { signal } = sampling = new AbortController();
  let items;
  try {
    ({ items } = await json(`/samples?count=24&seed=${seed}`, { signal }));
  } catch (error) {
    if (error.name !== "AbortError") say($("samples-status"), error.message, true);
    return;
  }
  say($("samples-status"), "");
  $("samples").replaceChildren(...items.map((item) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    button.dataset.item = item.id;
    button.title = image.alt = titleOf(item);
    button.setAttribute("aria-pressed", String(query?.item === item.id));
    image.draggable = false;
    button.append(image);
    show(image, item.id, { signal });
    button.addEventListener("click", () => useItem(item));
    return button;
  }));
  const label = items.map((item) => item.metadata.label).find((text) => typeof text === "string");
  $("where").placeholder = label === undefined ? "id < 100" : `label == '${label.replace(/[\\']/g, "\\$&")}'`;
}

function verdict(side, label) {
  const line = document.createElement("p");
  const add = (text, kind = "") => line.append(Object.assign(document.createElement(kind ? "b" : "span"), { textContent: text, className: kind }));
  const right = (hits) => hits.filter((hit) => shares(hit.metadata.label, label)).length;
  if (label !== null) {
    const [was, is] = [right(side.before), right(side.after)];
    add(`${was} → ${is}`, is < was ? "fooled" : "held");
    add(` of ${side.after.length} results are labeled ${label}. `);
  } else {
    const first = new Set(side.before.map((hit) => hit.id));
    const kept = side.after.filter((hit) => first.has(hit.id)).length;
    add(`${kept} of ${side.after.length}`, kept < side.after.length / 2 ? "fooled" : "held");
    add(" results stay. ");
  }
  add(side.label ? `Away from the mainstay code of ${side.label}. ` : "Away from the image's own code. ");
  add(`The code moved by ${bitsOf(side.moved)} of ${side.code_length}.`);
  return line.childNodes;
}

function drawSide(side, label) {
  const entry = $("side").content.cloneNode(true);
  const find = (selector) => entry.querySelector(selector);
  find("h3").textContent = modelOf(side);
  find("article").setAttribute("aria-label", modelOf(side));
  find(".verdict").replaceChildren(...verdict(side, label));
  for (const name of ["original", "adversarial", "difference"]) find(`.${name}`).src = side[name];
  find("figure:last-child figcaption").textContent = `difference ×\u00a0${side.magnified}`;
  for (const name of ["risk_before", "risk_after"]) drawRisk(find(`.${name}`), side[name]);
  drawHits(find(".before"), side.before, { label, index: side.name });
  drawHits(find(".after"), side.after, { label, index: side.name });
  return entry;
}

const modelOf = (side) => about.hardened ? `${side.name} model` : "The model";

function heard(side, label) {
  const result = [...verdict(side, label)].map((part) => part.textContent).join("");
  const risk = side.risk_before && `The query ${side.risk_before.sentence} before the attack, and ${side.risk_after.sentence} after it.`;
  return `${modelOf(side)}: ${result} ${risk ?? ""}`;
}

async function attack() {
  again = attacking !== null;
  if (!query || again) return;
  const mine = attacking = new AbortController();
  attacked = true;
  $("attack").setAttribute("aria-busy", "true"); // disabled, it would lose the focus
  say($("lab-status"), "Attacking …");
  $("lab-heard").textContent = "";
  try {
    const fields = { epsilon: Number($("epsilon").value) / 255, steps: $("steps").value, k: 10 };
    const report = await json("/lab/attack", { method: "POST", body: body(fields), signal: mine.signal });
    $("sides").replaceChildren(...report.sides.map((side) => drawSide(side, report.label)));
    const seconds = report.sides.reduce((sum, side) => sum + side.seconds, 0);
    const largest = Math.max(...report.sides.map((side) => side.largest));
    say($("lab-status"), `No pixel changed by more than ${largest}/255; ${report.steps} steps, ${seconds.toFixed(1)} s.`);
    $("lab-heard").textContent = report.sides.map((side) => heard(side, report.label)).join(" ");
  } catch (error) {
    if (error.name === "AbortError") return;
    $("sides").replaceChildren();
    say($("lab-status"), error.message, true);
  } finally {
    if (attacking === mine) {
      attacking = null;
      $("attack").setAttribute("aria-busy", "false");
      if (again) attack();
    }
  }
}

const isTyped = (event) => event.target.closest?.("#where, #token"); // where texts go

function listenForDrops() {
  const drop = $("drop");
  const isFile = (event) => event.dataTransfer.types.includes("Files");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      if (!isFile(event) && isTyped(event)) return;
      event.preventDefault(); // else what is dropped takes the place of the page
      drop.classList.toggle("over", isFile(event));
    });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    if (!isFile(event) && isTyped(event)) return;
    event.preventDefault();
    drop.classList.remove("over");
    const { files } = event.dataTransfer;
    if (files.length === 1) useFile(files[0]);
    else say($("query-status"), files.length ? "One image at a time." : "This is no image file.", true);
  });
}

function listen() {
  document.addEventListener("load", ({ target }) => { // not of images alone, and it does not bubble
    if (target instanceof HTMLImageElement) target.classList.toggle("tiny", target.naturalWidth <= 128);
  }, true);
  listenForDrops();
  document.addEventListener("paste", (event) => {
    if (isTyped(event) && event.clipboardData.types.includes("text/plain")) return;
    useFile([...event.clipboardData.files].find((file) => file.type.startsWith("image/")));
  });
  $("file").addEventListener("change", (event) => { useFile(event.target.files[0]); event.target.value = ""; });
  $("others").addEventListener("click", () => { seed += 1; loadSamples(); });
  $("filter-form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("k").addEventListener("change", search);
  $("lab-form").addEventListener("submit", (event) => { event.preventDefault(); attack(); });
  $("epsilon").addEventListener("input", (event) => { $("epsilon-text").textContent = `${event.target.value}/255`; });
  for (const name of ["epsilon", "steps"]) $(name).addEventListener("change", () => { if (attacked) attack(); });
  listenForToken(() => { $("file").focus(); begin(); search(); });
}

async function learn(options) {
  if (about) return;
  about = await json("/about", options);
  const searched = about.approximate ? ", searched approximately" : "";
  say($("about"), `${about.items.toLocaleString("en")} images, ${about.code_length}-bit codes${searched}`);
  $("idea").textContent = `Each image has a code of ${about.code_length} bits. The nearest are those whose codes differ in the fewest.`;
  $("risk").hidden = $("unaware").hidden = !about.detector;
  $("columns").textContent = `Columns: ${Object.keys(about.columns).map(asWritten).join(", ")}`;
}

function asWritten(column) { // in a condition
  return /^[\p{L}_][\p{L}\p{N}_]*$/u.test(column) ? column : "`" + column.replaceAll("`", "``") + "`";
}

async function begin() {
  try {
    await learn();
  } catch (error) {
    say($("about"), error.status === 401 ? "" : error.message, true);
    return;
  }
  await loadSamples();
}

listen();
begin();
