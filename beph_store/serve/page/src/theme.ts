/** Light, dark, or what the system says. */

const KEY = "beph-store.theme";
export type Theme = "auto" | "light" | "dark";
const THEMES: readonly Theme[] = ["auto", "light", "dark"];

let now: Theme = kept();

function kept(): Theme {
  try {
    const found = localStorage.getItem(KEY) as Theme | null;
    return found && THEMES.includes(found) ? found : "auto";
  } catch {
    return "auto";
  }
}

/** Put the theme on the page; at start and after a change. */
export function applyTheme(): void {
  const dark = now === "dark" || (now === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

export function theme(): Theme {
  return now;
}

/** The next of auto, light, dark. */
export function nextTheme(): Theme {
  now = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  try {
    localStorage.setItem(KEY, now);
  } catch {
    // private windows keep nothing
  }
  applyTheme();
  return now;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
