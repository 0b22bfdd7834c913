#!/bin/sh
# Rebuild charts.min.js and LICENSES.md from the npm packages below. Needs Node.js and npm; run by hand.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/charts.js" "$work/entry.js"
cd "$work"
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund d3@7.9.2 @observablehq/plot@0.6.17 esbuild@0.28.2
npx esbuild entry.js --bundle --minify --format=iife --global-name=lib --target=es2020 --legal-comments=none \
    --log-level=warning --metafile=meta.json --outfile="$here/charts.min.js"
node - "$here/LICENSES.md" <<'JS'
const fs = require("fs");
const inputs = Object.values(require(process.cwd() + "/meta.json").outputs)[0].inputs;
const used = Object.keys(inputs).filter((path) => inputs[path].bytesInOutput > 0 && path.includes("node_modules/"));
const names = [...new Set(used.map((path) => /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)[1]))].sort();
const parts = names.map((name) => {
  const folder = `node_modules/${name}`;
  const about = JSON.parse(fs.readFileSync(`${folder}/package.json`));
  const file = fs.readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  return `## ${name} ${about.version} (${about.license})\n\n${fs.readFileSync(`${folder}/${file}`, "utf8").trim()}\n`;
});
const head = "# Licences of what charts.min.js bundles\n\nWritten by build.sh, which also says the versions.\n\n";
fs.writeFileSync(process.argv[2], head + parts.join("\n"));
JS
