/** Everything the page needs goes into ../assets, flat, each name with a hash of its content. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { defineConfig, type Plugin } from "vite";

/** The licences of the packages whose code is in the build, as `licences.txt`. */
function licences(): Plugin {
  return {
    name: "licences",
    generateBundle(_, bundle) {
      const roots = new Set<string>();
      for (const made of Object.values(bundle)) {
        if (made.type !== "chunk") continue;
        for (const id of made.moduleIds) {
          const found = /^(.*\/node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(id.replace(/^\0/, ""));
          if (found && existsSync(join(found[1], "package.json"))) roots.add(found[1]);
        }
      }
      const texts = [...roots].sort().map(licence);
      this.emitFile({ type: "asset", fileName: "licences.txt", source: texts.join(`\n\n${"-".repeat(80)}\n\n`) });
    },
  };
}

function licence(root: string): string {
  const about = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { name: string; version: string; license: string };
  const file = readdirSync(root).find((name) => /^licen[cs]e/i.test(name));
  if (!file) throw new Error(`${dirname(root)}: ${about.name} has no licence file: it cannot go into the build`);
  return `${about.name} ${about.version} (${about.license})\n\n${readFileSync(join(root, file), "utf8").trim()}\n`;
}

export default defineConfig({
  base: "/page/",
  plugins: [licences()],
  build: {
    outDir: "../assets",
    emptyOutDir: true,
    assetsDir: ".",
    // Nothing inline: the page's own policy refuses scripts and styles that are not files.
    assetsInlineLimit: 0,
    modulePreload: false,
    target: "es2022",
    chunkSizeWarningLimit: 700,
  },
  server: { proxy: { "/api": "http://127.0.0.1:8765" } },
});
