// Where in the person's own code an error comes from.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const PLACE = /(file:\/\/\/[^\s()]+?|\/[^\s():]+?):(\d+)(?::\d+)?(?=$|[\s)])/gm

// {file, line}: relative to code, or null both. Own files go before installed ones.
export function placeOf(error, code) {
  const nowhere = { file: null, line: null }
  const stack = String(error?.stack ?? '')
  let installed = null
  for (const [, where, line] of stack.matchAll(PLACE)) {
    const file = relative(where, code)
    if (file === null) continue
    const place = { file, line: Number(line) }
    if (!file.split(path.sep).includes('node_modules')) return place
    installed ??= place
  }
  return missing(error, code) ?? installed ?? nowhere
}

function relative(where, code) {
  let file
  try {
    file = where.startsWith('file:') ? fileURLToPath(where) : where
  } catch {
    return null // not the URL of a file here
  }
  const inside = path.relative(code, file)
  return inside === '' || inside.startsWith('..') || path.isAbsolute(inside) ? null : inside
}

// A module that is not there: Node names the importing file, and the line is the first that has the module's name.
function missing(error, code) {
  const message = String(error?.message ?? '')
  const importer = error?.requireStack?.[0] ?? / imported from (\S+)/.exec(message)?.[1]
  if (!importer) return null
  const file = relative(importer, code)
  if (file === null) return null
  const wanted = /'([^']+)'/.exec(message)?.[1] ?? ''
  const short = path.basename(wanted)
  let lines
  try {
    lines = readFileSync(path.join(code, file), 'utf8').split('\n')
  } catch {
    return { file, line: null } // gone since
  }
  const at = lines.findIndex((line) => /import|require|from/.test(line) && short !== '' && line.includes(short))
  return { file, line: at < 0 ? null : at + 1 }
}
