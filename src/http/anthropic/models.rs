//! `GET /v1/models` as Anthropic's clients read it: the same names, in pages. Pure.

use crate::http::parse::fault;
use serde_json::{Value, json};
use spillway_actors::domain::GatewayError;

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 1000;

/// Which page of the list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Page {
    after: Option<String>,
    before: Option<String>,
    limit: usize,
}

impl Page {
    /// From the pairs of the query; what is not of paging is ignored.
    ///
    /// # Errors
    /// The limit is out of range.
    pub(in crate::http) fn read(query: impl IntoIterator<Item = (String, String)>) -> Result<Self, GatewayError> {
        let mut page = Self { limit: DEFAULT_LIMIT, ..Self::default() };
        for (name, value) in query {
            match name.as_str() {
                "after_id" => page.after = Some(value),
                "before_id" => page.before = Some(value),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    let message = format!("Invalid 'limit': expected an integer from 1 to {MAX_LIMIT}.");
                    page.limit = limit.ok_or_else(|| fault("limit", message))?;
                }
                _ => {}
            }
        }
        Ok(page)
    }
}

/// One model; `created` in Unix seconds.
pub(in crate::http) fn one(name: &str, created: u64) -> Value {
    json!({
        "type": "model", "id": name, "display_name": name, "created_at": rfc3339(created), "lifecycle": "active",
        // What nobody told the gateway; the keys are promised.
        "capabilities": null, "deprecated_at": null, "line": null, "max_input_tokens": null, "max_tokens": null,
        "retires_at": null
    })
}

/// A page of them. A name that is not in the list begins no page.
pub(in crate::http) fn list(names: &[&str], page: &Page, created: u64) -> Value {
    let place = |name: &Option<String>| names.iter().position(|known| name.as_deref() == Some(known));
    let (from, to) = match (place(&page.after), place(&page.before)) {
        (Some(after), _) => (after + 1, names.len()),
        (None, Some(before)) => (before.saturating_sub(page.limit), before),
        (None, None) if page.after.is_some() || page.before.is_some() => (0, 0),
        (None, None) => (0, names.len()),
    };
    let range = names.get(from..to).unwrap_or_default();
    let shown = range.get(..page.limit.min(range.len())).unwrap_or_default();
    let has_more = if page.before.is_some() && page.after.is_none() { from > 0 } else { range.len() > shown.len() };
    json!({
        "data": shown.iter().map(|name| one(name, created)).collect::<Vec<_>>(),
        "has_more": has_more,
        "first_id": shown.first(),
        "last_id": shown.last(),
    })
}

/// Seconds since 1970 as a date of the civil calendar, in UTC.
fn rfc3339(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Counted from 1 March of year 0, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (unix, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_000_000, "2025-11-24T16:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(unix), date);
        }
    }

    #[test]
    fn pages_go_forward_and_back_and_say_if_there_is_more() {
        let names = ["a", "b", "c", "d"];
        let ids = |query: &[(&str, &str)]| {
            let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let list = list(&names, &Page::read(query).unwrap(), 0);
            let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
            format!("{} {} {} {}", ids.concat(), list["has_more"], list["first_id"], list["last_id"])
        };
        assert_eq!(ids(&[]), r#"abcd false "a" "d""#);
        assert_eq!(ids(&[("limit", "3"), ("x", "y")]), r#"abc true "a" "c""#);
        assert_eq!(ids(&[("after_id", "c")]), r#"d false "d" "d""#);
        assert_eq!(ids(&[("before_id", "d"), ("limit", "2")]), r#"bc true "b" "c""#);
        assert_eq!(ids(&[("after_id", "z")]), " false null null");
        for bad in ["0", "1001", "x", "-1"] {
            assert!(Page::read([("limit".to_owned(), bad.to_owned())]).is_err(), "{bad}");
        }
    }
}
