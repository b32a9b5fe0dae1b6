//! `/metrics` before and after a run, and what lies between. Pure.
//!
//! A percentile of a histogram is the bound of the bucket it falls into: no more is known.

use serde::Serialize;
use std::collections::BTreeMap;

/// One exposition.
#[derive(Debug, Clone, Default)]
pub struct Exposition(Vec<Sample>);

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Percentiles of a histogram in milliseconds: at most that. `None`: beyond the last bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AtMost {
    pub samples: u64,
    pub p50: Option<f64>,
    pub p95: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

impl Exposition {
    pub fn read(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    pub fn value(&self, name: &str) -> Option<f64> {
        self.named(name).next().map(|sample| sample.value)
    }

    fn sums(&self, name: &str, labels: &[&str]) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.named(name) {
            let key: Vec<&str> =
                labels.iter().filter_map(|label| sample.labels.get(*label)).map(String::as_str).collect();
            *sums.entry(key.join(" ")).or_insert(0.0) += sample.value;
        }
        sums
    }

    /// What a counter has grown by since `before`, by these labels; what has not grown is left out.
    pub fn grown(&self, before: &Self, name: &str, labels: &[&str]) -> BTreeMap<String, u64> {
        let old = before.sums(name, labels);
        let grown = self.sums(name, labels).into_iter().map(|(key, value)| {
            let since = value - old.get(&key).copied().unwrap_or(0.0);
            (key, since.max(0.0).round() as u64)
        });
        grown.filter(|(_, since)| *since > 0).collect()
    }

    /// A histogram's percentiles since `before`, for each value of a label.
    pub fn percentiles(&self, before: &Self, name: &str, label: &str) -> BTreeMap<String, AtMost> {
        let bucket = format!("{name}_bucket");
        let old = before.sums(&bucket, &[label, "le"]);
        let mut of: BTreeMap<String, Vec<(f64, u64)>> = BTreeMap::new();
        for (key, count) in self.sums(&bucket, &[label, "le"]) {
            let Some((group, bound)) = key.rsplit_once(' ') else { continue };
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(f64::INFINITY) };
            let since = (count - old.get(&key).copied().unwrap_or(0.0)).max(0.0).round() as u64;
            of.entry(group.to_owned()).or_default().push((bound, since));
        }
        of.into_iter()
            .map(|(group, buckets)| (group, at_most(buckets)))
            .filter(|(_, found)| found.samples > 0)
            .collect()
    }
}

fn at_most(mut buckets: Vec<(f64, u64)>) -> AtMost {
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let samples = buckets.last().map_or(0, |(_, count)| *count);
    let at = |share: f64| {
        let rank = (share * samples as f64).ceil() as u64;
        let bound = buckets.iter().find(|(_, count)| *count >= rank.max(1)).map(|(bound, _)| bound * 1e3);
        bound.filter(|bound| bound.is_finite())
    };
    AtMost { samples, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Option<Sample> {
    let (head, value) = line.trim().rsplit_once(' ')?;
    let (name, labels) = match head.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (head, ""),
    };
    // Values come from configuration and from fixed lists; none has a quote or a comma in it.
    let pairs = labels.split("\",").filter_map(|pair| pair.trim_end_matches('"').split_once("=\""));
    let labels = pairs.map(|(label, value)| (label.trim().to_owned(), value.to_owned())).collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE a_total counter\na_total{actor=\"router\",cause=\"killed\"} 2\n\
        t_bucket{stage=\"detect\",le=\"0.1\"} 1\nt_bucket{stage=\"detect\",le=\"0.2\"} 1\n\
        t_bucket{stage=\"detect\",le=\"+Inf\"} 1\n";
    const AFTER: &str = "a_total{actor=\"router\",cause=\"killed\"} 5\na_total{actor=\"router\",cause=\"panic\"} 1\n\
        a_total{actor=\"ledger\",cause=\"killed\"} 0\nprocess_start_time_seconds 1.5e9\n\
        t_bucket{stage=\"detect\",le=\"0.1\"} 3\nt_bucket{stage=\"detect\",le=\"0.2\"} 4\n\
        t_bucket{stage=\"detect\",le=\"+Inf\"} 5\nt_sum{stage=\"detect\"} 9\n";

    #[test]
    fn what_has_grown_is_told_by_its_labels() {
        let (before, after) = (Exposition::read(BEFORE), Exposition::read(AFTER));
        let grown = |labels: &[&str]| after.grown(&before, "a_total", labels).into_iter().collect::<Vec<_>>();
        assert_eq!(grown(&["actor"]), [("router".to_owned(), 4)]);
        assert_eq!(grown(&["actor", "cause"]), [("router killed".to_owned(), 3), ("router panic".to_owned(), 1)]);
        assert_eq!(after.value("process_start_time_seconds"), Some(1.5e9));
    }

    #[test]
    fn a_percentile_is_the_bound_of_its_bucket_since_the_beginning() {
        let (before, after) = (Exposition::read(BEFORE), Exposition::read(AFTER));
        let found = &after.percentiles(&before, "t", "stage")["detect"];
        assert_eq!(*found, AtMost { samples: 4, p50: Some(100.0), p95: None, p99: None, max: None });
        assert!(after.percentiles(&after, "t", "stage").is_empty());
    }
}
