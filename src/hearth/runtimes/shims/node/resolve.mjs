// Which file and which export is the handler? Asked at build (check.mjs) and at load (main.mjs).

import { existsSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'

export const EXTENSIONS = ['.mjs', '.js', '.cjs', '.ts', '.mts', '.cts']

export class LoadError extends Error {
  name = 'LoadError'
}

// {file, names}: an absolute path, and the path of the export in it, or null when it is to be detected.
// setting: `file.export`, a file, or empty.
export function entry(code, setting) {
  if (setting) return named(code, setting)
  for (const stem of ['handler', 'index']) {
    const file = withExtension(path.join(code, stem))
    if (file) return { file, names: null }
  }
  const main = mainOf(code)
  if (main) {
    const file = [path.join(code, main), withExtension(path.join(code, main)), withExtension(path.join(code, main, 'index'))]
      .find((candidate) => candidate && isFile(candidate))
    if (file) return { file, names: null }
    throw new LoadError(`package.json names ${main} as main, and there is no such file`)
  }
  throw new LoadError('there is no handler.mjs, handler.js, handler.cjs, handler.ts or index.*, and no main in package.json')
}

function named(code, setting) {
  const whole = path.join(code, setting)
  if (isFile(whole) && EXTENSIONS.includes(path.extname(whole))) return { file: whole, names: null }
  // As AWS does: in the last part of the path, all before the first dot is the file, the rest the export.
  const [stem, ...names] = path.basename(setting).split('.')
  const file = withExtension(path.join(code, path.dirname(setting), stem))
  if (!file) {
    const shown = path.join(path.dirname(setting), stem)
    throw new LoadError(`handler is ${setting}, and there is no file ${shown} with an extension of ${EXTENSIONS.join(' ')}`)
  }
  return { file, names: names.length > 0 ? names : null }
}

function mainOf(code) {
  const file = path.join(code, 'package.json')
  if (!existsSync(file)) return null
  const { main } = JSON.parse(readFileSync(file, 'utf8'))
  return typeof main === 'string' && main !== '' ? main : null
}

function withExtension(stem) {
  return EXTENSIONS.map((extension) => stem + extension).find(isFile)
}

function isFile(file) {
  return statSync(file, { throwIfNoEntry: false })?.isFile() ?? false
}

export function isTypeScript(file) {
  return /\.[mc]?ts$/.test(file)
}

// Why this Node can't run TypeScript, or null when it can.
export function withoutTypes() {
  if (process.features.typescript) return null
  return `Node ${process.versions.node} can't run TypeScript: it takes 22.6 or newer`
}

// {call, length, original, shape, name} of a loaded module: the function to call, how many parameters it declares,
// the function as exported. CommonJS comes as its default export.
export function pick(module, names) {
  const scopes = [module, module.default, module.default?.default].filter((scope) => scope !== null && scope !== undefined)
  if (names !== null) {
    for (const scope of scopes) {
      const [owner, value] = walk(scope, names)
      const found = shaped(value, owner, names.at(-1) === 'default' || names.at(-1) === 'fetch')
      if (found) return { ...found, name: names.join('.') }
    }
    throw new LoadError(`${names.join('.')} is not an exported function; exported: ${exported(module)}`)
  }
  for (const scope of scopes) {
    const found = shaped(scope.handler, scope, false)
    if (found) return { ...found, name: 'handler' }
  }
  for (const scope of scopes) {
    const found = scope === module ? null : shaped(scope, undefined, true)
    if (found) return { ...found, name: 'default' }
  }
  throw new LoadError('nothing that answers is exported: write `export const handler = async (event, context) => …` ' +
    `or \`export default { fetch(request) { … } }\`; exported: ${exported(module)}`)
}

function walk(scope, names) {
  let owner
  let value = scope
  for (const name of names) {
    owner = value
    value = value?.[name]
  }
  return [owner, value]
}

function shaped(value, owner, web) {
  if (typeof value === 'function') {
    return { call: owner === undefined ? value : value.bind(owner), length: value.length, original: value, shape: web ? 'fetch' : 'lambda' }
  }
  if (value !== null && typeof value === 'object' && typeof value.fetch === 'function') {
    return { call: value.fetch.bind(value), length: value.fetch.length, original: value.fetch, shape: 'fetch' }
  }
  return null
}

function exported(module) {
  const names = Object.keys(module)
  return names.length > 0 ? names.join(', ') : 'nothing'
}
