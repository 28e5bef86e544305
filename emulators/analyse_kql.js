// Microsoft's KQL parser and semantic analyser: a line of JSON on standard input, a line of JSON back.
// in:  {"schema": {"table": "(col: type, ...)"}, "texts": ["..."]}
// out: [{"diagnostics": ["..."], "columns": ["name:type", ...]}, ...]
const path = require("path");
const folder = process.argv[2];
const load = (file) => require(path.join(folder, "@kusto", "language-service-next", file));
load("bridge.min.js");
load("Kusto.Language.Bridge.min.js");
const { KustoCode, GlobalState, Symbols } = Kusto.Language;

const list = (bridged) => Array.from({ length: bridged.Count }, (_, index) => bridged.getItem(index));

// What the analyser has learned of a database is kept in its global state: a new one for every text doubles the time.
const states = new Map();

function stateOf(schema) {
  const key = JSON.stringify(schema);
  if (!states.has(key)) {
    const tables = Object.entries(schema).map(([name, columns]) => Symbols.TableSymbol.From(columns).WithName(name));
    states.set(key, GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.ctor("active_learning", tables)));
  }
  return states.get(key);
}

function analyse({ schema, texts }) {
  const globals = stateOf(schema);
  return texts.map((text) => {
    const code = KustoCode.ParseAndAnalyze(text, globals);
    const diagnostics = list(code.GetDiagnostics()).map((one) => `${one.Severity}: ${one.Message} at ${one.Start}`);
    const result = code.ResultType;
    const columns = result && result.Columns ? list(result.Columns).map((one) => `${one.Name}:${one.Type.Name}`) : [];
    return { diagnostics, columns };
  });
}

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => console.log(JSON.stringify(analyse(JSON.parse(line)))));
