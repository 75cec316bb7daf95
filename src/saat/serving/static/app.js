// The page: ask the service, draw what it says. No library, no build step.

import { $, call, json, listenForToken, Refused, say } from "./service.js";

const PER_ROW = 32; // bits in a row of the drawing
let query = null; // {file, name, url} or {item, name}
let about = null;
let seed = 0;
let searching = null; // so that a later search ends an earlier one
let attacking = null; // the service works on one attack at a time, and lets few wait
let again = false; // whether to attack once more after it, with what the form says then

async function show(image, item, index = "plain") {
  const path = `/images/${item}?size=256&index=${index}`;
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth <= 128), { once: true });
  if (!sessionStorage.getItem("token")) { image.src = path; return; }
  try {
    const url = URL.createObjectURL(await (await call(path)).blob()); // an <img> cannot show a token by itself
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch { image.alt = "This image cannot be shown."; }
}

const titleOf = (item) => item.metadata.label ?? item.name;

function drawBits(svg, bits, length) {
  const differing = new Set(bits);
  const rows = Math.ceil(length / PER_ROW), across = Math.min(length, PER_ROW);
  svg.setAttribute("viewBox", `0 0 ${across * 5 - 1} ${rows * 13 - 1}`);
  svg.setAttribute("aria-label", bits.length ? `Differing bits: ${bits.join(", ")}` : "No bit differs");
  for (let bit = 0; bit < length; bit++) {
    const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x: (bit % PER_ROW) * 5, y: Math.floor(bit / PER_ROW) * 13, width: 4, height: 12, rx: 1 };
    for (const [name, value] of Object.entries(place)) cell.setAttribute(name, value);
    cell.setAttribute("class", differing.has(bit) ? "differs" : "same");
    svg.append(cell);
  }
}

const bitsOf = (count) => `${count} ${count === 1 ? "bit" : "bits"}`;

function drawHits(list, hits, { label = null, index = "plain", choose = null } = {}) {
  list.replaceChildren(...hits.map((hit) => {
    const entry = $("hit").content.cloneNode(true);
    const tile = entry.querySelector(".tile"), image = entry.querySelector("img");
    image.alt = titleOf(hit);
    show(image, hit.id, index);
    entry.querySelector(".label").textContent = titleOf(hit);
    entry.querySelector(".distance").textContent = bitsOf(hit.distance);
    drawBits(entry.querySelector(".bits"), hit.bits, about.code_length);
    tile.title = hit.name;
    if (label !== null) tile.classList.add(shares(hit.metadata.label, label) ? "right" : "wrong");
    if (choose) {
      const button = Object.assign(document.createElement("button"), { type: "button", className: tile.className, title: `Search with ${hit.name}` });
      button.append(...tile.childNodes);
      button.addEventListener("click", () => choose(hit));
      tile.replaceWith(button);
    }
    return entry;
  }));
}

function shares(one, other) {
  const names = new Set(String(other).split(", "));
  return one != null && String(one).split(", ").some((name) => names.has(name));
}

function drawRisk(place, risk) {
  place.replaceChildren();
  if (!risk) return;
  const part = (tag, textContent, className = "") => Object.assign(document.createElement(tag), { textContent, className });
  const sign = part("span", risk.alarm ? "⚠" : "✓");
  sign.setAttribute("aria-hidden", "true"); // the sentence says it
  const sentence = part("b", "", risk.alarm ? "alarm" : "calm");
  sentence.append(sign, ` The query ${risk.sentence}`);
  const digits = (value) => value.toFixed(4); // as many as 2,000 images of the calibration tell apart
  place.append(sentence, part("span", ` score ${digits(risk.score)}, threshold ${digits(risk.threshold)}`, "soft"));
}

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
  $("found").hidden = false;
  say($("status"), "Searching …");
  try {
    await learn({ signal: mine.signal }); // an image may be here before that is known
    $("lab").hidden = !about.lab;
    const fields = { k: $("k").value, where: $("where").value.trim() };
    const answer = await json("/search", { method: "POST", body: body(fields), signal: mine.signal });
    const chosen = $("hits").contains(document.activeElement); // what has the focus is about to go
    drawHits($("hits"), answer.hits, { choose: (hit) => useItem(hit) });
    if (chosen) $("hits").querySelector("button")?.focus({ preventScroll: true });
    drawRisk($("risk"), answer.risk);
    say($("status"), answer.hits.length ? summary(answer.hits.map((hit) => hit.distance)) : "No image satisfies this condition.");
  } catch (error) {
    if (error.name === "AbortError") return;
    $("hits").replaceChildren();
    drawRisk($("risk"), null);
    say($("status"), error.message, true);
  }
}

