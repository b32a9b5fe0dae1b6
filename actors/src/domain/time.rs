//! Wall-clock time as money is counted by it: whole milliseconds since 1970 in UTC, and the days and months budgets run in.
//! Durations and deadlines inside one run use tokio's clock instead.

use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

const DAY_MS: u64 = 86_400_000;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(u64);

/// Days since 1970-01-01.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(u32);

/// Months since January of the year 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month(u32);

impl UnixMs {
    pub const fn new(ms: u64) -> Self {
        Self(ms)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    #[must_use]
    pub fn minus(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    pub fn day(self) -> Day {
        Day(u32::try_from(self.0 / DAY_MS).unwrap_or(u32::MAX))
    }
}

impl Day {
    pub const fn new(days: u32) -> Self {
        Self(days)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// Its first moment.
    pub fn start(self) -> UnixMs {
        UnixMs(u64::from(self.0) * DAY_MS)
    }

    pub fn month(self) -> Month {
        let (year, month, _) = self.civil();
        Month(u32::try_from(year).unwrap_or(0).saturating_mul(12).saturating_add(month - 1))
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    #[must_use]
    pub fn first_of_next_month(self) -> Self {
        // No month is longer, and none so short that this skips one.
        Self(self.first_of_month().0.saturating_add(31)).first_of_month()
    }

    pub fn first_of_month(self) -> Self {
        let (_, _, day) = self.civil();
        Self(self.0.saturating_sub(day - 1))
    }

    /// `YYYY-MM-DD`, if that is a day since 1970.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))?;
            part.parse::<u32>().ok()
        };
        let (year, month, day) = (part(4)?, part(2)?, part(2)?);
        if parts.next().is_some() || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let found = Self(u32::try_from(days_from_civil(i64::from(year), month, day)).ok()?);
        // The 30th of February is some other day.
        (found.civil() == (i64::from(year), month, day)).then_some(found)
    }

    /// Year, month (1 to 12) and day (1 to 31) of the Gregorian calendar. Years begin in March here, so that the leap day
    /// is the last of its year.
    fn civil(self) -> (i64, u32, u32) {
        let shifted = i64::from(self.0) + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * march_month + 2) / 5 + 1;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, u32::try_from(month).unwrap_or(1), u32::try_from(day).unwrap_or(1))
    }
}

fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = i64::from((month + 9) % 12);
    let of_year = (153 * march_month + 2) / 5 + i64::from(day) - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// RFC 3339, in UTC.
impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, day) = (self.0 % DAY_MS, self.day());
        let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        write!(f, "{day}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, text) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_783, "2026-11-26"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(Day(days).to_string(), text);
            assert_eq!(Day::parse(text), Some(Day(days)));
        }
        for bad in ["", "2026", "2026-13-01", "2026-02-30", "2026-1-1", "1969-12-31", "2026-01-01-01", "2026-+1-01"] {
            assert_eq!(Day::parse(bad), None, "{bad}");
        }
        for days in 0..60_000 {
            assert_eq!(Day::parse(&Day(days).to_string()), Some(Day(days)));
        }
    }

    #[test]
    fn periods_begin_at_midnight_utc_and_on_the_first() {
        let last = UnixMs::new(1_796_083_199_999);
        assert_eq!(last.to_string(), "2026-11-30T23:59:59.999Z");
        let next = UnixMs::new(last.get() + 1);
        assert_eq!(next.to_string(), "2026-12-01T00:00:00.000Z");
        assert_eq!(next.day().get(), last.day().get() + 1);
        assert_ne!(next.day().month(), last.day().month());
        assert_eq!(last.day().first_of_month().to_string(), "2026-11-01");
        assert_eq!(next.day().start(), next);
    }
}
