//! Pages of an imagined gateway, as text.

use super::{
    super::{board::Board, feed::News},
    *,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// A gateway in some trouble: a history, a picture, and its newest requests.
pub(in super::super) fn examples() -> [(&'static str, Value); 3] {
    let sample = |at: u64, local: u64, cloud: u64| {
        json!({"at_ms": at * 1000, "local": local, "cloud": cloud, "failed": 1, "left": 0, "tokens_local": local * 30,
            "tokens_cloud": cloud * 50, "running": 4, "queue": 7, "p50_ms": 400.0, "p95_ms": 900.0})
    };
    let times = |answers: u64, first: f64, whole: f64| {
        json!({"answers": answers, "first_token_ms": {"p50": first, "p95": first * 2.0, "p99": first * 3.0},
            "whole_ms": {"p50": whole, "p95": whole * 2.0, "p99": null}})
    };
    let history = json!({"samples": [sample(1000, 0, 0), sample(1005, 10, 5)]});
    let status = json!({
        "version": "9.9.9",
        "gpus": [{"name": "local", "model": "smollm2-135m", "state": "warm", "cause": null, "epoch": 3, "serving": true,
            "engine": "llama", "engine_pid": 4711, "device": "NVIDIA H100", "leases": 3, "parallel": 8,
            "work": {"running": 3, "waiting": 0, "kv_used": 2048, "kv_total": 8192},
            "memory": {"rung": 0, "given_up": []},
            "last_death": {"epoch": 2, "cause": "killed by signal 9\u{1b}[2J", "ago_ms": 65_000},
            "last_minute": {"attempts": 90, "success_ratio": 0.989, "first_token_ms": 9.0, "inter_token_ms": 4.0}}],
        "queue": 7, "leases": 3, "draining": false, "chaos": false, "config": {"needs_restart": []}, "keys": [],
        "breakers": [{"target": "cloud", "model": "gpt-4.1", "state": "open", "open_ms": 12_000},
            {"target": "cloud", "model": "deepseek-v3.2", "state": "passing", "open_ms": null}],
        "providers": [{"name": "cloud", "simulated": false, "reachable": true, "error": null, "models": [
            {"model": "deepseek-v3.2", "last_minute": {"attempts": 12, "success_ratio": 1.0, "recent_success_ratio": 1.0,
                "first_token_ms": 45.0, "inter_token_ms": 16.7}},
            {"model": "gpt-4.1", "last_minute": {"attempts": 0}}]}],
        "ledger": {"up": true, "reserved_nanousd": 1_000_000, "cost_nanousd": 250_000_000, "budget":
            {"day": {"limit_nanousd": 1_000_000_000, "posted_nanousd": 250_000_000, "reserved_nanousd": 1_000_000}},
            "by_model": {
                "cloud/deepseek-v3.2": {"attempts": 12, "prompt_tokens": 1000, "completion_tokens": 600,
                    "cost_nanousd": 250_000_000, "baseline_nanousd": 1_000_000_000},
                "local/smollm2-135m": {"attempts": 90, "prompt_tokens": 9000, "completion_tokens": 2700,
                    "cost_nanousd": 0, "baseline_nanousd": 1_000_000_000}}},
    });
    let actor = |name: &str, parent: Option<&str>, restarts: u64, cause: Option<&str>| {
        json!({"name": name, "parent": parent, "state": "running", "restarts": restarts, "uptime_s": 190.0,
            "last_exit_cause": cause})
    };
    let picture = json!({
        "sample": sample(1010, 20, 10),
        "latency": {"seconds": 60, "all": times(102, 12.0, 480.0), "local": times(90, 9.0, 410.0), "cloud": times(12, 45.0, 900.0)},
        "status": status,
        "actors": [actor("root", None, 0, None), actor("ledger", Some("root"), 0, None),
            actor("gpu-supervisor", Some("root"), 0, None), actor("gpu/local", Some("gpu-supervisor"), 2, Some("chaos panic")),
            actor("router", Some("root"), 1, Some("killed"))],
        "cards": {"status": "ok", "detail": "", "gpus": [{"index": 0, "name": "NVIDIA H100", "uuid": "GPU-1", "fault": null,
            "slowdown": null, "memory_used_bytes": 20_000_000_000u64, "memory_total_bytes": 80_000_000_000u64,
            "utilization_ratio": 0.63, "temperature_celsius": 61, "power_watts": 412.5}],
            "system_memory": {"used_bytes": 8_000_000_000u64, "total_bytes": 16_000_000_000u64}},
    });
    let requests = json!({"requests": [{"request": "r1", "key_name": "laptop", "at": 45_296_000u64, "stream": true, "outcome": "ok",
        "first_token_ms": 9.1, "took_ms": 412.3, "usage": {"prompt_tokens": 21, "completion_tokens": 8},
        "routing": {"target": "cloud", "model": "deepseek-v3.2", "complexity": "moderate",
            "attempts": [{"target": "local", "cost_usd": 0.0}, {"target": "cloud", "cost_usd": 0.000_005}]}}]});
    [("history", history), ("picture", picture), ("requests", requests)]
}

fn text() -> String {
    let mut board = Board::new("http://127.0.0.1:8081".to_owned());
    for (name, news) in examples() {
        board.hear(News::read(name, &news).unwrap(), Instant::now());
    }
    whole(&board, 110).join("\n")
}

#[test]
fn the_whole_picture_as_text() {
    let text = text();
    let after = |title: &str| text.split_once(title).unwrap_or_else(|| panic!("{title}:\n{text}")).1.trim_start();
    let supervision = after("── Supervision");
    for (at, wanted) in [
        "root                                ● running         3 min",
        "├─ ledger                           ● running         3 min",
        "├─ gpu-supervisor                   ● running         3 min",
        "│  └─ gpu/local                     ● running         3 min  2 restarts  last: chaos panic",
        "└─ router                           ● running         3 min  1 restart   last: killed",
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(supervision.lines().nth(at).unwrap(), *wanted, "{text}");
    }
    let fleet = after("── Fleet");
    for wanted in [
        "gpu/local  ● warm  smollm2-135m · on NVIDIA H100 · pid 4711 · epoch 3",
        "leases      ██████░░░░░░░░░░ 3 of 8",
        "KV cells    ████░░░░░░░░░░░░ 2048 of 8192",
        "last minute 99 % of 90 succeed · first token 9.0 ms · per token 4.0 ms",
        "last death  1 min ago: killed by signal 9",
        "card 0  ● healthy  NVIDIA H100",
        "memory      ████░░░░░░░░░░░░ 18.6 GiB of 74.5 GiB",
        "heat        61 °C · power 412 W",
        "gpt-4.1                       ▲ breaker open",
    ] {
        assert!(fleet.contains(wanted), "{wanted:?} is missing:\n{text}");
    }
    let request = after("── Requests").lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(request, "12:34:56 ok cloud/deepseek-v3.2 ×2 moderate 21 → 8 9.1 ms 412 ms $0.0000050");
    assert!(after("── Money").contains("budget (day)  $0.25 of $1.00"), "{text}");
}

#[test]
fn nothing_that_a_gateway_says_steers_the_terminal() {
    assert!(text().chars().all(|character| character == '\n' || !character.is_control()));
}

#[test]
fn a_gateway_that_says_little_is_shown_all_the_same() {
    let mut board = Board::new("here".to_owned());
    assert!(whole(&board, 80).join("\n").contains("no picture yet"));
    board.hear(News::read("picture", &json!({})).unwrap(), Instant::now());
    assert!(whole(&board, 80).join("\n").contains("nothing can serve"));
}

#[test]
fn little_bars_are_as_high_as_the_largest() {
    assert_eq!(spark(&[0.0, 1.0, 2.0, 4.0], 10), "▁▃▅█");
    assert_eq!(spark(&[9.0, 0.0, 0.0], 2), "▁▁");
    assert_eq!(spark(&[], 10), "");
    assert_eq!(cut("äöü漢字", 5), "äöü…");
    assert_eq!(meter(f64::NAN, 4).content, "░░░░");
}

/// A gateway that publishes nonsense is drawn as it is: nothing of it ends the program.
#[test]
fn the_largest_numbers_and_a_tree_that_bites_its_tail_are_drawn_too() {
    fn swollen(value: &Value) -> Value {
        match value {
            Value::Number(number) if number.is_u64() => u64::MAX.into(),
            Value::Number(_) => f64::MAX.into(),
            Value::Array(values) => values.iter().map(swollen).collect(),
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), swollen(value))).collect(),
            other => other.clone(),
        }
    }
    let mut board = Board::new("http://127.0.0.1:8081".to_owned());
    for (name, news) in examples() {
        let mut news = swollen(&news);
        if name == "history" {
            news["samples"][0] = json!({});
        }
        if name == "picture" {
            // One more than this overflowed.
            news["status"]["keys"] =
                json!([{"target": "cloud", "key": u64::MAX, "state": "resting", "for_ms": u64::MAX}]);
            // A process id is smaller than other numbers.
            news["status"]["gpus"][0]["engine_pid"] = json!(u32::MAX);
            let tail = json!({"name": "root", "parent": "root", "state": "running"});
            news["actors"].as_array_mut().unwrap().extend(std::iter::repeat_n(tail, 50));
        }
        board.hear(News::read(name, &news).unwrap(), Instant::now());
    }
    let text = whole(&board, 110).join("\n");
    assert!(text.contains("provider key 18446744073709551615 is resting"), "{text}");
    assert!(text.lines().count() < 200, "{text}");
}
