/** The bar on top: where one is, the recipe, what runs, and the few things that are everywhere. */

import { get } from "./api.ts";
import { h, icon, replace, type IconName } from "./dom.ts";
import { on, onStream, type StreamState } from "./events.ts";
import { showHelp } from "./keys.ts";
import markUrl from "./mark.svg?url";
import { askPerson, knownPerson } from "./person.ts";
import type { Route } from "./router.ts";
import { onRecipe, recipeKey, recipeName, setRecipe, storeInfo } from "./session.ts";
import { nextTheme, theme, type Theme } from "./theme.ts";
import { toast } from "./toast.ts";
import type { Job } from "./types.ts";

export interface Shell {
  /** The store is known. */
  readonly loaded: () => void;
  /** That route is shown. */
  readonly shown: (route: Route) => void;
}

interface Tab {
  readonly href: string;
  readonly label: string;
  readonly icon: IconName;
  readonly starts: string;
}

const TABS: readonly Tab[] = [
  { href: "#/", label: "Slides", icon: "slides", starts: "/slides" },
  { href: "#/train", label: "Train", icon: "curve", starts: "/train" },
  { href: "#/heads", label: "Heads", icon: "head", starts: "/heads" },
  { href: "#/jobs", label: "Jobs", icon: "jobs", starts: "/jobs" },
];

const THEME_ICONS: Readonly<Record<Theme, IconName>> = { auto: "auto", light: "sun", dark: "moon" };
const STREAM: Readonly<Record<StreamState, string>> = {
  off: "not listening", opening: "connecting", open: "live", lost: "no connection to the server: trying again",
};

/** Fill the bar. `main` is what the skip button leads to. */
export function shell(top: HTMLElement, main: HTMLElement): Shell {
  const name = h("span", { class: "store-name clip" });
  const recipes = h("select", { class: "field small recipe", "aria-label": "Recipe", "data-test": "recipe" });
  recipes.addEventListener("change", () => setRecipe(recipes.value));
  const badge = h("span", { class: "badge", hidden: true });
  const tabs = TABS.map((tab) =>
    h("a", { href: tab.href, title: tab.label }, icon(tab.icon), h("span", { class: "tab-text" }, tab.label), tab.href === "#/jobs" && badge),
  );
  replace(
    top,
    h("button", { class: "button skip", onclick: () => main.focus() }, "Skip to the content"),
    h("a", { class: "brand", href: "#/" }, h("img", { src: markUrl, alt: "", width: 22, height: 22 }), "beph-store", name),
    h("nav", { class: "tabs", "aria-label": "Views" }, ...tabs),
    h("span", { class: "gap" }),
    recipes,
    streamDot(),
    personButton(),
    themeButton(),
    h("button", { class: "button quiet square", "aria-label": "Keys and gestures", title: "Keys and gestures (?)", "data-test": "help-button", onclick: showHelp }, icon("help")),
  );
  countJobs(badge);

  const fillRecipes = (): void => {
    const all = storeInfo().recipes;
    replace(recipes, ...all.map((recipe) => h("option", { value: recipe.key, selected: recipe.key === recipeKey() }, recipeName(recipe))));
    recipes.hidden = all.length === 0;
    recipes.disabled = all.length < 2;
    recipes.title = "Recipe: how slides were cut and embedded";
  };
  onRecipe(fillRecipes);
  return {
    loaded: () => {
      name.textContent = storeInfo().store;
      name.title = storeInfo().store;
      fillRecipes();
    },
    shown: (route) => {
      TABS.forEach((tab, i) => {
        const here = route.pattern.startsWith(tab.starts) || (route.pattern === "/" && i === 0);
        if (here) tabs[i].setAttribute("aria-current", "page");
        else tabs[i].removeAttribute("aria-current");
      });
    },
  };
}

function streamDot(): HTMLElement {
  const dot = h("span", { class: "stream", role: "img" });
  onStream((state) => {
    dot.dataset.state = state;
    dot.title = STREAM[state];
    dot.setAttribute("aria-label", `events: ${STREAM[state]}`);
  });
  return dot;
}

function personButton(): HTMLElement {
  const show = (): void => {
    button.title = knownPerson() ? `Labels are signed ${knownPerson()}` : "Who labels?";
  };
  const button = h(
    "button",
    {
      class: "button quiet square", "aria-label": "Who labels?",
      onclick: () => void askPerson().then((name) => { show(); if (name) toast(`Labels are signed ${name}`, "good"); }),
    },
    icon("person"),
  );
  show();
  return button;
}

function themeButton(): HTMLElement {
  const show = (): void => {
    replace(button, icon(THEME_ICONS[theme()]));
    button.title = { auto: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" }[theme()];
  };
  const button = h("button", { class: "button quiet square", "aria-label": "Light or dark", "data-test": "theme", onclick: () => { nextTheme(); show(); } });
  show();
  return button;
}

/** How many jobs run or wait, kept right by events. */
function countJobs(badge: HTMLElement): void {
  const active = new Set<string>();
  const show = (): void => {
    badge.hidden = active.size === 0;
    badge.textContent = String(active.size);
    badge.title = `${active.size} running or waiting`;
  };
  const take = (job: Job): void => {
    if (job.state === "queued" || job.state === "running") active.add(job.job);
    else active.delete(job.job);
    show();
  };
  const look = (): void => {
    get<{ jobs: Job[] }>("/api/jobs").then(({ jobs }) => {
      active.clear();
      jobs.forEach(take);
      show();
    }, () => undefined);
  };
  on<Job>("job", take);
  on<{ job: string }>("job-gone", ({ job }) => {
    active.delete(job);
    show();
  });
  on("reset", look);
  look();
}
