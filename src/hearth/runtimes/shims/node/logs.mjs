// What a function prints: console.*, process.stdout and process.stderr become log frames that carry the
// invocation's id, within the credit that the host has given.

import { LOG } from './frames.mjs'

const LINE_MAX = 64 * 1024 // bytes of text; what is longer is cut
const LEVELS = { debug: 'debug', info: 'info', log: 'info', warn: 'warning', error: 'error', trace: 'info' }

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
    if (this.#dropped > 0) this.#confess()
  }

  // Sends text, line by line.
  emit(invocation, stream, level, text) {
    if (text.length > this.#credit) {
      this.#dropped += 1
      return
    }
    for (const line of text.split('\n')) {
      if (this.#dropped > 0 && !this.#confess() || !this.#send(invocation, stream, level, cut(line))) this.#dropped += 1
    }
  }

  // Says how many lines were dropped; false until there is credit for more than a longest line: one count for a gap, not
  // a count for each line.
  #confess() {
    if (this.#credit <= LINE_MAX) return false
    const count = this.#dropped
    const said = `${count} ${count === 1 ? 'line was' : 'lines were'} dropped here: more is logged than is taken`
    if (!this.#send(null, 'stderr', 'warning', said)) return false
    this.#dropped = 0
    return true
  }

  #send(invocation, stream, level, text) {
    const payload = JSON.stringify({ inv: invocation, stream, t: Date.now(), level, text })
    const size = Buffer.byteLength(payload)
    if (size > this.#credit) return false
    this.#credit -= size
    this.#writer.frame(LOG, 0, 0, payload)
    return true
  }

  // A traceback.
  error(invocation, text) {
    this.emit(invocation, 'stderr', 'error', text)
  }

  // Takes over console and the two streams.
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
    this.#take(process.stdout, 'stdout')
    this.#take(process.stderr, 'stderr')
  }

  #take(target, stream) {
    const write = (chunk, encoding, done) => {
      if (typeof encoding === 'function') [encoding, done] = [undefined, encoding]
      const text = typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8')
      const invocation = this.#invocation()
      if (this.#level !== null) this.emit(invocation, stream, this.#level, text.endsWith('\n') ? text.slice(0, -1) : text)
      else this.#lines(invocation, stream, text)
      if (typeof done === 'function') process.nextTick(done)
      return true
    }
    target.write = write
    target._write = (chunk, encoding, done) => write(chunk, encoding, done)
  }

  #lines(invocation, stream, text) {
    const key = `${stream} ${invocation ?? ''}`
    const before = this.#partial.get(key)
    if (before !== undefined) text = before + text
    const end = text.lastIndexOf('\n')
    if (end >= 0) this.emit(invocation, stream, 'info', text.slice(0, end))
    const last = text.slice(end + 1, end + 1 + LINE_MAX) // the rest of an endless line would be cut anyway
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
      this.emit(owner || null, stream, 'info', text)
    }
  }
}

function cut(text) {
  if (text.length <= LINE_MAX / 3 || Buffer.byteLength(text) <= LINE_MAX) return text
  const bytes = Buffer.from(text)
  let end = LINE_MAX
  while ((bytes[end] & 0xc0) === 0x80) end -= 1 // not inside a character
  return bytes.toString('utf8', 0, end)
}
