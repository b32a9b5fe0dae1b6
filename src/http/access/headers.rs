//! How a key stands, as OpenAI's clients read it: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`. Only limits that
//! the key has are told.

use http::{HeaderMap, HeaderName, HeaderValue};
use spillway_actors::keys::{Meter, Standing};
use std::time::Duration;

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

pub(super) fn tell(headers: &mut HeaderMap, standing: &Standing) {
    for (names, meter) in [(REQUESTS, standing.requests), (TOKENS, standing.tokens)] {
        if let Some(meter) = meter {
            tell_one(headers, names, meter);
        }
    }
}

fn tell_one(headers: &mut HeaderMap, [limit, remaining, reset]: [HeaderName; 3], meter: Meter) {
    headers.insert(limit, meter.limit.into());
    headers.insert(remaining, meter.remaining.into());
    if let Ok(value) = HeaderValue::try_from(written(meter.reset)) {
        headers.insert(reset, value);
    }
}

/// `0s`, `20ms`, `1s`, `6m0s`: rounded up to milliseconds below a second, to seconds above.
fn written(time: Duration) -> String {
    let ms = time.as_nanos().div_ceil(1_000_000);
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let seconds = ms.div_ceil(1000);
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        let written = |us| written(Duration::from_micros(us));
        let all = [0, 1, 20_000, 999_001, 1_000_001, 59_000_000, 360_000_000].map(written);
        assert_eq!(all, ["0s", "1ms", "20ms", "1s", "2s", "59s", "6m0s"]);
    }

    #[test]
    fn only_limits_there_are_get_headers() {
        let mut headers = HeaderMap::new();
        tell(&mut headers, &Standing::default());
        assert!(headers.is_empty());
        let tokens = Some(Meter { limit: 100, remaining: 40, reset: Duration::from_secs(36) });
        tell(&mut headers, &Standing { tokens, ..Standing::default() });
        let of = |name: &str| headers[name].to_str().unwrap().to_owned();
        let told = ["limit", "remaining", "reset"].map(|part| of(&format!("x-ratelimit-{part}-tokens")));
        assert_eq!((told, headers.len()), (["100".into(), "40".into(), "36s".into()], 3));
    }
}
