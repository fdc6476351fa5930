// The one connection to the host: hello, load, requests in work, drain, and the end.

import { writeSync } from 'node:fs'
import net from 'node:net'

import { Call } from './call.mjs'
import { describe } from './errors.mjs'
import * as F from './frames.mjs'

const WINDOW = 256 * 1024
const READ = 256 * 1024

export class Link {
  window = WINDOW
  hostWindow = 0
  writer = null
  load = null
  serve = null // (call) -> undefined or a promise, once loaded
  #hidden // text that marks stack frames of the shim itself
  #socket
  #calls = new Map()
  #last = 0
  #greeted = false
  #draining = false
  #decoder = new F.Decoder()
  #on

  // on: {load(payload), logCredit(bytes), within(call, work), failed(call, told), finished(call)}
  constructor(path, hidden, on) {
    this.#hidden = hidden
    this.#on = on
    const buffer = Buffer.allocUnsafeSlow(READ)
    this.#socket = net.connect({ path, onread: { buffer, callback: (count, chunk) => this.#read(chunk.subarray(0, count)) } })
    this.writer = new F.Writer(this.#socket)
    this.#socket.on('connect', () => this.writer.frame(F.HELLO, 0, 0, JSON.stringify({
      version: 1, runtime: 'node', runtime_version: process.versions.node, features: [], window: WINDOW, pid: process.pid,
    })))
    this.#socket.on('error', () => process.exit(1)) // the host is gone, or was never there
    this.#socket.on('close', () => process.exit(0))
  }

  get inWork() {
    return this.#calls.size
  }

  // The call by itself when there is only one: what can't be told apart belongs to it.
  get only() {
    return this.#calls.size === 1 ? this.#calls.values().next().value : null
  }

  #read(chunk) {
    try {
      this.#decoder.feed(chunk, this.#frame)
    } catch (error) {
      if (!(error instanceof F.Violation)) throw error
      process.stderr.write(`hearth: the host broke the protocol: ${error.message}\n`)
      this.#socket.destroy()
      process.exit(1)
    }
    return true
  }

  #frame = (type, flags, stream, payload) => {
    const end = (flags & F.END) !== 0
    switch (type) {
      case F.REQUEST: return this.#request(stream, payload, end)
      case F.BODY: return this.#of(stream)?.receive(payload, end)
      case F.TRAILERS: return this.#of(stream)?.receive(EMPTY, true)
      case F.WINDOW: return this.#credit(this.#of(stream), payload)
      case F.CANCEL: return this.#cancel(this.#of(stream), payload)
      case F.LOG_WINDOW: return this.#on.logCredit(u32(payload))
      case F.PING:
        if (payload.length > 64) throw new F.Violation('a ping of more than 64 bytes')
        return this.writer.frame(F.PONG, 0, 0, payload)
      case F.PONG: return undefined
      case F.DRAIN: return this.drain()
      case F.HELLO: return this.#hello(object(payload))
      case F.LOAD: return this.#load(object(payload))
      case F.READY: case F.INIT_ERROR: case F.RESPONSE: case F.ERROR: case F.UPGRADE: case F.LOG:
        throw new F.Violation(`a frame of type ${type}, which only a guest sends`)
      default: return undefined // from a later version of the protocol
    }
  }

  #hello(told) {
    if (this.#greeted) throw new F.Violation('a second hello')
    if (told.version !== 1) throw new F.Violation(`version ${told.version}`)
    this.#greeted = true
    this.hostWindow = Number(told.window) || 0
    this.#on.logCredit(Number(told.log_window) || 0)
  }

  #load(told) {
    if (!this.#greeted) throw new F.Violation('load before hello')
    if (this.load !== null) throw new F.Violation('a second load')
    this.load = told
    this.#on.load(told)
  }

  // The call of a stream; null when it has ended.
  #of(stream) {
    const call = this.#calls.get(stream)
    if (call !== undefined) return call
    if (stream > this.#last || stream === 0) throw new F.Violation(`stream ${stream} never existed`)
    return null
  }

  #request(stream, payload, end) {
    if (this.serve === null) throw new F.Violation('a request before ready')
    if (stream <= this.#last) throw new F.Violation(`stream ${stream} was used before`)
    if (payload.length < 4 || payload.readUInt32BE(0) > payload.length - 4) throw new F.Violation('a head longer than its frame')
    this.#last = stream
    const bodyAt = 4 + payload.readUInt32BE(0)
    const lines = payload.latin1Slice(4, bodyAt).split('\n')
    if (lines.length < 8 || !/^\d+$/.test(lines[1])) throw new F.Violation('a malformed request head')
    if (this.#draining) return // the host has said that it sends no more
    const call = new Call(this, stream, lines)
    call.receive(payload.subarray(bodyAt), end)
    this.#calls.set(stream, call)
    this.serve(call)
  }

  #credit(call, payload) {
    const bytes = u32(payload)
    call?.credit(bytes)
  }

  #cancel(call, payload) {
    const { reason } = object(payload)
    call?.cancel(String(reason ?? ''))
  }

  describe(error) {
    return describe(error, this.#hidden, this.load?.code ?? '/hearth/code')
  }

  // Does work as that call's own, so that what it prints is the call's.
  within(call, work) {
    this.#on.within(call, work)
  }

  failed(call, told) {
    this.#on.failed(call, told)
  }

  finished(call) {
    this.#calls.delete(call.stream)
    this.#on.finished(call)
    if (this.#draining && this.#calls.size === 0) this.close(0)
  }

  drain() {
    this.#draining = true
    if (this.#calls.size === 0) this.close(0)
  }

  // Sends what waits, then ends the process.
  close(status) {
    this.writer.end(() => process.exit(status))
  }

  // A last write from a process that is ending: as much as the socket takes without waiting.
  lastWords() {
    const rest = this.writer.rest()
    const fd = this.#socket._handle?.fd // there is no public way to a socket's descriptor
    if (rest.length === 0 || !(fd >= 0)) return
    try {
      writeSync(fd, rest)
    } catch {
      // EAGAIN or EPIPE: nobody takes it any more
    }
  }
}

const EMPTY = Buffer.alloc(0)

function u32(payload) {
  if (payload.length !== 4) throw new F.Violation('a window that is not four bytes')
  return payload.readUInt32BE(0)
}

function object(payload) {
  let told
  try {
    told = JSON.parse(payload.toString('utf8'))
  } catch {
    throw new F.Violation('a payload that is no JSON')
  }
  if (told === null || typeof told !== 'object' || Array.isArray(told)) throw new F.Violation('a payload that is no JSON object')
  return told
}
