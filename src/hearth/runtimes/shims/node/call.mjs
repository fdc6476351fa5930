// One request in work: its head, its body coming in, its answer going out, each within its credit.

import { BODY, CANCEL, END, ERROR, MAX_CREDIT, Violation, WINDOW } from './frames.mjs'

const PIECE = 128 * 1024 // bytes of a body in one frame; small enough that other streams get between
const HEAD_MAX = 256 * 1024
const NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/
const BAD_VALUE = /[\r\n\0]|[^\0-\xff]/
const DROPPED = new Set(['content-length', 'connection', 'keep-alive', 'proxy-connection', 'te', 'trailer',
  'transfer-encoding', 'upgrade'])

// The handler's value makes no sense as an answer; the host knows this type by its name.
export class BadResponse extends Error {
  name = 'BadResponse'
}

// A response's head in the making.
export class Head {
  constructor(status) {
    const number = typeof status === 'string' && /^\d{3}$/.test(status) ? Number(status) : status
    if (!Number.isInteger(number) || number < 200 || number > 599) {
      throw new BadResponse(`status ${String(status).slice(0, 40)} is not a number from 200 to 599`)
    }
    this.status = number
    this.text = String(number)
    this.typed = false
  }

  add(name, value, keepLength = false) {
    name = name.toLowerCase()
    value = String(value)
    if (!NAME.test(name)) throw new BadResponse(`${JSON.stringify(name.slice(0, 80))} is not a name for a header`)
    if (BAD_VALUE.test(value)) {
      throw new BadResponse(`header ${name} has a line break, a NUL or a character outside ISO-8859-1`)
    }
    if (DROPPED.has(name) && !(keepLength && name === 'content-length')) return
    if (name === 'content-type') this.typed = true
    this.text += `\n${name}:${value}`
    if (this.text.length > HEAD_MAX) throw new BadResponse(`the headers are longer than ${HEAD_MAX} bytes`)
  }
}

export class Call {
  #link
  #credit // body bytes that we may send now
  #room // body bytes that the host may send now
  #owed = 0 // bytes consumed, for which no window frame has gone out yet
  #pieces = []
  #wakeReader = null
  #wakeWriter = null
  #controller = null
  #stop = null
  #discard = false
  bodyEnded = false
  cancelled = null // the reason, once the host has cancelled
  done = false // the last frame of this stream has been sent

  constructor(link, stream, lines) {
    this.#link = link
    this.#credit = link.hostWindow
    this.#room = link.window
    this.stream = stream
    this.id = lines[0]
    this.deadline = performance.now() + Number(lines[1])
    this.method = lines[2]
    this.target = lines[3]
    this.prefix = lines[4]
    this.caller = lines[5]
    this.client = lines[6]
    this.scheme = lines[7]
    this.lines = lines
  }

  // Headers as [name, value], those that the shim adds included.
  * headers() {
    let prefixed = this.prefix === ''
    let called = this.caller === ''
    for (let i = 8; i < this.lines.length; i += 1) {
      const line = this.lines[i]
      const colon = line.indexOf(':')
      if (colon < 1) throw new Violation('a header without a colon')
      const name = line.slice(0, colon)
      if (name === 'x-forwarded-prefix') prefixed = true
      if (name === 'x-hearth-caller') called = true
      yield [name, line.slice(colon + 1)]
    }
    if (!prefixed) yield ['x-forwarded-prefix', this.prefix]
    if (!called) yield ['x-hearth-caller', this.caller]
  }

  remaining() {
    return Math.max(0, Math.round(this.deadline - performance.now()))
  }

