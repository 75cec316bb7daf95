// What the page asks the service, with its token if it needs one.

export const $ = (id) => document.getElementById(id);

export function say(place, text, wrong = false) {
  place.textContent = text;
  place.classList.toggle("wrong", wrong);
}

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

export async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer.");
  }
  if (response.ok) return response;
  let text;
  try { text = (await response.json()).error; } catch { /* an answer that is not ours */ }
  if (response.status === 401) {
    text = "Give the token at the top of the page.";
    if (token && sessionStorage.getItem("token") === token) { // not another one, typed meanwhile
      sessionStorage.removeItem("token");
      say($("token-text"), "That is not the token of this service.", true);
    }
    $("token-form").hidden = false;
    $("token").focus();
  }
  throw new Refused(response.status, text || response.statusText || `The service answers with ${response.status}.`);
}

export async function json(path, options) {
  const response = await call(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(response.status, "What answers here is not the service.");
  }
}

export function listenForToken(then) {
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    if (!/^[!-~]+$/.test(token)) { // a header cannot carry it
      say($("token-text"), "A token has letters, digits and signs of a plain keyboard.", true);
      return;
    }
    sessionStorage.setItem("token", token);
    say($("token-text"), "");
    $("token-form").hidden = true;
    then();
  });
}
