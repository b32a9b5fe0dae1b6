#!/usr/bin/env bash
# curl against the gateway: what a shell script or a look by hand sees.
set -euo pipefail

url=$SPILLWAY_URL
model=$SPILLWAY_MODEL
passed=0

post() { # post PATH BODY
	curl -sS --fail-with-body -N "$url$1" -H 'content-type: application/json' -d "$2"
}

expect() { # expect NAME PATTERN COMMAND...: what the command says holds it
	local text
	text=$("${@:3}") || true
	if ! grep -qE "$2" <<<"$text"; then
		printf 'FAILED %s: no %s in:\n%s\n' "$1" "$2" "$text"
		exit 1
	fi
	echo "ok $1"
	passed=$((passed + 1))
}

chat='"messages":[{"role":"user","content":"Say hello."}],"max_tokens":12'
input='"input":"Say hello.","max_output_tokens":12'
expect chat '"object":"chat.completion"' post /v1/chat/completions "{\"model\":\"$model\",$chat}"
expect chat-stream '^data: \[DONE\]$' post /chat/completions "{\"model\":\"$model\",$chat,\"stream\":true}"
expect response '"object":"response"' post /v1/responses "{\"model\":\"$model\",$input}"
expect response-stream '^event: response.(completed|incomplete)$' post /v1/responses "{\"model\":\"$model\",$input,\"stream\":true}"
expect message '"type":"message"' post /v1/messages "{\"model\":\"$model\",$chat}"
expect message-stream '^event: message_stop$' post /v1/messages "{\"model\":\"$model\",$chat,\"stream\":true}"
expect cursor 'chat.completion.chunk' post /v1/chat/completions "{\"model\":\"$model\",$input,\"stream\":true}"
expect models '"has_more":false' curl -sS "$url/v1/models" -H 'anthropic-version: 2023-06-01'
expect document '"openapi":"3.1.0"' curl -sS "$url/openapi.json"
expect error '"type":"error"' post /v1/messages '{'
echo "$passed of $passed passed"