  // Aborted when the client has left or the deadline has passed. Made at first use: most requests never ask.
  get signal() {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.cancelled !== null) this.#controller.abort(abortReason(this.cancelled))
    }
    return this.#controller.signal
  }

  // Calls `stop` when the client leaves or the deadline passes; at once when that has been.
  whenCancelled(stop) {
    if (this.cancelled !== null) stop()
    else this.#stop = stop
  }

  // --- the request's body -------------------------------------------------------------------------------

  receive(payload, end) {
    if (this.bodyEnded) throw new Violation('a body that goes on after its end')
    if (payload.length > this.#room) throw new Violation('more of a body than its window allows')
    this.#room -= payload.length
    if (payload.length > 0 && !this.#discard) this.#pieces.push(Buffer.from(payload))
    this.bodyEnded = end
    this.#wake()
  }

  #wake() {
    const wake = this.#wakeReader
    this.#wakeReader = null
    wake?.()
  }

  #consumed(count) {
    if (this.bodyEnded || this.done || this.cancelled !== null) return
    this.#owed += count
    if (this.#owed * 4 < this.#link.window) return
    const grant = Buffer.allocUnsafe(4)
    grant.writeUInt32BE(this.#owed)
    this.#room += this.#owed
    this.#owed = 0
    this.#link.writer.frame(WINDOW, 0, this.stream, grant)
  }

  // The whole body at once, when it is there already; else null.
  ready() {
    if (!this.bodyEnded) return null
    const pieces = this.#pieces
    this.#pieces = []
    if (pieces.length === 0) return EMPTY
    return pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)
  }

  // The next piece, or null at the end. Throws the abort reason when the request is cancelled.
  async piece() {
    while (this.#pieces.length === 0) {
      if (this.cancelled !== null) throw abortReason(this.cancelled)
      if (this.bodyEnded) return null
      await new Promise((resolve) => { this.#wakeReader = resolve })
    }
    const piece = this.#pieces.shift()
    this.#consumed(piece.length)
    return piece
  }

  async whole() {
    const pieces = []
    for (let piece = await this.piece(); piece !== null; piece = await this.piece()) pieces.push(piece)
    return pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)
  }

  body() {
    return new ReadableStream({
      pull: async (controller) => {
        const piece = await this.piece()
        if (piece === null) controller.close()
        else controller.enqueue(piece)
      },
      cancel: () => {
        this.#discard = true
        this.#pieces = []
      },
    }, { highWaterMark: 0 })
  }

  // --- the answer ---------------------------------------------------------------------------------------

  credit(bytes) {
    this.#credit += bytes
    if (this.#credit > MAX_CREDIT) throw new Violation('a window that overflows')
    const wake = this.#wakeWriter
    this.#wakeWriter = null
    wake?.()
  }

  // Whether an answer with this head carries no body (RFC 9110, section 6.4.1).
  bodiless(head) {
    return this.method === 'HEAD' || head.status === 204 || head.status === 304
  }

  // Head and whole body (text or bytes). Returns a promise when not all of it could be sent at once.
  respond(head, body) {
    const length = typeof body === 'string' ? Buffer.byteLength(body) : body.length
    if (this.bodiless(head)) {
      if (head.status !== 204 && head.status !== 304) head.text += `\ncontent-length:${length}`
      this.empty(head)
      return undefined
    }
    if (length <= this.#credit && length <= PIECE) {
      if (!this.#over()) {
        this.#link.writer.response(END, this.stream, head.text, body, length)
        this.#close()
      }
      return undefined
    }
    this.start(head)
    return this.write(typeof body === 'string' ? Buffer.from(body) : body, true)
  }

  // A head that no body follows.
  empty(head) {
    if (this.#over()) return
    this.#link.writer.response(END, this.stream, head.text, '', 0)
    this.#close()
  }

  // The head alone: a body follows by write().
  start(head) {
    if (!this.#over()) this.#link.writer.response(0, this.stream, head.text, '', 0)
  }

  // Sends bytes as credit allows; resolves to false when nobody wants more of it.
  async write(bytes, end) {
    let at = 0
    do {
      while (this.#credit === 0 && at < bytes.length && !this.done && this.cancelled === null) {
        await new Promise((resolve) => { this.#wakeWriter = resolve })
      }
      if (this.#over()) return false
      const size = Math.min(this.#credit, PIECE, bytes.length - at)
      const last = end && at + size === bytes.length
      this.#link.writer.frame(BODY, last ? END : 0, this.stream, bytes.subarray(at, at + size))
      this.#credit -= size
      at += size
      if (last) this.#close()
    } while (at < bytes.length)
    return true
  }

  fail(error) {
    if (this.#over()) return
    const told = this.#link.describe(error)
    this.#link.failed(this, told)
    this.#link.writer.frame(ERROR, 0, this.stream, JSON.stringify(told))
    this.#close()
  }

  cancel(reason) {
    if (this.cancelled !== null) return
    this.cancelled = reason
    this.#link.within(this, () => {
      this.#controller?.abort(abortReason(reason))
      this.#stop?.()
    })
    this.#wake()
    const wake = this.#wakeWriter
    this.#wakeWriter = null
    wake?.()
  }

  // Whether there is nothing to answer any more. A cancelled request is owed one last frame once its handler is done.
  #over() {
    if (!this.done && this.cancelled !== null) {
      this.#link.writer.frame(CANCEL, 0, this.stream, '{"reason":"cancelled"}')
      this.#close()
    }
    return this.done
  }

  #close() {
    this.done = true
    this.#discard = true
    this.#pieces = []
    this.#link.finished(this)
  }
}

const EMPTY = Buffer.alloc(0)

function abortReason(reason) {
  const timeout = reason === 'timeout'
  return new DOMException(timeout ? 'the deadline has passed' : `the request was cancelled (${reason})`,
    timeout ? 'TimeoutError' : 'AbortError')
}
