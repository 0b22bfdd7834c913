// The layer graph: places come from the same layout as the drawn graphs, d3 puts the elements there.
const WORDS = { attn: "attention", mlp: "MLP" };

// The Bézier arc of causalnet.draw.layout.arc, with y pointing down.
function arc(source, target, lane, head) {
  const side = target.x < 0 ? -1 : 1;
  const outer = (slot) => slot.x + Math.sign(slot.x) * (slot.width / 2);
  const inner = (slot) => slot.x - Math.sign(slot.x) * (slot.width / 2);
  const bulge = 20 + Math.min(Math.abs(source.y - target.y) * 0.13, 64);
  const beside = outer(target) + side * bulge;
  const end = outer(target) + side * head;
  const line = lib.path();
  if (Math.sign(source.x) === side) {
    line.moveTo(outer(source), source.y);
    line.bezierCurveTo(beside, source.y, beside, target.y, end, target.y);
    return line.toString();
  }
  const gap = source.gap + lane;
  const start = source.y + lane;
  const near = outer(target) + side * bulge * 0.5;
  line.moveTo(inner(source), start);
  line.bezierCurveTo(0, start, 0, gap, target.x, gap);
  line.bezierCurveTo(near, gap, beside, gap, beside, (gap + target.y) / 2);
  line.bezierCurveTo(beside, target.y, near, target.y, end, target.y);
  return line.toString();
}

// Which box a node stands in: heads stand in cells of their layer's attention.
function boxes(set) {
  return set.graph.boxes.map((box) => ({ ...parsed(box.name), ...box, node: set.place.has(box.name) ? set.place.get(box.name) : null }));
}

function graphNumbers(set, state) {
  const seen = view(set, state.node, state.prompt);
  const rows = new Map(seen.rows.map((row) => [row.name, row]));
  const direct = new Map(seen.rows.map((row) => [row.name, row.before]));
  set.nodes.forEach((node, i) => direct.set(node.name, part(set, "clean", i, state.prompt)));
  const largest = lib.max([...direct].filter(([name]) => name !== "embed").map(([, value]) => Math.abs(value))) || 0;
  const most = lib.max(seen.rows.map((row) => Math.abs(row.delta || 0))) || 0;
  return { seen, rows, direct, largest, most };
}

function arrows(set, state, all, numbers) {
  // Arrows leave from and lead to whole boxes; a head's is that of its layer.
  const whole = (name) => {
    const box = all.find((one) => one.name === name);
    return box && box.writes === null ? all.find((one) => one.kind === box.kind && one.layer === box.layer && one.writes !== null) : box;
  };
  const source = whole(set.nodes[state.node].name);
  const targets = numbers.seen.rows.filter((row) => row.delta && Math.abs(row.delta) >= 0.05 * numbers.most);
  targets.sort((a, b) => Math.abs(a.delta) - Math.abs(b.delta));
  const found = targets.slice(-10).map((row) => ({ ...row, box: whole(row.name) }));
  const drawn = source ? found.filter((row) => row.box && row.box !== source) : [];
  const across = drawn.filter((row) => Math.sign(row.box.x) !== Math.sign(source.x)).sort((a, b) => a.box.y - b.box.y);
  const step = Math.min(3, (set.graph.compact ? 3 : 9) / Math.max(across.length - 1, 1));
  return drawn.map((row) => {
    const share = Math.abs(row.delta) / numbers.most;
    const lane = across.includes(row) ? (across.indexOf(row) - (across.length - 1) / 2) * step : 0;
    return { ...row, width: 0.9 + 3.2 * share, opacity: 0.5 + 0.5 * share, d: arc(source, row.box, lane, 7) };
  });
}

function boxHint(set, box, numbers, state) {
  const row = numbers.rows.get(box.name);
  const lines = [`${box.name}: direct effect ${signed(numbers.direct.get(box.name), 3)} ${set.unit}, nothing ablated`];
  if (box.node === state.node) lines.push(`ablated: total effect ${signed(numbers.seen.numbers.te, 3)} ${set.unit}`);
  else if (!set.responds) lines.push("how much it responds is not known by itself");
  else if (!row || !row.reached) lines.push("not downstream of the ablated node");
  else if (!row.known) lines.push(`ΔDE of this prompt is not stored (mean ${signed(row.mean, 3)})`);
  else lines.push(`ΔDE ${signed(row.delta, 3)} ${set.unit} when ${set.nodes[state.node].name} is ablated`);
  return lines;
}

