// The web shape: a handler that takes a Request and returns a Response.

import { BadResponse, Head } from './call.mjs'
import { Context } from './context.mjs'

const FORBIDDEN = new Set(['CONNECT', 'TRACE', 'TRACK']) // no Request can have these (WHATWG fetch, 2.2.1)

// found: what resolve.pick gave.
export function serve({ call: handler }) {
  return async (call) => {
    if (FORBIDDEN.has(call.method)) {
      call.empty(new Head(405))
      return
    }
    const response = await handler(requestOf(call), new Context(call))
    if (!(response instanceof Response)) {
      throw new BadResponse(`the handler returned ${response === null ? 'null' : `a value of type ${typeof response}`}, not a Response`)
    }
    await respondWith(call, response)
  }
}

function requestOf(call) {
  const headers = new Headers()
  let host = 'localhost'
  for (const [name, value] of call.headers()) {
    if (name === 'host') host = value
    headers.append(name, value)
  }
  let url
  try {
    url = new URL(`${call.scheme}://${host}${call.target}`)
  } catch {
    url = new URL(`${call.scheme}://localhost${call.target}`) // a Host that no URL can hold
  }
  const init = { method: call.method, headers, signal: call.signal }
  if (call.method !== 'GET' && call.method !== 'HEAD') {
    const body = call.ready()
    if (body === null) {
      init.body = call.body()
      init.duplex = 'half'
    } else if (body.length > 0) init.body = body
  }
  return new Request(url, init)
}

export async function respondWith(call, response) {
  if (response.type === 'error') throw new BadResponse('the handler returned Response.error()')
  const head = new Head(response.status)
  // What fetch() gave has been unpacked already: its length and encoding are those of the packed body.
  const unpacked = response.url !== '' && response.headers.has('content-encoding')
  for (const [name, value] of response.headers) {
    if (unpacked && (name === 'content-encoding' || name === 'content-length')) continue
    head.add(name, value, call.method === 'HEAD')
  }
  const { body } = response
  if (body === null || call.bodiless(head)) {
    call.empty(head)
    return body?.cancel()
  }
  const reader = body.getReader()
  // Who listens to a stream that waits may leave: it is ended then, not with its next piece.
  call.whenCancelled(() => { reader.cancel().catch(() => {}) })
  // Whatever is there by the next turn is not waited for: a body of one piece, the usual one, goes out whole.
  const turn = new Promise((resolve) => { setImmediate(resolve, null) })
  let reading = reader.read()
  let read = await Promise.race([reading, turn])
  if (read !== null) {
    if (read.done) {
      call.empty(head)
      return undefined
    }
    reading = reader.read()
    const next = await Promise.race([reading, turn])
    if (next?.done) {
      return call.respond(head, bytesOf(read.value))
    }
    call.start(head)
    if (!(await call.write(bytesOf(read.value), false))) return reader.cancel()
    read = next
  } else call.start(head)
  for (read ??= await reading; !read.done; read = await reader.read()) {
    if (!(await call.write(bytesOf(read.value), false))) return reader.cancel()
  }
  return call.write(new Uint8Array(0), true)
}

function bytesOf(value) {
  if (value instanceof Uint8Array) return value
  throw new BadResponse(`the body's stream gave a value of type ${typeof value}: only bytes can be sent`)
}
