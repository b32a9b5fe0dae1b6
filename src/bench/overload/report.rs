//! What an overload came to, as JSON or as a table. Pure.

use super::open_loop::Ended;
use crate::bench::{
    gateway::wire::is_refusal,
    stats::{Percentiles, columns},
};
use serde::Serialize;
use std::time::Duration;

/// Requests of one key, or all.
#[derive(Debug, Default, Serialize)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) sent: usize,
    pub(super) answered: usize,
    /// Within the time of the overload.
    pub(super) answered_per_second: f64,
    pub(super) refused: usize,
    pub(super) without_retry_after: usize,
    pub(super) failed: usize,
    /// From when a request was due to the last byte.
    pub(super) answer_ms: Percentiles,
    pub(super) refusal_ms: Percentiles,
    /// From when a request was due to when it was sent: the client's own trouble, and part of the times above.
    pub(super) late_ms: Percentiles,
}

impl Class {
    pub(super) fn of<'a>(name: &str, lasts: Duration, ended: impl Iterator<Item = &'a Ended>) -> Self {
        let ended: Vec<&Ended> = ended.collect();
        let of = |kept: fn(&Ended) -> bool| ended.iter().copied().filter(move |one| kept(one));
        let answered = of(|one| !one.sample.failed);
        let refused = of(is_refused);
        let in_time = answered.clone().filter(|one| one.due + one.sample.took <= lasts).count();
        Self {
            name: name.to_owned(),
            sent: ended.len(),
            answered: answered.clone().count(),
            answered_per_second: in_time as f64 / lasts.as_secs_f64().max(1e-9),
            refused: refused.clone().count(),
            without_retry_after: refused.clone().filter(|one| !one.sample.retry_after).count(),
            failed: of(|one| one.sample.failed && !is_refused(one)).count(),
            answer_ms: Percentiles::of(answered.map(|one| one.sample.took)),
            refusal_ms: Percentiles::of(refused.map(|one| one.sample.took)),
            late_ms: Percentiles::of(ended.iter().map(|one| one.late)),
        }
    }
}

fn is_refused(one: &Ended) -> bool {
    is_refusal(one.sample.status)
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Memory {
    pub(super) before_mib: f64,
    pub(super) most_mib: f64,
    pub(super) after_mib: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) peak_per_second: f64,
    pub(super) rate_per_second: f64,
    pub(super) goodput_percent_of_peak: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_us_per_answer: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpu_us_per_refusal: Option<f64>,
    pub(super) all: Class,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) classes: Vec<Class>,
    pub(super) memory: Memory,
    /// What the first of those that failed said; without any, and with no answer, the first refusal's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
}

impl Report {
    pub(super) fn table(&self) -> String {
        let head =
            ["key", "sent", "answered", "/s", "p50 ms", "p99 ms", "refused", "p50 ms", "p99 ms", "max ms", "failed"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for class in self.classes.iter().chain([&self.all]) {
            let ms = |value: f64| format!("{value:.1}");
            rows.push(vec![
                class.name.clone(),
                class.sent.to_string(),
                class.answered.to_string(),
                format!("{:.0}", class.answered_per_second),
                ms(class.answer_ms.p50),
                ms(class.answer_ms.p99),
                class.refused.to_string(),
                ms(class.refusal_ms.p50),
                ms(class.refusal_ms.p99),
                ms(class.refusal_ms.max),
                class.failed.to_string(),
            ]);
        }
        let known = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
        let Memory { before_mib, most_mib, after_mib } = self.memory;
        format!(
            "peak {:.0}/s, then {:.0}/s: goodput {:.1} % of the peak\n\n{}\n\nrefused without retry-after: {}; sent late by p99 {:.1} ms\n\
             processor time: {} µs an answer, {} µs a refusal\n\
             memory: {before_mib:.1} MiB before, {most_mib:.1} at most, {after_mib:.1} afterwards{}",
            self.peak_per_second,
            self.rate_per_second,
            self.goodput_percent_of_peak,
            columns(&rows),
            self.all.without_retry_after,
            self.all.late_ms.p99,
            known(self.cpu_us_per_answer),
            known(self.cpu_us_per_refusal),
            self.failure.iter().map(|why| format!("\nfailed, for example: {why}")).collect::<String>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::gateway::wire::Sample;

    fn ended(due_ms: u64, took_ms: u64, status: u16, retry_after: bool) -> Ended {
        let sample = Sample {
            failed: status != 200,
            status,
            retry_after,
            took: Duration::from_millis(took_ms),
            ..Sample::default()
        };
        Ended { due: Duration::from_millis(due_ms), sample, ..Ended::default() }
    }

    #[test]
    fn answers_refusals_and_failures_are_told_apart_and_late_answers_are_no_goodput() {
        let all = [
            ended(0, 100, 200, false),
            ended(950, 100, 200, false),
            ended(10, 3, 429, true),
            ended(20, 5, 503, false),
            ended(30, 7, 500, false),
            ended(40, 9, 0, false),
        ];
        let class = Class::of("x", Duration::from_secs(1), all.iter());
        assert_eq!((class.sent, class.answered, class.refused, class.failed), (6, 2, 2, 2));
        assert_eq!((class.answered_per_second, class.without_retry_after), (1.0, 1));
        assert_eq!((class.refusal_ms.p50, class.refusal_ms.max), (3.0, 5.0));
    }
}
