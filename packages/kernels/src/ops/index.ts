export { linear, matmul, type MatmulForm, type MatmulOptions } from "./matmul/matmul.js";
