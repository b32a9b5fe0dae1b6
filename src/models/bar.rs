//! How far a long piece of work is, on stderr, where that is a terminal; and sizes in words.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str = "{prefix} {bytes:>10} of {total_bytes} {wide_bar} {bytes_per_sec} {eta}";

/// `total` 0: not known yet.
pub(super) fn bar(what: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar.with_prefix(what.to_owned())
}

/// `98.4 MB`: powers of a thousand, as disks and downloads are counted.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{count} {name}") } else { format!("{value:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_told_in_words() {
        assert_eq!(
            [0, 999, 1000, 98_362_432, 5_000_000_000].map(bytes),
            ["0 bytes", "999 bytes", "1.0 kB", "98.4 MB", "5.0 GB"]
        );
    }
}
