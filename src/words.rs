//! Numbers, times and money as people read them in a terminal; the console's `format.js` writes the same. Pure.

const NONE: &str = "–";

/// Three significant digits at most: 0.42, 3.1, 27, 1240, 1.2 M.
pub(crate) fn num(value: f64) -> String {
    let size = value.abs();
    if size >= 1e9 {
        format!("{:.1} G", value / 1e9)
    } else if size >= 1e6 {
        format!("{:.1} M", value / 1e6)
    } else if size >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

pub(crate) fn ms(value: Option<f64>) -> String {
    match value {
        None => NONE.to_owned(),
        Some(value) if value >= 60_000.0 => format!("{:.1} min", value / 60_000.0),
        Some(value) if value >= 10_000.0 => format!("{:.1} s", value / 1000.0),
        Some(value) if value >= 1000.0 => format!("{:.2} s", value / 1000.0),
        Some(value) if value >= 100.0 => format!("{value:.0} ms"),
        Some(value) => format!("{value:.1} ms"),
    }
}

/// Seconds, roughly: 8 s, 3 min, 2 h 10 min, 4 d.
pub(crate) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub(crate) fn percent(part: Option<f64>) -> String {
    match part {
        None => NONE.to_owned(),
        Some(part) if part > 0.0 && part < 0.1 => format!("{:.1} %", part * 100.0),
        Some(part) => format!("{:.0} %", part * 100.0),
    }
}

/// Dollars, with as many digits as it takes to be more than nothing.
pub(crate) fn usd(value: Option<f64>) -> String {
    match value {
        None => NONE.to_owned(),
        Some(0.0) => "$0".to_owned(),
        Some(value) if value.abs() >= 1.0 => format!("${value:.2}"),
        Some(value) => {
            let digits = (1.0 - value.abs().log10().floor()).clamp(2.0, 9.0) as usize;
            format!("${value:.digits$}")
        }
    }
}

pub(crate) fn nanousd(value: Option<f64>) -> String {
    usd(value.map(|value| value / 1e9))
}

pub(crate) fn bytes(value: Option<f64>) -> String {
    let Some(mut rest) = value else { return NONE.to_owned() };
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut at = 0;
    while rest >= 1024.0 && at + 1 < units.len() {
        rest /= 1024.0;
        at += 1;
    }
    let digits = usize::from(rest < 100.0 && at > 0);
    format!("{rest:.digits$} {}", units[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_say_their_unit() {
        assert_eq!([0.42, 3.0, 27.31, 1240.4, 1.25e6, 3e9].map(num), ["0.42", "3", "27.3", "1240", "1.2 M", "3.0 G"]);
        let times = [0.4, 99.96, 412.4, 1234.5, 12_345.0, 90_000.0].map(|value| ms(Some(value)));
        assert_eq!(times, ["0.4 ms", "100.0 ms", "412 ms", "1.23 s", "12.3 s", "1.5 min"]);
        assert_eq!([8.9, 190.0, 7800.0, 400_000.0].map(span), ["8 s", "3 min", "2 h 10 min", "4 d"]);
        assert_eq!([0.0, 0.012, 0.5, 1.0].map(|part| percent(Some(part))), ["0 %", "1.2 %", "50 %", "100 %"]);
        let money = [0.0, 0.000_005_04, 0.0123, 0.5, 12.345].map(|value| usd(Some(value)));
        assert_eq!(money, ["$0", "$0.0000050", "$0.012", "$0.50", "$12.35"]);
        assert_eq!(nanousd(Some(5e8)), "$0.50");
        assert_eq!([512.0, 1536.0, 1e9].map(|value| bytes(Some(value))), ["512 B", "1.5 KiB", "954 MiB"]);
        assert_eq!((ms(None), percent(None), usd(None), bytes(None)), ("–".into(), "–".into(), "–".into(), "–".into()));
    }
}
