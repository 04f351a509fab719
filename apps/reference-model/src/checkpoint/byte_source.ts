import { open } from "node:fs/promises";
import { FormatError } from "@x/kernels";
import type { FileSource } from "./stored.js";

/** Opens a file to be read in pieces. @throws FormatError */
export async function fileSource(path: string): Promise<FileSource> {
  const handle = await open(path, "r").catch((cause: unknown) => {
    throw new FormatError(path, "cannot be opened", { cause });
  });
  const { size } = await handle.stat();
  return {
    size,
    read: async (begin, end) => {
      const bytes = new Uint8Array(Math.max(0, end - begin));
      let filled = 0;
      // One call of the system reads at most 2 GiB, and may read less than it was asked for.
      while (filled < bytes.length) {
        const length = Math.min(bytes.length - filled, 2 ** 30);
        const { bytesRead } = await handle.read(bytes, filled, length, begin + filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      return bytes.subarray(0, filled);
    },
    close: () => handle.close(),
  };
}
