// Charts of the chosen ablation and of all layers, made by Observable Plot.
const FONT = { fontSize: "12px", fontFamily: "inherit", background: "none", overflow: "visible" };
const SYMBOLS = { attn: "circle", mlp: "square" };
const LINES = ["var(--a0)", "var(--a1)", "var(--a2)", "var(--a3)", "var(--a4)", "var(--a5)", "var(--a6)", "var(--a7)"];

function chart(id, label, make) {
  const place = document.getElementById(id);
  if (!place) return;
  const figure = place.closest("figure");
  figure.hidden = false; // what is hidden has no width
  const width = Math.max(place.clientWidth, 260);
  const options = make(width);
  figure.hidden = options === null;
  if (options === null) return place.replaceChildren();
  const drawn = lib.plot({ width, style: FONT, marginLeft: 52, marginBottom: 44, ...options });
  const svgs = drawn.tagName.toLowerCase() === "svg" ? [drawn] : [...drawn.querySelectorAll("svg")].slice(-1);
  svgs.forEach((svg) => { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", label); });
  // A picture is read as one thing; names on parts without a role are no valid ARIA.
  drawn.querySelectorAll("[aria-label]:not(svg)").forEach((part) => ["aria-label", "aria-description"].forEach((name) => part.removeAttribute(name)));
  place.replaceChildren(drawn);
}

// A click chooses what the pointer's tip stands on.
function onPick(id, pick) {
  const place = document.getElementById(id);
  if (!place) return;
  place.addEventListener("click", () => {
    const drawn = place.firstElementChild;
    if (drawn && drawn.value) pick(drawn.value);
  });
}

// The heads of a layer stand beside each other, within half a layer.
const heads = (nodes) => 1 + (lib.max(nodes, (node) => node.head || 0) || 0);
const aside = (node, most) => (node.head === null ? 0 : ((node.head + 0.5) / most - 0.5) * 0.5);
const minus = (tick) => String(tick).replace("-", "−");

const layerTicks = (layers, width) => {
  const step = Math.max(1, Math.ceil(layers / Math.max(Math.floor(width / 34), 1)));
  return Array.from({ length: Math.ceil(layers / step) }, (_, i) => i * step);
};

function drawSum(set, state) {
  const { numbers } = view(set, state.node, state.prompt);
  const names = { de: "DE", ...(set.responds ? { ce_attn: "CE\nattn", ce_mlp: "CE\nMLP" } : { ce: "CE" }), norm: "NORM", te: "TE" };
  let level = 0;
  const bars = Object.keys(names).map((key) => {
    const value = numbers[key];
    const from = key === "te" ? 0 : level;
    level = from + value;
    const ends = limits(set, key, state.node, state.prompt);
    return { name: names[key], value, from, to: level, low: ends && from + ends[0], high: ends && from + ends[1] };
  });
  const above = (bar) => Math.max(bar.from, bar.to, bar.high === null ? bar.to : bar.high);
  chart("sum", "Total effect as a sum of direct effect, compensation and norm", () => ({
    height: 245, marginTop: 30, marginBottom: 44,
    x: { domain: bars.map((bar) => bar.name), label: null }, y: { label: `effect (${set.unit})`, grid: true, nice: true, tickFormat: minus }, color: { type: "identity" },
    marks: [
      lib.ruleY([0], { stroke: "var(--muted)" }),
      lib.barY(bars, { x: "name", y1: "from", y2: "to", fill: (bar) => signColour(bar.value), fillOpacity: (bar) => (bar.name === "TE" ? 1 : 0.65), insetLeft: 6, insetRight: 6 }),
      lib.ruleX(bars.filter((bar) => bar.low !== null), { x: "name", y1: "low", y2: "high", stroke: "var(--ink)", strokeWidth: 1.5 }),
      lib.text(bars, { x: "name", y: above, text: (bar) => signed(bar.value), dy: -9, fill: "var(--ink)", stroke: "var(--paper)", strokeWidth: 4 }),
    ],
  }));
}

function drawResponders(set, state) {
  const seen = view(set, state.node, state.prompt);
  const own = set.nodes[state.node];
  const most = heads(seen.rows);
  const rows = seen.rows.filter((row) => row.delta !== null).map((row) => ({
    ...row, x: row.layer + (row.kind === "mlp" ? 0.14 : row.head === null ? -0.14 : aside(row, most)), low: row.delta - row.half, high: row.delta + row.half }));
  const hint = (row) => `${row.name}\nΔDE ${signed(row.delta, 3)} ${set.unit}${row.half ? ` ± ${row.half.toFixed(3)}` : ""}\n${signed(row.before, 3)} before, ${signed(row.before + row.delta, 3)} after`;
  chart("responders", `Change of every responder's direct effect when ${own.name} is ablated`, (width) => (!set.responds ? null : {
    height: 250, marginTop: 26,
    x: { domain: [-0.6, set.graph.layers - 0.4], ticks: layerTicks(set.graph.layers, width), tickFormat: String, label: "layer", labelAnchor: "center", labelArrow: "none" },
    y: { label: `ΔDE (${set.unit})`, grid: true, nice: true, tickFormat: minus }, color: { type: "identity" }, symbol: { type: "identity" },
    marks: [
      lib.ruleX([own.layer], { stroke: "var(--muted)", strokeDasharray: "2,3" }),
      lib.ruleY([0], { stroke: "var(--muted)" }),
      lib.ruleX(rows, { x: "x", y1: 0, y2: "delta", stroke: (row) => kindColour(row.kind), strokeWidth: 1.5 }),
      lib.ruleX(rows.filter((row) => row.half), { x: "x", y1: "low", y2: "high", stroke: "var(--ink)", strokeWidth: 1, strokeOpacity: 0.7 }),
      lib.dot(rows, { x: "x", y: "delta", symbol: (row) => SYMBOLS[row.kind] || "circle", fill: (row) => kindColour(row.kind), r: 4,
        tip: { fill: "var(--card)", stroke: "var(--line)" }, title: hint }),
    ],
  }));
}

function drawScatter(set, state) {
  const count = promptCount(set);
  const rows = Array.from({ length: count }, (_, i) => ({ i, x: part(set, "clean", state.node, i), y: part(set, "ce", state.node, i) }));
  const fit = set.rows.get(set.nodes[state.node].name);
  const ends = lib.extent(rows, (row) => row.x);
  const line = fit && fit.intercept !== undefined ? ends.map((x) => ({ x, y: fit.intercept + fit.slope * x })) : [];
  const cut = (text) => (text.length > 70 ? `${text.slice(0, 69)}…` : text);
  chart("scatter", `Compensation against direct effect, one point per prompt, ${set.nodes[state.node].name} ablated`, () => (count === 0 ? null : {
    height: 250, marginTop: 26, x: { label: `direct effect, nothing ablated (${set.unit})`, labelAnchor: "center", labelArrow: "none", nice: true, tickFormat: minus }, y: { label: `CE (${set.unit})`, grid: true, nice: true, tickFormat: minus },
    marks: [
      lib.ruleY([0], { stroke: "var(--muted)" }),
      lib.dot(rows, { x: "x", y: "y", r: count > 300 ? 2.2 : 3.5, fill: kindColour(set.nodes[state.node].kind), fillOpacity: 0.5,
        tip: { fill: "var(--card)", stroke: "var(--line)" }, title: (row) => `prompt ${row.i}: ${cut(set.each.texts[row.i])}\ndirect ${signed(row.x, 3)}, CE ${signed(row.y, 3)} ${set.unit}` }),
      lib.line(line, { x: "x", y: "y", stroke: "var(--ink)", strokeWidth: 1.6 }),
      state.prompt === null ? null : lib.dot([rows[state.prompt]], { x: "x", y: "y", r: 7, stroke: "var(--ink)", strokeWidth: 2 }),
    ],
  }));
}

const QUANTITIES = { slope: "slope of CE on the direct effect", r2: "R² of that fit", te: "TE", de: "DE", ce: "CE",
  norm: "NORM", self_repair: "CE + NORM", clean_direct: "direct effect, nothing ablated" };
// Slopes and shares have no unit; variants that read another outcome have their own.
const quantity = (key, unit) => (key === "slope" || key === "r2" ? QUANTITIES[key] : `${QUANTITIES[key]} (${unit})`);
const oneUnit = (named) => (new Set(named.map(({ unit }) => unit)).size > 1 ? "each in its own units" : named[0].unit);

// More lines than colours are told apart by their tips alone.
const lineColour = (at, named) => (named.length > LINES.length ? "var(--muted)" : LINES[at]);

function layerRows(named, key) {
  const most = heads(named.flatMap(({ rows }) => [...rows].map((row) => parsed(row.name))));
  return named.flatMap(({ label, rows, unit }, at) => [...rows].map((row) => ({ row, node: parsed(row.name) }))
    .filter(({ row, node }) => node.layer >= 0 && Number.isFinite(row[key]))
    .map(({ row, node }) => ({ label, unit, name: row.name, kind: node.kind === "mlp" ? "MLP" : "attention", x: node.layer + (at - (named.length - 1) / 2) * Math.min(0.14, 0.7 / named.length) + aside(node, most),
      head: node.head, y: row[key], low: (row[`${key}_ci`] || [])[0], high: (row[`${key}_ci`] || [])[1], colour: lineColour(at, named) })));
}

// One line per model (or variant) over the layers, attention and MLP apart.
function drawLayers(id, named, key, label) {
  const rows = layerRows(named, key);
  const layers = 1 + (lib.max(rows, (row) => Math.floor(row.x + 0.5)) || 0);
  const wild = key === "slope" && rows.some((row) => [row.y, row.low, row.high].some((end) => Math.abs(end) > 5));
  const whiskers = rows.filter((row) => row.low !== undefined);
  const hint = (row) => `${row.label}, ${row.name}\n${quantity(key, row.unit)}: ${signed(row.y, 3)}${row.low === undefined ? "" : ` [${signed(row.low, 3)}, ${signed(row.high, 3)}]`}`;
  chart(id, label, (width) => {
    const wide = width > 640;
    return rows.length === 0 ? null : {
      height: wide ? 300 : 480, marginTop: 26, marginLeft: 62, marginRight: wide ? 10 : 64, fx: SIDES, fy: SIDES,
      x: { ticks: layerTicks(layers, wide ? width / 2 : width), tickFormat: String, label: "ablated layer", labelAnchor: "center", labelArrow: "none", domain: [-0.6, layers - 0.4] },
      y: { label: wild ? "slope (logarithmic beyond ±1)" : quantity(key, oneUnit(named)), labelAnchor: "center", labelArrow: "none", grid: true, nice: !wild, tickFormat: minus, ...(wild ? symlog(rows) : {}) },
      color: { type: "identity" },
      marks: [
        lib.ruleY([0], { stroke: "var(--muted)" }),
        lib.ruleX(whiskers, { x: "x", y1: "low", y2: "high", stroke: "colour", strokeWidth: 2, strokeOpacity: 0.6, ...facet(wide) }),
        lib.line(rows.filter((row) => row.head === null), { x: "x", y: "y", z: "label", stroke: "colour", strokeWidth: 1.2, ...facet(wide) }),
        lib.dot(rows, { x: "x", y: "y", fill: "colour", r: 3.2, ...facet(wide), tip: { fill: "var(--card)", stroke: "var(--line)" }, title: hint }),
      ],
    };
  });
}

const SIDES = { label: null, domain: ["attention", "MLP"] };
const facet = (wide) => (wide ? { fx: "kind" } : { fy: "kind" });

// Early layers have almost no direct effect, hence huge slopes: beyond about ±1 the axis is logarithmic.
function symlog(rows) {
  const ends = rows.flatMap((row) => [row.y, row.low, row.high]).filter(Number.isFinite);
  const [low, high] = lib.extent(ends).map((end) => end * 1.25);
  const steps = [0, 0.5, 1, 3, 10, 30, 100, 300, 1000];
  const ticks = steps.concat(steps.slice(1).map((step) => -step)).filter((step) => step >= low && step <= high);
  return { type: "symlog", constant: 1, domain: [Math.min(low, 0), Math.max(high, 0)], ticks };
}

function drawImpact(set) {
  const rows = [...set.rows.values()].map((row) => ({ ...row, ...parsed(row.name) })).filter((row) => row.layer >= 0);
  const most = heads(rows);
  const found = rows.flatMap((row) => [
    { ...row, what: "direct effect", x: row.head === null ? row.layer - 0.13 : row.layer + aside(row, most) - 0.01, y: row.clean_direct, colour: kindColour(row.kind), fill: kindColour(row.kind) },
    { ...row, what: "drop when ablated (−TE)", x: row.head === null ? row.layer + 0.13 : row.layer + aside(row, most) + 0.01, y: -row.te, low: row.te_ci && -row.te_ci[1], high: row.te_ci && -row.te_ci[0], colour: "var(--ink)", fill: "var(--paper)" }])
    .map((row) => ({ ...row, side: row.kind === "mlp" ? "MLP" : "attention" }));
  chart("impact", `Direct effect and drop of every layer of ${set.name}`, (width) => {
    const wide = width > 640;
    const at = wide ? { fx: "side" } : { fy: "side" };
    return {
      height: wide ? 280 : 460, marginTop: 26, marginLeft: 62, marginRight: wide ? 10 : 64, fx: SIDES, fy: SIDES, color: { type: "identity" },
      x: { ticks: layerTicks(set.graph.layers, wide ? width / 2 : width), tickFormat: String, label: "layer", labelAnchor: "center", labelArrow: "none", domain: [-0.6, set.graph.layers - 0.4] }, y: { label: `${set.read.replace(/^the /, "")} (${set.unit})`, labelAnchor: "center", labelArrow: "none", grid: true, nice: true, tickFormat: minus },
      marks: [
        lib.ruleY([0], { stroke: "var(--muted)" }),
        lib.ruleX(found.filter((row) => row.low !== undefined), { x: "x", y1: "low", y2: "high", stroke: "colour", strokeWidth: 2, ...at }),
        lib.line(found.filter((row) => row.head === null), { x: "x", y: "y", z: "what", stroke: "colour", strokeWidth: 1, ...at }),
        lib.dot(found, { x: "x", y: "y", stroke: "colour", fill: "fill", strokeWidth: 1.5, r: 3.4, ...at, tip: { fill: "var(--card)", stroke: "var(--line)" },
          title: (row) => `${row.name}: ${row.what} ${signed(row.y, 3)} ${set.unit}` }),
      ],
    };
  });
}

function drawCoupling(set) {
  const width = set.responders.length;
  const means = array(set.mean, "delta");
  const cells = set.nodes.flatMap((node, n) => set.responders.map((responder, r) => ({ node: node.name, responder: responder.name, value: means[n * width + r], n }))
    .filter((cell, r) => array(set, "reached")[n * width + r] > 0));
  const largest = lib.max(cells, (cell) => Math.abs(cell.value)) || 1;
  const every = (names, room) => names.filter((_, i) => i % Math.max(1, Math.ceil(names.length / room)) === 0);
  const names = { node: set.nodes.map((node) => node.name), responder: set.responders.map((node) => node.name) };
  const size = (w) => Math.max(300, Math.min(w * 0.75, 90 + names.node.length * 22, 900));
  const edge = names.node.length > 40 ? 0 : 0.5;
  chart("coupling", "Mean change of direct effect, ablated node by responder", (w) => (!set.responds ? null : {
    height: size(w), marginLeft: 84, marginBottom: 96, marginTop: 24,
    x: { domain: names.responder, tickRotate: -90, ticks: every(names.responder, (w - 110) / 13), label: "responder", labelAnchor: "center", labelArrow: "none" },
    y: { domain: names.node, ticks: every(names.node, (size(w) - 120) / 12), label: "ablated", labelArrow: "none" }, color: { type: "identity" },
    marks: [
      lib.frame({ fill: "var(--hole)", stroke: "none" }),
      // The square root, so that small responses are seen beside large ones.
      lib.cell(cells, { x: "responder", y: "node", fill: (cell) => shade(Math.sign(cell.value) * Math.sqrt(Math.abs(cell.value)), Math.sqrt(largest)), inset: edge,
        tip: { fill: "var(--card)", stroke: "var(--line)" }, title: (cell) => `${cell.node} ablated\n${cell.responder}: ΔDE ${signed(cell.value, 3)} ${set.unit}` }),
    ],
  }));
}
