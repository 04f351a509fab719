// What golden files are read with of Node's file system and paths, over fetch.

/** @param {string} path */
export async function readFile(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Names in a folder, or entries of it if they are asked for. @param {string} path @param {object} [options] */
export async function readdir(path, options) {
  const entries = await (await fetch(`${path}/`)).json();
  return options
    ? entries.map(({ name, folder }) => ({ name, isDirectory: () => folder, isFile: () => !folder }))
    : entries.map(({ name }) => name);
}

/** @param {string[]} parts */
export const join = (...parts) => parts.join("/");

/** @param {string} path */
export const basename = (path) => path.split("/").at(-1);

/** Paths of the page are whole ones. @param {string} path */
export const resolve = (path) => path;
