/** Numbers as people read them. */

const WHOLE = new Intl.NumberFormat("en");

/** 12,345; "–" for nothing. */
export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : WHOLE.format(value);
}

/** "1 slide", "2 slides" */
export function counted(value: number, one: string, many: string = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** With so many digits after the point; "–" for nothing. */
export function fixed(value: number | null | undefined, digits = 3): string {
  return value === null || value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(digits);
}

/** "0.0314", "12.3": three digits that say something. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : size >= 1 ? value.toFixed(2) : value.toFixed(3);
}

/** "4 s", "12 min", "1 h 20 min", "3 d 4 h" */
export function span(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return "< 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 36) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** "500 µm", "2 mm" */
export function micrometres(um: number): string {
  return um >= 1000 ? `${trimmed(um / 1000)} mm` : `${trimmed(um)} µm`;
}

function trimmed(value: number): string {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

/** "26 Nov 2026, 04:18", in the reader's own time. */
export function when(iso: string | null | undefined): string {
  const time = iso ? new Date(iso) : null;
  if (!time || Number.isNaN(time.getTime())) return "–";
  return time.toLocaleString("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
}

/** "3 min ago" */
export function ago(iso: string | null | undefined, now: number = Date.now()): string {
  const time = iso ? new Date(iso).getTime() : Number.NaN;
  if (Number.isNaN(time)) return "–";
  const seconds = Math.max(0, (now - time) / 1000);
  return seconds < 10 ? "just now" : `${span(seconds)} ago`;
}

/** With a capital letter at the start and a full stop at the end; "" stays "". */
export function sentence(text: string): string {
  const plain = text.trim();
  return plain ? `${plain[0].toUpperCase()}${plain.slice(1)}${/[.!?]$/.test(plain) ? "" : "."}` : "";
}

const STAGES: Readonly<Record<string, string>> = {
  read: "reading slides", encode: "the encoder", keep: "keeping tiles' pixels", write: "writing",
};

/** What holds an ingest up, in words. */
export function stageName(stage: string | null | undefined): string {
  return STAGES[stage ?? ""] ?? stage ?? "nothing";
}
