// Makes docs/sdk.md of the declarations of the built package, so that it cannot say anything else than they do. It is
// written by `npm run reference`, and compared by each run of the tests.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const DIST = new URL('../dist/', import.meta.url);
/** In the order of the page; what the entries tell each other is not for applications. */
const ENTRIES = [
  { module: 'tidewire', file: 'index.d.ts', names: ['Tidewire', 'TidewireOptions', 'Provider', 'Channel', 'SubscribeOptions', 'Subscription', 'TidewireEvent', 'Snapshot', 'Gap', 'PublishOptions', 'Outcome', 'ConnectionState', 'SubscriptionState', 'TransportName', 'TidewireError'] },
  { module: 'tidewire/presence', file: 'presence.d.ts', names: ['enter', 'PresenceOptions', 'Presence', 'watchMembers', 'Member'] },
  { module: 'tidewire/shared', file: 'shared.d.ts', names: ['shareTabs'] },
] as const;
const HIDDEN = ['TabHost', 'TabHub', 'Watcher'];

type Declared = ts.InterfaceDeclaration | ts.ClassDeclaration | ts.TypeAliasDeclaration | ts.FunctionDeclaration;

/** What the entries have in common is declared in files beside them. */
function section(sources: ts.SourceFile[], name: string): string {
  const found = sources.flatMap((source) => [...source.statements]).find((node): node is Declared => (
    ts.isInterfaceDeclaration(node) || ts.isClassDeclaration(node) || ts.isTypeAliasDeclaration(node) || ts.isFunctionDeclaration(node)) && node.name?.text === name);
  if (!found) throw new Error(`${name} is not declared`);
  const comment = ts.getJSDocCommentsAndTags(found).map((doc) => ts.getTextOfJSDocComment(doc.comment)).join('\n');
  const code = found.getText().replace(/^declare /, '').replace(/^\s*#private;\n/m, '').replace(/^  private .*\n/gm, '');
  return [`### ${name}`, comment.replace(/\n/g, ' '), `\`\`\`typescript\n${code}\n\`\`\``].filter(Boolean).join('\n\n');
}

/** The page's text. Throws where an entry exports what the page does not name. */
export function reference(): string {
  const folder = fileURLToPath(DIST);
  const parsed = new Map(readdirSync(folder).filter((name) => name.endsWith('.d.ts')).map((name) => (
    [name, ts.createSourceFile(name, readFileSync(join(folder, name), 'utf8'), ts.ScriptTarget.Latest, true)])));
  const parts = ENTRIES.map(({ module, file, names }) => {
    const source = parsed.get(file)!;
    const exported = source.statements.filter(ts.isExportDeclaration).flatMap(({ exportClause }) => (exportClause && ts.isNamedExports(exportClause) ? exportClause.elements.map((element) => element.name.text) : []));
    const missing = exported.filter((name) => !(names as readonly string[]).includes(name) && !HIDDEN.includes(name));
    if (missing.length > 0) throw new Error(`${module} exports ${missing}, which scripts/reference.ts does not place`);
    return [`## \`${module}\``, ...names.map((name) => section([...parsed.values()], name))].join('\n\n');
  });
  return `# The TypeScript client

Made from the declarations by \`npm run reference\` in \`clients/ts\`. How to begin is in [its README](../clients/ts/README.md); why it does what it does in [reconnecting.md](reconnecting.md); which transport to take in [transports.md](transports.md); more in [recipes.md](recipes.md).

${parts.join('\n\n')}
`;
}
