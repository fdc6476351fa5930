// What a handler is told of its invocation, by the names that AWS Lambda uses.

export class Context {
  #call
  callbackWaitsForEmptyEventLoop = true

  constructor(call) {
    this.#call = call
    const { load } = call
    this.awsRequestId = call.id
    this.functionName = load.function
    this.functionVersion = String(load.version)
    this.memoryLimitInMB = String(load.memory_mb)
    this.invokedFunctionArn = `hearth:${load.namespace}/${load.function}:${load.version}`
    this.logGroupName = `${load.namespace}/${load.function}`
    this.logStreamName = String(load.version)
  }

  getRemainingTimeInMillis = () => this.#call.remaining()

  // Aborted when the client has left or the deadline has passed.
  get signal() {
    return this.#call.signal
  }
}
