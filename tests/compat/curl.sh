#!/usr/bin/env bash
# curl against the gateway: what a shell script or a look by hand sees.
set -euo pipefail

url=$SPILLWAY_URL
model=$SPILLWAY_MODEL
passed=0

post() { # post PATH BODY
	curl -sS --fail-with-body -N "$url$1" -H 'content-type: application/json' -d "$2"
}

expect() { # expect NAME PATTERN: standard input holds it
	local text
	text=$(cat)
	if ! grep -qE "$2" <<<"$text"; then
		printf 'FAILED %s: no %s in:\n%s\n' "$1" "$2" "$text"
		exit 1
	fi
	echo "ok $1"
	passed=$((passed + 1))
}

chat='"messages":[{"role":"user","content":"Say hello."}],"max_tokens":12'
post /v1/chat/completions "{\"model\":\"$model\",$chat}" | expect chat '"object":"chat.completion"'
post /chat/completions "{\"model\":\"$model\",$chat,\"stream\":true}" | expect chat-stream '^data: \[DONE\]$'
post /v1/responses "{\"model\":\"$model\",\"input\":\"Say hello.\",\"max_output_tokens\":12}" | expect response '"object":"response"'
post /v1/responses "{\"model\":\"$model\",\"input\":\"Say hello.\",\"max_output_tokens\":12,\"stream\":true}" |
	expect response-stream '^event: response.(completed|incomplete)$'
post /v1/messages "{\"model\":\"$model\",$chat}" | expect message '"type":"message"'
post /v1/messages "{\"model\":\"$model\",$chat,\"stream\":true}" | expect message-stream '^event: message_stop$'
post /v1/chat/completions "{\"model\":\"$model\",\"input\":\"Say hello.\",\"max_output_tokens\":12,\"stream\":true}" |
	expect cursor 'chat.completion.chunk'
curl -sS "$url/v1/models" -H 'anthropic-version: 2023-06-01' | expect models '"has_more":false'
curl -sS "$url/openapi.json" | expect document '"openapi":"3.1.0"'
curl -sS "$url/v1/messages" -H 'content-type: application/json' -d '{' | expect error '"type":"error"'
echo "$passed of $passed passed"
