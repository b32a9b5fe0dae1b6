//! Which tokens each sequence's KV cells were computed from, and so which prompts need not be computed again.
//!
//! Pure bookkeeping: token ids and cell numbers of its own, no llama.cpp. A row is one sequence. Rows that a job has left
//! keep their cells until somebody needs the room; a copy shares cells instead of taking new ones, as llama.cpp's unified
//! cache does. A cell is only ever found by the exact token ids that lie before it, from the first on, so a prompt can
//! never continue from another text than its own.

use crate::backend::{Sequence, Token};

/// A shorter common beginning is not worth the call.
pub const MIN_SHARED: usize = 16;

/// Tokens given back at once, so that a full cache is not tidied token by token.
const RECLAIM_AT_LEAST: usize = 64;

/// What the backend must do to its cells, in this order, for the books to be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Forget the cells of `sequence` from position `len` on.
    Truncate { sequence: Sequence, len: usize },
    /// Let `to`, which holds `start` cells, share the cells of `from` in `start..end`.
    Share { from: Sequence, to: Sequence, start: usize, end: usize },
}

/// Number of a cell in these books; llama.cpp numbers its own as it likes.
type Cell = u32;

#[derive(Debug, Default, Clone)]
struct Row {
    tokens: Vec<Token>,
    /// As many as `tokens`.
    cells: Vec<Cell>,
    /// Leading tokens that were computed in the batches an undisturbed run would have used.
    canonical: usize,
    /// Whose tokens they are: nobody else's job may find them.
    scope: u64,
    /// A job holds it.
    live: bool,
    /// When a job last let go of it; larger is later.
    left_at: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Holders {
    rows: u32,
    live_rows: u32,
}

/// The rows of all sequences; the index is the sequence.
#[derive(Debug)]
pub struct Rows {
    rows: Vec<Row>,
    holders: Vec<Holders>,
    unused: Vec<Cell>,
    used: usize,
    live_used: usize,
    clock: u64,
}

impl Rows {
    pub fn new(sequences: usize) -> Self {
        let rows = vec![Row::default(); sequences];
        Self { rows, holders: Vec::new(), unused: Vec::new(), used: 0, live_used: 0, clock: 0 }
    }

    /// Cells that hold anything.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Cells that a job holds.
    pub fn live_used(&self) -> usize {
        self.live_used
    }

    pub fn tokens(&self, sequence: Sequence) -> &[Token] {
        self.row(sequence).map_or(&[], |row| &row.tokens)
    }

    pub fn canonical(&self, sequence: Sequence) -> usize {
        self.row(sequence).map_or(0, |row| row.canonical)
    }

    /// The row of this scope that begins most like `wanted`, and how many tokens they have in common. Of equals a row that a job holds
    /// wins: its cells need no room.
    pub fn longest(&self, scope: u64, wanted: &[Token]) -> Option<(Sequence, usize)> {
        let common = |row: &Row| common_len(&row.tokens, wanted);
        let of_scope = (0..).zip(&self.rows).filter(|(_, row)| row.scope == scope);
        let found = of_scope.map(|(sequence, row)| (common(row), row.live, sequence));
        found.max().filter(|(len, ..)| *len > 0).map(|(len, _, sequence)| (sequence, len))
    }

    /// How many of a row's first `len` cells a job holds.
    pub fn live_among(&self, sequence: Sequence, len: usize) -> usize {
        let cells = self.row(sequence).map_or(&[][..], |row| row.cells.get(..len).unwrap_or(&row.cells));
        cells.iter().filter(|cell| self.holders(**cell).live_rows > 0).count()
    }

    /// Of the first `among` rows those that no job holds, the emptiest first, then the one left longest ago.
    pub fn idle_oldest(&self, among: usize) -> Option<Sequence> {
        let idle = (0..).zip(self.rows.iter().take(among)).filter(|(_, row)| !row.live);
        idle.min_by_key(|(_, row)| (!row.tokens.is_empty(), row.left_at)).map(|(sequence, _)| sequence)
    }

    pub fn is_live(&self, sequence: Sequence) -> bool {
        self.row(sequence).is_some_and(|row| row.live)
    }

    /// What the row holds from now on is of this scope. Only an empty row changes hands.
    pub fn set_scope(&mut self, sequence: Sequence, scope: u64) {
        if let Some(row) = self.row_mut(sequence).filter(|row| row.tokens.is_empty()) {
            row.scope = scope;
        }
    }

    /// A job takes the row, or leaves it.
    pub fn set_live(&mut self, sequence: Sequence, live: bool) {
        self.clock += 1;
        let clock = self.clock;
        let Some(row) = self.row_mut(sequence).filter(|row| row.live != live) else { return };
        row.live = live;
        row.left_at = clock;
        for cell in row.cells.clone() {
            let Some(holders) = self.holders_mut(cell) else { continue };
            let before = holders.live_rows;
            holders.live_rows = if live { before + 1 } else { before.saturating_sub(1) };
            let after = holders.live_rows;
            self.live_used =
                self.live_used + usize::from(before == 0 && after > 0) - usize::from(before > 0 && after == 0);
        }
    }

