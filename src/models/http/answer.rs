//! What the head of an answer means for a file of which some bytes are here already. Pure.

use super::Failure;
use reqwest::header::{self, HeaderMap};

/// The head of an answer, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    status: u16,
    /// Where the body begins, and how long the whole file is.
    range_start: Option<u64>,
    pub(super) total: Option<u64>,
    pub(super) etag: Option<String>,
    /// Hugging Face names the checksum of what it redirects to.
    pub(super) sha256: Option<String>,
    /// The body is encoded: its length says nothing, and it is no file.
    encoded: bool,
}

/// What to do with an answer.
#[derive(Debug)]
pub(super) enum Answered {
    /// The body is the file from its first byte on.
    Whole,
    /// The body is what is missing.
    Rest,
    /// Nothing is missing.
    Complete,
    /// What is here does not fit to what is there.
    StartOver,
    Refused(Failure),
}

impl Head {
    /// `before`: what the redirects on the way have said.
    pub(super) fn of(status: u16, headers: &HeaderMap, before: &Self) -> Self {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let (range_start, range_total) = text(header::CONTENT_RANGE).map_or((None, None), content_range);
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let linked = headers.get("x-linked-etag").and_then(|value| value.to_str().ok()).and_then(digest);
        let strong = text(header::ETAG).filter(|etag| etag.starts_with('"')).map(str::to_owned);
        let encoded = text(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
        Self {
            status,
            range_start,
            total: if status == 200 { length } else { range_total },
            etag: strong,
            sha256: linked.or_else(|| before.sha256.clone()),
            encoded,
        }
    }

    /// `have` bytes are here, `due` are expected.
    pub(super) fn judge(&self, have: u64, due: Option<u64>) -> Answered {
        let other_size = self.total.zip(due).filter(|(total, due)| total != due);
        if let (200 | 206, Some((total, due))) = (self.status, other_size) {
            return Answered::Refused(Failure::Final(format!("the server offers {total} bytes, {due} are expected")));
        }
        match self.status {
            200 | 206 if self.encoded => {
                Answered::Refused(Failure::Final("the server sends the file encoded".to_owned()))
            }
            200 => Answered::Whole,
            206 if have > 0 && self.range_start == Some(have) => Answered::Rest,
            206 => Answered::StartOver,
            416 if have > 0 && self.total == Some(have) => Answered::Complete,
            416 => Answered::StartOver,
            status => Answered::Refused(refusal(status)),
        }
    }
}

fn refusal(status: u16) -> Failure {
    match status {
        401 | 403 => {
            Failure::Final(format!("the server refuses it ({status}): it may need a licence accepted and HF_TOKEN set"))
        }
        404 | 410 => Failure::Final(format!("the server does not have it ({status})")),
        408 | 429 | 500..=599 => Failure::Passing(format!("the server answers {status}")),
        _ => Failure::Final(format!("the server answers {status}")),
    }
}

/// `bytes 5-9/10` → where it begins, how long the whole is; `bytes */10` has no beginning.
fn content_range(text: &str) -> (Option<u64>, Option<u64>) {
    let Some((range, total)) = text.strip_prefix("bytes ").and_then(|rest| rest.split_once('/')) else {
        return (None, None);
    };
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    (start, total.trim().parse().ok())
}

/// A checksum, if that is what an etag holds.
fn digest(etag: &str) -> Option<String> {
    let text = etag.trim_start_matches("W/").trim_matches('"');
    (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn head(status: u16, headers: &[(&'static str, &'static str)]) -> Head {
        let pairs =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Head::of(status, &pairs.collect(), &Head::default())
    }

    #[test]
    fn a_server_without_ranges_starts_over_and_one_with_them_goes_on() {
        assert!(matches!(head(200, &[("content-length", "10")]).judge(5, Some(10)), Answered::Whole));
        assert!(matches!(head(206, &[("content-range", "bytes 5-9/10")]).judge(5, Some(10)), Answered::Rest));
        assert!(matches!(head(206, &[("content-range", "bytes 4-9/10")]).judge(5, Some(10)), Answered::StartOver));
        assert!(matches!(head(206, &[]).judge(5, None), Answered::StartOver), "it does not say which part");
    }

    #[test]
    fn a_part_that_is_whole_or_too_long_is_told_by_the_refused_range() {
        assert!(matches!(head(416, &[("content-range", "bytes */10")]).judge(10, None), Answered::Complete));
        assert!(matches!(head(416, &[("content-range", "bytes */10")]).judge(12, None), Answered::StartOver));
    }

    #[test]
    fn another_size_than_expected_is_refused_before_the_first_byte() {
        for head in [head(200, &[("content-length", "11")]), head(206, &[("content-range", "bytes 5-10/11")])] {
            let Answered::Refused(Failure::Final(why)) = head.judge(5, Some(10)) else { panic!("{head:?}") };
            assert!(why.contains("offers 11 bytes"), "{why}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, passes) in [(429, true), (503, true), (404, false), (401, false), (301, false)] {
            let Answered::Refused(failure) = head(status, &[]).judge(0, None) else { panic!("{status}") };
            assert_eq!(matches!(failure, Failure::Passing(_)), passes, "{status}");
        }
    }

    #[test]
    fn a_checksum_named_by_a_redirect_is_kept() {
        let digest = "AB".repeat(32);
        let mut headers = HeaderMap::new();
        headers.insert("x-linked-etag", HeaderValue::from_str(&format!("\"{digest}\"")).unwrap());
        let first = Head::of(302, &headers, &Head::default());
        let last = Head::of(200, &HeaderMap::new(), &first);
        assert_eq!(last.sha256, Some("ab".repeat(32)));
        assert_eq!(head(200, &[("x-linked-etag", "\"abc\"")]).sha256, None);
    }

    #[test]
    fn a_weak_etag_proves_nothing() {
        assert_eq!(head(200, &[("etag", "W/\"x\"")]).etag, None);
        assert_eq!(head(200, &[("etag", "\"x\"")]).etag.as_deref(), Some("\"x\""));
    }
}
