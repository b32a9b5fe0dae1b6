//! Columns. Pure.

use super::cut;
use ratatui::{
    style::{Modifier, Style},
    text::{Line, Span},
};

/// How a column stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    Left(usize),
    Right(usize),
}

/// A row whose cells are cut or filled to their columns.
pub(super) fn row(columns: &[Column], cells: &[String]) -> Line<'static> {
    let spans = columns.iter().zip(cells).map(|(column, cell)| Span::raw(cell_text(*column, cell)));
    Line::from(spans.collect::<Vec<_>>())
}

pub(super) fn head(columns: &[Column], names: &[String]) -> Line<'static> {
    row(columns, names).style(Style::new().add_modifier(Modifier::DIM))
}

fn cell_text(column: Column, cell: &str) -> String {
    let (Column::Left(width) | Column::Right(width)) = column;
    let text = cut(cell, width);
    let gap = " ".repeat(width.saturating_sub(Span::raw(&text).width()));
    match column {
        Column::Left(_) => format!("{text}{gap}  "),
        Column::Right(_) => format!("{gap}{text}  "),
    }
}
