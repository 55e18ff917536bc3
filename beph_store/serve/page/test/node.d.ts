/** What the tests use of Node, which brings no types of its own. */

declare module "node:test" {
  export default function test(name: string, body: () => void): void;
}

declare module "node:assert/strict" {
  interface Assert {
    equal(actual: unknown, expected: unknown): void;
    deepEqual(actual: unknown, expected: unknown): void;
    ok(value: unknown): void;
  }
  const assert: Assert;
  export default assert;
}
