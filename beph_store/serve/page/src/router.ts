/** Views by the address after the `#`. */

export interface Params {
  /** Named parts of the path, decoded. */
  readonly path: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
}

/** Ends a view. A view that can take a new address of its own pattern without starting again has `update`. */
export interface Dispose {
  (): void;
  /** Says whether it took it. */
  update?: (params: Params) => boolean;
}

/** Fills `root`, which is empty, and returns what ends it: listeners, requests, timers. */
export type View = (root: HTMLElement, params: Params) => Dispose;

export interface Route {
  /** `/slides/:recipe/:slide` */
  readonly pattern: string;
  readonly title: string;
  readonly view: View;
}

export interface Router {
  /** The pattern that is shown. */
  readonly current: () => string;
  readonly stop: () => void;
}

/** Show the view of the address in `root`, now and whenever it changes. `shown` is told the route. */
export function route(root: HTMLElement, routes: readonly Route[], shown: (route: Route) => void): Router {
  let now: Route | null = null;
  let dispose: Dispose | null = null;

  const show = (): void => {
    const [path, query] = parted(location.hash);
    for (const candidate of routes) {
      const parts = matched(candidate.pattern, path);
      if (!parts) continue;
      const params: Params = { path: parts, query };
      if (now === candidate && dispose?.update?.(params)) return;
      dispose?.();
      root.replaceChildren();
      root.scrollTop = 0;
      const first = now === null;
      now = candidate;
      document.title = `${candidate.title} · beph-store`;
      shown(candidate);
      dispose = candidate.view(root, params);
      if (!first) root.focus({ preventScroll: true });
      return;
    }
    location.replace("#/");
  };

  addEventListener("hashchange", show);
  show();
  return {
    current: () => now?.pattern ?? "",
    stop: () => {
      removeEventListener("hashchange", show);
      dispose?.();
    },
  };
}

/** Path and query of `#/a/b?c=d`. */
export function parted(hash: string): [string, URLSearchParams] {
  const text = hash.replace(/^#/, "") || "/";
  const at = text.indexOf("?");
  return at < 0 ? [text, new URLSearchParams()] : [text.slice(0, at), new URLSearchParams(text.slice(at + 1))];
}

/** The named parts where `path` is of `pattern`, else null. */
export function matched(pattern: string, path: string): Record<string, string> | null {
  const wanted = pattern.split("/").filter(Boolean);
  const given = path.split("/").filter(Boolean);
  if (wanted.length !== given.length) return null;
  const parts: Record<string, string> = {};
  for (let i = 0; i < wanted.length; i++) {
    if (wanted[i].startsWith(":")) {
      try {
        parts[wanted[i].slice(1)] = decodeURIComponent(given[i]);
      } catch {
        return null;
      }
    } else if (wanted[i] !== given[i]) {
      return null;
    }
  }
  return parts;
}

/** An address: `link("/slides/:recipe/:slide", {recipe, slide}, {x: 1})` is `#/slides/…?x=1`. */
export function link(
  pattern: string,
  parts: Readonly<Record<string, string>> = {},
  query: Readonly<Record<string, string | number | undefined | null>> = {},
): string {
  const path = pattern.replace(/:([a-z]+)/g, (_, name: string) => encodeURIComponent(parts[name] ?? ""));
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") asked.set(name, String(value));
  }
  const text = asked.toString();
  return `#${path}${text ? `?${text}` : ""}`;
}

/** Go there. */
export function go(address: string): void {
  location.hash = address.replace(/^#/, "");
}

/** Keep the view's state in the address without showing it anew and without a step in the history. */
export function remember(address: string): void {
  history.replaceState(history.state, "", address);
}
