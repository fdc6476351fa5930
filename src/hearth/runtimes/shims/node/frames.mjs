// Frames of the guest protocol (docs/reference/guest-protocol.md): a decoder, and a writer that
// puts everything of one turn of the event loop into one write.

export const HELLO = 1, LOAD = 2, READY = 3, INIT_ERROR = 4, REQUEST = 5, RESPONSE = 6, BODY = 7, TRAILERS = 8
export const ERROR = 9, CANCEL = 10, WINDOW = 11, UPGRADE = 12, DRAIN = 13, PING = 14, PONG = 15, LOG = 16
export const LOG_WINDOW = 17

export const END = 1
export const HEADER = 10
export const MAX_PAYLOAD = 1 << 20
export const MAX_CREDIT = 0x7fffffff

export class Violation extends Error {}

export class Decoder {
  #pieces = []
  #have = 0
  #need = 0

  // Calls onFrame(type, flags, stream, payload) for each whole frame. The payload is a view that is
  // valid only during the call: the caller reads into the same buffer again.
  feed(chunk, onFrame) {
    if (this.#have > 0) {
      this.#keep(chunk)
      if (this.#have < this.#need) return
      chunk = this.#pieces.length === 1 ? this.#pieces[0] : Buffer.concat(this.#pieces, this.#have)
      this.#pieces = []
      this.#have = 0
    }
    let at = 0
    const end = chunk.length
    this.#need = HEADER
    while (end - at >= HEADER) {
      const length = chunk.readUInt32BE(at)
      if (length > MAX_PAYLOAD) throw new Violation(`a frame of ${length} bytes`)
      const next = at + HEADER + length
      if (next > end) {
        this.#need = HEADER + length
        break
      }
      onFrame(chunk[at + 4], chunk[at + 5], chunk.readUInt32BE(at + 6), chunk.subarray(at + HEADER, next))
      at = next
    }
    if (at < end) this.#keep(at === 0 ? chunk : chunk.subarray(at))
  }

  #keep(chunk) {
    this.#pieces.push(Buffer.from(chunk))
    this.#have += chunk.length
  }
}

const BLOCK = 64 * 1024
const SPARE_BLOCKS = 4

export class Writer {
  #socket
  #block = Buffer.allocUnsafeSlow(BLOCK)
  #used = 0
  #full = []
  #spare = []
  #scheduled = false

  constructor(socket) {
    this.#socket = socket
  }

  // A frame whose payload is bytes or, encoded as UTF-8, text.
  frame(type, flags, stream, payload) {
    const text = typeof payload === 'string'
    const length = text ? Buffer.byteLength(payload) : payload.length
    const at = this.#header(length, type, flags, stream)
    if (text) this.#block.write(payload, at, length, 'utf8')
    else this.#block.set(payload, at)
  }

  // A response: the head (ISO-8859-1) behind its length, then the body's first bytes (bytes or UTF-8 text
  // of the given length).
  response(flags, stream, head, body, length) {
    let at = this.#header(4 + head.length + length, RESPONSE, flags, stream)
    this.#block.writeUInt32BE(head.length, at)
    at += 4
    this.#block.latin1Write(head, at, head.length)
    at += head.length
    if (typeof body === 'string') this.#block.write(body, at, length, 'utf8')
    else if (length > 0) this.#block.set(body, at)
  }

  // Room for a payload; returns where in the block it begins.
  #header(length, type, flags, stream) {
    if (length > MAX_PAYLOAD) throw new RangeError(`a frame of ${length} bytes`)
    const size = HEADER + length
    if (this.#block.length - this.#used < size) {
      if (this.#used > 0) this.#full.push(this.#take())
      if (this.#block.length < size) this.#block = Buffer.allocUnsafeSlow(size)
    }
    const block = this.#block
    const at = this.#used
    block.writeUInt32BE(length, at)
    block[at + 4] = type
    block[at + 5] = flags
    block.writeUInt32BE(stream, at + 6)
    this.#used = at + size
    if (!this.#scheduled) {
      this.#scheduled = true
      // setImmediate runs once per turn, after all that was read in it has been answered.
      setImmediate(this.#flush)
    }
    return at + HEADER
  }

  #take() {
    const part = this.#block.subarray(0, this.#used)
    this.#block = this.#spare.pop() ?? Buffer.allocUnsafeSlow(BLOCK)
    this.#used = 0
    return part
  }

  #parts() {
    const parts = this.#full
    this.#full = []
    if (this.#used > 0) parts.push(this.#take())
    return parts
  }

  #flush = () => {
    this.#scheduled = false
    if (this.#full.length === 0) {
      if (this.#used > 0) this.#send(this.#take())
      return
    }
    this.#socket.cork()
    for (const part of this.#parts()) this.#send(part)
    this.#socket.uncork()
  }

  #send(part) {
    this.#socket.write(part, () => {
      // A view's own memory; blocks are used again once the kernel has them.
      if (part.buffer.byteLength === BLOCK && this.#spare.length < SPARE_BLOCKS) {
        this.#spare.push(Buffer.from(part.buffer))
      }
    })
  }

  // Everything that waits, for a last write that can't wait for the event loop.
  rest() {
    return Buffer.concat(this.#parts())
  }

  // Sends what waits, then ends the connection; done() follows when the kernel has it all.
  end(done) {
    this.#flush()
    this.#socket.end(done)
  }
}
