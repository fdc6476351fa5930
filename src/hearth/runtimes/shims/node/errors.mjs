// Errors of function code as the host is told of them: what they say, and where in the code they come from.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { BadResponse } from './call.mjs'

const CHECK_TIMEOUT = 5000 // ms
const CAUSES = 8 // of causes that are told; there may be a circle
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

// Node keeps the place of a syntax error in a module to itself: the build's check (check.mjs) parses again and says it.
export function syntaxPlace(error, code, setting, shim) {
  const place = placeOf(error, code)
  if (place.file !== null) return place
  const check = [...process.execArgv, '--experimental-vm-modules', '--no-warnings',
    path.join(shim, 'check.mjs'), code, setting || '']
  const done = spawnSync(process.execPath, check, { encoding: 'utf8', timeout: CHECK_TIMEOUT })
  const found = /^(.+?):(\d+): error: /m.exec(done.stderr ?? '')
  return found ? { file: found[1], line: Number(found[2]) } : place
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

// An error as the protocol tells it. Frames of the shim and of Node itself are left out of the traceback.
// Paths are relative to the code.
export function describe(error, hidden, code) {
  try {
    return told(error, hidden, code, 0)
  } catch (broken) {
    const message = `an error that can't be shown: ${text(broken?.message)}` // its getters are function code
    return { type: 'Error', message, traceback: message }
  }
}

function told(error, hidden, code, depth) {
  if (error instanceof BadResponse) {
    return { type: 'BadResponse', message: error.message, traceback: `BadResponse: ${error.message}` }
  }
  if (typeof error?.stack !== 'string') {
    const message = text(error)
    return { type: error === null ? 'null' : typeof error, message, traceback: `Uncaught ${message}` }
  }
  const stack = String(error.stack).split('\n')
  const shown = stack.filter((line) => !/^\s+at /.test(line) || !(line.includes(hidden) || /\(?node:(?:internal|async_hooks)/.test(line)))
  if (error.cause !== undefined && depth < CAUSES) shown.push(`[cause]: ${told(error.cause, hidden, code, depth + 1).traceback}`)
  return {
    type: String(error.name || error.constructor?.name || 'Error').slice(0, 200),
    message: String(error.message).slice(0, 16384),
    traceback: shown.join('\n').replaceAll(`file://${code}/`, '').replaceAll(`${code}/`, '').slice(0, 60000),
  }
}

function text(value) {
  try {
    return (typeof value === 'string' ? value : JSON.stringify(value) ?? String(value)).slice(0, 16384)
  } catch {
    return Object.prototype.toString.call(value) // a cycle, a BigInt, a toString that throws
  }
}
