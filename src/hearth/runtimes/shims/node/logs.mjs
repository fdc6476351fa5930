// What a function prints: console.*, process.stdout and process.stderr become log frames that carry the
// invocation's id, within the credit that the host has given.

import { LOG } from './frames.mjs'

const LINE_MAX = 64 * 1024 // bytes of text; what is longer is cut
const LEVELS = { debug: 'debug', info: 'info', log: 'info', warn: 'warn', error: 'error', trace: 'info' }

export class Logs {
  #writer
  #invocation
  #credit = 0
  #dropped = 0
  #level = null
  #partial = new Map() // `${stream} ${invocation}` -> text without its newline yet

  // invocation(): id of the request that the running code belongs to, or null.
  constructor(writer, invocation) {
    this.#writer = writer
    this.#invocation = invocation
  }

  grant(bytes) {
    this.#credit += bytes
  }

  emit(invocation, stream, level, text) {
    if (text.length > this.#credit) {
      this.#dropped += 1
      return
    }
    if (text.length > LINE_MAX / 3 && Buffer.byteLength(text) > LINE_MAX) text = cut(text)
    const dropped = this.#dropped
    if (dropped > 0) text = `[${dropped} ${dropped === 1 ? 'line was' : 'lines were'} dropped before this one] ${text}`
    const payload = JSON.stringify({ inv: invocation, stream, t: Date.now(), level, text })
    const size = Buffer.byteLength(payload)
    if (size > this.#credit) {
      this.#dropped += 1
      return
    }
    this.#credit -= size
    this.#dropped = 0
    this.#writer.frame(LOG, 0, 0, payload)
  }

  // A line of the shim's own, about code that failed where no request could be told of it.
  failure(invocation, text) {
    this.emit(invocation, 'stderr', 'error', text)
  }

  // Takes over console and the two streams. One call of console is one line, however many it prints.
  install() {
    for (const [name, level] of Object.entries(LEVELS)) {
      const print = console[name]
      console[name] = (...values) => {
        const before = this.#level
        this.#level = level
        try {
          print(...values)
        } finally {
          this.#level = before
        }
      }
    }
    this.#take(process.stdout, 'stdout', 'info')
    this.#take(process.stderr, 'stderr', 'error')
  }

  #take(target, stream, usual) {
    const write = (chunk, encoding, done) => {
      if (typeof encoding === 'function') [encoding, done] = [undefined, encoding]
      const text = typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8')
      const invocation = this.#invocation()
      if (this.#level !== null) this.emit(invocation, stream, this.#level, text.endsWith('\n') ? text.slice(0, -1) : text)
      else this.#lines(invocation, stream, usual, text)
      if (typeof done === 'function') process.nextTick(done)
      return true
    }
    target.write = write
    target._write = (chunk, encoding, done) => write(chunk, encoding, done)
  }

  #lines(invocation, stream, level, text) {
    const key = `${stream} ${invocation ?? ''}`
    const before = this.#partial.get(key)
    if (before !== undefined) text = before + text
    const lines = text.split('\n')
    let last = lines.pop()
    for (const line of lines) this.emit(invocation, stream, level, line)
    while (last.length > LINE_MAX) {
      this.emit(invocation, stream, level, last.slice(0, LINE_MAX))
      last = last.slice(LINE_MAX)
    }
    if (last) this.#partial.set(key, last)
    else if (before !== undefined) this.#partial.delete(key)
  }

  // A request is over: its unfinished lines are lines now. With null: everybody's.
  finish(invocation) {
    if (this.#partial.size === 0) return
    for (const [key, text] of [...this.#partial]) {
      const space = key.indexOf(' ')
      const [stream, owner] = [key.slice(0, space), key.slice(space + 1)]
      if (invocation !== null && owner !== invocation) continue
      this.#partial.delete(key)
      this.emit(owner || null, stream, stream === 'stderr' ? 'error' : 'info', text)
    }
  }
}

function cut(text) {
  const bytes = Buffer.from(text)
  let end = LINE_MAX
  while ((bytes[end] & 0xc0) === 0x80) end -= 1 // not inside a character
  return bytes.toString('utf8', 0, end)
}
