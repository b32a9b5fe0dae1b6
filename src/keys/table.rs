//! Keys as a table for people.

use serde_json::Value;
use std::fmt::Write as _;

const HEAD: [&str; 8] = ["id", "name", "group", "key", "state", "models", "limits", "budget"];

pub(super) fn of(keys: &[Value]) -> String {
    if keys.is_empty() {
        return "no keys yet: spillway keys create --name NAME".to_owned();
    }
    let rows: Vec<[String; 8]> = keys.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(HEAD.get(column).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut table = String::new();
    let mut line = |cells: &[String; 8]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(table, "{}", padded.join("  ").trim_end());
    };
    line(&HEAD.map(str::to_owned));
    rows.iter().for_each(&mut line);
    table
}

fn row(key: &Value) -> [String; 8] {
    let text = |field: &str| key[field].as_str().unwrap_or_default().to_owned();
    [
        text("id"),
        text("name"),
        text("group"),
        format!("{}…", text("prefix")),
        text("state"),
        models(key),
        limits(key),
        budget(&key["budget_usd"]),
    ]
}

fn models(key: &Value) -> String {
    let names =
        key["models"].as_array().map(|names| names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
    let names = names.unwrap_or_else(|| "all".to_owned());
    if key["local_only"] == true { format!("{names} (local only)") } else { names }
}

fn limits(key: &Value) -> String {
    let limit = |field: &str, unit: &str| key[field].as_u64().map(|limit| format!("{limit} {unit}"));
    let all = [("requests_per_minute", "req/min"), ("tokens_per_minute", "tok/min"), ("concurrency", "at once")];
    joined(all.into_iter().filter_map(|(field, unit)| limit(field, unit)).collect())
}

fn budget(budget: &Value) -> String {
    let limit = |period: &str| budget[period].as_str().map(|usd| format!("${usd}/{period}"));
    joined(["day", "month", "total"].into_iter().filter_map(limit).collect())
}

fn joined(parts: Vec<String>) -> String {
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_says_what_a_key_may() {
        let key = json!({
            "id": "key_1", "name": "ci", "group": "default", "prefix": "sk-spillway-abc", "state": "active", "models": ["local"],
            "local_only": true, "requests_per_minute": 60, "tokens_per_minute": null, "concurrency": 2,
            "budget_usd": {"day": "1.5", "month": null, "total": null},
        });
        let table = of(&[key]);
        let expected = "\
id     name  group    key               state   models              limits                 budget
key_1  ci    default  sk-spillway-abc…  active  local (local only)  60 req/min, 2 at once  $1.5/day
";
        assert_eq!(table, expected);
        assert!(of(&[]).contains("keys create"));
    }
}