function setQuery(next) {
  if (query?.url) URL.revokeObjectURL(query.url);
  query = next;
  attacking?.abort();
  attacking = null;
  again = false;
  $("sides").replaceChildren();
  say($("lab-status"), "");
  $("lab-risk").textContent = "";
  drawRisk($("risk"), null);
  $("attack").setAttribute("aria-busy", "false");
  $("drop-text").hidden = true;
  $("preview").hidden = false;
  $("preview").alt = `The query: ${next.name}`;
  $("query-name").textContent = next.name;
  for (const button of $("samples").children) button.setAttribute("aria-pressed", String(Number(button.dataset.item) === next.item));
  search();
}

function useFile(file) {
  if (!file) return;
  const url = URL.createObjectURL(file);
  setQuery({ file, name: file.name || "pasted image", url });
  $("preview").src = url;
}

function useItem(item) {
  setQuery({ item: item.id, name: titleOf(item) });
  show($("preview"), item.id);
  $("query").scrollIntoView({ block: "nearest" });
}

async function loadSamples() {
  let items;
  try {
    ({ items } = await json(`/samples?count=24&seed=${seed}`));
  } catch (error) {
    say($("samples-status"), error.message, true);
    return;
  }
  say($("samples-status"), "");
  $("samples").replaceChildren(...items.map((item) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    button.dataset.item = item.id;
    button.title = image.alt = titleOf(item);
    button.setAttribute("aria-pressed", String(query?.item === item.id));
    button.append(image);
    show(image, item.id);
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
  find("h3").textContent = about.hardened ? `${side.name} model` : "The model";
  find(".verdict").replaceChildren(...verdict(side, label));
  for (const name of ["original", "adversarial", "difference"]) find(`.${name}`).src = side[name];
  find("figure:last-child figcaption").textContent = `difference × ${side.magnified}`;
  for (const name of ["risk_before", "risk_after"]) drawRisk(find(`.${name}`), side[name]);
  drawHits(find(".before"), side.before, { label, index: side.name });
  drawHits(find(".after"), side.after, { label, index: side.name });
  return entry;
}

function heardRisk(side) {
  if (!side.risk_before) return "";
  const name = about.hardened ? `${side.name} model: the` : "The";
  return `${name} query ${side.risk_before.sentence} before the attack, and ${side.risk_after.sentence} after it.`;
}

async function attack() {
  again = attacking !== null;
  if (!query || again) return;
  const mine = attacking = new AbortController();
  $("attack").setAttribute("aria-busy", "true"); // disabled, it would lose the focus
  say($("lab-status"), "Attacking …");
  $("lab-risk").textContent = "";
  try {
    const fields = { epsilon: Number($("epsilon").value) / 255, steps: $("steps").value, k: 10 };
    const report = await json("/lab/attack", { method: "POST", body: body(fields), signal: mine.signal });
    $("sides").replaceChildren(...report.sides.map((side) => drawSide(side, report.label)));
    const seconds = report.sides.reduce((sum, side) => sum + side.seconds, 0);
    say($("lab-status"), `No pixel changed by more than ${report.sides[0].largest}/255; ${report.steps} steps, ${seconds.toFixed(1)} s.`);
    $("lab-risk").textContent = report.sides.map(heardRisk).join(" ");
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

function listen() {
  const drop = $("drop");
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); useFile(event.dataTransfer.files[0]); });
  document.addEventListener("paste", (event) => useFile([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
  $("file").addEventListener("change", (event) => { useFile(event.target.files[0]); event.target.value = ""; });
  $("others").addEventListener("click", () => { seed += 1; loadSamples(); });
  $("filter-form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("k").addEventListener("change", search);
  $("lab-form").addEventListener("submit", (event) => { event.preventDefault(); attack(); });
  $("epsilon").addEventListener("input", (event) => { $("epsilon-text").textContent = `${event.target.value}/255`; });
  $("epsilon").addEventListener("change", () => { if ($("sides").children.length) attack(); });
  listenForToken(() => { begin(); search(); });
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
