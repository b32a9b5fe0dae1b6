//! Is it well, what is wrong, how much goes through, how fast, where, and for how much. Pure.

use super::{
    super::{
        board::Board,
        picture::{Books, Latency, Picture, Times},
        series::{self, Gained, Rates},
    },
    cut, dim, meter, plain, spark, state, style,
    table::{Column, head, row},
    title,
};
use crate::words::{ms, nanousd, num, percent};
use ratatui::text::{Line, Span};

/// Problems shown; the rest is counted.
const PROBLEMS: usize = 8;
/// Columns of a label and its figure.
const LABEL: usize = 44;

pub(super) fn lines(board: &Board, picture: &Picture, width: usize) -> Vec<Line<'static>> {
    let mut lines = health(board, width);
    lines.push(plain(""));
    lines.extend(traffic(board, picture, width));
    lines.push(plain(""));
    lines.extend(latency(&picture.latency));
    lines.push(plain(""));
    lines.extend(figures(board, picture, width));
    lines
}

fn health(board: &Board, width: usize) -> Vec<Line<'static>> {
    let Some(verdict) = board.verdict() else { return Vec::new() };
    let mut lines = vec![Line::from(state(verdict.level, verdict.headline))];
    for problem in verdict.problems.iter().take(PROBLEMS) {
        let why = if problem.why.is_empty() { String::new() } else { format!(": {}", problem.why) };
        let text = cut(&format!("{}{why}", problem.what), width.saturating_sub(6));
        lines.push(Line::from(vec![
            Span::raw("  "),
            state(problem.level, "").style(style(problem.level)),
            Span::raw(text),
        ]));
    }
    if verdict.problems.len() > PROBLEMS {
        lines.push(Line::from(dim(format!("    and {} more", verdict.problems.len() - PROBLEMS))));
    }
    lines
}

fn traffic(board: &Board, picture: &Picture, width: usize) -> Vec<Line<'static>> {
    let now = series::now(board.samples()).unwrap_or_default();
    let steps = series::steps(board.samples());
    let drawn = |read: fn(&Rates) -> f64| {
        let values: Vec<f64> = steps.iter().map(read).collect();
        spark(&values, width.saturating_sub(LABEL + 2).min(120))
    };
    let sample = &picture.sample;
    let waiting = sample.queue.map_or_else(|| "queue unknown".to_owned(), |queue| format!("{queue} waiting"));
    let line = |label: String, bars: String| Line::from(vec![Span::raw(format!("{label:<LABEL$}  ")), Span::raw(bars)]);
    vec![
        line(
            format!(
                "answers/s {:>7}   local {:>6} cloud {:>6}",
                num(now.answers()),
                num(now.local_per_second),
                num(now.cloud_per_second)
            ),
            drawn(Rates::answers),
        ),
        line(
            format!(
                "tokens/s  {:>7}   local {:>6} cloud {:>6}",
                num(now.tokens()),
                num(now.local_tokens_per_second),
                num(now.cloud_tokens_per_second)
            ),
            drawn(Rates::tokens),
        ),
        plain(format!("in work   {:>7}   {waiting}, {} leases", sample.running, picture.status.leases)),
    ]
}

fn latency(latency: &Latency) -> Vec<Line<'static>> {
    use Column::{Left, Right};
    let columns = [Left(8), Right(6), Right(9), Right(9), Right(9), Right(9), Right(9), Right(9)];
    let names = ["", "n", "first p50", "p95", "p99", "whole p50", "p95", "p99"].map(str::to_owned);
    let mut lines = vec![title(&format!("Latency of the last {} s", latency.seconds)), head(&columns, &names)];
    for (name, times) in [("all", &latency.all), ("local", &latency.local), ("cloud", &latency.cloud)] {
        lines.push(row(&columns, &times_row(name, times)));
    }
    lines
}

fn times_row(name: &str, times: &Times) -> Vec<String> {
    let Times { answers, first_token_ms: first, whole_ms: whole } = times;
    let mut cells = vec![name.to_owned(), answers.to_string()];
    cells.extend([first.p50, first.p95, first.p99, whole.p50, whole.p95, whole.p99].map(ms));
    cells
}

fn figures(board: &Board, picture: &Picture, width: usize) -> Vec<Line<'static>> {
    let Gained { local, cloud, failed, left } = series::gained(board.samples());
    let answered = local.saturating_add(cloud);
    let share = (answered > 0).then(|| local as f64 / answered as f64);
    let ledger = &picture.status.ledger;
    let saved = saved(ledger);
    vec![
        title("The last ten minutes"),
        Line::from(vec![
            Span::raw(format!("here      {:>7}   {local} local, {cloud} cloud  ", percent(share))),
            meter(share.unwrap_or(0.0), width.saturating_sub(50).clamp(4, 24)),
        ]),
        plain(format!("failed    {failed:>7}   {left} left by their clients")),
        plain(""),
        title("Since the ledger began"),
        plain(format!(
            "spent {:>11}   {} set aside",
            nanousd(Some(ledger.cost_nanousd)),
            nanousd(Some(ledger.reserved_nanousd))
        )),
        plain(format!("saved {:>11}   against the baseline model", nanousd(Some(saved)))),
    ]
}

fn saved(ledger: &Books) -> f64 {
    ledger.by_model.values().map(|line| (line.baseline_nanousd - line.cost_nanousd).max(0.0)).sum()
}

/// What each model was used for, and the budgets.
pub(super) fn money(ledger: &Books, width: usize) -> Vec<Line<'static>> {
    use Column::{Left, Right};
    let columns = [Left(width.saturating_sub(62).clamp(16, 48)), Right(9), Right(10), Right(10), Right(11), Right(11)];
    let mut lines =
        vec![head(&columns, &["model", "attempts", "prompt", "output", "cost", "saved"].map(str::to_owned))];
    let mut spent: Vec<_> = ledger.by_model.iter().collect();
    spent.sort_by(|(_, a), (_, b)| b.cost_nanousd.total_cmp(&a.cost_nanousd).then(b.attempts.cmp(&a.attempts)));
    for (name, line) in spent {
        let cells = [
            name.clone(),
            line.attempts.to_string(),
            num(line.prompt_tokens as f64),
            num(line.completion_tokens as f64),
            nanousd(Some(line.cost_nanousd)),
            nanousd(Some((line.baseline_nanousd - line.cost_nanousd).max(0.0))),
        ];
        lines.push(row(&columns, &cells));
    }
    if ledger.by_model.is_empty() {
        lines.push(Line::from(dim("nothing was asked yet")));
    }
    for (period, line) in &ledger.budget {
        let Some(limit) = line.limit_nanousd else { continue };
        let used = line.posted_nanousd + line.reserved_nanousd;
        let text = format!("budget ({period})  {} of {}  ", nanousd(Some(used)), nanousd(Some(limit)));
        lines.push(Line::from(vec![Span::raw(text), meter(if limit > 0.0 { used / limit } else { 1.0 }, 20)]));
    }
    lines
}
