//! A key as it is asked for on the command line.

use super::Common;
use clap::{Args, ValueEnum};
use spillway_actors::{
    domain::Priority,
    keys::{BudgetWish, KeyWish},
};

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Class {
    Low,
    Normal,
    High,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    common: Common,
    /// What it is for, so that people recognise it.
    #[arg(long)]
    name: String,
    /// Whose it is; groups label metrics.
    #[arg(long)]
    group: Option<String>,
    /// A model or target it may use (`local`: every local target); again for more. Left out: all.
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// Its requests never leave this machine.
    #[arg(long)]
    local_only: bool,
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Prompt and output together.
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u32>,
    /// Requests at once.
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Dollars it may spend a day (UTC), such as 1.50.
    #[arg(long, value_name = "USD")]
    budget_day: Option<String>,
    /// Dollars it may spend a calendar month.
    #[arg(long, value_name = "USD")]
    budget_month: Option<String>,
    /// Dollars it may spend in all.
    #[arg(long, value_name = "USD")]
    budget_total: Option<String>,
    /// Its life: a number with s, m, h or d. Left out: until it is revoked.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    expires: Option<u64>,
    /// Whose requests go first when not all can.
    #[arg(long, value_enum, default_value = "normal")]
    priority: Class,
}

impl CreateArgs {
    pub(super) const fn wants_json(&self) -> bool {
        self.common.json
    }

    pub(super) fn wish(self) -> (Common, KeyWish) {
        let wish = KeyWish {
            name: self.name,
            group: self.group,
            models: (!self.models.is_empty()).then_some(self.models),
            local_only: self.local_only,
            expires_in_s: self.expires,
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrency: self.concurrency,
            budget_usd: BudgetWish { day: self.budget_day, month: self.budget_month, total: self.budget_total },
            priority: match self.priority {
                Class::Low => Priority::Low,
                Class::Normal => Priority::Normal,
                Class::High => Priority::High,
            },
        };
        (self.common, wish)
    }
}

/// `30d` as seconds.
fn seconds(text: &str) -> Result<u64, String> {
    const WANTED: &str = "want a number with s, m, h or d, such as 30d";
    let unit = text.chars().last().ok_or(WANTED)?;
    let each = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(WANTED.to_owned()),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or(WANTED)?;
    number.checked_mul(each).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_a_number_and_a_unit() {
        let read = ["45s", "90m", "12h", "30d"].map(|text| seconds(text).unwrap());
        assert_eq!(read, [45, 5400, 43_200, 2_592_000]);
        for bad in ["", "d", "30", "-1d", "1.5h", "30dd", "99999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
