/** Elements without a framework. Text is always a text node: a slide's name may hold HTML, and stays text. */

export type Child = Node | string | number | null | undefined | false | Child[];
export type Props = Readonly<Record<string, unknown>>;

/** Set as properties: as attributes they would only be the first value. */
const PROPERTIES = new Set(["value", "checked", "selected", "indeterminate", "disabled", "open"]);

/**
 * An element. Props are attributes, but for `onclick`, … (listeners), `style` (an object, set by CSSOM, which a strict
 * CSP permits) and true/false (an attribute that is there or not).
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props?: Props | null,
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) set(made, name, value);
  append(made, children);
  return made;
}

function set(element: HTMLElement, name: string, value: unknown): void {
  if (value === null || value === undefined) return;
  if (name.startsWith("on") && typeof value === "function") {
    element.addEventListener(name.slice(2), value as EventListener);
  } else if (name === "style") {
    for (const [key, text] of Object.entries(value as Record<string, string | number>)) {
      element.style.setProperty(key, String(text));
    }
  } else if (PROPERTIES.has(name)) {
    (element as unknown as Record<string, unknown>)[name] = value;
  } else if (typeof value === "boolean" && !name.startsWith("aria-") && !name.startsWith("data-")) {
    element.toggleAttribute(name, value);
  } else {
    element.setAttribute(name, String(value));
  }
}

/** Add children; null, undefined and false are nothing. */
export function append(parent: Node, children: readonly Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(parent, child);
    else parent.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** What a node holds becomes `children`. If the focus was in there, it goes to what stands for the same thing now. */
export function replace(parent: Element, ...children: Child[]): void {
  const refocus = heldFocus(parent);
  parent.replaceChildren();
  append(parent, children);
  refocus?.();
}

function heldFocus(parent: Element): (() => void) | null {
  const held = document.activeElement;
  if (!(held instanceof HTMLElement) || held === parent || !parent.contains(held)) return null;
  const alike = (): HTMLElement[] => [...parent.querySelectorAll<HTMLElement>(held.localName)].filter((each) => each.dataset.test === held.dataset.test);
  const at = alike().indexOf(held);
  const name = nameOf(held);
  return () => {
    const now = alike();
    (now.find((each) => nameOf(each) === name) ?? now[at])?.focus({ preventScroll: true });
  };
}

/** What tells an element from others of its kind. */
function nameOf(element: HTMLElement): string {
  if (element instanceof HTMLInputElement) return `${element.getAttribute("aria-label") ?? ""} ${element.type === "radio" ? element.value : element.name}`;
  return element.getAttribute("aria-label") ?? element.dataset.label ?? element.dataset.id ?? (element instanceof HTMLSelectElement ? "" : (element.textContent ?? ""));
}

const ICONS = {
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9ZM10.5 10.5 14 14",
  grid: "M2.5 2.5h4v4h-4zM9.5 2.5h4v4h-4zM2.5 9.5h4v4h-4zM9.5 9.5h4v4h-4z",
  table: "M2 3.5h12M2 8h12M2 12.5h12",
  sun: "M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6ZM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M3 13l1-1M12 4l1-1",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5Z",
  auto: "M8 2a6 6 0 1 0 0 12V2ZM8 2a6 6 0 0 1 0 12",
  help: "M5.8 6A2.2 2.2 0 1 1 8 8.2V9.5M8 12v.2",
  undo: "M5.5 3 2.5 6l3 3M2.5 6h7a4 4 0 0 1 0 8H6",
  redo: "m10.5 3 3 3-3 3M13.5 6h-7a4 4 0 0 0 0 8H10",
  close: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  plus: "M8 3v10M3 8h10",
  minus: "M3 8h10",
  fit: "M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
  layers: "m8 2 6 3.2L8 8.4 2 5.2 8 2ZM2.5 8 8 11l5.5-3M2.5 11 8 14l5.5-3",
  tag: "M2.5 2.5h5l6 6-5 5-6-6v-5ZM5.3 5.3h.01",
  download: "M8 2v8M4.5 7 8 10.5 11.5 7M2.5 13.5h11",
  upload: "M8 10.5v-8M4.5 5.5 8 2l3.5 3.5M2.5 13.5h11",
  play: "M4.5 3v10l8-5-8-5Z",
  stop: "M4 4h8v8H4z",
  check: "m3 8.5 3.5 3.5L13 4.5",
  warn: "M8 2.5 14 13H2L8 2.5ZM8 6.5v3M8 11.3v.2",
  info: "M8 7v4.5M8 4.3v.2M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8Z",
  left: "M10 3 5 8l5 5",
  right: "m6 3 5 5-5 5",
  down: "m3 6 5 5 5-5",
  up: "m3 10 5-5 5 5",
  trash: "M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.6 9h6.8l.6-9",
  target: "M8 4.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7ZM8 1v3M8 12v3M1 8h3M12 8h3",
  image: "M2 3h12v10H2zM2.5 11.5 6 8l2.5 2.5L10.5 8l3 3M10.5 5.5h.01",
  slides: "M3 2.5h10v11H3zM3 5.5h10M5.5 8.5h5M5.5 11h3",
  curve: "M2 13.5h12M2 13.5V2.5M3.5 4.5c2 6 4 6.5 9.5 7",
  jobs: "M2.5 4h8M2.5 8h11M2.5 12h5",
  head: "M3 3.5h3v3H3zM3 9.5h3v3H3zM10.5 6.5h3v3h-3zM6 5l4.5 2.5M6 11l4.5-2.5",
  pin: "M8 14s4.5-4.2 4.5-7.5a4.5 4.5 0 1 0-9 0C3.5 9.8 8 14 8 14ZM8 6.5h.01",
  region: "M2.5 5V2.5H5M7 2.5h2M11 2.5h2.5V5M13.5 7v2M13.5 11v2.5H11M9 13.5H7M5 13.5H2.5V11M2.5 9V7",
  tissue: "M3.2 9.6C1.3 6.8 3.6 3 7 3.3S12.4 2.3 13.3 6s-2.1 6.9-5.3 6.5-3.6-.8-4.8-2.9ZM6 7h.01M9 6h.01M8.5 9h.01",
  person: "M8 2.500a2.7 2.7 0 1 0 0 5.4 2.7 2.7 0 0 0 0-5.400ZM3 13.500c.5-2.7 2.5-4 5-4s4.5 1.3 5 4",
  eye: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8ZM8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4Z",
} as const;

export type IconName = keyof typeof ICONS;

/** A line drawing of 16 px in the colour of the text; hidden from screen readers, so name the button itself. */
export function icon(name: IconName): SVGSVGElement {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", "0 0 16 16");
  picture.setAttribute("class", "icon");
  picture.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  picture.append(path);
  return picture;
}
