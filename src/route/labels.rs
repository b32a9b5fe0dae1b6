//! What labelled rows say about the scores: kept as a few numbers for each row, measured at the end.

use super::rows::Row;
use spillway_actors::{
    classify::measure::{Confusion, Curve, Labelled, auc, quadratic_kappa},
    domain::Complexity,
};
use std::fmt::Write as _;

#[derive(Debug, Default)]
pub(super) struct Labels {
    rows: u64,
    shares: [u64; 4],
    pairs: Vec<Labelled>,
    fails: Vec<(f64, bool)>,
    tiers: Confusion,
    with_tier: u64,
}

impl Labels {
    pub(super) fn add(&mut self, row: &Row<'_>, score: f64, tier: Complexity) {
        self.rows += 1;
        count(&mut self.shares, tier);
        let pairs = [
            (row.weak_soft, row.strong_soft),
            (row.weak_score, row.strong_score),
            (row.weak_correct, row.strong_correct),
        ];
        let pair = pairs.into_iter().find_map(|(weak, strong)| Some((weak?, strong?)));
        if let Some((weak, strong)) = pair {
            self.pairs.push(Labelled { score, weak, strong });
        }
        if let Some(weak) = row.weak_correct.or(row.weak_soft) {
            self.fails.push((score, weak < 0.5));
        }
        let truth = row.min_tier.as_deref().and_then(tier_of);
        if let Some(counts) = truth.and_then(|truth| self.tiers.get_mut(place(truth))) {
            self.with_tier += 1;
            count(counts, tier);
        }
    }

    /// The measures as text; those without labels are left out.
    pub(super) fn report(&self) -> String {
        let mut text = format!("rows {}\n", self.rows);
        let total = self.shares.iter().sum::<u64>().max(1);
        for (tier, rows) in Complexity::ALL.iter().zip(self.shares) {
            let _ = writeln!(text, "  {:<9}{:>8}  {:.1} %", name(*tier), rows, 100.0 * real(rows) / real(total));
        }
        if let Some(curve) = Curve::of(&self.pairs) {
            let (half, most) = (curve.calls_for(0.5), curve.calls_for(0.8));
            let _ = writeln!(
                text,
                "APGR {:.4}  CPT50 {half:.4}  CPT80 {most:.4}  ({} rows)",
                curve.apgr(),
                self.pairs.len()
            );
        }
        if let Some(auc) = auc(&self.fails) {
            let _ = writeln!(text, "AUC (the weak model fails) {auc:.4}  ({} rows)", self.fails.len());
        }
        if self.with_tier > 0 {
            self.confusion(&mut text);
        }
        text
    }

    fn confusion(&self, text: &mut String) {
        let kappa = quadratic_kappa(&self.tiers).map_or("-".to_owned(), |kappa| format!("{kappa:.4}"));
        let _ = writeln!(text, "quadratic kappa on min_tier {kappa}  ({} rows)", self.with_tier);
        let _ = write!(text, "  min_tier \\ tier");
        for tier in Complexity::ALL {
            let _ = write!(text, "{:>10}", name(tier));
        }
        for (tier, counts) in Complexity::ALL.iter().zip(&self.tiers) {
            let _ = write!(text, "\n  {:<15}", name(*tier));
            for count in counts {
                let _ = write!(text, "{count:>10}");
            }
        }
        text.push('\n');
    }
}

fn name(tier: Complexity) -> String {
    tier.as_str().to_ascii_uppercase()
}

fn tier_of(text: &str) -> Option<Complexity> {
    Complexity::ALL.into_iter().find(|tier| tier.as_str().eq_ignore_ascii_case(text))
}

fn place(tier: Complexity) -> usize {
    Complexity::ALL.iter().position(|other| *other == tier).unwrap_or(0)
}

fn count(counts: &mut [u64; 4], tier: Complexity) {
    if let Some(count) = counts.get_mut(place(tier)) {
        *count += 1;
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of rows are far below 2^52")]
fn real(count: u64) -> f64 {
    count as f64
}
