//! The few `strftime` directives chat templates use, over a Unix time in UTC.
//!
//! Not a date library: no zones, no locales. An unknown directive stays as it is written.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// A moment, taken apart.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
    weekday: &'static str,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Formats `unix_seconds`.
pub fn strftime(format: &str, unix_seconds: u64) -> String {
    let at = civil(unix_seconds);
    let month = usize::try_from(at.month - 1).ok().and_then(|index| MONTHS.get(index)).copied().unwrap_or_default();
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&at.year.to_string()),
            Some('y') => out.push_str(&two(at.year % 100)),
            Some('m') => out.push_str(&two(at.month)),
            Some('d') => out.push_str(&two(at.day)),
            Some('e') => out.push_str(&format!("{:2}", at.day)),
            Some('j') => out.push_str(&format!("{:03}", at.day_of_year)),
            Some('H') => out.push_str(&two(at.hour)),
            Some('M') => out.push_str(&two(at.minute)),
            Some('S') => out.push_str(&two(at.second)),
            Some('B') => out.push_str(month),
            Some('b') => out.extend(month.chars().take(3)),
            Some('A') => out.push_str(at.weekday),
            Some('a') => out.extend(at.weekday.chars().take(3)),
            Some('F') => out.push_str(&format!("{}-{}-{}", at.year, two(at.month), two(at.day))),
            Some('T') => out.push_str(&format!("{}:{}:{}", two(at.hour), two(at.minute), two(at.second))),
            Some('%') | None => out.push('%'),
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

fn two(number: u64) -> String {
    format!("{number:02}")
}

fn civil(unix_seconds: u64) -> Civil {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let weekday = usize::try_from(days % 7).ok().and_then(|index| DAYS.get(index)).copied().unwrap_or_default();
    let (mut year, mut left) = (1970, days);
    while left >= year_days(year) {
        left -= year_days(year);
        year += 1;
    }
    let (day_of_year, mut month) = (left + 1, 1);
    while left >= month_days(year, month) {
        left -= month_days(year, month);
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Civil { year, month, day: left + 1, day_of_year, weekday, hour, minute, second }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn year_days(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_are_written_as_python_writes_them() {
        assert_eq!(strftime("%d %b %Y", 1_721_952_000), "26 Jul 2024");
        assert_eq!(strftime("%A, %B %d, %Y %H:%M:%S (%j)", 951_782_399), "Monday, February 28, 2000 23:59:59 (059)");
        assert_eq!(strftime("%F %T %a %y %e %%", 951_782_400), "2000-02-29 00:00:00 Tue 00 29 %");
        assert_eq!(strftime("%Q%", 0), "%Q%");
    }
}
