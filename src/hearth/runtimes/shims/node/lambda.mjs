// The AWS Lambda shape: how a handler is called, and what its value becomes as an answer.

import { PassThrough } from 'node:stream'

import { BadResponse, Head } from './call.mjs'
import { Context } from './context.mjs'
import { event } from './event.mjs'
import { respondWith } from './fetch.mjs'

const STREAMING = Symbol('streams')

// awslambda.streamifyResponse(handler) and awslambda.HttpResponseStream.from(stream, metadata), as in AWS.
export const awslambda = {
  streamifyResponse(handler) {
    handler[STREAMING] = true
    return handler
  },
  HttpResponseStream: {
    from(stream, metadata) {
      stream.metadata = metadata
      return stream
    },
  },
}

// found: what resolve.pick gave.
export function serve({ call: handler, length, original }) {
  const answerBody = (call, body) => {
    const context = new Context(call)
    const told = event(call, body)
    if (original[STREAMING]) return streamify(call, handler, told, context)
    if (length < 3) return answer(call, handler(told, context))
    return new Promise((resolve, reject) => {
      const result = handler(told, context, (error, value) => (error ? reject(error) : resolve(value)))
      // With a callback, a plain returned value means nothing, as in AWS.
      if (typeof result?.then === 'function') result.then(resolve, reject)
    }).then((value) => answer(call, value))
  }
  return (call) => {
    const body = call.ready()
    return body === null ? call.whole().then((whole) => answerBody(call, whole)) : answerBody(call, body)
  }
}

// Returns a promise when the answer isn't sent yet.
function answer(call, value) {
  if (typeof value?.then === 'function') return value.then((later) => answer(call, later))
  if (typeof value === 'string') return whole(call, 'text/plain; charset=utf-8', value)
  const bytes = asBytes(value)
  if (bytes !== null) return whole(call, 'application/octet-stream', bytes)
  if (value instanceof Response) return respondWith(call, value)
  if (isStream(value)) return stream(call, (first) => streamHead(first), value)
  if (value !== null && typeof value === 'object' && 'statusCode' in value) return structured(call, value)
  return whole(call, 'application/json', json(value))
}

function whole(call, type, body) {
  const head = new Head(200)
  head.add('content-type', type)
  return call.respond(head, body)
}

function structured(call, value) {
  const head = structuredHead(value)
  if (isStream(value.body)) return stream(call, () => head, value.body, head)
  return call.respond(head, bodyOf(value))
}

function structuredHead(value) {
  const head = new Head(value.statusCode)
  for (const headers of [value.headers, value.multiValueHeaders]) {
    if (headers === undefined || headers === null) continue
    if (typeof headers !== 'object') throw new BadResponse('headers of the returned value are no object')
    for (const [name, given] of Object.entries(headers)) {
      for (const one of Array.isArray(given) ? given : [given]) {
        if (typeof one === 'object' && one !== null) throw new BadResponse(`header ${name} has an object as value`)
        if (one !== undefined && one !== null) head.add(name, one)
      }
    }
  }
  if (value.cookies !== undefined && value.cookies !== null) {
    if (!Array.isArray(value.cookies)) throw new BadResponse('cookies of the returned value are no list')
    for (const cookie of value.cookies) head.add('set-cookie', cookie)
  }
  if (!head.typed) head.add('content-type', asBytes(value.body) === null ? 'application/json' : 'application/octet-stream')
  return head
}

function bodyOf(value) {
  const { body } = value
  if (body === undefined || body === null) return ''
  if (typeof body === 'string') {
    if (!value.isBase64Encoded) return body
    if (!/^[A-Za-z0-9+/_-]*={0,2}\s*$/.test(body)) throw new BadResponse('the body is not base64, as isBase64Encoded says')
    return Buffer.from(body, 'base64')
  }
  return asBytes(body) ?? json(body)
}

function json(value) {
  let text
  try {
    text = JSON.stringify(value === undefined ? null : value)
  } catch (error) {
    throw new BadResponse(`the returned value can't be written as JSON: ${error.message}`)
  }
  if (text === undefined) throw new BadResponse(`a ${typeof value} is no answer`)
  return text
}

function asBytes(value) {
  if (value instanceof Uint8Array) return value
  if (value instanceof ArrayBuffer) return new Uint8Array(value)
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
  return null
}

// Generators, Node streams and web streams; not lists.
function isStream(value) {
  if (value === null || typeof value !== 'object') return false
  if (typeof value[Symbol.asyncIterator] === 'function') return true
  return typeof value[Symbol.iterator] === 'function' && typeof value.next === 'function'
}

function streamHead(first) {
  const head = new Head(200)
  head.add('content-type', first === undefined || typeof first === 'string'
    ? 'text/plain; charset=utf-8' : 'application/octet-stream')
  return head
}

// Sends what an iterable gives, as it comes. headFor(first item) makes the head when the first item is there;
// `known` is a head that doesn't depend on it, which goes out when the first item isn't there by the next turn.
async function stream(call, headFor, iterable, known = null) {
  const iterator = iterable[Symbol.asyncIterator]?.() ?? iterable[Symbol.iterator]()
  // Who listens to a stream that waits may leave: Node's own streams can be ended then, not with their next piece.
  if (typeof iterable.destroy === 'function') call.whenCancelled(() => { iterable.destroy() })
  let next = iterator.next()
  let started = false
  if (known !== null && !call.bodiless(known)) {
    const turn = new Promise((resolve) => { setImmediate(resolve, null) })
    if (await Promise.race([next, turn]) === null) {
      started = true
      call.start(known)
    }
  }
  for (;; next = iterator.next()) {
    const { done, value } = await next
    if (done) break
    const object = !started && value !== null && typeof value === 'object' && 'statusCode' in value
    let bytes = typeof value === 'string' ? Buffer.from(value) : asBytes(value)
    if (object && bytes === null) bytes = Buffer.from(bodyOf(value)) // a stream may begin with its head
    if (bytes === null) {
      await iterator.return?.()
      throw new BadResponse(`a stream gave ${value === null ? 'null' : `a value of type ${typeof value}`}: only text and bytes can be sent`)
    }
    if (!started) {
      started = true
      const head = object ? structuredHead(value) : headFor(value)
      if (call.bodiless(head)) {
        call.empty(head)
        await iterator.return?.()
        return
      }
      call.start(head)
    }
    if (bytes.length > 0 && !(await call.write(bytes, false))) {
      await iterator.return?.()
      return
    }
  }
  if (started) await call.write(new Uint8Array(0), true)
  else call.empty(headFor(undefined))
}

function streamify(call, handler, told, context) {
  const out = new PassThrough()
  out.setContentType = (type) => { out.metadata = { ...out.metadata, headers: { ...out.metadata?.headers, 'content-type': type } } }
  const headFor = (first) => (out.metadata
    ? structuredHead({ statusCode: 200, ...out.metadata }) : streamHead(first ?? ''))
  const handled = Promise.resolve(handler(told, out, context)).catch((error) => {
    out.destroy()
    throw error
  })
  return Promise.all([handled, stream(call, headFor, out).catch(async (error) => {
    await handled // its own error says more than "premature close"
    throw error
  })])
}
