// The page's state, and what is drawn again when it changes.
const DATA = JSON.parse(document.getElementById("numbers-data").textContent);
const SETS = DATA.sets.map((raw, i) => opened({ ...raw, key: String(i) }));
const state = { set: 0, node: SETS[0].strongest, prompt: DATA.prompt !== null && DATA.prompt < promptCount(SETS[0]) ? DATA.prompt : null };
const element = (id) => document.getElementById(id);
const current = () => SETS[state.set];

function showHint(event, lines) {
  const hint = element("hint");
  hint.textContent = lines.join("\n");
  hint.hidden = false;
  const box = event.currentTarget.getBoundingClientRect();
  const [x, y] = event.type === "focus" ? [box.right, box.bottom] : [event.clientX, event.clientY];
  const left = Math.min(x + 14, document.documentElement.clientWidth - hint.offsetWidth - 8);
  hint.style.left = `${Math.max(left, 8)}px`;
  hint.style.top = `${Math.min(y + 14, window.innerHeight - hint.offsetHeight - 8)}px`;
}

function hideHint() {
  element("hint").hidden = true;
}

function option(value, text) {
  const one = document.createElement("option");
  one.value = value;
  one.textContent = text;
  return one;
}

function fillSets() {
  const groups = new Map();
  SETS.forEach((set, i) => groups.set(set.group, [...(groups.get(set.group) || []), option(String(i), set.name)]));
  for (const [name, options] of groups) {
    const group = document.createElement("optgroup");
    group.label = name;
    group.append(...options);
    element("set").append(group);
  }
  element("set").closest("label").hidden = SETS.length < 2;
}

function fillChoices() {
  const set = current();
  const texts = set.each ? set.each.texts : [];
  const cut = (text) => (text.length > 90 ? `${text.slice(0, 89)}…` : text);
  element("prompt").replaceChildren(option("", `mean over ${set.prompts} prompts`), ...texts.map((text, i) => option(String(i), `${i}: ${cut(text)}`)));
  element("prompt").disabled = element("next").disabled = element("previous").disabled = texts.length === 0;
  const kinds = [...new Set(set.nodes.map((node) => node.kind))];
  document.querySelectorAll("input[name=kind]").forEach((radio) => {
    radio.disabled = !kinds.includes(radio.value);
    radio.closest("label").hidden = radio.disabled;
  });
  const layers = set.nodes.map((node) => node.layer);
  element("layer").min = String(Math.max(Math.min(...layers), 0));
  element("layer").max = String(Math.max(...layers));
  const heads = Math.max(...set.nodes.map((node) => (node.head === null ? -1 : node.head)));
  element("head").closest("label").hidden = heads < 0;
  element("head").max = String(Math.max(heads, 0));
}

function choose(change) {
  const before = current();
  const name = before.nodes[state.node].name;
  Object.assign(state, change);
  if (change.set !== undefined) {
    const set = current();
    state.node = set.place.has(name) ? set.place.get(name) : set.strongest;
    // A prompt is carried over only to the same prompt.
    const same = state.prompt !== null && set.each && set.each.texts[state.prompt] === (before.each && before.each.texts[state.prompt]);
    state.prompt = same ? state.prompt : null;
    fillChoices();
    sayOutcome();
    drawOverall();
  }
  drawChoice();
}

function nodeAt(kind, layer, head) {
  const set = current();
  const found = set.nodes.map((node, i) => ({ ...node, i })).filter((node) => node.kind === kind);
  const far = (node) => Math.abs(node.layer - layer) * 1000 + Math.abs((node.head === null ? head : node.head) - head);
  found.sort((a, b) => far(a) - far(b) || a.i - b.i);
  return found.length ? found[0].i : state.node;
}

function sentence(set, seen) {
  const node = set.nodes[state.node].name;
  const where = state.prompt === null ? `Mean over ${set.prompts} prompts` : `On prompt ${state.prompt}`;
  const ends = limits(set, "te", state.node, state.prompt);
  const spread = ends ? ` (95 % interval ${signed(ends[0])} to ${signed(ends[1])})` : "";
  const n = seen.numbers;
  return `${where}: setting ${node} (${set.ablation}) changes ${set.read} by ${signed(n.te)}${spread} = direct ${signed(n.de)}, compensation ${signed(n.ce)}, norm ${signed(n.norm)}.`;
}

function leaders(set, seen) {
  if (!set.responds) return "";
  const rows = seen.rows.filter((row) => row.delta !== null && Math.abs(row.delta) > 0.0005);
  const name = (row) => `${row.name} ${signed(row.delta, 3)}`;
  const up = rows.filter((row) => row.delta > 0).sort((a, b) => b.delta - a.delta).slice(0, 3).map(name);
  const down = rows.filter((row) => row.delta < 0).sort((a, b) => a.delta - b.delta).slice(0, 3).map(name);
  const words = [up.length ? `Rise most: ${up.join(", ")}.` : "Nothing rises.", down.length ? `Fall most: ${down.join(", ")}.` : "Nothing falls."];
  if (rows.length) words.push(`About ${seen.ratio.toFixed(1)} responders carry the response (participation ratio).`);
  if (seen.hidden) words.push(`${seen.hidden} smaller responders of this prompt are not in this file; together ${signed(seen.rest, 3)} ${set.unit}.`);
  return words.join(" ");
}

