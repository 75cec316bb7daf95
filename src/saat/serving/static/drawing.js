// How the page draws items, what is found, and a risk.

import { $, call } from "./service.js";

export async function show(image, item, { index = "plain", signal } = {}) {
  const path = `/images/${item}?size=256&index=${index}`;
  image.dataset.of = path;
  if (!sessionStorage.getItem("token")) { image.src = path; return; }
  try {
    const url = URL.createObjectURL(await (await call(path, { signal })).blob()); // an <img> cannot show a token by itself
    if (image.dataset.of !== path) { URL.revokeObjectURL(url); return; } // it shows another one by now
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch { if (image.dataset.of === path) image.removeAttribute("src"); }
}

export const titleOf = (item) => item.metadata.label ?? item.name;

function drawBits(svg, bits, length) {
  const differing = new Set(bits);
  const across = length <= 128 ? 32 : 64, rows = Math.ceil(length / across);
  svg.setAttribute("viewBox", `0 0 ${across * 5 - 1} ${rows * 13 - 1}`);
  svg.setAttribute("aria-label", bits.length ? `Differing bits: ${bits.join(", ")}` : "No bit differs");
  for (let bit = 0; bit < length; bit++) {
    const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x: (bit % across) * 5, y: Math.floor(bit / across) * 13, width: 4, height: 12, rx: 1 };
    for (const [name, value] of Object.entries(place)) cell.setAttribute(name, value);
    cell.setAttribute("class", differing.has(bit) ? "differs" : "same");
    svg.append(cell);
  }
}

export const bitsOf = (count) => `${count} ${count === 1 ? "bit" : "bits"}`;

export function drawHits(list, hits, { label = null, index = "plain", length = 0, choose = null, signal } = {}) {
  list.replaceChildren(...hits.map((hit) => {
    const entry = $("hit").content.cloneNode(true);
    const tile = entry.querySelector(".tile"), image = entry.querySelector("img");
    show(image, hit.id, { index, signal });
    entry.querySelector(".label").textContent = titleOf(hit);
    entry.querySelector(".distance").textContent = bitsOf(hit.distance);
    if (length) drawBits(entry.querySelector(".bits"), hit.bits, length); else entry.querySelector(".bits").remove();
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

export function shares(one, other) {
  const names = new Set(String(other).split(", "));
  return one != null && String(one).split(", ").some((name) => names.has(name));
}

export function drawRisk(place, risk) {
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
