/**
 * Finds accesses to a shader's workgroup memory that may meet without a barrier between them: a read of what another
 * invocation has just written, and a write over what another invocation may still read.
 *
 * The text is walked as it runs: loops twice, so that the end of a round meets the beginning of the next; both sides
 * of a branch; the bodies of called functions. Two accesses of a phase are safe where
 * - both use the same index, and it depends on the invocation (each has an element of its own, or parts of it), or
 * - the same single invocation does both, or invocation 0 is at element 0 and each of the others at its own, or
 * - the index is `i + s` beside `i` where `i < s` is asked: the halves of a reduction.
 */

interface Access {
  readonly name: string;
  readonly write: boolean;
  readonly index: string;
  /** The subscripts up to the first one that depends on the invocation; empty where none does. */
  readonly own: string;
  readonly guards: readonly string[];
  readonly line: number;
}

interface Block {
  readonly kind: "block";
  readonly head: string;
  readonly line: number;
  readonly body: readonly Node[];
}

type Node = { readonly kind: "text"; readonly text: string; readonly line: number } | Block;

/** A conflict in words. */
export interface Race {
  readonly variable: string;
  readonly what: "write, then read" | "read, then write";
  readonly lines: readonly [number, number];
  readonly indices: readonly [string, string];
}

/** A kernel whose lanes run in lockstep says where its barriers would be; see `barrier` of @x/attention. */
const strip = (code: string): string =>
  code
    .replaceAll("/* barrier: lockstep */", "workgroupBarrier();")
    .replace(/\/\*[^]*?\*\//g, "")
    .replace(/\/\/[^\n]*/g, "");

/** Statements and blocks of a text; a block's head is what stands before its brace. */
function parse(code: string): Node[] {
  let at = 0;
  let line = 1;
  const read = (): Node[] => {
    const nodes: Node[] = [];
    let text = "";
    let parens = 0;
    const flush = (): void => {
      if (text.trim() !== "") nodes.push({ kind: "text", text: text.trim(), line });
      text = "";
    };
    while (at < code.length) {
      const c = code[at++]!;
      if (c === "\n") line++;
      if (c === "(") parens++;
      if (c === ")") parens--;
      if (c === ";" && parens === 0) flush();
      else if (c === "{") {
        const head = text.trim();
        const begun = line;
        text = "";
        nodes.push({ kind: "block", head, line: begun, body: read() });
      } else if (c === "}") {
        flush();
        return nodes;
      } else text += c;
    }
    flush();
    return nodes;
  };
  return read();
}

/** The end of the bracket that opens at `from`. */
function closing(text: string, from: number): number {
  let depth = 0;
  for (let i = from; i < text.length; i++) {
    if (text[i] === "[") depth++;
    if (text[i] === "]" && --depth === 0) return i;
  }
  return text.length;
}

const IDENTIFIER = /[A-Za-z_]\w*/g;
const squeeze = (text: string): string => text.replace(/\s+/g, "");

class Walker {
  readonly races: Race[] = [];
  readonly #shared: ReadonlySet<string>;
  readonly #functions: ReadonlyMap<string, Block>;
  /** Names whose value differs between the invocations of a workgroup. */
  readonly #lanes: Set<string>;
  readonly #guards: string[] = [];
  readonly #calls: string[] = [];
  #phase: Access[] = [];

  constructor(shared: ReadonlySet<string>, functions: ReadonlyMap<string, Block>, lanes: Set<string>) {
    this.#shared = shared;
    this.#functions = functions;
    this.#lanes = lanes;
  }

  walk(nodes: readonly Node[]): void {
    for (let i = 0; i < nodes.length; i++) {
      const node = nodes[i]!;
      if (node.kind === "text") {
        this.#statement(node.text, node.line);
        continue;
      }
      const { head, body, line } = node;
      if (/^(for|while|loop)\b/.test(head)) {
        this.#statement(head.replace(/^\w+\s*/, ""), line);
        for (let round = 0; round < 2; round++) this.walk(body);
      } else if (/^(else\s+)?if\b|^else\b/.test(head)) i = this.#branches(nodes, i);
      else {
        this.#statement(head, line);
        this.walk(body);
      }
    }
  }

  /** A chain of if and else: what came before meets each side, what comes after meets all. */
  #branches(nodes: readonly Node[], first: number): number {
    const before = this.#phase;
    const after = new Set<Access>();
    let last = first;
    let closed = false;
    for (let i = first; i < nodes.length; i++) {
      const node = nodes[i]!;
      if (node.kind !== "block" || !(i === first || /^else\b/.test(node.head))) break;
      last = i;
      closed = /^else\s*$/.test(node.head);
      this.#phase = [...before];
      const condition = node.head.replace(/^(else\s+)?if\b|^else\b/, "");
      this.#statement(condition, node.line);
      this.#guards.push(squeeze(condition));
      this.walk(node.body);
      this.#guards.pop();
      for (const access of this.#phase) after.add(access);
    }
    // A barrier must be reached by all or none, so a side that holds one ends the phase of those that take it.
    if (!closed) for (const access of before) after.add(access);
    this.#phase = [...after];
    return last;
  }

  #statement(text: string, line: number): void {
    if (/\bworkgroupBarrier\s*\(/.test(text)) {
      this.#phase = [];
      return;
    }
    for (const [, name] of text.matchAll(/\b([A-Za-z_]\w*)\s*\(/g)) {
      const body = this.#functions.get(name!);
      if (!body || this.#calls.includes(name!)) continue;
      // Arguments are read first.
      this.#accesses(text, line);
      this.#calls.push(name!);
      this.walk(body.body);
      this.#calls.pop();
      return;
    }
    this.#accesses(text, line);
  }

  #accesses(text: string, line: number): void {
    const assignment = /^([^=]*?[^=!<>+\-*/%&|^])\s*([-+*/%&|^]|<<|>>)?=(?!=)/.exec(text);
    const target = assignment && !/^(let|var|const)\b/.test(text) ? assignment[1]! : "";
    const found: Access[] = [];
    for (const { 0: name, index: start } of text.matchAll(IDENTIFIER)) {
      if (!this.#shared.has(name) || text[start - 1] === ".") continue;
      let end = start + name.length;
      let [index, own] = ["", ""];
      while (text[end] === "[") {
        const close = closing(text, end);
        const subscript = text.slice(end, close + 1);
        index += squeeze(subscript);
        if (own === "" && [...subscript.matchAll(IDENTIFIER)].some(([part]) => this.#lanes.has(part)))
          own = index;
        end = close + 1;
      }
      const isTarget = start < target.length && start === target.search(/\S/);
      const access = { name, index, own, guards: [...this.#guards], line };
      if (/\batomic\w+\s*\(\s*&\s*$/.test(text.slice(0, start))) continue;
      if (!isTarget || assignment?.[2] !== undefined) found.push({ ...access, write: false });
      if (isTarget) found.push({ ...access, write: true });
    }
    for (const access of found.sort((a, b) => Number(a.write) - Number(b.write))) this.#note(access);
  }

  #note(access: Access): void {
    for (const earlier of this.#phase) {
      if (earlier.name !== access.name || earlier.write === access.write) continue;
      if (this.#safe(earlier, access)) continue;
      const kind = (a: Access): "write" | "read" => (a.write ? "write" : "read");
      this.races.push({
        variable: access.name,
        what: `${kind(earlier)}, then ${kind(access)}` as Race["what"],
        lines: [earlier.line, access.line],
        indices: [earlier.index, access.index],
      });
    }
    const same = (a: Access): boolean =>
      a.name === access.name &&
      a.write === access.write &&
      a.index === access.index &&
      a.line === access.line;
    if (!this.#phase.some(same)) this.#phase.push(access);
  }

  #safe(a: Access, b: Access): boolean {
    if (a.own !== "" && a.own === b.own) return true;
    const single = (guard: string): boolean => {
      const match = /^\(?(\w+(?:\.\w+)?)==/.exec(guard);
      return match !== null && this.#lanes.has(match[1]!.split(".")[0]!);
    };
    if (a.guards.some((guard) => single(guard) && b.guards.includes(guard))) return true;
    // Invocation 0 at element 0, beside each invocation at its own element.
    const first = (one: Access, each: Access): boolean =>
      /^\[0u?\]$/.test(one.index) &&
      one.guards.some((guard) => {
        const lane = /^\((\w+)==0u?(?:&&|\))/.exec(guard)?.[1];
        return lane !== undefined && each.index === `[${lane}]`;
      });
    if (first(a, b) || first(b, a)) return true;
    const halves = (low: string, high: string): boolean => {
      const [i, j] = [low.slice(1, -1), high.slice(1, -1)];
      if (!j.startsWith(`${i}+`)) return false;
      const step = j.slice(i.length + 1);
      return [...a.guards, ...b.guards].some((guard) => guard.includes(`${i}<${step}`));
    };
    return halves(a.index, b.index) || halves(b.index, a.index);
  }
}

/** Names that depend on the invocation: the builtins' and what is computed from them. */
function laneNames(code: string): Set<string> {
  const lanes = new Set<string>();
  for (const [, name] of code.matchAll(
    /@builtin\((?:local_invocation_\w+|global_invocation_id|subgroup_invocation_id|subgroup_id)\)\s*(\w+)/g,
  ))
    lanes.add(name!);
  const uses = [
    ...code.matchAll(/\b(?:let|var|const)\s+(\w+)[^=;]*=([^;]*);/g),
    ...code.matchAll(/\b(\w+)\s*[-+*/%]?=(?!=)([^;]*);/g),
  ];
  // Arguments of functions take what calls give them.
  const functions = [...code.matchAll(/\bfn\s+(\w+)\s*\(([^{]*)\)[^{]*\{/g)].map(([, name, args]) => ({
    name: name!,
    args: [...(args ?? "").matchAll(/(\w+)\s*:/g)].map(([, arg]) => arg!),
  }));
  for (let before = -1; before !== lanes.size;) {
    before = lanes.size;
    for (const [, name, value] of uses)
      if ([...value!.matchAll(IDENTIFIER)].some(([part]) => lanes.has(part))) lanes.add(name!);
    for (const { name, args } of functions)
      for (const [, given] of code.matchAll(new RegExp(`\\b${name}\\s*\\(([^;{]*)\\)`, "g")))
        given!.split(",").forEach((text, i) => {
          if (args[i] !== undefined && [...text.matchAll(IDENTIFIER)].some(([part]) => lanes.has(part)))
            lanes.add(args[i]);
        });
  }
  return lanes;
}

/** The races of a shader's entry point `main`. */
export function workgroupRaces(source: string): Race[] {
  const code = strip(source);
  const shared = new Set([...code.matchAll(/var<workgroup>\s*(\w+)/g)].map(([, name]) => name!));
  if (shared.size === 0) return [];
  const functions = new Map<string, Block>();
  for (const node of parse(code)) {
    const name = node.kind === "block" ? /\bfn\s+(\w+)/.exec(node.head)?.[1] : undefined;
    if (name !== undefined && node.kind === "block") functions.set(name, node);
  }
  const walker = new Walker(shared, functions, laneNames(code));
  walker.walk(functions.get("main")?.body ?? []);
  return walker.races;
}
