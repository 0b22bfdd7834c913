// Colours of the page's theme. Blue raises the target's logit, orange lowers it, paper is 0.
const RAMPS = {
  light: { up: ["#ffffff", "#c6ddf0", "#78afda", "#2d7dbe", "#0b62a4"], down: ["#ffffff", "#fce0c6", "#f6b278", "#e27630", "#c2500a"] },
  dark: { up: ["#1b222b", "#17466e", "#2572ae", "#58a6e6", "#9dd0fb"], down: ["#1b222b", "#63300f", "#a85116", "#e88642", "#fbc08c"] },
};

function dark() {
  if (document.documentElement.dataset.printing) return false;
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
}

function shade(value, largest) {
  const ramp = RAMPS[dark() ? "dark" : "light"];
  if (!Number.isFinite(value) || !(largest > 0)) return ramp.up[0];
  return lib.interpolateRgbBasis(value > 0 ? ramp.up : ramp.down)(Math.min(Math.abs(value) / largest, 1));
}

function inkOn(fill) {
  const { r, g, b } = lib.rgb(fill);
  const linear = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return (luminance + 0.05) ** 2 > 0.05 * 1.05 * 1.35 ? "#1f2328" : "#ffffff";
}

const kindColour = (kind) => (kind === "mlp" ? "var(--mlp)" : "var(--attn)");
const signColour = (value) => (value >= 0 ? "var(--up)" : "var(--down)");
