// The build's last look at a function: `node --experimental-vm-modules --no-warnings check.mjs FOLDER HANDLER`.
// Finds the handler's file and parses it and what it imports from the same folder; runs none of it. Says
// FILE:LINE for what is no JavaScript and exits with 1.

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import module from 'node:module'
import path from 'node:path'
import vm from 'node:vm'

import { entry, EXTENSIONS, isTypeScript, LoadError, withoutTypes } from './resolve.mjs'

const REQUIRE = /\brequire\(\s*(['"])(\.[^'"\n]*)\1\s*\)/g
const WRAPPER = ['exports', 'require', 'module', '__filename', '__dirname']

function main(root, setting) {
  const waiting = [entry(root, setting).file]
  const seen = new Set(waiting)
  let failed = false
  while (waiting.length > 0) {
    const file = waiting.pop()
    const shown = path.relative(root, file)
    if (isTypeScript(file) && withoutTypes()) throw new LoadError(withoutTypes())
    try {
      for (const specifier of parse(file, shown)) {
        const next = specifier.startsWith('.') ? find(path.resolve(path.dirname(file), specifier)) : null
        if (next && !seen.has(next)) {
          seen.add(next)
          waiting.push(next)
        }
      }
    } catch (error) {
      failed = true
      report(error, shown)
    }
  }
  process.exitCode = failed ? 1 : 0
}

// The specifiers that a file imports. Throws SyntaxError.
function parse(file, shown) {
  let source = readFileSync(file, 'utf8').replace(/^#!/, '//')
  if (isTypeScript(file)) {
    if (typeof module.stripTypeScriptTypes !== 'function') return [] // Node 22.6 to 22.12 strips at load only
    source = module.stripTypeScriptTypes(source, { sourceUrl: shown })
  }
  const kind = kindOf(file)
  if (kind === 'module') return esm(source, shown)
  try {
    return commonjs(source, shown)
  } catch (error) {
    if (kind === 'commonjs' || !/^\s*(?:import|export)\b/m.test(source) && !/\bawait\b/.test(source)) throw error
    return esm(source, shown)
  }
}

function esm(source, shown) {
  let parsed
  try {
    parsed = new vm.SourceTextModule(source, { identifier: shown })
  } catch (error) {
    // Its place is told only by Node's own check.
    const check = ['--no-warnings', '--check', '--input-type=module', '-']
    const { stderr } = spawnSync(process.execPath, check, { input: source, encoding: 'utf8' })
    if (stderr?.startsWith('[stdin]:')) error.stack = stderr.replace('[stdin]', () => shown)
    throw error
  }
  return parsed.moduleRequests?.map((request) => request.specifier) ?? parsed.dependencySpecifiers
}

function commonjs(source, shown) {
  vm.compileFunction(source, WRAPPER, { filename: shown })
  return [...source.matchAll(REQUIRE)].map((match) => match[2])
}

// module, commonjs, or either: Node decides by extension, then by the nearest package.json, then by trying.
function kindOf(file) {
  if (/\.m[jt]s$/.test(file)) return 'module'
  if (/\.c[jt]s$/.test(file)) return 'commonjs'
  for (let folder = path.dirname(file); ; folder = path.dirname(folder)) {
    const described = path.join(folder, 'package.json')
    if (existsSync(described)) return JSON.parse(readFileSync(described, 'utf8')).type ?? 'either'
    if (folder === path.dirname(folder)) return 'either'
  }
}

function find(stem) {
  const names = ['', ...EXTENSIONS, ...EXTENSIONS.map((extension) => `/index${extension}`)]
  return names.map((name) => stem + name).find((file) => EXTENSIONS.includes(path.extname(file)) && existsSync(file))
}

// Stacks of syntax errors begin with FILE:LINE and a snippet; before Node 22.18 those of TypeScript draw a picture
// with [LINE:COLUMN] in their message.
function report(error, shown) {
  const [first, ...rest] = String(error.stack).split('\n')
  const told = first.startsWith(`${shown}:`)
  const line = told ? Number.parseInt(first.slice(shown.length + 1), 10) : /\[(?:.*:)?(\d+):\d+\]/.exec(error.message)?.[1] ?? 1
  const message = error.message.trim().split('\n')[0].replace(/^[x×] /, '')
  process.stderr.write(`${shown}:${line}: error: ${error.name}: ${message}\n`)
  const snippet = told ? rest.slice(0, rest.indexOf('')) : []
  for (const text of snippet.slice(0, 4)) process.stderr.write(`    ${text.slice(0, 200)}\n`)
}

try {
  main(path.resolve(process.argv[2]), process.argv[3] ?? '')
} catch (error) {
  if (!(error instanceof LoadError) && !(error instanceof SyntaxError)) throw error
  process.stderr.write(`error: ${error.message}\n`)
  process.exitCode = 1
}
