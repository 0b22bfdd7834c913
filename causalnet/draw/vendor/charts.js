// What the report's explorer uses of two libraries; build.sh bundles it into charts.min.js.
export { barY, cell, dot, frame, line, plot, ruleX, ruleY, text } from "@observablehq/plot";
export { ascending, descending, extent, interpolateRgbBasis, max, path, rgb, select } from "d3";
