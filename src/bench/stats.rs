//! Percentiles, medians and columns. Pure.

use serde::Serialize;
use std::time::Duration;

/// Of a set of times, in milliseconds; zeros when there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub samples: usize,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    pub fn of(samples: impl IntoIterator<Item = Duration>) -> Self {
        let mut samples: Vec<f64> = samples.into_iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        samples.sort_by(f64::total_cmp);
        // Nearest rank: a figure that was really measured.
        let at = |share: f64| {
            let rank = (share * samples.len() as f64).ceil() as usize;
            samples.get(rank.max(1) - 1).copied().unwrap_or(0.0)
        };
        Self { samples: samples.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
    }
}

/// The middle value, or the mean of the two middle ones; zero of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle), middle.checked_sub(1).and_then(|below| values.get(below))) {
        (1, Some(value), _) => *value,
        (0, Some(above), Some(below)) => (above + below) / 2.0,
        _ => 0.0,
    }
}

/// Rows under a head, each column as wide as its widest cell; the first column to the left, the others to the right.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let times = Percentiles::of((1..=100).rev().map(Duration::from_millis));
        assert_eq!((times.samples, times.p50, times.p95, times.p99, times.max), (100, 50.0, 95.0, 99.0, 100.0));
        assert_eq!(Percentiles::of([Duration::from_millis(7)]).p99, 7.0);
        assert_eq!(Percentiles::of([]), Percentiles::default());
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "1000".to_owned()]];
        assert_eq!(columns(&rows), "a        1\nlong  1000");
    }
}
