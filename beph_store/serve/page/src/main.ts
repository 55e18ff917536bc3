/** The shell: the bar on top, the views below it. */

import "./theme.css";
import "./shell.css";

import { reason } from "./api.ts";
import { h, icon, replace } from "./dom.ts";
import { heads } from "./heads/view.ts";
import { jobs } from "./jobs/view.ts";
import { shortcuts, showHelp } from "./keys.ts";
import { go, route, type Route } from "./router.ts";
import { closeTray } from "./search/tray.ts";
import { loadStore, onRecipe } from "./session.ts";
import { shell } from "./shell.ts";
import { slide } from "./slide/view.ts";
import { store } from "./store/view.ts";
import { applyTheme } from "./theme.ts";
import { train } from "./train/view.ts";

const ROUTES: readonly Route[] = [
  { pattern: "/", title: "Slides", view: store },
  { pattern: "/slides/:recipe/:slide", title: "Slide", view: slide },
  { pattern: "/train", title: "Train", view: train },
  { pattern: "/jobs", title: "Jobs", view: jobs },
  { pattern: "/jobs/:id", title: "Job", view: jobs },
  { pattern: "/heads", title: "Heads", view: heads },
  { pattern: "/heads/:id", title: "Head", view: heads },
];

const PLACES: Readonly<Record<string, string>> = { s: "#/", t: "#/train", h: "#/heads", j: "#/jobs" };

function everywhere(): void {
  let second = 0;
  const then = (event: KeyboardEvent): void => {
    const place = PLACES[event.key];
    if (Date.now() > second || !place) return;
    second = 0;
    event.preventDefault();
    event.stopImmediatePropagation();
    go(place);
  };
  // Before anybody else's keys: after "g" a letter is a place.
  document.addEventListener("keydown", then, { capture: true });
  shortcuts("Everywhere", [
    { keys: "?", does: "this list", run: showHelp },
    { keys: "/", does: "look for a slide", run: () => go("#/?find=1") },
    { keys: "g", shown: "g s", does: "slides", run: () => { second = Date.now() + 1200; } },
    { keys: "", shown: "g t", does: "train" },
    { keys: "", shown: "g h", does: "heads" },
    { keys: "", shown: "g j", does: "jobs" },
  ]);
}

async function start(): Promise<void> {
  applyTheme();
  const top = document.getElementById("top") as HTMLElement;
  const main = document.getElementById("main") as HTMLElement;
  everywhere();
  const bar = shell(top, main);
  try {
    await loadStore();
  } catch (thrown) {
    replace(
      main,
      h("div", { class: "empty", "data-state": "failed" }, icon("warn"), h("h2", null, "The store cannot be read"), h("p", null, reason(thrown))),
    );
    return;
  }
  bar.loaded();
  // What was found is of one recipe.
  onRecipe(closeTray);
  route(main, ROUTES, bar.shown);
  document.documentElement.dataset.state = "ready";
}

void start();
