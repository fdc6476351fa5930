// A request as the event of AWS Lambda's Function URLs, payload version 2.0.
// https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads

import { isUtf8 } from 'node:buffer'

const TEXT = new Set(['application/json', 'application/xml', 'application/javascript', 'application/x-www-form-urlencoded'])
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

export function event(call, body) {
  const headers = {}
  let cookies
  for (const [name, value] of call.headers()) {
    if (name === 'cookie') cookies = [...(cookies ?? []), ...value.split(';').map((part) => part.trim()).filter(Boolean)]
    else headers[name] = Object.hasOwn(headers, name) ? `${headers[name]},${value}` : value
  }
  const mark = call.target.indexOf('?')
  const path = mark < 0 ? call.target : call.target.slice(0, mark)
  const query = mark < 0 ? '' : call.target.slice(mark + 1)
  const now = Date.now()
  const host = headers.host ?? ''
  const domain = host.startsWith('[') ? host : host.split(':', 1)[0]
  const made = {
    version: '2.0',
    routeKey: '$default',
    rawPath: path,
    rawQueryString: query,
    headers,
    requestContext: {
      accountId: 'anonymous',
      apiId: call.load.function,
      domainName: domain,
      domainPrefix: domain.split('.', 1)[0],
      http: {
        method: call.method,
        path,
        protocol: 'HTTP/1.1',
        sourceIp: call.client,
        userAgent: headers['user-agent'] ?? '',
      },
      requestId: call.id,
      routeKey: '$default',
      stage: '$default',
      time: clock(now),
      timeEpoch: now,
    },
    isBase64Encoded: false,
  }
  if (cookies !== undefined) made.cookies = cookies
  if (call.caller) made.requestContext.authorizer = { hearth: { caller: call.caller } }
  if (query) {
    const parameters = {}
    for (const [name, value] of new URLSearchParams(query)) {
      parameters[name] = Object.hasOwn(parameters, name) ? `${parameters[name]},${value}` : value
    }
    if (Object.keys(parameters).length > 0) made.queryStringParameters = parameters
  }
  if (body.length > 0) {
    made.isBase64Encoded = !(isText(headers['content-type'] ?? '') && isUtf8(body))
    made.body = body.toString(made.isBase64Encoded ? 'base64' : 'utf8')
  }
  return made
}

// 12/Mar/2020:19:03:58 +0000
function clock(ms) {
  const t = new Date(ms)
  const two = (number) => String(number).padStart(2, '0')
  return `${two(t.getUTCDate())}/${MONTHS[t.getUTCMonth()]}/${t.getUTCFullYear()}:${two(t.getUTCHours())}:` +
    `${two(t.getUTCMinutes())}:${two(t.getUTCSeconds())} +0000`
}

function isText(contentType) {
  const kind = contentType.split(';', 1)[0].trim().toLowerCase()
  return kind.startsWith('text/') || TEXT.has(kind) || kind.endsWith('+json') || kind.endsWith('+xml')
}
