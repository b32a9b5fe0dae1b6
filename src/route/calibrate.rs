//! `spillway route calibrate`: cut points from quantiles of one's own traffic, printed as configuration. It writes no file.

use super::{eval::complain, rows};
use clap::Args;
use spillway_actors::{
    classify::{Cuts, learned},
    domain::Complexity,
};
use std::{path::PathBuf, process::ExitCode, str::FromStr};

pub(super) const HELP: &str = "\
Input: one JSON object a line with `fails` (the probability that a local model fails) or, without one, `prompt`. The
gateway's own log is such a file: it tells `fails` of every request it graded. Lines with neither are passed over.
Output: a [router.cuts] table for the configuration.

Example:
  SPILLWAY_LOG=debug SPILLWAY_LOG_FORMAT=json spillway serve 2> traffic.jsonl
  spillway route calibrate traffic.jsonl --shares 60,20,15,5";

#[derive(Debug, Args)]
pub(super) struct CalibrateArgs {
    /// JSON lines; `-` reads stdin.
    file: PathBuf,
    /// Wanted shares of TRIVIAL, MODERATE, COMPLEX and PREMIUM, in any unit.
    #[arg(long, default_value = "60,20,15,5")]
    shares: Shares,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Shares([f64; 4]);

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<f64> = text
            .split(',')
            .map(|part| part.trim().parse().map_err(|_| format!("`{part}` is not a number")))
            .collect::<Result<_, _>>()?;
        let shares: [f64; 4] = parts.try_into().map_err(|_| "four numbers are needed")?;
        let sensible =
            shares.iter().all(|share| share.is_finite() && *share >= 0.0) && shares.iter().sum::<f64>() > 0.0;
        if sensible { Ok(Self(shares)) } else { Err("shares must not be negative, nor all 0".to_owned()) }
    }
}

pub(super) fn run(args: &CalibrateArgs) -> ExitCode {
    let lines = match rows::open(&args.file) {
        Ok(lines) => lines,
        Err(error) => return crate::cli::failed(&error),
    };
    let mut chances = Vec::new();
    let good = rows::each(lines, complain, |_, row| {
        let judged = || row.prompt.as_deref().map(|prompt| learned::opinion(prompt).fails);
        let Some(fails) = row.fails.or(row.fields.fails).or_else(judged) else { return Ok(()) };
        if !(0.0..=1.0).contains(&fails) {
            return Err("`fails` must be between 0 and 1".to_owned());
        }
        chances.push(fails);
        Ok(())
    });
    if !good {
        return ExitCode::FAILURE;
    }
    match Cuts::of_shares(&mut chances, args.shares.0) {
        Some(cuts) => {
            crate::cli::say(&table(&chances, cuts));
            ExitCode::SUCCESS
        }
        None => crate::cli::failed(&"no line has `fails` or `prompt`: nothing to calibrate with"),
    }
}

fn table(chances: &[f64], cuts: Cuts) -> String {
    let [moderate, complex, premium] = cuts.points();
    let got = Complexity::ALL.map(|tier| chances.iter().filter(|fails| cuts.grade(**fails) == tier).count());
    let [trivial, middle, hard, hardest] = got;
    format!(
        "# of {} requests: {trivial} trivial, {middle} moderate, {hard} complex, {hardest} premium\n\
         [router.cuts]\nmoderate = {moderate:.4}\ncomplex = {complex:.4}\npremium = {premium:.4}",
        chances.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_four_numbers_that_make_sense() {
        assert_eq!("60, 20,15,5".parse(), Ok(Shares([60.0, 20.0, 15.0, 5.0])));
        for text in ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "0,0,0,0", "2,1,1,-1", "inf,1,1,1", "NaN,1,1,1"] {
            assert!(text.parse::<Shares>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_can_be_pasted_into_the_configuration() {
        let mut scores: Vec<f64> = (0..10).map(|at| f64::from(at) / 10.0).collect();
        let cuts = Cuts::of_shares(&mut scores, [60.0, 20.0, 10.0, 10.0]).unwrap();
        let text = "# of 10 requests: 6 trivial, 2 moderate, 1 complex, 1 premium\n\
                    [router.cuts]\nmoderate = 0.6000\ncomplex = 0.8000\npremium = 0.9000";
        assert_eq!(table(&scores, cuts), text);
    }
}
