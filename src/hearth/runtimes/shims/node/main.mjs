// The Node shim: connects to the host, waits for one version to load, and answers its requests.
// Runs inside the sandbox, beside hostile code: whatever happens here can hurt this instance only.

import { AsyncLocalStorage } from 'node:async_hooks'
import path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import v8 from 'node:v8'

import { placeOf, syntaxPlace } from './errors.mjs'
import * as web from './fetch.mjs'
import { INIT_ERROR, READY } from './frames.mjs'
import * as lambda from './lambda.mjs'
import { Link } from './link.mjs'
import { Logs } from './logs.mjs'
import { entry, LoadError, isTypeScript, pick, withoutTypes } from './resolve.mjs'

const SMALL_MEMORY_MB = 1024
const SLOT = '/hearth' // where a sandbox has its slot; outside one it is elsewhere

function main() {
  const hidden = path.dirname(fileURLToPath(import.meta.url))
  const running = new AsyncLocalStorage()
  const link = new Link(path.join(process.env.HEARTH_SLOT_DIR || SLOT, 'guest.sock'), hidden, {
    load: (told) => load(link, logs, running, hidden, told),
    logCredit: (bytes) => logs.grant(bytes),
    within: (call, work) => running.run(call, work),
    failed: (call, told) => logs.error(call.id, told.traceback),
    finished: (call) => logs.finish(call.id),
  })
  // Code that no request is known for (a timer of the module's own, say) counts for the only request in work.
  const logs = new Logs(link.writer, () => (running.getStore() ?? link.only)?.id ?? null)
  logs.install()
  watchErrors(link, logs, running)
  process.on('exit', () => {
    logs.finish(null)
    link.lastWords()
  })
  warmUp()
}

// These globals are loaded at first use, which takes 10 to 30 ms: here, while the slot waits.
function warmUp() {
  new Request('http://localhost/', { method: 'POST', body: 'x', signal: new AbortController().signal })
  new Response(new ReadableStream())
}

async function load(link, logs, running, hidden, told) {
  const code = (told.code || `${SLOT}/code`).replace(/^\/hearth(?=\/)/, process.env.HEARTH_SLOT_DIR || SLOT)
  told.code = code
  let found
  try {
    process.chdir(code)
    delete process.env.HEARTH_SLOT_DIR
    Object.assign(process.env, told.env)
    globalThis.awslambda = lambda.awslambda
    limitHeap(told.memory_mb)
    const { file, names } = entry(code, told.handler)
    if (isTypeScript(file) && withoutTypes()) throw new LoadError(withoutTypes())
    found = pick(await import(pathToFileURL(file).href), names)
    found.name = `${path.relative(code, file).replace(/\.[mc]?[jt]s$/, '')}.${found.name}`
  } catch (error) {
    const place = error instanceof SyntaxError ? syntaxPlace(error, code, told.handler, hidden) : placeOf(error, code)
    const payload = { ...link.describe(error), ...place }
    logs.finish(null)
    if (error instanceof LoadError) payload.traceback = ''
    else logs.error(null, payload.traceback)
    link.writer.frame(INIT_ERROR, 0, 0, JSON.stringify(payload))
    link.close(1)
    return
  }
  const serve = (found.shape === 'fetch' ? web : lambda).serve(found)
  link.serve = (call) => {
    call.load = told
    try {
      const pending = running.run(call, serve, call)
      pending?.then(undefined, (error) => call.fail(error))
    } catch (error) {
      call.fail(error)
    }
  }
  link.writer.frame(READY, 0, 0, JSON.stringify({ handler: found.name, shape: found.shape }))
}

// V8 sizes its heap by the machine's memory, not by the sandbox's: left alone it lets garbage pile up until
// the kernel kills it. Collecting as soon as the heap has grown by a third costs a few per cent of time.
function limitHeap(memoryMb) {
  if (memoryMb > 0 && memoryMb < SMALL_MEMORY_MB) v8.setFlagsFromString('--heap-growing-percent=33')
}

// Errors that no handler caught. The request that caused it is told. A rejection hurts nobody else, so the
// instance lives on when its request is known; after a thrown error, or where nothing is known, Node's own
// rule holds: the process ends. A program that listens to these events itself decides for itself.
function watchErrors(link, logs, running) {
  const told = (error) => {
    const call = running.getStore() ?? null
    const late = call === null || call.done
    if (late) logs.error(call?.id ?? null, link.describe(error).traceback)
    else call.fail(error)
    return call
  }
  const end = () => {
    logs.finish(null)
    link.close(1)
  }
  process.on('unhandledRejection', (reason) => {
    if (told(reason) === null && process.listenerCount('unhandledRejection') === 1) end()
  })
  process.on('uncaughtException', (error) => {
    told(error)
    if (process.listenerCount('uncaughtException') === 1) end()
  })
}

main()
