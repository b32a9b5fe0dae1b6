//! `spillway chat` and `spillway top`, in pipes and at a terminal, against the real gateway and against servers that behave badly.

use crate::support::{Setup, gateway::binary, poll::until, prometheus::repository};
use rustix::process::Signal;
use serde_json::{Value, json};
use spillway::sim::SimOptions;
use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::Duration,
};
use tokio::task::JoinSet;

/// Runs a command of the gateway with `input` on its standard input.
fn run_with(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("SPILLWAY_API_KEY").env_remove("SPILLWAY_URL").env_remove("SPILLWAY_CONFIG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the gateway binary starts");
    // A child that wants no input may be gone already.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

async fn run(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let asked =
        tokio::task::spawn_blocking(move || run_with(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), ""));
    asked.await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Plays `steps` at a terminal; gives what was written there.
async fn play(steps: Value, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new("python3");
    command.arg(repository("tests/terminal/drive.py")).arg(steps.to_string()).arg(binary()).args(arguments);
    command.env_remove("SPILLWAY_CONFIG").env_remove("SPILLWAY_API_KEY");
    let output = command.output().await.expect("python3 starts");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let written = told["written"].as_str().unwrap_or_default().to_owned();
    assert_eq!(told["ok"], true, "{}:\n{}", told["why"], written.escape_debug());
    written
}

/// A server that gives every request this answer, headers and all, and closes.
fn server(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let mut head = Vec::new();
            let mut piece = [0; 4096];
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                match socket.read(&mut piece) {
                    Ok(count) if count > 0 => head.extend_from_slice(&piece[..count]),
                    _ => break,
                }
            }
            let _ = socket.write_all(answer);
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_question_is_answered_on_stdout_and_its_way_is_told_on_stderr() {
    let gateway = Setup::default().start().await;
    let answer = run(&["chat", "--url", &gateway.api, "--model", "ok", "Say hello"]).await;
    let (out, err) = (text(&answer.stdout), text(&answer.stderr));
    assert_eq!(answer.status.code(), Some(0), "{err}");
    assert!(out.starts_with("sim0-") && out.ends_with('\n'), "{out:?}");
    assert!(err.starts_with("— sim/ok · ") && err.contains(" tokens · $0.0000"), "{err}");
    let asked = tokio::task::spawn_blocking({
        let url = format!("{}/v1/", gateway.api);
        move || run_with(&["chat", "--url", &url, "--model", "ok", "--json", "--max-tokens", "3"], "from a pipe")
    });
    let piped = asked.await.unwrap();
    let object: Value = serde_json::from_slice(&piped.stdout).unwrap_or_else(|error| panic!("{error}: {piped:?}"));
    assert_eq!(
        (&object["ok"], &object["finish_reason"], &object["usage"]["completion_tokens"]),
        (&true.into(), &"length".into(), &3.into())
    );
    assert_eq!((&object["routing"]["target"], &object["error"]), (&"sim".into(), &Value::Null), "{object:#}");
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_not_to_get_an_answer_has_its_line_and_its_exit_code() {
    let setup = Setup { ok: "upstream = \"cut-3\"\n".to_owned(), ..Setup::default() };
    let gateway = setup.start().await;
    let cut = run(&["chat", "--url", &gateway.api, "--model", "ok", "Say hello"]).await;
    assert_eq!(cut.status.code(), Some(1), "{cut:?}");
    assert!(text(&cut.stdout).starts_with("sim0-"), "what came is shown: {cut:?}");
    assert!(text(&cut.stderr).contains("spillway: the answer broke off: "), "{cut:?}");
    let unknown = run(&["chat", "--url", &gateway.api, "--model", "nobody-knows", "Say hello"]).await;
    assert_eq!((unknown.status.code(), text(&unknown.stdout).as_str()), (Some(2), ""), "{unknown:?}");
    gateway.shutdown().await;

    let folder = crate::support::Folder::new().unwrap();
    let keys = format!("[keys]\nfile = \"{}/keys.json\"\n", folder.path().display());
    let closed = Setup::default().without_local().server("require_keys = true\n").extra(&keys).start().await;
    let key = run(&["chat", "--url", &closed.api, "--key", "sk-spillway-wrong-canary", "Say hello"]).await;
    assert_eq!(key.status.code(), Some(1), "{key:?}");
    let complaint = text(&key.stderr);
    assert!(complaint.starts_with("spillway: 401: ") && complaint.contains("SPILLWAY_API_KEY"), "{complaint}");
    assert!(!complaint.contains("wrong-canary"), "a key is nobody's business: {complaint}");
    closed.shutdown().await;

    let limited = server(
        b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\nconnection: close\r\n\r\n\
        {\"error\": {\"message\": \"slowly\\u001b[2J\", \"type\": \"x\", \"param\": null, \"code\": \"rate_limit_exceeded\"}}",
    );
    let limited = run(&["chat", "--url", &limited, "--json", "hi"]).await;
    let object: Value = serde_json::from_slice(&limited.stdout).unwrap();
    assert_eq!((limited.status.code(), &object["error"]["code"]), (Some(1), &"rate_limit_exceeded".into()), "{object}");
    assert_eq!(object["error"]["message"], "429: slowly (try again in 7 s)");
    for (arguments, code, words) in [
        (["chat", "--url", "http://127.0.0.1:1", "hi"].as_slice(), 3, "no gateway answers at http://127.0.0.1:1"),
        (&["chat", "--url", "http://127.0.0.1:1"], 2, "nothing was asked"),
        (&["chat", "--no-such-flag"], 2, "unexpected argument"),
    ] {
        let output = run(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(text(&output.stderr).contains(words), "{words}: {output:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_steers_the_terminal_and_none_that_was_cut_passes_for_whole() {
    let nasty = server(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"a\\u001b]0;ti\"},\"finish_reason\":null}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"tle\\u0007b\\u001b[2\"},\"finish_reason\":null}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"Jc\\r\\u009b31md\"},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":null,\"routing\":{\"target\":\"t\\u001b[31m\",\"model\":\"m\",\"complexity\":\"trivial\",\
        \"actual_latency_ms\":1.0,\"attempts\":[]}}\n\ndata: [DONE]\n\n",
    );
    let answer = run(&["chat", "--url", &nasty, "hi"]).await;
    assert_eq!((answer.status.code(), text(&answer.stdout).as_str()), (Some(0), "abcd\n"), "{answer:?}");
    assert!(!answer.stderr.contains(&0x1b) && text(&answer.stderr).contains("t/m"), "{answer:?}");
    let cut = server(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"half\"},\"finish_reason\":null}]}\n\n",
    );
    let answer = run(&["chat", "--url", &cut, "hi"]).await;
    assert_eq!((answer.status.code(), text(&answer.stdout).as_str()), (Some(1), "half\n"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_terminal_ctrl_c_ends_the_answer_and_the_conversation_goes_on() {
    let slow = SimOptions { tokens: 5000, tokens_per_second: Some(50.0), ..SimOptions::default() };
    let gateway = Setup::default().cloud(slow).start().await;
    let steps = json!([
        {"expect": "ok at http"},
        {"expect": "› "},
        {"send": "wrong\u{15}tell me a stroy\u{1b}[D\u{1b}[D\u{1b}[D\u{7f}o\r"},
        {"expect": "sim3-"},
        {"send": "\u{3}"},
        {"expect": "the answer was ended here"},
        {"expect": "› "},
        {"send": "\u{1b}[A"},
        {"expect": "tell me a soroy"},
        {"send": "\u{3}/model other\r"},
        {"expect": "\r\n"},
        {"expect": "› "},
        {"send": "/model\r"},
        {"expect": "other\r\n"},
        {"expect": "› "},
        {"send": "\u{4}"},
        {"end": 0}
    ]);
    play(steps, &["chat", "--url", &gateway.api, "--model", "ok"]).await;
    until("the ended answer's request is over", Duration::from_secs(10), || async {
        (gateway.status().await.requests.running == 0).then_some(())
    })
    .await;
    gateway.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_prints_one_picture_as_text_and_as_json() {
    let gateway = Setup::default().warm().await;
    let asked = run(&["chat", "--url", &gateway.api, "--model", "ok", "Say hello"]).await;
    assert_eq!(asked.status.code(), Some(0), "{asked:?}");
    let frame = run(&["top", "--once", "--admin", &gateway.admin]).await;
    let text_frame = text(&frame.stdout);
    assert_eq!(frame.status.code(), Some(0), "{frame:?}");
    for wanted in
        ["● serving, locally and from the cloud", "gpu/local  ● warm", "└─ router", "sim/ok", "Latency of the last"]
    {
        assert!(text_frame.contains(wanted), "{wanted}:\n{text_frame}");
    }
    assert!(text_frame.chars().all(|c| c == '\n' || !c.is_control()), "{text_frame:?}");
    let json = run(&["top", "--json", "--admin", &gateway.admin]).await;
    let object: Value = serde_json::from_slice(&json.stdout).unwrap_or_else(|error| panic!("{error}: {json:?}"));
    assert_eq!((json.status.code(), &object["ok"]), (Some(0), &true.into()), "{object:#}");
    for key in ["headline", "problems", "sample", "latency", "status", "actors", "cards", "requests"] {
        assert!(!object[key].is_null(), "{key}: {object:#}");
    }
    assert_eq!(object["requests"][0]["routing"]["model"], "ok");
    let wrong = run(&["top", "--once", "--admin", &gateway.api]).await;
    assert_eq!(wrong.status.code(), Some(3), "{wrong:?}");
    assert!(text(&wrong.stderr).contains("this is no admin listener"), "{wrong:?}");
    gateway.shutdown().await;
    let nobody = run(&["top", "--json", "--admin", "http://127.0.0.1:1"]).await;
    let object: Value = serde_json::from_slice(&nobody.stdout).unwrap();
    assert_eq!((nobody.status.code(), &object["ok"]), (Some(3), &false.into()), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_finds_the_admin_listener_and_its_token_by_the_configuration() {
    let folder = crate::support::Folder::new().unwrap();
    let token = folder.write("token", b"canary-of-an-admin-token\n");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let lines = format!("admin_token_file = \"{}\"\n", token.display());
    let gateway = Setup::default().without_cloud().server(&lines).start().await;
    let refused = run(&["top", "--once", "--admin", &gateway.admin]).await;
    assert!(text(&refused.stderr).contains("wants its token: --token-file"), "{refused:?}");
    let refused = run(&["chaos", "kill", "router", "kill", "--admin", &gateway.admin]).await;
    assert!(text(&refused.stderr).contains("wants its token: --token-file"), "{refused:?}");
    let token = token.display().to_string();
    let let_in = run(&["top", "--once", "--admin", &gateway.admin, "--token-file", &token]).await;
    assert!(text(&let_in.stdout).contains("── Supervision"), "{let_in:?}");
    let let_in = run(&["chaos", "faults", "--admin", &gateway.admin, "--token-file", &token]).await;
    assert!(let_in.status.success(), "{let_in:?}");
    drop(gateway);
    let config = folder.write("other.toml", format!("[server]\nadmin_listen = \"{address}\"\n").as_bytes());
    let nobody = run(&["top", "--once", "--config", &config.display().to_string()]).await;
    assert!(text(&nobody.stderr).contains(&format!("http://{address}")), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_at_a_terminal_turns_pages_says_when_the_gateway_is_gone_and_gives_the_terminal_back() {
    let gateway = Setup::default().warm().await;
    let steps = json!([
        {"expect": "live"},
        {"expect": "Latency of the last"},
        {"resize": [110, 35]},
        {"expect": "Latency of the last"},
        {"send": "\t"},
        {"resize": [120, 40]},
        {"expect": "gpu/local ● warm"},
        {"send": "?"},
        {"resize": [110, 35]},
        {"expect": "hold the picture"},
        {"send": "?3"},
        {"resize": [120, 40]},
        {"expect": "└─ router"},
        {"signal": [gateway.pid, Signal::KILL.as_raw()]},
        {"expect": "LOST"},
        {"send": "q"},
        {"end": 0}
    ]);
    let written = play(steps, &["top", "--admin", &gateway.admin]).await;
    assert!(written.contains("\u{1b}[?1049h") && written.contains("\u{1b}[?1049l"), "the other screen is left again");
    gateway.until_ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_goes_on_when_the_gateway_comes_back() {
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let vars = vec![("SPILLWAY__SERVER__ADMIN_LISTEN".to_owned(), admin.to_string())];
    let setup = Setup { vars, ..Setup::default() }.without_local();
    let first = setup.clone().start().await;
    let steps = json!([
        {"expect": "live"},
        {"signal": [first.pid, Signal::KILL.as_raw()]},
        {"expect": "LOST for"},
        {"expect": "live"},
        {"send": "\u{3}"},
        {"end": 0}
    ]);
    let mut watching = JoinSet::new();
    let url = first.admin.clone();
    watching.spawn(async move { play(steps, &["top", "--admin", &url]).await });
    first.until_ended().await;
    let second = setup.start().await;
    watching.join_all().await;
    second.shutdown().await;
}

/// Answers with which a server would write to the terminal of whoever runs a command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refusal_of_a_server_steers_the_terminal_of_any_command() {
    let nasty = server(
        b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n\
        {\"error\": {\"message\": \"no\\u001b]0;title\\u0007\\u009b31m \\u202ewhy\", \"type\": \"x\", \"param\": null, \"code\": null}}",
    );
    let folder = crate::support::Folder::new().unwrap();
    let address = nasty.trim_start_matches("http://");
    let config =
        format!("[server]\nadmin_listen = \"{address}\"\n[keys]\nfile = \"{}/keys.json\"\n", folder.path().display());
    let config = folder.write("nasty.toml", config.as_bytes()).display().to_string();
    for arguments in [
        ["chaos", "kill", "router", "kill", "--admin", &nasty].as_slice(),
        &["chaos", "fault", "sim", "error", "--admin", &nasty],
        &["chaos", "faults", "--admin", &nasty],
        &["chaos", "clear", "--admin", &nasty],
        &["chaos", "run", "everything", "--admin", &nasty],
        &["keys", "ls", "--config", &config],
        &["top", "--once", "--admin", &nasty],
        &["chat", "--url", &nasty, "hi"],
    ] {
        let output = run(arguments).await;
        let told = text(&output.stderr);
        assert!(!output.status.success() && told.contains("no why"), "{arguments:?}: {told:?}");
        let steers = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        assert!(!told.contains(steers) && !text(&output.stdout).contains(steers), "{arguments:?}: {told:?}");
    }
}

/// What is asked, and the key it is asked with, is for the address that was named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_command_follows_a_redirect() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/other\u{9b}31m\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        elsewhere.local_addr().unwrap()
    );
    let pointing = server(answer.leak().as_bytes());
    let folder = crate::support::Folder::new().unwrap();
    let address = pointing.trim_start_matches("http://");
    let config =
        format!("[server]\nadmin_listen = \"{address}\"\n[keys]\nfile = \"{}/keys.json\"\n", folder.path().display());
    let config = folder.write("pointing.toml", config.as_bytes()).display().to_string();
    for arguments in [
        ["chat", "--url", &pointing, "--key", "sk-canary", "a prompt"].as_slice(),
        &["top", "--once", "--admin", &pointing],
        &["chaos", "kill", "router", "kill", "--admin", &pointing],
        &["chaos", "run", "everything", "--admin", &pointing, "--url", &pointing],
        &["keys", "ls", "--config", &config],
        &["bench", "scenarios", "--url", &pointing],
    ] {
        let output = run(arguments).await;
        let told = text(&output.stderr);
        let where_to =
            format!("points to http://{}/other, and redirects are not followed", elsewhere.local_addr().unwrap());
        assert!(!output.status.success() && told.contains(&where_to), "{arguments:?}: {told:?}");
    }
    elsewhere.set_nonblocking(true).unwrap();
    assert!(elsewhere.accept().is_err(), "nobody was sent there");
}
