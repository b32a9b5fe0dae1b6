//! Examples and details under `--help`, one text for each command; they are also the man pages' last section. Every text
//! has at least one line that can be run as it stands. Commands with much to say keep their text beside their arguments.

pub(super) const SERVE: &str = "\
Logs go to stderr: SPILLWAY_LOG=debug shows more, SPILLWAY_LOG_FORMAT=json changes their form. SIGTERM drains, SIGHUP reads the
configuration again. Under systemd (Type=notify) readiness, reloads, the drain and the watchdog are told.

Examples:
  spillway serve --demo
  spillway serve --config config/spillway.toml
  SPILLWAY__SERVER__LISTEN=127.0.0.1:9000 spillway serve";

pub(super) const CHECK: &str = "\
Exit codes: 0 good, 1 faulty, 3 a provider does not answer as configured (--online).
With --json: {\"ok\", \"warnings\": [text], \"faults\": [{\"file\", \"line\", \"column\", \"message\"}]}; line 0 is a fault of the whole.

Examples:
  spillway check --config config/spillway.toml
  spillway check --online --json";

pub(super) const DOCTOR: &str = "\
Exit codes: 0 all that is needed is here, 1 the configuration is faulty, 3 something is missing.

Examples:
  spillway doctor
  spillway doctor --config config/spillway.toml --json";

pub(super) const CHAT: &str = "\
At a terminal without a PROMPT it is a conversation: arrows edit and bring back what was asked, Ctrl-C ends an answer, Ctrl-D ends
the program; /new begins anew, /model NAME changes the model, /help lists the rest. Else PROMPT, standard input, or both (the
prompt, then the input) are asked once. The answer goes to stdout; where it came from, and what it cost, to stderr.
Exit codes: 0 answered, 1 refused or broken off, 2 usage (an unknown model, too), 3 nobody is there, or nothing can serve.
The key is --key or SPILLWAY_API_KEY; in the list of processes anybody sees --key.

Examples:
  spillway chat
  spillway chat --model local \"Say hello\"
  git diff | spillway chat --system \"You review changes.\" \"What is wrong here?\"
  spillway chat --json \"Say hello\"";

pub(super) const TOP: &str = "\
Reads what the admin listener publishes; changes nothing. Keys: q ends, Tab, Left and Right change the page, Up, Down, PageUp and
PageDown scroll, Space holds the picture, ? explains. A gateway that goes away is waited for.
--once (also when stdout is no terminal) prints one picture as text, --json one as JSON. Exit codes of those: 0 it serves,
1 no picture came, 3 nothing can serve or no gateway is there.

Examples:
  spillway top
  spillway top --once
  spillway top --json --admin http://127.0.0.1:8081 --token-file secrets/admin_token";

pub(super) const ROUTE: &str = "\
Examples:
  spillway route \"Say hello\"
  spillway route --json \"Prove that the square root of 2 is irrational\"";

pub(super) const USAGE: &str = "\
Examples:
  spillway usage
  spillway usage --by day --since 2026-11-01 --csv
  spillway usage --by key --json";

pub(super) const CONFIG_SCHEMA: &str = "\
Editors check and complete a configuration by it, for example Even Better TOML (taplo) with this as the file's first line:
  #:schema ./spillway.schema.json

Example:
  spillway config schema > spillway.schema.json";

pub(super) const COMPLETIONS: &str = "\
Examples:
  spillway completions bash > ~/.local/share/bash-completion/completions/spillway
  spillway completions zsh > ~/.zfunc/_spillway
  spillway completions fish > ~/.config/fish/completions/spillway.fish";

pub(super) const MAN: &str = "\
Examples:
  spillway man | man -l -
  spillway man --dir ~/.local/share/man/man1";

pub(super) const SIM: &str = "\
A model's name, or its end after `-`, `/` or `:`, chooses the fault (any other name answers well):
  ok  slow-N (ms)  error-N  error-500-2 (twice)  429  429-N (Retry-After)  429-date-N  429-once  401  402  403
  cut-N  stall-N  truncate  malformed  no-done  sse-error  split-utf8  no-usage  (N = tokens before it)
  hang  reset  html  empty  error-body  context-length  content-filter  prefix-ok  prefix-ignored  prefix-rejected

Its own books: GET /sim/requests, GET /sim/stats, DELETE /sim/requests
Faults at run time: PUT /sim/faults {\"model\": \"...\", \"fault\": \"...\"}, GET /sim/faults, DELETE /sim/faults
  (a model \"*\" is every model, \"key:6789\" every call with the key that ends so)

Example:
  spillway sim --listen 127.0.0.1:9100 --ttft-ms 50 --tokens-per-second 60";
