//! Trains the classifier's weights from labelled prompts and says how well they do on prompts they have not seen:
//! `cargo run --release -p spillway-actors --example train -- LABELS.jsonl [WEIGHTS]`. The same data gives the same file.

#![expect(
    clippy::print_stdout,
    reason = "an offline program: numbers of rows are small, its report is its output, and it may stop at a fault"
)]

mod calibrate;
mod data;
mod fit;
mod ridge;
mod trees;
mod validate;

use fit::Settings;
use std::{env, error::Error, fs};
use validate::Scheme;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let labels = arguments.next().ok_or("usage: train LABELS.jsonl [WEIGHTS]")?;
    let rows = data::read(&labels)?;
    println!("{} rows", rows.len());
    let settings = Settings::default();
    let predicted = Scheme::ALL.map(|scheme| (scheme, validate::out_of_fold(&rows, scheme, settings)));
    let unseen: Vec<&[validate::Predicted]> = predicted.iter().map(|(_, predicted)| predicted.as_slice()).collect();
    let calibration = calibrate::calibrate(&rows, &unseen, settings);
    for (scheme, predicted) in &predicted {
        let scores: Vec<f64> = predicted.iter().map(|row| calibration.score(row, settings)).collect();
        let fails: Vec<f64> = predicted.iter().map(|row| calibration.fails(row, settings)).collect();
        println!("left out by {scheme:?}: {}", validate::measure(&rows, &scores, &fails, calibration.cuts()));
    }
    let mut weights = fit::fit(&rows.iter().collect::<Vec<_>>(), settings);
    calibration.into_weights(&mut weights);
    println!("{calibration:?}");
    if let Some(path) = arguments.next() {
        let bytes = weights.encode()?;
        println!("{} bytes", bytes.len());
        fs::write(path, bytes)?;
    }
    Ok(())
}
