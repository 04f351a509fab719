export { RUNNERS, goldenFiles, runFile, type CaseReport } from "./run.js";
