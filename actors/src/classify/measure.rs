//! The agreed measures of a router: from one score for each prompt, how much of the strong model's advantage is recovered
//! for what share of strong calls. Used by the training program and by `spillway route eval`; nothing at run time.

/// One labelled prompt: its score and how well either class of model does, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Labelled {
    pub score: f64,
    pub weak: f64,
    pub strong: f64,
}

/// Points of (share of strong calls, share of the gap recovered), one for each distinct score, from the hardest down. Rows
/// of equal score are one step, so their order does not matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
}

impl Curve {
    /// `None` without rows, or if the strong models are no better than the weak ones on average: then there is no gap.
    pub fn of(rows: &[Labelled]) -> Option<Self> {
        let gap: f64 = rows.iter().map(|row| row.strong - row.weak).sum();
        if rows.is_empty() || gap == 0.0 {
            return None;
        }
        let mut sorted = rows.to_vec();
        sorted.sort_by(|a, b| b.score.total_cmp(&a.score));
        let all = count(sorted.len());
        let mut points = vec![(0.0, 0.0)];
        let (mut calls, mut gained) = (0.0, 0.0);
        for block in sorted.chunk_by(|a, b| a.score == b.score) {
            calls += count(block.len());
            gained += block.iter().map(|row| row.strong - row.weak).sum::<f64>();
            points.push((calls / all, gained / gap));
        }
        Some(Self { points })
    }

    /// Area under the curve; a random router has 0.5.
    pub fn apgr(&self) -> f64 {
        self.points
            .windows(2)
            .map(|pair| match pair {
                [(x0, y0), (x1, y1)] => (x1 - x0) * (y0 + y1) / 2.0,
                _ => 0.0,
            })
            .sum()
    }

    /// The smallest share of strong calls that recovers `level` of the gap.
    pub fn calls_for(&self, level: f64) -> f64 {
        let mut before = (0.0, 0.0);
        for &(x, y) in &self.points {
            if y >= level - 1e-12 {
                let rise = y - before.1;
                return if rise > 0.0 { before.0 + (x - before.0) * (level - before.1) / rise } else { x };
            }
            before = (x, y);
        }
        1.0
    }
}

/// Probability that a row that is `true` scores above one that is `false`, ties counted half. `None` if one side is empty.
pub fn auc(rows: &[(f64, bool)]) -> Option<f64> {
    let mut sorted = rows.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut won, mut positives) = (0.0, 0.0, 0.0);
    for block in sorted.chunk_by(|a, b| a.0 == b.0) {
        let yes = count(block.iter().filter(|row| row.1).count());
        let no = count(block.len()) - yes;
        won += yes * (below + no / 2.0);
        below += no;
        positives += yes;
    }
    let pairs = positives * below;
    (pairs > 0.0).then(|| won / pairs)
}

/// How often each true grade (row) was given each grade (column).
pub type Confusion = [[u64; 4]; 4];

/// Agreement of two gradings on an ordered scale beyond chance, with squared distances. `None` if everything is one grade.
pub fn quadratic_kappa(confusion: &Confusion) -> Option<f64> {
    let real = |cell: u64| count(usize::try_from(cell).unwrap_or(usize::MAX));
    let rows = confusion.map(|row| real(row.iter().sum()));
    let columns: [f64; 4] =
        std::array::from_fn(|at| confusion.iter().filter_map(|row| row.get(at)).map(|cell| real(*cell)).sum());
    let all: f64 = rows.iter().sum();
    let (mut seen, mut by_chance) = (0.0, 0.0);
    for (truth, (row, total)) in confusion.iter().zip(rows).enumerate() {
        for (given, (cell, column)) in row.iter().zip(columns).enumerate() {
            let distance = count(truth.abs_diff(given).pow(2));
            seen += distance * real(*cell);
            by_chance += distance * total * column / all;
        }
    }
    (by_chance > 0.0).then(|| 1.0 - seen / by_chance)
}

#[expect(clippy::cast_precision_loss, reason = "numbers of rows are far below 2^52")]
fn count(rows: usize) -> f64 {
    rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(score: f64, weak: f64, strong: f64) -> Labelled {
        Labelled { score, weak, strong }
    }

    #[test]
    fn a_router_that_knows_recovers_the_gap_with_the_fewest_calls() {
        let rows = [row(0.9, 0.0, 1.0), row(0.8, 0.0, 1.0), row(0.2, 1.0, 1.0), row(0.1, 1.0, 1.0)];
        let curve = Curve::of(&rows).unwrap();
        assert_eq!(curve.apgr(), 0.75);
        assert_eq!(curve.calls_for(0.5), 0.25);
        assert_eq!(curve.calls_for(0.8), 0.4);
    }

    #[test]
    fn one_score_for_all_is_a_coin() {
        let rows = [row(0.5, 0.0, 1.0), row(0.5, 1.0, 1.0), row(0.5, 1.0, 0.5)];
        assert!((Curve::of(&rows).unwrap().apgr() - 0.5).abs() < 1e-12);
        assert_eq!(auc(&[(0.5, true), (0.5, false)]), Some(0.5));
    }

    #[test]
    fn without_a_gap_there_is_no_curve() {
        assert_eq!(Curve::of(&[]), None);
        assert_eq!(Curve::of(&[row(0.1, 1.0, 1.0)]), None);
    }

    #[test]
    fn auc_is_one_for_a_perfect_order_and_zero_for_its_reverse() {
        assert_eq!(auc(&[(0.1, false), (0.2, false), (0.3, true)]), Some(1.0));
        assert_eq!(auc(&[(0.1, true), (0.2, false), (0.3, false)]), Some(0.0));
        assert_eq!(auc(&[(0.1, true)]), None);
    }

    #[test]
    fn kappa_is_one_for_agreement_and_negative_for_the_reverse() {
        let agree = [[3, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]];
        assert_eq!(quadratic_kappa(&agree), Some(1.0));
        let reverse = [[0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]];
        assert_eq!(quadratic_kappa(&reverse), Some(-1.0));
        assert_eq!(quadratic_kappa(&[[5, 0, 0, 0], [0; 4], [0; 4], [0; 4]]), None);
    }
}
