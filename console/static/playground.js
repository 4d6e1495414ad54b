// The playground: fills the form, asks, and shows history and recommendations side by side.

import { byId, make } from "./dom.js";
import { ask } from "./ask.js";

const fields = [...document.querySelectorAll("[data-feature]")];
let examples = [];

const STORED = {
  unknown_user: "Nothing is stored of this user: the features of the form alone were used.",
  unavailable: "The feature store did not answer in time: the features of the form alone were used.",
  not_configured: "The services have no feature store: the user id was not used.",
};

// Features

function toText(field, value) {
  if (value === null || value === undefined) return "";
  if (!Array.isArray(value)) return String(value);
  const texts = value.map((each) => (each === null ? "" : String(each)));
  // With a comma in a value, each value gets a line of its own.
  return texts.join(texts.some((text) => text.includes(",")) ? "\n" : ", ");
}

function useFeatures(features) {
  for (const field of fields) field.value = toText(field, features[field.dataset.feature]);
  byId("json").value = JSON.stringify(features, null, 2);
}

function readForm() {
  return Object.fromEntries(fields.map((field) => [field.dataset.feature, tidy(field)]));
}

// "50, 181" reads better than "50,181"; ids have no blanks around them.
function tidy(field) {
  if (field.dataset.list === undefined || field.value.includes("\n")) return field.value;
  return field.value.split(",").map((part) => part.trim()).join(",");
}

async function loadUser() {
  try {
    useFeatures((await ask("/api/user", { user_id: byId("user").value.trim() })).features);
    byId("example").value = "";
    await recommend();
  } catch (error) {
    fail(error);
  }
}

// Filters

function addFilter() {
  const row = byId("filter").content.firstElementChild.cloneNode(true);
  const attribute = row.querySelector(".attribute");
  const operators = [...row.querySelectorAll(".operator option")];
  attribute.addEventListener("change", () => limitOperators(attribute, operators));
  limitOperators(attribute, operators);
  row.querySelector(".remove").addEventListener("click", () => {
    row.remove();
    byId("add-filter").focus();
  });
  byId("filters").append(row);
  attribute.focus();
}

function limitOperators(attribute, operators) {
  const isNumber = ["int", "float"].includes(attribute.selectedOptions[0].dataset.type);
  for (const option of operators) option.disabled = option.value.length === 2 && option.value !== "!=" && !isNumber;
  const select = operators[0].parentElement;
  if (select.selectedOptions[0].disabled) select.value = "=";
}

function readFilters() {
  return [...document.querySelectorAll("#filters .filter")]
    .map((row) => row.querySelector(".attribute").value + row.querySelector(".operator").value + row.querySelector(".value").value.trim());
}

// Asking

function question() {
  const group = byId("group");
  const body = {
    bundles: [byId("bundle").value, byId("other").value].filter(Boolean),
    k: Number(byId("k").value),
    diversity: Number(byId("diversity").value),
    at_most: group && group.value ? [group.value + "=" + byId("at-most").value] : [],
    exclude: byId("exclude").value.split(",").map((id) => id.trim()).filter(Boolean),
    exclude_history: byId("exclude-history").checked,
    user_id: byId("stored-user").value.trim(),
    conditions: readFilters(),
  };
  if (byId("ranking")) Object.assign(body, { ranking: byId("ranking").value, text: byId("ranking").value === "embedding" ? "" : byId("text").value });
  if (byId("as").value === "json") body.json = byId("json").value;
  else body.values = readForm();
  return body;
}

async function recommend() {
  const button = byId("ask");
  button.disabled = true;
  byId("status").textContent = "Asking…";
  byId("problem").replaceChildren();
  try {
    const answer = await ask("/api/recommend", question());
    const [first, second] = answer.results;
    byId("results").replaceChildren(describeHistory(answer.history), describeResult(first, null), ...(second ? [describeResult(second, first)] : []));
    byId("status").textContent = answer.results.map((result) => result.items.length).join(" and ") + " items, shown below.";
  } catch (error) {
    fail(error);
  } finally {
    button.disabled = false;
  }
}

function fail(error) {
  byId("status").textContent = "";
  byId("problem").replaceChildren(make("p", { class: "note bad" }, error.message));
}

// Results

