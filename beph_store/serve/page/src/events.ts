/**
 * What happens on the server, as it happens: one stream a tab for everything, because six open streams stop a browser
 * from asking anything else. It ends while the tab is hidden and goes on after the last event seen.
 */

type Listener = (data: unknown) => void;
export type StreamState = "off" | "opening" | "open" | "lost";

const listeners = new Map<string, Set<Listener>>();
const watchers = new Set<(state: StreamState) => void>();
let state: StreamState = "off";
let ending: AbortController | null = null;
let lastId = "";
let retry = 0;
let timer = 0;

/** Call `heard` with the data of every event of a kind: "job", "job-event", "job-gone", "run", "labels", "reset". Returns what ends it. */
export function on<T>(kind: string, heard: (data: T) => void): () => void {
  const those = listeners.get(kind) ?? new Set<Listener>();
  listeners.set(kind, those);
  those.add(heard as Listener);
  if (state === "off") open();
  return () => {
    those.delete(heard as Listener);
  };
}

/** Be told whether the stream is there, now and when that changes. */
export function onStream(watch: (state: StreamState) => void): () => void {
  watchers.add(watch);
  watch(state);
  return () => watchers.delete(watch);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else open();
});
addEventListener("pagehide", close);

function say(now: StreamState): void {
  if (state === now) return;
  state = now;
  for (const watch of watchers) watch(now);
}

function close(): void {
  clearTimeout(timer);
  ending?.abort();
  ending = null;
  say("off");
}

function open(): void {
  if (ending || document.hidden) return;
  const mine = new AbortController();
  ending = mine;
  say("opening");
  void listen(mine.signal)
    .catch(() => undefined)
    .then(() => {
      if (ending !== mine) return;
      ending = null;
      say("lost");
      // A little later each time, so that a server that is gone is not asked for ever and ever.
      timer = window.setTimeout(open, Math.min(30_000, 1000 * 2 ** retry++));
    });
}

/** fetch, not EventSource: only so can a stream that was closed go on after its last event. */
async function listen(signal: AbortSignal): Promise<void> {
  const headers: Record<string, string> = { accept: "text/event-stream" };
  if (lastId) headers["last-event-id"] = lastId;
  const answer = await fetch("/api/events", { headers, signal, cache: "no-store", credentials: "same-origin" });
  if (!answer.ok || !answer.body) throw new Error(`events: ${answer.status}`);
  retry = 0;
  say("open");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const whole = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = whole.pop() ?? "";
    for (const block of whole) tell(block);
  }
}

function tell(block: string): void {
  let kind = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const name = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (name === "event") kind = value;
    else if (name === "data") data.push(value);
    else if (name === "id") lastId = value;
  }
  if (data.length === 0) return;
  let said: unknown;
  try {
    said = JSON.parse(data.join("\n"));
  } catch {
    return;
  }
  for (const heard of listeners.get(kind) ?? []) heard(said);
}
