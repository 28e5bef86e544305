// Microsoft's KQL parser and semantic analyser over texts on standard input.
// in:  {"schema": [".create-merge table ..."-like "name (col: type, ...)"], "texts": ["..."]}
// out: [{"diagnostics": ["..."], "columns": ["name:type", ...]}, ...]
const path = require("path");
const folder = process.argv[2];
const load = (file) => require(path.join(folder, "@kusto", "language-service-next", file));
load("bridge.min.js");
load("Kusto.Language.Bridge.min.js");
const { KustoCode, GlobalState, Symbols } = Kusto.Language;

const input = JSON.parse(require("fs").readFileSync(0, "utf8"));
const tables = input.schema.map((text) => Symbols.TableSymbol.From(text.replace(/^(\w+) /, "")).WithName(text.match(/^(\w+)/)[1]));
const database = new Symbols.DatabaseSymbol.ctor("active_learning", tables);
const globals = GlobalState.Default.WithDatabase(database);

const list = (bridged) => Array.from({ length: bridged.Count }, (_, index) => bridged.getItem(index));

console.log(JSON.stringify(input.texts.map((text) => {
  const code = KustoCode.ParseAndAnalyze(text, globals);
  const diagnostics = list(code.GetDiagnostics()).map((one) => `${one.Severity}: ${one.Message} at ${one.Start}`);
  const result = code.ResultType;
  const columns = result && result.Columns ? list(result.Columns).map((one) => `${one.Name}:${one.Type.Name}`) : [];
  return { diagnostics, columns };
})));