function describeHistory(history) {
  const count = history.ids.length;
  const meta = count ? count + (count === 1 ? " item" : " items") + ", the newest first" + (history.items.length < count ? ", " + history.items.length + " shown" : "") : "";
  const items = history.items.map((item, index) => make("li", {},
    make("span", { class: "rank" }, String(index + 1)),
    make("span", { class: "title" }, item.title || item.item_id),
    make("span", { class: "score" }),
    item.known === false ? make("span", { class: "more" }, item.item_id + " is not in the catalogue") : item.title ? make("span", { class: "more" }, item.item_id) : null));
  return make("section", { class: "card", "aria-label": "History" }, make("h2", {}, "History"),
    make("p", { class: "meta" }, meta || "No history was given: the model knows the other features alone."),
    history.note ? make("p", { class: "note warn" }, history.note) : null,
    items.length ? make("ol", { class: "items" }, items) : null);
}

function describeResult(result, other) {
  const ranks = other ? new Map(other.items.map((item, index) => [item.id, index + 1])) : null;
  const took = (result.embed_ms === null ? "" : "embedded in " + result.embed_ms.toFixed(1) + " ms, ") + "searched in " + result.search_ms.toFixed(1) + " ms";
  const notes = STORED[result.stored_features] ? [STORED[result.stored_features]] : [];
  if (result.unknown.length) notes.push("The model does not know " + result.unknown.slice(0, 5).join(", ") + (result.unknown.length > 5 ? ", …" : "") + ".");
  if (result.left_out.length) notes.push("The model does not read " + result.left_out.join(", ") + ".");
  if (result.coverage < 1) notes.push("Only " + (100 * result.coverage).toFixed(1) + " % of the catalogue was searched: some shards did not answer.");
  if (result.shortened) notes.push("Fewer items than asked for, as all other candidates are in full groups.");
  if (!result.items.length) notes.push("No item matches. Values of filters are case-sensitive.");
  const items = result.items.map((item, index) => make("li", {},
    make("span", { class: "rank" }, String(index + 1)),
    make("span", { class: "title" }, item.title || item.id),
    make("span", { class: "score" }, item.score.toFixed(3), ranks ? moved(ranks.get(item.id), index + 1) : null),
    make("span", { class: "more" }, [item.title ? item.id : "", ...Object.entries(item.attributes).map(([name, value]) => name + ": " + value)].filter(Boolean).join(" · "))));
  return make("section", { class: "card result", "aria-label": "Recommended by " + result.bundle }, make("h2", {}, "Recommended"),
    make("p", { class: "meta" }, make("a", { class: "mono", href: "/bundles/" + encodeURIComponent(result.bundle) }, result.bundle), ", " + took + (result.candidates ? ", from " + result.candidates + " candidates" : "")),
    ...notes.map((note) => make("p", { class: "note warn" }, note)),
    items.length ? make("ol", { class: "items" }, items) : null);
}

function moved(rank, now) {
  if (rank === undefined) return make("span", { class: "moved new" }, "new");
  if (rank === now) return make("span", { class: "moved" }, "same rank");
  return make("span", { class: "moved " + (rank > now ? "up" : "down") }, (rank > now ? "up from " : "down from ") + rank);
}

// Start

byId("question").addEventListener("submit", (event) => {
  event.preventDefault();
  recommend();
});
byId("as").addEventListener("change", () => {
  const asJson = byId("as").value === "json";
  byId("form").hidden = asJson;
  byId("json-field").hidden = !asJson;
});
byId("diversity").addEventListener("input", () => { byId("diversity-value").value = Number(byId("diversity").value).toFixed(1); });
if (byId("group")) byId("group").addEventListener("change", () => { byId("at-most").disabled = !byId("group").value; });
if (byId("add-filter")) byId("add-filter").addEventListener("click", addFilter);
if (byId("load-user")) {
  byId("load-user").addEventListener("click", loadUser);
  byId("user").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    loadUser();
  });
}
byId("example").addEventListener("change", () => {
  const example = examples[byId("example").value];
  if (example) {
    useFeatures(example.features);
    recommend();
  }
});
ask("/api/examples").then((answer) => {
  examples = answer.examples;
  byId("example").append(...examples.map((example, index) => make("option", { value: String(index) }, example.label)));
}).catch(() => { byId("example").closest(".field").hidden = true; });
byId("ready").disabled = false;