    /// These tokens were computed at the end of the row.
    pub fn append(&mut self, sequence: Sequence, tokens: &[Token], canonical: bool) {
        let cells: Vec<Cell> = tokens.iter().map(|_| self.new_cell()).collect();
        self.hold(sequence, &cells);
        let Some(row) = self.row_mut(sequence) else { return };
        if canonical && row.canonical == row.tokens.len() {
            row.canonical += tokens.len();
        }
        row.tokens.extend_from_slice(tokens);
    }

    /// Drops everything from `len` on. Returns how many cells nobody holds any more.
    pub fn truncate(&mut self, sequence: Sequence, len: usize) -> usize {
        let used = self.used;
        let Some(row) = self.row_mut(sequence) else { return 0 };
        let (live, len) = (row.live, len.min(row.cells.len()));
        let dropped = row.cells.split_off(len);
        row.tokens.truncate(len);
        row.canonical = row.canonical.min(len);
        for cell in dropped {
            self.release(cell, live);
        }
        used - self.used
    }

    /// `to` has the first `start` tokens of `from` already and gets those up to `end`.
    pub fn share(&mut self, from: Sequence, to: Sequence, start: usize, end: usize) {
        let Some(source) = self.row(from) else { return };
        let (Some(tokens), Some(cells)) = (source.tokens.get(start..end), source.cells.get(start..end)) else { return };
        let (tokens, cells, canonical) = (tokens.to_vec(), cells.to_vec(), source.canonical.min(end));
        self.hold(to, &cells);
        let Some(row) = self.row_mut(to) else { return };
        if row.canonical == row.tokens.len() {
            row.canonical = canonical.max(row.canonical);
        }
        row.tokens.extend(tokens);
    }

    /// Takes cells from the ends of rows that nobody uses, the oldest first, until `wanted` more are free or none is left.
    pub fn reclaim(&mut self, wanted: usize) -> Vec<Change> {
        let mut idle: Vec<(u64, Sequence)> = (0..)
            .zip(&self.rows)
            .filter(|(_, row)| !row.live && !row.tokens.is_empty())
            .map(|(sequence, row)| (row.left_at, sequence))
            .collect();
        idle.sort_unstable();
        let (mut changes, mut freed) = (Vec::new(), 0);
        for (_, sequence) in idle {
            let before = self.tokens(sequence).len();
            let mut len = before;
            while freed < wanted && len > 0 {
                len = len.saturating_sub((wanted - freed).max(RECLAIM_AT_LEAST));
                freed += self.truncate(sequence, len);
            }
            if len < before {
                changes.push(Change::Truncate { sequence, len });
            }
        }
        changes
    }

    fn row(&self, sequence: Sequence) -> Option<&Row> {
        self.rows.get(usize::try_from(sequence).ok()?)
    }

    fn row_mut(&mut self, sequence: Sequence) -> Option<&mut Row> {
        self.rows.get_mut(usize::try_from(sequence).ok()?)
    }

    fn holders(&self, cell: Cell) -> Holders {
        usize::try_from(cell).ok().and_then(|cell| self.holders.get(cell)).copied().unwrap_or_default()
    }

    fn holders_mut(&mut self, cell: Cell) -> Option<&mut Holders> {
        self.holders.get_mut(usize::try_from(cell).ok()?)
    }

    fn new_cell(&mut self) -> Cell {
        self.unused.pop().unwrap_or_else(|| {
            self.holders.push(Holders::default());
            Cell::try_from(self.holders.len() - 1).unwrap_or(Cell::MAX)
        })
    }

    fn hold(&mut self, sequence: Sequence, cells: &[Cell]) {
        let live = self.is_live(sequence);
        for &cell in cells {
            let Some(holders) = self.holders_mut(cell) else { continue };
            let before = *holders;
            holders.rows += 1;
            holders.live_rows += u32::from(live);
            self.used += usize::from(before.rows == 0);
            self.live_used += usize::from(live && before.live_rows == 0);
        }
        if let Some(row) = self.row_mut(sequence) {
            row.cells.extend_from_slice(cells);
        }
    }

    fn release(&mut self, cell: Cell, live: bool) {
        let Some(holders) = self.holders_mut(cell) else { return };
        holders.rows = holders.rows.saturating_sub(1);
        holders.live_rows = holders.live_rows.saturating_sub(u32::from(live));
        let after = *holders;
        self.live_used -= usize::from(live && after.live_rows == 0);
        if after.rows == 0 {
            self.used -= 1;
            self.unused.push(cell);
        }
    }
}

/// Length of the common beginning.
pub fn common_len(one: &[Token], other: &[Token]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests;
