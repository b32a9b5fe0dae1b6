//! Where an answer came from, in one line, and what was tried before. Pure.

use super::{ask::Answer, clean::one_line};
use crate::words;
use serde_json::Value;

/// For stderr; nothing where the server said nothing of it.
pub(super) fn lines(answer: &Answer) -> Vec<String> {
    let mut lines = Vec::new();
    if answer.finish_reason.as_deref() == Some("length") {
        lines.push("— cut: the answer reached its most tokens (--max-tokens)".to_owned());
    }
    if let Some(routing) = &answer.routing {
        lines.push(route(routing, answer.usage.as_ref()));
        lines.extend(detour(routing));
    }
    lines
}

fn route(routing: &Value, usage: Option<&Value>) -> String {
    let text = |name: &str| one_line(routing[name].as_str().unwrap_or("?"));
    let attempts = routing["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = attempts.last().and_then(|attempt| attempt["ttft_ms"].as_f64());
    let cost: f64 = attempts.iter().filter_map(|attempt| attempt["cost_usd"].as_f64()).sum();
    let mut parts = vec![format!("{}/{}", text("target"), text("model")), text("complexity")];
    let took = words::ms(routing["actual_latency_ms"].as_f64());
    parts.push(match first {
        Some(first) => format!("{took} (first token {})", words::ms(Some(first))),
        None => took,
    });
    if let Some((prompt, completion)) =
        usage.and_then(|usage| Some((usage["prompt_tokens"].as_u64()?, usage["completion_tokens"].as_u64()?)))
    {
        parts.push(format!("{prompt} → {completion} tokens"));
    }
    parts.push(words::usd(Some(cost)));
    format!("— {}", parts.join(" · "))
}

/// What did not work before it worked.
fn detour(routing: &Value) -> Option<String> {
    let attempts = routing["attempts"].as_array()?;
    let (_, before) = attempts.split_last()?;
    let word = |attempt: &Value, name: &str| one_line(attempt[name].as_str().unwrap_or("?"));
    let tried: Vec<String> =
        before.iter().map(|attempt| format!("{} ({})", word(attempt, "target"), word(attempt, "outcome"))).collect();
    (!tried.is_empty()).then(|| format!("  after {}", tried.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_line_says_who_answered_how_fast_and_for_how_much() {
        let attempt = |target: &str, outcome: &str, cost: f64| json!({"target": target, "outcome": outcome, "ttft_ms": 9.1, "cost_usd": cost});
        let routing = json!({"target": "cloud", "model": "gpt-4.1", "complexity": "premium", "actual_latency_ms": 1234.5,
            "attempts": [attempt("local", "engine_died", 0.0), attempt("cloud\u{1b}[2J", "ok", 0.00123)]});
        let usage = json!({"prompt_tokens": 21, "completion_tokens": 8});
        let answer = Answer {
            finish_reason: Some("length".to_owned()),
            usage: Some(usage),
            routing: Some(routing),
            ..Answer::default()
        };
        assert_eq!(
            lines(&answer),
            [
                "— cut: the answer reached its most tokens (--max-tokens)",
                "— cloud/gpt-4.1 · premium · 1.23 s (first token 9.1 ms) · 21 → 8 tokens · $0.0012",
                "  after local (engine_died)",
            ]
        );
        assert_eq!(lines(&Answer::default()), Vec::<String>::new());
    }
}
