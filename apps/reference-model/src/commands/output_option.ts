import { Option, type Command } from "commander";
import { expectWritable, type OutputKind } from "../checkpoint/files.js";

/** An option that names what a command writes: whether that can be written is known before the work. */
class OutputOption extends Option {
  readonly kind: OutputKind;

  constructor(flags: string, description: string, kind: OutputKind) {
    super(flags, description);
    this.kind = kind;
  }
}

/** An option such as `--json <file>` whose file the command writes. */
export const outputFile = (flags: string, description: string): Option =>
  new OutputOption(flags, description, "file");

/** An option such as `--out <dir>` whose folder the command writes. */
export const outputFolder = (flags: string, description: string): Option =>
  new OutputOption(flags, description, "folder");

/** Check every output that a command was given. @throws ConfigError for one that cannot be written */
export async function checkOutputs(command: Command): Promise<void> {
  for (const option of command.options) {
    const path: unknown = command.opts()[option.attributeName()];
    if (option instanceof OutputOption && typeof path === "string")
      await expectWritable(option.long!, path, option.kind);
  }
}
