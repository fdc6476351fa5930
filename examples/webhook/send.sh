#!/bin/sh
# Signs event.json as a sender does, and sends it. usage: WEBHOOK_KEY=... ./send.sh URL
# The key is seen in the list of processes while openssl runs: use one that is for trying things out.
set -eu
cd "$(dirname "$0")"
id=msg_$(openssl rand -hex 8)
now=$(date +%s)
key=$(printf %s "${WEBHOOK_KEY#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
signature=$({ printf '%s.%s.' "$id" "$now"; cat event.json; } |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)
exec curl -sS "$1" --data-binary @event.json -H 'Content-Type: application/json' \
  -H "webhook-id: $id" -H "webhook-timestamp: $now" -H "webhook-signature: v1,$signature"
