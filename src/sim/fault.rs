//! Which fault a model name asks for. Pure.

use std::time::Duration;

/// Tokens before a fault in the middle of an answer that names no count of its own.
const EARLY: u32 = 5;
const LATE: u32 = 40;

/// A status other than 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    /// OpenAI's `code`.
    pub code: &'static str,
    pub retry_after_s: Option<u64>,
    /// The Retry-After as an HTTP date instead of seconds.
    pub as_date: bool,
    /// Only the first calls of a model fail; `None`: all of them.
    pub first_calls: Option<u32>,
}

/// What the simulated provider does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Ok,
    /// First token later, by this much instead of the configured time.
    Slow(Duration),
    Refuse(Refusal),
    /// The connection is reset after so many tokens; an answer in one piece is closed in its middle.
    Cut(u32),
    /// Nothing more after so many tokens, for ever.
    Stall(u32),
    /// Takes the request and never answers.
    Hang,
    /// TCP reset instead of an answer.
    Reset,
    /// One chunk of broken JSON after so many tokens.
    Malformed(u32),
    /// An error object inside the stream after so many tokens.
    SseError(u32),
    /// Everything but `[DONE]`.
    NoDone,
    /// Ends after the last token, without `finish_reason` and `[DONE]`.
    Truncate,
    /// 200 with an error object.
    ErrorBody,
    /// 200 with a web page.
    Html,
    /// 200 with nothing.
    Empty,
    NoUsage,
    /// Characters of several bytes, cut between two packets.
    SplitUtf8,
    /// Goes on from a last message of the assistant.
    PrefixOk,
    /// Starts anew whatever the last message is.
    PrefixIgnored,
    /// Refuses a last message of the assistant.
    PrefixRejected,
}

impl Fault {
    /// The fault that the whole name or its longest suffix after `-`, `/` or `:` asks for; [`Fault::Ok`] for every other
    /// name, so that real model names work.
    pub(super) fn of_model(model: &str) -> Self {
        let suffixes = model.match_indices(['-', '/', ':']).map(|(at, _)| &model[at + 1..]);
        std::iter::once(model).chain(suffixes).find_map(Self::named).unwrap_or(Self::Ok)
    }

    /// Exactly this fault's name; `None` if there is none of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::plain(name).or_else(|| {
            let (family, number) = name.split_once('-')?;
            Self::numbered(family, number)
        })
    }

    /// After how many tokens the answer breaks off, if it does.
    pub(super) fn reach(self) -> Option<u32> {
        match self {
            Self::Cut(tokens) | Self::Stall(tokens) => Some(tokens),
            _ => None,
        }
    }

    fn plain(name: &str) -> Option<Self> {
        Some(match name {
            "ok" => Self::Ok,
            "cut" => Self::Cut(LATE),
            "stall" => Self::Stall(LATE),
            "hang" => Self::Hang,
            "reset" => Self::Reset,
            "malformed" => Self::Malformed(EARLY),
            "sse-error" => Self::SseError(EARLY),
            "no-done" => Self::NoDone,
            "truncate" => Self::Truncate,
            "error-body" => Self::ErrorBody,
            "html" => Self::Html,
            "empty" => Self::Empty,
            "no-usage" => Self::NoUsage,
            "split-utf8" => Self::SplitUtf8,
            "prefix-ok" => Self::PrefixOk,
            "prefix-ignored" => Self::PrefixIgnored,
            "prefix-rejected" => Self::PrefixRejected,
            "context-length" => refuse(400, "context_length_exceeded"),
            "content-filter" => refuse(400, "content_filter"),
            "401" => refuse(401, "invalid_api_key"),
            "402" => refuse(402, "insufficient_balance"),
            "403" => refuse(403, "forbidden"),
            "429" => limited(None, None),
            "429-once" => limited(Some(1), Some(1)),
            _ => return None,
        })
    }

    fn numbered(family: &str, number: &str) -> Option<Self> {
        if family == "error" {
            return error(number);
        }
        if family == "429"
            && let Some(seconds) = number.strip_prefix("date-")
            && let Fault::Refuse(refusal) = limited(Some(seconds.parse().ok()?), None)
        {
            return Some(Fault::Refuse(Refusal { as_date: true, ..refusal }));
        }
        let n: u32 = number.parse().ok()?;
        Some(match family {
            "slow" => Self::Slow(Duration::from_millis(n.into())),
            "cut" => Self::Cut(n),
            "stall" => Self::Stall(n),
            "429" => limited(Some(n.into()), None),
            _ => return None,
        })
    }
}

fn refuse(status: u16, code: &'static str) -> Fault {
    Fault::Refuse(Refusal { status, code, retry_after_s: None, as_date: false, first_calls: None })
}

fn limited(retry_after_s: Option<u64>, first_calls: Option<u32>) -> Fault {
    let (code, as_date) = ("rate_limit_exceeded", false);
    Fault::Refuse(Refusal { status: 429, code, retry_after_s, as_date, first_calls })
}

/// `500` or `500-2`.
fn error(number: &str) -> Option<Fault> {
    let (status, first_calls) = match number.split_once('-') {
        Some((status, calls)) => (status, Some(calls.parse().ok()?)),
        None => (number, None),
    };
    let status = status.parse().ok().filter(|status| (400..600).contains(status))?;
    let code = if status < 500 { "simulated_error" } else { "server_error" };
    Some(Fault::Refuse(Refusal { status, code, retry_after_s: None, as_date: false, first_calls }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_and_suffixes_choose_the_same_fault() {
        for (name, fault) in [
            ("cut-40", Fault::Cut(40)),
            ("cut-7", Fault::Cut(7)),
            ("slow-500", Fault::Slow(Duration::from_millis(500))),
            ("stall", Fault::Stall(40)),
            ("sse-error", Fault::SseError(5)),
            ("429", limited(None, None)),
            ("429-2", limited(Some(2), None)),
            ("429-once", limited(Some(1), Some(1))),
            ("error-503", error("503").unwrap()),
            ("error-500-2", error("500-2").unwrap()),
        ] {
            for model in [name.to_owned(), format!("gpt-4.1-{name}"), format!("vendor/{name}"), format!("x:{name}")] {
                assert_eq!(Fault::of_model(&model), fault, "{model}");
            }
        }
        let Some(Fault::Refuse(refusal)) = error("500-2") else { panic!("a refusal") };
        assert_eq!((refusal.status, refusal.first_calls), (500, Some(2)));
    }

    #[test]
    fn other_names_are_fine() {
        for model in
            ["", "gpt-4.1", "deepseek-v3.2", "claude-sonnet-4.5", "cut-", "error-200", "error-7x", "slow--1", "cut-40x"]
        {
            assert_eq!(Fault::of_model(model), Fault::Ok, "{model}");
            assert_eq!(Fault::named(model), None, "{model}");
        }
    }
}
