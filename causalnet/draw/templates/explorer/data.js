// The numbers: unpacked where they are first needed, and the view of one ablation (mean or one prompt).
const TYPES = { f8: Float64Array, f4: Float32Array, i2: Int16Array, u1: Uint8Array };
const PARTS = ["de", "ce", "ce_attn", "norm", "te", "clean"];

function unpack([type, text]) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
  return new TYPES[type](bytes.buffer);
}

function array(holder, name) {
  if (Array.isArray(holder[name])) holder[name] = unpack(holder[name]);
  return holder[name];
}

function signed(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "−" : "+") + text;
}

// "attn[9].head[6]" stands in layer 9, beside the other heads of its layer.
function parsed(name) {
  const match = /^(attn|mlp|embed)(?:\[(\d+)\])?(?:\.head\[(\d+)\]|\.(bias))?/.exec(name) || [];
  const head = match[3] === undefined ? null : Number(match[3]);
  return { name, kind: match[1] || "attn", layer: match[2] === undefined ? -1 : Number(match[2]), head, bias: Boolean(match[4]) };
}

function opened(raw) {
  const set = { ...raw, nodes: raw.nodes.map(parsed), responders: raw.responders.map(parsed) };
  set.place = new Map(raw.nodes.map((name, i) => [name, i]));
  set.rows = new Map((raw.summary.nodes || []).map((row) => [row.name, row]));
  set.strongest = raw.strongest;
  return set;
}

// One part of one ablation: the mean over prompts, or its value on one prompt.
function part(set, name, node, prompt) {
  const count = set.nodes.length;
  if (name === "ce_mlp") return part(set, "ce", node, prompt) - part(set, "ce_attn", node, prompt);
  if (prompt === null) return array(set.mean, name)[node];
  return array(set.each, name)[prompt * count + node] * array(set.each.scale, name)[node];
}

function limits(set, name, node, prompt) {
  if (prompt !== null) return null;
  const row = set.rows.get(set.nodes[node].name);
  if (row && row[`${name}_ci`]) return row[`${name}_ci`];
  if (!set.half[name]) return null;
  const mean = part(set, name, node, null);
  const half = array(set.half, name)[node];
  return [mean - half, mean + half];
}

// The responders of one ablation; `known` is false where the file does not hold the prompt's number.
function view(set, node, prompt) {
  const width = set.responders.length;
  const means = array(set.mean, "delta");
  const clean = array(set.mean, "clean_responder");
  const kept = new Map();
  if (prompt !== null) {
    const top = array(set.each, "top");
    const values = array(set.each, "delta");
    const scales = array(set.each.scale, "delta");
    for (let k = 0; k < set.each.kept; k += 1) {
      const responder = top[node * set.each.kept + k];
      if (responder >= 0) kept.set(responder, values[(prompt * set.nodes.length + node) * set.each.kept + k] * scales[node]);
    }
  }
  const rows = set.responders.map((responder, r) => {
    const mean = means[node * width + r];
    const half = set.half.delta ? array(set.half, "delta")[node * width + r] : 0;
    const reached = array(set, "reached")[node * width + r] > 0;
    const known = reached && (prompt === null || kept.has(r));
    const before = prompt === null ? clean[r] : array(set.each, "clean_responder")[prompt * width + r] * array(set.each.scale, "clean_responder")[r];
    return { ...responder, mean, half: prompt === null ? half : 0, reached, known, before, delta: !known ? null : prompt === null ? mean : kept.get(r) };
  });
  const numbers = Object.fromEntries(PARTS.concat("ce_mlp").map((name) => [name, part(set, name, node, prompt)]));
  const shown = rows.reduce((sum, row) => sum + (row.delta || 0), 0);
  const hidden = rows.filter((row) => row.reached && !row.known).length;
  const sizes = rows.reduce((sum, row) => sum + Math.abs(row.delta || 0), 0);
  const squares = rows.reduce((sum, row) => sum + (row.delta || 0) ** 2, 0);
  return { numbers, rows, hidden, rest: numbers.ce - shown, ratio: squares > 0 ? sizes ** 2 / squares : 0 };
}

function promptCount(set) {
  return set.each ? set.each.prompts : 0;
}
