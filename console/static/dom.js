// Makes elements. Texts are set as texts, so nothing in them is read as markup.
// Control characters and marks of the writing direction are shown, not obeyed.

// eslint-disable-next-line no-control-regex
const UNSAFE = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

export function plain(text) {
  return String(text).replace(UNSAFE, (mark) => "\\u" + mark.charCodeAt(0).toString(16).padStart(4, "0"));
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === "") continue;
    element.append(child instanceof Node ? child : document.createTextNode(plain(child)));
  }
}

export function byId(id) {
  return document.getElementById(id);
}

// Fills an element anew if what it is to show has changed, so that focus and selection stay.
const shown = new WeakMap();
export function fill(element, state, build) {
  const key = JSON.stringify(state);
  if (shown.get(element) === key) return;
  shown.set(element, key);
  element.replaceChildren(...[build(state)].flat().filter((child) => child !== null));
}

export function bundleLink(version) {
  return version ? make("a", { href: "/bundles/" + encodeURIComponent(version), class: "mono" }, version) : make("span", { class: "soft" }, "none");
}

export function clock(ms) {
  return make("time", { datetime: new Date(ms).toISOString() }, new Date(ms).toLocaleTimeString([], { hour12: false }));
}

export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  if (s < 86400) return Math.floor(s / 3600) + " h";
  return Math.floor(s / 86400) + " days";
}
