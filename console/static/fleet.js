// The fleet, asked each second: what each replica has open, and what has changed since the page was opened.

import { age, bundleLink, byId, clock, fill, make } from "./dom.js";
import { repeat } from "./ask.js";

const EVENTS_MAX = 100;
const before = new Map(); // address and service -> replica, as it was a second ago
let wanted = null;
let first = true;

function show(fleet) {
  byId("fresh").replaceChildren("Asked each second; last at ", clock(fleet.at_ms));
  fill(byId("change"), fleet.change, (change) => (change ? describeChange(change) : []));
  const faults = fleet.pairs.flatMap((pair) => pair.faults);
  const summaries = fleet.pairs.map((pair) => ({ name: fleet.pairs.length > 1 ? pair.name + ": " : "", ...progressOf(pair), faults: pair.faults }));
  if (fleet.store.trouble) faults.push(fleet.store.trouble);
  fill(byId("verdict"), { summaries, faults }, describeVerdict);
  syncPairs(fleet);
  noteEvents(fleet);
}

function describeChange(change) {
  const kind = change.kind === "promotion" ? "The promotion of " : "The roll back to ";
  const state = { running: ["warn", " is under way: its files are being verified."], done: ["good", " is done."], failed: ["bad", " failed: " + change.message] }[change.state];
  return make("p", { class: "note " + state[0] }, kind, bundleLink(change.version), state[1]);
}

// How many replicas answer with what the store names as live. A query tower may do so from another bundle of the model.
function progressOf(pair) {
  const answering = pair.replicas.filter((replica) => !replica.error);
  return { live: pair.wanted, ready: pair.live ? pair.serving : answering.filter((replica) => replica.live === pair.wanted).length, total: pair.replicas.length };
}

function describeVerdict({ summaries, faults }) {
  const lines = summaries.map(({ name, live, ready, total }) => {
    const all = ready === total && total > 0;
    return make("div", { class: "note " + (all ? "good" : "warn") },
      make("p", { class: "verdict" }, name, all ? "All " + total + " replicas answer with " : ready + " of " + total + " replicas answer with ", live ? bundleLink(live) : "one live bundle"),
      all ? null : make("progress", { max: Math.max(total, 1), value: ready, "aria-label": "Replicas with the live bundle" }));
  });
  if (faults.length) lines.push(make("div", { class: "note bad" }, make("ul", { class: "refusals" }, faults.map((fault) => make("li", {}, fault)))));
  return lines;
}

function syncPairs(fleet) {
  const place = byId("pairs");
  if (place.children.length !== fleet.pairs.length) {
    place.replaceChildren(...fleet.pairs.map(() => make("section", { class: "pair" }, make("h2", {}), make("ul", { class: "replicas" }))));
  }
  fleet.pairs.forEach((pair, number) => {
    const [heading, list] = place.children[number].children;
    fill(heading, fleet.pairs.length > 1 ? pair.name : "Replicas", (name) => document.createTextNode(name));
    while (list.children.length > pair.replicas.length) list.lastElementChild.remove();
    while (list.children.length < pair.replicas.length) list.append(make("li", { class: "card replica" }));
    pair.replicas.forEach((replica, position) => {
      const item = list.children[position];
      item.className = "card replica " + stateOf(replica)[0];
      const opened = replica.opened_at_ms ? age(fleet.at_ms - replica.opened_at_ms) : "";
      fill(item, { ...replica, opened }, describeReplica);
    });
  });
}

function stateOf(replica) {
  if (replica.error) return ["bad", "does not answer"];
  if (replica.loading) return ["busy", "loading"];
  if (replica.problems.length) return ["bad", "refused a bundle"];
  if (!replica.live) return ["bad", "no bundle"];
  return ["good", "serving"];
}

function describeReplica(replica) {
  const [kind, words] = stateOf(replica);
  const facts = [];
  const add = (name, ...value) => facts.push(make("dt", {}, name), make("dd", {}, ...value));
  if (!replica.error) {
    add("Answers with", bundleLink(replica.live));
    if (replica.live) add("Opened", replica.opened + " ago");
    if (replica.loading) add("Loading", bundleLink(replica.loading));
    const others = replica.open.slice(1);
    if (others.length) add("Also open", others.map((each) => make("span", {}, bundleLink(each.bundle))));
    if (replica.live) add("Model", make("span", { class: "mono" }, replica.model));
    if (replica.in_flight !== null) add("In flight", replica.in_flight + (replica.in_flight === 1 ? " call" : " calls"));
  }
  return [
    make("h3", {}, make("span", {}, make("span", { class: "kind" }, replica.service + " "), make("span", { class: "mono" }, replica.address)), make("span", { class: "badge " + kind }, words)),
    replica.error ? make("p", { class: "note bad" }, replica.error) : make("dl", {}, facts),
    ...replica.problems.map((problem) => make("p", { class: "note bad" }, problem.bundle ? "Refused " : "Trouble with its store", problem.bundle ? bundleLink(problem.bundle) : null, " at gate " + problem.gate + ": " + problem.message)),
  ];
}

function noteEvents(fleet) {
  const events = [];
  if (!first && fleet.store.live !== wanted) events.push(["The store names ", bundleLink(fleet.store.live), " as live"]);
  wanted = fleet.store.live;
  for (const pair of fleet.pairs) {
    for (const replica of pair.replicas) {
      const key = pair.name + " " + replica.service + " " + replica.address;
      const old = before.get(key);
      before.set(key, replica);
      if (!old) continue;
      const who = replica.service + " " + replica.address;
      if (replica.error && !old.error) events.push([who + " does not answer"]);
      if (!replica.error && old.error) events.push([who + " answers again"]);
      if (replica.loading && replica.loading !== old.loading) events.push([who + " loads ", bundleLink(replica.loading)]);
      if (replica.live && replica.live !== old.live && !old.error) events.push([who + " answers with ", bundleLink(replica.live)]);
      const known = new Set(old.problems.map((problem) => problem.bundle + problem.gate + problem.at_ms));
      for (const problem of replica.problems) {
        if (!known.has(problem.bundle + problem.gate + problem.at_ms)) events.push([who + " refuses ", bundleLink(problem.bundle), " at gate " + problem.gate]);
      }
    }
  }
  first = false;
  if (!events.length) return;
  const list = byId("events");
  if (list.querySelector("li.soft")) list.replaceChildren();
  for (const parts of events) list.prepend(make("li", {}, clock(fleet.at_ms), make("span", {}, ...parts)));
  while (list.children.length > EVENTS_MAX) list.lastElementChild.remove();
}

repeat("/api/fleet", 1000, show, (error) => {
  byId("fresh").textContent = error.message;
  fill(byId("verdict"), error.message, (message) => make("p", { class: "note bad" }, message));
});
