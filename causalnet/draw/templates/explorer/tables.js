// Tables: sorted by d3's own order, copied as tab-separated text.
function cellValue(cell) {
  const text = cell.textContent.trim();
  const number = Number(text.replace("−", "-").replace(/^\+/, "").replace(/\s*%$/, ""));
  return text !== "" && Number.isFinite(number) ? number : text.startsWith("[") ? Number(text.slice(1).split(",")[0].replace("−", "-")) : text;
}

function sortBy(table, column, rising) {
  const order = rising ? lib.ascending : lib.descending;
  const kinds = (a, b) => (typeof a === typeof b ? order(a, b) : typeof a === "number" ? -1 : 1);
  lib.select(table).select("tbody").selectAll("tr").datum(function values() {
    return cellValue(this.cells[column]);
  }).sort(kinds);
}

// Heads become buttons: the first press sorts from the largest, the next from the smallest.
function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    if (head.querySelector("button")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") === "descending";
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      sortBy(table, column, rising);
    });
  });
}

function asText(table) {
  return [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim().replace(/\s+/g, " ").replace(/−/g, "-")).join("\t")).join("\n");
}

function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done ? Promise.resolve() : Promise.reject(new Error("copying was refused"));
}

function copyable(region) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy table";
  button.addEventListener("click", () => {
    const say = (text) => {
      button.textContent = text;
      setTimeout(() => { button.textContent = "Copy table"; }, 1500);
    };
    copyText(asText(region.querySelector("table"))).then(() => say("Copied"), () => say("Could not copy"));
  });
  region.before(button);
}

// Fills a table that changes with the choice; a row may be pressed.
function fillTable(id, head, rows, press) {
  const table = document.getElementById(id);
  if (!table.tHead) {
    lib.select(table).append("thead").append("tr").selectAll("th").data(head).join("th").attr("scope", "col").text((name) => name);
    lib.select(table).append("tbody");
    sortable(table);
  }
  const lines = lib.select(table).select("tbody").selectAll("tr").data(rows).join("tr");
  lines.selectAll("td").data((row) => row.cells).join("td").attr("class", (cell) => cell.look || null).each(function fill(cell) {
    if (!cell.press) {
      this.textContent = cell.text;
      return;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.className = "link";
    button.textContent = cell.text;
    button.addEventListener("click", () => press(cell.press));
    this.replaceChildren(button);
  });
  const sorted = [...table.tHead.rows[0].cells].findIndex((cell) => cell.hasAttribute("aria-sort"));
  if (sorted >= 0) sortBy(table, sorted, table.tHead.rows[0].cells[sorted].getAttribute("aria-sort") === "ascending");
}

const number = (value, digits = 3) => ({ text: signed(value, digits), look: !Number.isFinite(value) || Math.abs(value) < 0.0005 ? "" : value > 0 ? "up" : "down" });

const percent = (share) => `${signed(100 * share, 0).replace("+", "")} %`;

function responderTable(set, state, choose) {
  const seen = view(set, state.node, state.prompt);
  const rows = seen.rows.filter((row) => row.delta !== null).sort((a, b) => Math.abs(b.delta) - Math.abs(a.delta));
  fillTable("responder-table", ["responder", "ΔDE", "95 % interval", "before", "after", "share of CE"], rows.map((row) => ({ cells: [
    set.place.has(row.name) ? { text: row.name, press: { node: set.place.get(row.name) } } : { text: row.name },
    number(row.delta), { text: row.half ? `[${signed(row.delta - row.half, 3)}, ${signed(row.delta + row.half, 3)}]` : "" },
    number(row.before), number(row.before + row.delta),
    { text: Math.abs(seen.numbers.ce) > 1e-6 ? percent(row.delta / seen.numbers.ce) : "–" },
  ] })), choose);
}

function promptTable(set, state, choose) {
  const rows = Array.from({ length: promptCount(set) }, (_, i) => ({ cells: [
    { text: String(i), press: { prompt: i } }, { text: set.each.texts[i], look: "text" }, { text: set.each.targets[i], look: "text" },
    ...["clean", "te", "de", "ce", "norm"].map((name) => number(part(set, name, state.node, i))),
  ] }));
  fillTable("prompt-table", ["prompt", "text", "target", "direct", "TE", "DE", "CE", "NORM"], rows, choose);
}
