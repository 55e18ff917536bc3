/** Requests to the server that served the page. The cookie goes along by itself. */

/** A refusal; `message` is the server's own sentence, made for people. */
export class ApiError extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

export interface Floats {
  readonly values: Float32Array;
  readonly headers: Headers;
}

/** `/api/…` with parts that may hold anything, and a query without what is undefined or empty. */
export function url(path: string, query: Readonly<Record<string, string | number | undefined | null>> = {}): string {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") asked.set(name, String(value));
  }
  const text = asked.toString();
  return text ? `${path}?${text}` : path;
}

/** JSON of a GET. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await ask(path, { signal })).json()) as T;
}

/** JSON of a POST. A string or Blob goes as it is, under `type`; anything else as JSON. */
export async function post<T>(path: string, body: unknown = {}, type?: string, signal?: AbortSignal): Promise<T> {
  const raw = typeof body === "string" || body instanceof Blob;
  const headers = { "content-type": type ?? (raw ? "text/plain" : "application/json") };
  const answer = await ask(path, { method: "POST", headers, body: raw ? body : JSON.stringify(body), signal });
  return (await answer.json()) as T;
}

/** DELETE; what is answered beyond that it worked does not matter. */
export async function del(path: string): Promise<void> {
  await ask(path, { method: "DELETE" });
}

/** The body of a GET as text. */
export async function text(path: string, signal?: AbortSignal): Promise<string> {
  return (await ask(path, { signal })).text();
}

/** The body of a GET as little-endian float32, with the headers that say what it is. */
export async function floats(path: string, signal?: AbortSignal): Promise<Floats> {
  const answer = await ask(path, { signal });
  return { values: new Float32Array(await answer.arrayBuffer()), headers: answer.headers };
}

/** The body of a GET as little-endian int32. */
export async function integers(path: string, signal?: AbortSignal): Promise<Int32Array> {
  return new Int32Array(await (await ask(path, { signal })).arrayBuffer());
}

/** What to tell a person about anything that was thrown. */
export function reason(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** Whether a request was only given up: no news for anybody. */
export function isAbort(thrown: unknown): boolean {
  return thrown instanceof DOMException && thrown.name === "AbortError";
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, credentials: "same-origin" });
  } catch (thrown) {
    if (isAbort(thrown)) throw thrown;
    throw new ApiError(0, "the server does not answer: is beph-store serve still running?");
  }
  if (answer.ok) return answer;
  throw new ApiError(answer.status, await explained(answer));
}

async function explained(answer: Response): Promise<string> {
  try {
    const said = (await answer.json()) as { error?: string };
    if (said.error) return said.error;
  } catch {
    // not ours: a proxy's page, or nothing at all
  }
  return `the server answered ${answer.status}`;
}