function boxLabel(set, box, numbers, state) {
  const value = signed(numbers.direct.get(box.name));
  const row = numbers.rows.get(box.name);
  if (box.node === state.node || !row || row.delta === null) return value;
  if (set.graph.compact) return `Δ${signed(row.delta)}`;
  return `${value}\u2002Δ${signed(row.delta)}`;
}

function drawGraph(set, state, choose) {
  const place = document.getElementById("graph");
  const all = boxes(set);
  const numbers = graphNumbers(set, state);
  const graph = set.graph;
  const height = graph.ends.logits + 60;
  const svg = lib.select(place).selectAll("svg").data([set.key], (key) => key).join("svg")
    .attr("viewBox", `-264 -28 528 ${height}`).attr("role", "group")
    .attr("aria-label", `Layer causal graph of ${set.name}; arrow keys move between nodes`);
  svg.selectAll("g.layer").data(["spine", "wires", "flows", "boxes", "ends"]).join("g").attr("class", (name) => `layer ${name}`);
  drawSpine(svg.select("g.spine"), graph, all);
  drawWires(svg.select("g.wires"), all, state, numbers);
  drawFlows(svg.select("g.flows"), arrows(set, state, all, numbers), set, state);
  drawBoxes(svg.select("g.boxes"), set, all, state, numbers, choose);
  drawEnds(svg.select("g.ends"), graph, numbers);
}

function drawSpine(group, graph, all) {
  group.selectAll("line").data([graph.ends]).join("line").attr("class", "stream")
    .attr("y1", (ends) => ends.embed).attr("y2", (ends) => ends.logits);
  const marks = [...new Set(all.filter((box) => box.writes !== null).map((box) => box.writes))];
  group.selectAll("circle").data(marks).join("circle").attr("cy", (y) => y).attr("r", 3.6);
}

function drawWires(group, all, state, numbers) {
  const inner = (box) => box.x - Math.sign(box.x) * (box.width / 2);
  const wired = all.filter((box) => box.writes !== null);
  const cut = (box) => box.node === state.node || box.inside.includes(state.node);
  const faint = (box) => !cut(box) && !(numbers.rows.get(box.name) || { reached: true }).reached;
  group.selectAll("g").data(wired, (box) => box.name).join((enter) => {
    const one = enter.append("g");
    one.append("line").attr("class", "reads");
    one.append("line").attr("class", "writes");
    one.append("line").attr("class", "bar");
    return one;
  }).classed("cut", cut).classed("faint", faint).each(function wire(box) {
    const one = lib.select(this);
    const stop = cut(box) ? inner(box) - Math.sign(box.x) * 16 : inner(box);
    one.select(".reads").attr("x2", stop).attr("y1", box.reads).attr("y2", box.reads);
    one.select(".writes").attr("x2", inner(box)).attr("y1", box.writes).attr("y2", box.writes);
    one.select(".bar").attr("x1", stop).attr("x2", stop).attr("y1", box.reads - 5).attr("y2", box.reads + 5);
  });
}

function drawFlows(group, flows, set, state) {
  group.selectAll("defs").data([0]).join((enter) => {
    const defs = enter.append("defs");
    for (const name of ["up", "down"]) {
      defs.append("marker").attr("id", `head-${name}`).attr("class", name).attr("viewBox", "0 0 10 10").attr("refX", 2)
        .attr("refY", 5).attr("markerWidth", 9).attr("markerHeight", 9).attr("markerUnits", "userSpaceOnUse").attr("orient", "auto")
        .append("path").attr("d", "M0,0L10,5L0,10z");
    }
    return defs;
  });
  group.selectAll("path.flow").data(flows, (row) => row.name).join("path")
    .attr("class", (row) => `flow ${row.delta > 0 ? "up" : "down"}`).attr("data-responder", (row) => row.name)
    .attr("d", (row) => row.d).attr("stroke-width", (row) => row.width).attr("opacity", (row) => row.opacity)
    .attr("marker-end", (row) => `url(#head-${row.delta > 0 ? "up" : "down"})`)
    .on("pointermove", (event, row) => showHint(event, [`${set.nodes[state.node].name} ablated: ΔDE of ${row.name} = ${signed(row.delta, 3)} ${set.unit}`]))
    .on("pointerleave", hideHint);
}

