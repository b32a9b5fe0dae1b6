//! The newest requests. Pure.

use super::{
    super::picture::Request,
    dim,
    table::{Column, head, row},
};
use crate::words::{ms, usd};
use ratatui::text::Line;

/// Narrower than this there is no room for the grade.
const WIDE: usize = 100;
/// Which column that is.
const GRADE: usize = 3;

pub(super) fn lines(requests: &[Request], width: usize) -> Vec<Line<'static>> {
    use Column::{Left, Right};
    let is_wide = width >= WIDE;
    let others = if is_wide { 82 } else { 72 };
    let by = Left(width.saturating_sub(others).clamp(14, 48));
    let columns = [Left(8), Left(10), by, Left(8), Right(13), Right(8), Right(8), Right(10)];
    let names = ["UTC", "outcome", "answered by", "grade", "tokens", "first", "took", "cost"].map(str::to_owned);
    let kept = |at: &usize| is_wide || *at != GRADE;
    let columns: Vec<Column> = (0..columns.len()).filter(kept).map(|at| columns[at]).collect();
    let cells_of = |cells: [String; 8]| -> Vec<String> {
        cells.into_iter().enumerate().filter(|(at, _)| kept(at)).map(|(_, cell)| cell).collect()
    };
    let mut lines = vec![head(&columns, &cells_of(names))];
    lines.extend(requests.iter().map(|request| row(&columns, &cells_of(cells(request)))));
    if requests.is_empty() {
        lines.push(Line::from(dim("no request has ended yet")));
    }
    lines
}

fn cells(request: &Request) -> [String; 8] {
    let routing = &request.routing;
    let again = match routing.attempts.len() {
        0 | 1 => String::new(),
        attempts => format!(" ×{attempts}"),
    };
    let cost = routing.attempts.iter().map(|attempt| attempt.cost_usd).sum();
    [
        clock(request.at),
        request.outcome.replace('_', " "),
        format!("{}/{}{again}", routing.target, routing.model),
        routing.complexity.clone(),
        format!("{} → {}", request.usage.prompt_tokens, request.usage.completion_tokens),
        ms(request.first_token_ms),
        ms(request.took_ms),
        usd(Some(cost)),
    ]
}

/// The time of day.
fn clock(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