function drawChoice() {
  const set = current();
  const node = set.nodes[state.node];
  const seen = view(set, state.node, state.prompt);
  element("set").value = String(state.set);
  element("prompt").value = state.prompt === null ? "" : String(state.prompt);
  element("layer").value = String(Math.max(node.layer, 0));
  element("layer").setAttribute("aria-valuetext", node.name);
  element("layer-out").textContent = node.name;
  if (node.head !== null) element("head").value = String(node.head);
  document.querySelectorAll("input[name=kind]").forEach((radio) => { radio.checked = radio.value === node.kind; });
  element("chosen").textContent = `${node.name} ablated${SETS.length > 1 ? `, ${set.name}` : ""}`;
  element("said").textContent = sentence(set, seen);
  element("leaders").textContent = leaders(set, seen);
  element("prompt-text").textContent = state.prompt === null ? "" : `“${set.each.texts[state.prompt]}” → “${set.each.targets[state.prompt]}”`;
  const listed = element("responder-table").closest(".table");
  listed.hidden = !set.responds;
  if (listed.previousElementSibling.matches(".copy")) listed.previousElementSibling.hidden = !set.responds;
  hideHint();
  drawGraph(set, state, choose);
  drawSum(set, state);
  drawResponders(set, state);
  drawScatter(set, state);
  responderTable(set, state, choose);
  if (element("prompts").open) promptTable(set, state, choose);
  keepInView();
}

// In a graph that is taller than its window, the chosen box stays in sight; the page itself is not moved.
function keepInView() {
  const frame = element("graph");
  const box = frame.querySelector(".chosen");
  if (!box) return;
  const [inner, outer] = [box.getBoundingClientRect(), frame.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom) frame.scrollTop += inner.top - outer.top - outer.height / 2;
}

// Units and outcome, wherever the page's own words name them, and why there are no responders where there are none.
function sayOutcome() {
  const set = current();
  document.querySelectorAll(".unit").forEach((one) => { one.textContent = set.unit; });
  document.querySelectorAll(".read").forEach((one) => { one.textContent = set.read; });
  element("whole").hidden = set.responds;
  element("whole").textContent = set.responds ? "" : `The compensation in ${set.read} is known as a whole: it is no sum over responders, so no arrows, no responders and no map of them are shown.`;
}

function drawOverall() {
  const set = current();
  const arms = SETS.filter((one) => one.main);
  const shown = (arms.includes(set) ? arms : [set]).map((one) => ({ label: one.name, unit: one.unit, rows: one.summary.nodes || [] }));
  const key = element("quantity").value;
  drawImpact(set);
  drawCoupling(set);
  drawLayers("layers", shown, key, `${quantity(key, oneUnit(shown))} over the layers`);
  legend("layers-legend", shown);
  DATA.families.forEach((family, at) => {
    const mixed = new Set(family.members.map((member) => member.unit)).size > 1;
    const variants = family.members.map(({ label, unit, rows }) => ({ label: mixed ? `${label} (${unit})` : label, unit, rows }));
    const chosen = element(`quantity-${at}`).value;
    drawLayers(`family-${at}`, variants, chosen, `${quantity(chosen, oneUnit(variants))} over the layers, by ${family.name}`);
    legend(`family-legend-${at}`, variants);
  });
}

function legend(id, named) {
  const shown = named.length > LINES.length ? [{ label: `${named.length} variants: the pointer names each` }] : named;
  lib.select(element(id)).selectAll("li").data(shown).join((enter) => {
    const one = enter.append("li");
    one.append("span").attr("class", "swatch").attr("aria-hidden", "true");
    one.append("span").attr("class", "label");
    return one;
  }).each(function fill({ label }, at) {
    lib.select(this).select(".swatch").style("background", lineColour(at, named));
    lib.select(this).select(".label").text(label);
  });
}

function redraw() {
  drawOverall();
  drawChoice();
}

function listen() {
  const set = () => current();
  const kind = () => document.querySelector("input[name=kind]:checked").value;
  element("set").addEventListener("change", (event) => choose({ set: Number(event.target.value) }));
  element("prompt").addEventListener("change", (event) => choose({ prompt: event.target.value === "" ? null : Number(event.target.value) }));
  const step = (by) => () => {
    const count = promptCount(set());
    choose({ prompt: state.prompt === null ? (by > 0 ? 0 : count - 1) : (state.prompt + by + count) % count });
  };
  element("next").addEventListener("click", step(1));
  element("previous").addEventListener("click", step(-1));
  const slide = () => choose({ node: nodeAt(kind(), Number(element("layer").value), Number(element("head").value)) });
  element("layer").addEventListener("input", slide);
  element("head").addEventListener("input", slide);
  document.querySelectorAll("input[name=kind]").forEach((radio) => radio.addEventListener("change", slide));
  document.querySelectorAll("select.quantity").forEach((one) => one.addEventListener("change", drawOverall));
  element("prompts").addEventListener("toggle", () => element("prompts").open && promptTable(set(), state, choose));
  const at = (name) => set().place.get(name);
  onPick("responders", (row) => at(row.name) !== undefined && choose({ node: at(row.name) }));
  onPick("scatter", (row) => choose({ prompt: row.i }));
  onPick("coupling", (cell) => choose({ node: cell.n }));
  onPick("impact", (row) => choose({ node: at(row.name) }));
  onPick("layers", (row) => at(row.name) !== undefined && choose({ node: at(row.name) }));
}

function themes() {
  const root = document.documentElement;
  element("theme").hidden = false;
  element("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    redraw();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => { root.dataset.printing = "yes"; redraw(); });
  window.addEventListener("afterprint", () => { delete root.dataset.printing; redraw(); });
}

function start() {
  document.documentElement.classList.add("live");
  fillSets();
  fillChoices();
  sayOutcome();
  listen();
  themes();
  document.querySelectorAll(".table table").forEach((table) => {
    if (table.tHead) sortable(table);
    copyable(table.closest(".table"));
  });
  redraw();
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    window.requestAnimationFrame(redraw);
  });
}

start();
