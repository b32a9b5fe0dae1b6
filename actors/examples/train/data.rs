//! Labelled prompts: one JSON object a line.

use serde::Deserialize;
use spillway_actors::{
    classify::sketch::{Sketch, sketch},
    domain::Complexity,
};
use std::{error::Error, fs};

#[derive(Deserialize)]
struct Line {
    prompt: String,
    source: String,
    task: String,
    group: String,
    weak_correct: f64,
    weak_soft: f64,
    strong_soft: f64,
    min_tier: Option<String>,
}

/// One labelled prompt with its features.
#[derive(Clone)]
pub(crate) struct Row {
    pub sketch: Sketch,
    pub source: String,
    pub task: String,
    pub group: String,
    pub weak_fails: bool,
    pub weak: f64,
    pub strong: f64,
    pub min_tier: Option<Complexity>,
}

pub(crate) fn read(path: &str) -> Result<Vec<Row>, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    text.lines().filter(|line| !line.trim().is_empty()).map(row).collect()
}

fn row(line: &str) -> Result<Row, Box<dyn Error>> {
    let line: Line = serde_json::from_str(line)?;
    let min_tier = line
        .min_tier
        .and_then(|name| Complexity::ALL.into_iter().find(|tier| tier.as_str().eq_ignore_ascii_case(&name)));
    Ok(Row {
        sketch: sketch(&line.prompt),
        source: line.source,
        task: line.task,
        group: line.group,
        weak_fails: line.weak_correct < 0.5,
        weak: line.weak_soft,
        strong: line.strong_soft,
        min_tier,
    })
}
