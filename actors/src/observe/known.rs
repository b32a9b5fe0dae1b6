//! Metrics of the request path: the handle of each set of labels is looked up once and kept, because making a key of names
//! and asking the registry for it costs more than the counting.

use arc_swap::ArcSwap;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, with_recorder};
use std::sync::Arc;

/// Sets of labels that are kept; what is beyond goes the long way.
const KEPT: usize = 64;

static METADATA: Metadata<'_> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// One metric with `N` labels.
pub(super) struct Known<H, const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
    register: fn(&Key) -> H,
    kept: ArcSwap<Vec<([Box<str>; N], H)>>,
}

impl<const N: usize> Known<Counter, N> {
    pub(super) fn counter(name: &'static str, labels: [&'static str; N]) -> Self {
        Self::new(name, labels, |key| with_recorder(|recorder| recorder.register_counter(key, &METADATA)))
    }
}

impl<const N: usize> Known<Gauge, N> {
    pub(super) fn gauge(name: &'static str, labels: [&'static str; N]) -> Self {
        Self::new(name, labels, |key| with_recorder(|recorder| recorder.register_gauge(key, &METADATA)))
    }
}

impl<const N: usize> Known<Histogram, N> {
    pub(super) fn histogram(name: &'static str, labels: [&'static str; N]) -> Self {
        Self::new(name, labels, |key| with_recorder(|recorder| recorder.register_histogram(key, &METADATA)))
    }
}

impl<H: Clone, const N: usize> Known<H, N> {
    fn new(name: &'static str, labels: [&'static str; N], register: fn(&Key) -> H) -> Self {
        Self { name, labels, register, kept: ArcSwap::default() }
    }

    /// The metric with these values of its labels, in order.
    pub(super) fn of(&self, values: [&str; N]) -> H {
        let is_it = |(kept, _): &&([Box<str>; N], H)| kept.iter().zip(values).all(|(kept, value)| **kept == *value);
        if let Some((_, handle)) = self.kept.load().iter().find(is_it) {
            return handle.clone();
        }
        let labels = self.labels.iter().zip(values).map(|(name, value)| Label::new(*name, value.to_owned()));
        let key = Key::from_parts(KeyName::from_const_str(self.name), labels.collect::<Vec<_>>());
        let handle = (self.register)(&key);
        // Lost against another thread that does the same, it is looked up once more.
        let kept = self.kept.load_full();
        if kept.len() < KEPT {
            let mut more = Vec::clone(&kept);
            more.push((values.map(Box::from), handle.clone()));
            self.kept.compare_and_swap(&kept, Arc::new(more));
        }
        handle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{NoopRecorder, with_local_recorder};
    use std::sync::atomic::{AtomicU64, Ordering};

    static REGISTERED: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn each_set_of_labels_is_registered_once_and_no_more_are_kept_than_may_be() {
        let known: Known<u64, 2> = Known::new("m", ["a", "b"], |_| REGISTERED.fetch_add(1, Ordering::Relaxed));
        let first = known.of(["x", "y"]);
        assert_eq!(known.of(["x", "y"]), first);
        assert_ne!(known.of(["y", "x"]), first, "by place, not by value");
        for nth in 0..KEPT as u64 * 2 {
            let _ = known.of([&nth.to_string(), "z"]);
        }
        assert_eq!(known.kept.load().len(), KEPT);
        assert_eq!(known.of(["x", "y"]), first);
    }

    #[test]
    fn the_key_has_the_metrics_name_and_labels_in_order() {
        let known: Known<String, 2> = Known::new("m", ["a", "b"], ToString::to_string);
        assert_eq!(known.of(["x", "y"]), "Key(m, [a = x, b = y])");
        with_local_recorder(&NoopRecorder, || Known::<Counter, 0>::counter("n", []).of([]).increment(1));
    }
}