function drawBoxes(group, set, all, state, numbers, choose) {
  const joined = group.selectAll("g.box").data(all, (box) => box.name).join((enter) => {
    const one = enter.append("g");
    one.append("rect");
    one.append("text").attr("class", "name");
    one.append("text").attr("class", "number");
    return one;
  });
  joined.each(function one(box) {
    const row = numbers.rows.get(box.name);
    const chosen = box.node === state.node;
    const pressable = box.node !== null;
    const faded = set.responds && !chosen && !(row && row.reached) && box.inside.length === 0;
    const value = numbers.direct.get(box.name);
    const fill = chosen || value === undefined ? "var(--paper)" : shade(value, numbers.largest);
    const element = lib.select(this).attr("class", `box ${box.kind}`).classed("chosen", chosen).classed("faded", faded)
      .classed("pressable", pressable).attr("data-node", box.name);
    element.select("rect").attr("x", box.x - box.width / 2).attr("y", box.y - box.height / 2).attr("width", box.width)
      .attr("height", box.height).attr("rx", box.head === null ? 4 : 1).style("fill", fill);
    const ink = chosen || value === undefined ? "var(--ink)" : inkOn(fill);
    const named = box.head !== null ? String(box.head) : chosen ? `do(${box.name})` : box.name;
    const holder = box.inside.length > 0;
    const lines = box.head !== null || holder ? [named, ""] : graphLines(set, named, boxLabel(set, box, numbers, state));
    const middle = holder ? box.y - box.height / 2 + 8 : box.y;
    element.select(".name").attr("x", box.x).attr("y", lines[1] ? middle - 7 : middle).style("fill", ink)
      .style("font-size", `${box.head !== null ? 8.5 : set.graph.compact ? 11.5 : 13}px`).text(lines[0]);
    element.select(".number").attr("x", box.x).attr("y", middle + 7).style("fill", ink).text(lines[1]);
    if (!pressable) return;
    const hint = boxHint(set, box, numbers, state);
    element.attr("role", "button").attr("tabindex", chosen ? 0 : -1).attr("aria-pressed", String(chosen)).attr("aria-label", hint.join("; "))
      .on("click", () => choose({ node: box.node }))
      .on("keydown", (event) => keyOnGraph(event, set, box, choose))
      .on("pointermove", (event) => showHint(event, hint)).on("pointerleave", hideHint)
      .on("focus", (event) => showHint(event, hint)).on("blur", hideHint);
  });
}

function graphLines(set, name, number) {
  if (!set.graph.compact) return [name, number];
  return [name.startsWith("do(") ? name : `${name}\u2002${number}`, ""];
}

function drawEnds(group, graph, numbers) {
  const labels = [["embed", "embed"], ["norm", `norm  NORM ${signed(numbers.seen.numbers.norm)}`], ["logits", `logits  TE ${signed(numbers.seen.numbers.te)}`]];
  const joined = group.selectAll("g").data(labels).join((enter) => {
    const one = enter.append("g");
    one.append("rect").attr("x", -64).attr("width", 128).attr("y", -11).attr("height", 22).attr("rx", 4);
    one.append("text");
    return one;
  });
  joined.attr("transform", ([name]) => `translate(0,${graph.ends[name]})`).select("text").text(([, label]) => label);
}

// Up and down go through the layers of a column, left and right to the other column.
function keyOnGraph(event, set, box, choose) {
  const same = set.nodes.map((node, i) => ({ ...node, i }));
  const column = (kind) => same.filter((node) => node.kind === kind);
  const own = column(box.kind);
  const at = own.findIndex((node) => node.i === box.node);
  const other = column(box.kind === "mlp" ? "attn" : "mlp");
  const beside = () => other.find((node) => node.layer === box.layer) || other[0];
  const goal = { ArrowUp: () => own[at - 1], ArrowDown: () => own[at + 1], 
    ArrowLeft: () => (box.kind === "mlp" ? beside() : box.head === null ? null : own[at - 1]),
    ArrowRight: () => (box.kind === "mlp" ? null : box.head === null ? beside() : own[at + 1]), Home: () => own[0], End: () => own[own.length - 1],
    Enter: () => same[box.node], " ": () => same[box.node] }[event.key];
  if (!goal) return;
  event.preventDefault();
  const node = goal();
  if (!node) return;
  choose({ node: node.i });
  const target = [...document.querySelectorAll("#graph .box")].find((one) => one.dataset.node === node.name);
  if (target) target.focus({ preventScroll: true });
}
