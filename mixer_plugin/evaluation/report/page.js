"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const make = (name, className, text) => {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Colours: the reader's own, until the button is used.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (isDark) => {
    root.dataset.theme = isDark ? "dark" : "light";
    byId("theme").textContent = isDark ? "Light colours" : "Dark colours";
  };
  show(dark.matches);
  let chosen = false;
  dark.addEventListener("change", () => { if (!chosen) show(dark.matches); });
  byId("theme").addEventListener("click", () => {
    chosen = true;
    show(root.dataset.theme !== "dark");
  });

  // Tables: a heading sorts by its column, numbers falling first; what has no number stays last.
  const sort = (button) => {
    const head = button.closest("th");
    const column = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const cells = (row) => row.cells[column];
    const numeric = [...body.rows].some((row) => cells(row).dataset.value !== undefined);
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) =>
      numeric ? parseFloat(cells(row).dataset.value) : cells(row).textContent;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (!numeric) return sign * x.localeCompare(y);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return sign * (x - y);
    };
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    body.append(...[...body.rows].sort(compare));
  };
  document.querySelectorAll(".sort").forEach((button) =>
    button.addEventListener("click", () => sort(button)));
  document.querySelectorAll(".unfold").forEach((box) =>
    box.addEventListener("change", () => {
      byId(box.getAttribute("aria-controls")).querySelectorAll(".folded")
        .forEach((row) => { row.hidden = !box.checked; });
    }));

  // Ranked lists.
  const data = JSON.parse(byId("data").textContent);
  if (!byId("browser")) return;
  const [setting, left, right, query] = ["setting", "left", "right", "query"].map(byId);
  const options = (select, pairs) =>
    select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  const percent = (share) => (share === null ? "none" : `${(100 * share).toFixed(1)} %`);
  const entry = (choice) => data.entries[Number(choice.value)][setting.value];
  const two = () => right.value !== "";

  const fillQueries = () => {
    const kept = query.value;
    const { ap } = entry(left);
    options(query, data.queries.map((row, at) =>
      [at, `${data.images[row].name}, AP ${percent(ap[at])}`]));
    query.value = kept || "0";
  };

  const card = (row, of, score) => {
    const image = data.images[row];
    const query = data.images[of];
    const asked = score === undefined;
    const hit = image.id >= 0 && image.id === query.id;
    const item = make(asked ? "div" : "li", asked ? "item" : `item ${hit ? "right" : "wrong"}`);
    if (image.picture) {
      const picture = make("img");
      picture.src = image.picture;
      picture.alt = image.name;
      item.append(picture);
    } else {
      item.append(make("span", "name", image.name));
    }
    item.append(make("span", `badge ${image.modality ? "i" : "v"}`, image.modality ? "IR" : "VIS"));
    item.append(` cam ${image.camera}`);
    item.append(make("strong", "", asked ? "query" : hit ? "✓ right" : "✗ wrong"));
    if (!asked) item.append(score.toFixed(3));
    return item;
  };

  const list = (choice, at) => {
    const found = entry(choice);
    const row = data.queries[at];
    const box = make("div", "list");
    const first = found.first[at];
    const words = first === null ? "no right image in the gallery"
      : `AP ${percent(found.ap[at])}, first hit at rank ${Number(first.toFixed(1))}`;
    box.append(make("h3", "", `${data.choices[Number(choice.value)].label}: ${words}`));
    const items = make("ol");
    items.setAttribute("aria-label", `Ranked images, ${data.choices[Number(choice.value)].label}`);
    (found.rows[at] || []).forEach((item, place) =>
      items.append(card(item, row, found.scores[at][place])));
    box.append(items);
    return box;
  };

  const draw = () => {
    const at = Number(query.value);
    const row = data.queries[at];
    const image = data.images[row];
    byId("lists").replaceChildren(
      card(row, row), list(left, at), ...(two() ? [list(right, at)] : []));
    document.querySelectorAll(".two").forEach((button) => { button.disabled = !two(); });
    byId("said").textContent =
      `Query ${at + 1} of ${data.queries.length}: ${image.name}, ` +
      `${image.modality ? "infrared" : "visible"}, camera ${image.camera}.`;
  };

  const jump = (where) => {
    const { ap } = entry(left);
    const other = two() ? entry(right).ap : ap;
    const last = data.queries.length - 1;
    if (where === "previous" || where === "next") {
      const to = Number(query.value) + (where === "next" ? 1 : -1);
      query.value = String(Math.min(Math.max(to, 0), last));
      return draw();
    }
    const by = where === "gain" || where === "loss" ? (at) => other[at] - ap[at] : (at) => ap[at];
    const order = data.queries.map((_, at) => at)
      .filter((at) => ap[at] !== null && other[at] !== null)
      .sort((a, b) => by(a) - by(b) || a - b);
    const place = { worst: 0, loss: 0, median: order.length >> 1 }[where] ?? order.length - 1;
    if (order.length) query.value = String(order[place]);
    return draw();
  };

  options(setting, data.settings.map((name) => [name, name]));
  const choices = data.choices.map((choice, at) => [at, choice.label]);
  options(left, choices);
  options(right, [["", "nothing"], ...choices]);
  if (data.settings.includes("mix")) setting.value = "mix";
  left.value = String(data.start[0]);
  right.value = data.start.length > 1 ? String(data.start[1]) : "";
  [setting, left].forEach((select) =>
    select.addEventListener("change", () => { fillQueries(); draw(); }));
  [right, query].forEach((select) => select.addEventListener("change", draw));
  byId("choose").addEventListener("submit", (event) => event.preventDefault());
  byId("jumps").addEventListener("click", (event) => {
    const button = event.target.closest("[data-jump]");
    if (button) jump(button.dataset.jump);
  });
  fillQueries();
  jump("worst");
})();
